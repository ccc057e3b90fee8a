"""The export module gives Model Garden's outputs, and the cost of each image."""
import numpy as np
from official.vision.serving import detection as model_garden_detection
import pytest
import tensorflow as tf

from official_ext.ops import routing
from official_ext.serving import detection
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
FPN = 'retinanet_fpn_efficientnetlite0_sample'
MAPS = small_detectors.MAPS
BRANCHES_TAPS = 1 + 3 * 9 + 3 * 25
FILTERS = 64


@pytest.fixture(scope='module')
def mixed():
  """A detector with mixed decisions, its module, and the module's outputs for four images."""
  _, model, module = mixed_detector.build(DYFPN)
  return model, module, module.serve(tf.constant(mixed_detector.images()))


def test_cost_of_each_image_follows_from_its_gates(mixed):
  _, module, outputs = mixed
  gates = {level: outputs[f'gate_dyfpn_{level}'].numpy() for level in MAPS}
  assert all(set(gate) == {0.0, 1.0} for gate in gates.values())
  routed = sum(gates[level] * positions * channels * FILTERS * BRANCHES_TAPS
               for level, (positions, channels) in MAPS.items())
  own = outputs['executed_multiply_adds'].numpy() - routed
  np.testing.assert_allclose(own, own[0], atol=8)
  np.testing.assert_allclose(own, module.cost.minimum - module.cost.static, atol=8)
  np.testing.assert_allclose(
      outputs['multiply_adds'], module.cost.static + own + routed, rtol=1e-6)


def test_the_cost_of_the_gates_alone_is_left_when_all_are_shut(mixed):
  _, module, _ = mixed
  routed = sum(positions * channels * FILTERS * BRANCHES_TAPS
               for positions, channels in MAPS.values())
  np.testing.assert_allclose(module.cost.maximum - module.cost.minimum, routed, rtol=1e-6)


def test_a_tape_around_the_model_records_the_same_routing(mixed):
  model, module, outputs = mixed
  inputs, _, info = module.preprocess(tf.constant(mixed_detector.images()))
  with routing.RoutingTape() as tape:
    model(inputs, image_shape=info[:, 1], training=False)
  np.testing.assert_array_equal(tape.routing().executed, outputs['executed_multiply_adds'])
  for name, gate in tape.routing().gates.items():
    np.testing.assert_array_equal(gate, outputs['gate_' + name.replace('/', '_')])


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('size', [(200, 301), (64, 17), (128, 128)])
@pytest.mark.parametrize('keeps_shape', [True, False])
def test_inputs_are_those_of_model_gardens_loop_over_images(mixed, batch, size, keeps_shape):
  _, module, _ = mixed
  images = tf.constant(np.random.default_rng(0).integers(0, 256, [batch, *size, 3], np.uint8))
  parser = module.params.task.train_data.parser
  before = parser.keep_aspect_ratio
  parser.keep_aspect_ratio = keeps_shape
  try:
    expected = model_garden_detection.DetectionModule.preprocess(module, images)
    actual = module.preprocess(images)
  finally:
    parser.keep_aspect_ratio = before
  tf.nest.assert_same_structure(actual, expected)
  for ours, theirs in zip(tf.nest.flatten(actual), tf.nest.flatten(expected)):
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_gates_and_costs_can_be_left_out(mixed):
  model, module, outputs = mixed
  gates = {f'gate_dyfpn_{level}' for level in MAPS}
  for kind, left_out in (('detections+cost', gates), (
      'detections', gates | {'multiply_adds', 'executed_multiply_adds'})):
    plain = detection.RoutedDetectionModule(
        module.params, model=model, input_image_size=[64, 64], outputs=kind)
    fewer = plain.serve(tf.constant(mixed_detector.images()))
    assert set(outputs) - set(fewer) == left_out
    np.testing.assert_array_equal(fewer['detection_boxes'], outputs['detection_boxes'])


def test_a_network_without_routing_has_one_cost_and_model_gardens_outputs():
  config = small_detectors.small_experiment(FPN)
  _, model = small_detectors.small_task(FPN)
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=[64, 64])
  original = model_garden_detection.DetectionModule(
      config, model=model, input_image_size=[64, 64], batch_size=None)
  images = tf.constant(mixed_detector.images(2))
  expected, outputs = original.serve(images), module.serve(images)
  assert set(outputs) - set(expected) == {'multiply_adds'}
  np.testing.assert_array_equal(outputs['multiply_adds'], np.float32([module.cost.static] * 2))
  cost = module.cost
  assert cost.static == cost.minimum == cost.maximum == cost.all_branches
  for name, value in expected.items():
    np.testing.assert_array_equal(outputs[name], value)


@pytest.mark.parametrize('suppresses', [True, False])
@pytest.mark.parametrize('name', [FPN, 'fcos_fpn_efficientnetlite0_sample'])
def test_intermediate_features_are_there_with_and_without_suppression(name, suppresses):
  _, model, module = mixed_detector.build(name, detection_generator={'apply_nms': suppresses})
  module.params.task.export_config.output_intermediate_features = True
  images = tf.constant(mixed_detector.images(2))
  backbone = model.backbone(module.preprocess(images)[0], training=False)
  expected = {**{f'backbone_{level}': value for level, value in backbone.items()},
              **{f'decoder_{level}': value
                 for level, value in model.decoder(backbone, training=False).items()}}
  outputs = module.serve(images)
  assert ('decoded_boxes' in outputs) != suppresses
  for feature, value in expected.items():
    np.testing.assert_allclose(outputs[feature], value, 0, 1e-5, err_msg=feature)
