"""The two detectors that commands run: their outputs, their timing, and their decisions."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.serving import detection
from official_ext.serving import detectors
from official_ext.serving import twins as twins_lib
from official_ext.utils import command_line
import mixed_detector
import small_detectors

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'


def export(path, dtype=tf.uint8, batch_size=None):
  """Writes a SavedModel with a detector's outputs, whose boxes are sums over pixels."""
  module = tf.Module()

  @tf.function(input_signature=[tf.TensorSpec([batch_size, None, None, 3], dtype)])
  def detect(inputs):
    boxes = tf.reduce_sum(tf.cast(inputs, tf.float32), axis=[1, 2])
    return {'detection_boxes': boxes, **{
        name: tf.identity(boxes) for name in (
            'detection_scores', 'detection_classes', 'num_detections', 'image_info')}}

  tf.saved_model.save(module, str(path), signatures=detect)
  return path


def test_a_saved_model_is_timed(tmp_path):
  images = [np.full([4, 5, 3], value, np.uint8) for value in range(3)]
  detector = detectors.SavedDetector(export(tmp_path / 'one', batch_size=1))
  seconds = detectors.latency(detector, images, batch_size=1, num_runs=4)
  assert len(seconds) == 4 and min(seconds) > 0
  with pytest.raises(command_line.CommandError, match='not of 2: give --batch_size=1'):
    detectors.latency(detector, images, batch_size=2, num_runs=1)


def test_images_of_different_sizes_are_no_batch_of_a_saved_model(tmp_path):
  detector = detectors.SavedDetector(export(tmp_path))
  images = [np.zeros([4, 5, 3], np.uint8), np.zeros([5, 4, 3], np.uint8)]
  assert detector.seconds(images[:1]) > 0
  with pytest.raises(command_line.CommandError, match='images of one size, or --batch_size=1'):
    detector.seconds(images)


def test_a_saved_model_that_takes_no_images_is_refused(tmp_path):
  with pytest.raises(command_line.CommandError, match='has no file saved_model.pb'):
    detectors.SavedDetector(tmp_path)
  with pytest.raises(command_line.CommandError, match='takes float32, not images'):
    detectors.SavedDetector(export(tmp_path / 'floats', tf.float32))


def test_timed_images_are_taken_in_turn():
  seen = []

  class Spy:
    def seconds(self, images):
      seen.append([int(image[0, 0, 0]) for image in images])
      return float(len(seen))

  images = [np.full([1, 1, 3], value, np.uint8) for value in range(3)]
  seconds = detectors.latency(Spy(), images, batch_size=2, num_runs=3)
  warm_up = len(seen) - 3
  assert warm_up > 0 and seen[warm_up:] == [[0, 1], [2, 0], [1, 2]]
  assert seconds == [warm_up + 1.0, warm_up + 2.0, warm_up + 3.0]


@pytest.fixture(scope='module')
def mixed():
  """The export module of a detector with mixed decisions."""
  return mixed_detector.build(DYFPN)[2]


@pytest.mark.slow
@pytest.mark.parametrize('size', [(64, 64), (50, 91)])
def test_a_detector_in_memory_answers_as_its_module(mixed, size):
  detector, images = detectors.InMemoryDetector(mixed), mixed_detector.images(3, size)
  outputs, expected = detector(images), mixed.serve(tf.constant(images))
  assert set(outputs) == set(expected)
  for name in ('detection_scores', 'multiply_adds', 'gate_dyfpn_4'):
    np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5, err_msg=name)
  assert detector.description['gmac']['maximum'] == mixed.cost.maximum / 1e9
  assert not detector.description['normalized_boxes']


@pytest.mark.slow
def test_decisions_are_those_of_the_outputs_and_images_may_differ_in_size(mixed):
  detector = detectors.InMemoryDetector(mixed)
  images = [mixed_detector.images(1, size)[0] for size in ((64, 64), (50, 91), (30, 20))]
  found, record = detector.inspect(images)
  for row, image in enumerate(images):
    outputs = detector(image[None])
    for name in ('num_detections', 'detection_boxes', 'detection_scores', 'image_info'):
      np.testing.assert_allclose(found[name][row], outputs[name][0], atol=1e-3, err_msg=name)
    assert record.executed[row] == outputs['executed_multiply_adds'][0]
    for name, gate in record.gates.items():
      assert gate[row] == outputs['gate_' + name.replace('/', '_')][0]
  assert record.maximum == mixed.cost.maximum - mixed.cost.static
  assert detector.seconds(images) > 0


@pytest.mark.slow
def test_the_network_input_is_that_of_model_gardens_module(mixed):
  images = mixed_detector.images(2, (50, 91))
  inputs, info = mixed.network_inputs(images)
  expected, _, expected_info = mixed.preprocess(tf.constant(images))
  assert inputs.shape[1:3] == mixed.padded_size
  np.testing.assert_array_equal(inputs, expected)
  np.testing.assert_array_equal(info, expected_info)


@pytest.mark.slow
def test_a_gate_threshold_takes_effect_after_a_call():
  options = {'init_checkpoint': None, 'model': {
      'max_level': 4, 'backbone': {'type': 'resnet', 'resnet': {'model_id': 10}},
      'decoder': {'fpn': {'num_filters': 16}},
      'head': {'num_filters': 16, 'tower': {'type': 'dynamic', 'dynamic': {'num_blocks': 1}}}}}
  name = 'fcos_dynamichead_efficientnetlite0_sample'
  module = detection.RoutedDetectionModule(
      small_detectors.small_experiment(name, **options), input_image_size=[64, 64],
      model=small_detectors.small_task(name, **options)[1])
  for seed, variable in enumerate(module.model.head.trainable_variables):
    if 'gate' in variable.name:
      variable.assign(0.1 * tf.random.stateless_normal(variable.shape, [1, seed]))
  detector, images = detectors.InMemoryDetector(module), mixed_detector.images(1)
  assert detector.set_gate_threshold(0.0)
  record, cost = detector.decisions(images), detector(images)['multiply_adds'][0]
  assert 1.01 * record.minimum < record.executed[0] < 0.99 * record.maximum
  np.testing.assert_allclose(cost, module.cost.static + record.executed[0], rtol=1e-6)
  assert detector.set_gate_threshold(0.9999)
  np.testing.assert_allclose(detector.decisions(images).executed, record.minimum, rtol=1e-6)
  np.testing.assert_allclose(detector(images)['multiply_adds'], module.cost.minimum, rtol=1e-6)


@pytest.mark.slow
def test_a_detector_without_gates_has_no_threshold_and_no_decisions():
  _, _, module = mixed_detector.build('retinanet_fpn_efficientnetlite0_sample')
  detector = detectors.InMemoryDetector(module)
  assert not detector.set_gate_threshold(0.5)
  assert detector.decisions(mixed_detector.images(1)) is None
  assert detector.seconds(mixed_detector.images(1)) > 0


@pytest.mark.slow
def test_twins_have_no_gates_and_the_same_branches_or_one(mixed):
  made = twins_lib.make_twins(mixed)
  twins = {name: twin.multiply_adds for name, twin in made.items()}
  gate_cost = mixed.cost.minimum - mixed.cost.static
  # One 1x1 convolution on each level, 64 filters.
  pointwise = sum(a * b for a, b in small_detectors.MAPS.values()) * 64
  # DyFPN has, beside its branches, a 1x1 convolution that always runs.
  assert twins['inception FPN'] == mixed.cost.maximum - gate_cost - pointwise
  branches = 1 + 3 * 9 + 3 * 25
  assert twins['inception FPN'] - twins['FPN'] == (branches - 1) * pointwise
  cheap, dear = mixed_detector.images(2)
  times = twins_lib.seconds(detectors.InMemoryDetector(mixed), made, cheap, dear, repeats=3)
  assert {name: len(values) for name, values in times.items()} == {
      'cheapest image': 3, 'dearest image': 3, 'inception FPN': 3, 'FPN': 3}


@pytest.mark.slow
def test_twins_are_timed_as_exports_compute_them(mixed):
  detector = detectors.InMemoryDetector(mixed)
  inputs, info = mixed.network_inputs(list(mixed_detector.images(1)))
  function = twins_lib._as_exported(detector, inputs.shape)
  # Constants for weights, and no norm.
  assert not function.variables
  operations = {node.op for node in function.graph.as_graph_def().node}
  assert operations and not any('BatchNorm' in operation for operation in operations)
  outputs, record = detector.inspect(list(mixed_detector.images(1)))
  found = function(inputs, info[:, 1])
  np.testing.assert_allclose(found['detection_scores'], outputs['detection_scores'], atol=1e-4)
  np.testing.assert_array_equal(found['multiply_adds'], record.executed)
  # A threshold that is set later changes what is compiled later.
  detector.set_gate_threshold(1.0)
  shut = twins_lib._as_exported(detector, inputs.shape)(inputs, info[:, 1])
  assert shut['multiply_adds'][0] == mixed.cost.minimum - mixed.cost.static < record.executed[0]


@pytest.mark.slow
@pytest.mark.parametrize('num_blocks, num_convs', [(1, 2), (3, 4)])
def test_twins_of_a_head_that_takes_a_budget_take_none(num_blocks, num_convs):
  name = 'fcos_dynamichead_efficientnetlite0_sample'
  options = {'model': {'head': {'tower': {'dynamic': {
      'budget_input': True, 'num_blocks': num_blocks}}}},
             'budget': {'kind': 'drawn', 'draw_range': [0.1, 0.9]}}
  config = small_detectors.small_experiment(name, **options)
  _, model = small_detectors.small_task(name, **options)
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=[64, 64])
  made = twins_lib.make_twins(module)
  assert set(made) == {'fixed head', 'plain head'}
  assert not any(twin.detector.set_budget(0.5) for twin in made.values())
  assert 0 < made['fixed head'].multiply_adds <= module.cost.maximum
  plain = made['plain head'].detector.module.model.head.get_config()
  assert plain['tower'] == 'plain'
  assert plain['tower_options']['num_convs'] == num_convs
