"""Dense detectors: detections against plain NumPy, wrong options, and published counts."""
import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.configs import detectors
from official_ext.modeling import dense_detections
from official_ext.modeling import dense_detector
from official_ext.modeling import dense_levels
from official_ext.modeling import network_cost
from official_ext.ops import checks
from official_ext.tools import profile
from official_ext.utils import experiment
import reference

SIZES = {'3': (4, 5), '4': (2, 3)}
CLASSES = 3


def predictions(seed=0, batch=2):
  """Returns class logits, boxes of all locations and center-ness logits of random images."""
  random = np.random.default_rng(seed)
  counts = {level: height * width for level, (height, width) in SIZES.items()}
  start = random.uniform(-5, 30, [batch, sum(counts.values()), 2])
  boxes = np.concatenate([start, start + random.uniform(5, 20, start.shape)], -1)
  logits, centerness = (
      {level: random.normal(-2, 2, [batch, *size, depth]) for level, size in SIZES.items()}
      for depth in (CLASSES, 1))
  return logits, boxes, centerness


def iou(a, b):
  height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
  width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
  areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
  return height * width / max(sum(areas) - height * width, 1e-9)


def detect_by_hand(logits, boxes, centerness, shape, top_k, threshold, overlap, most,
                   kind='centerness'):
  """Returns score, class and box of one image's detections, best first."""
  boxes = np.clip(boxes, 0, [*shape, *shape])
  candidates, first = [], 0
  for level in '34':
    probability = reference.sigmoid(logits[level].reshape([-1, CLASSES]))
    own = boxes[first:first + len(probability)]
    probability *= np.all(own[:, 2:] > own[:, :2], -1, keepdims=True)
    central = reference.sigmoid(centerness[level].reshape([-1]))
    if kind == 'objectness':
      probability *= central[:, None]
    pairs = sorted(np.ndindex(*probability.shape), key=lambda pair: -probability[pair])[:top_k]
    candidates += [(np.sqrt(probability[i, label] * central[i]) if kind == 'centerness'
                    else probability[i, label], label, boxes[first + i])
                   for i, label in pairs if probability[i, label] > threshold]
    first += len(probability)
  kept = []
  for score, label, box in sorted(candidates, key=lambda candidate: -candidate[0]):
    if all(label != other or iou(box, rival) <= overlap for _, other, rival in kept):
      kept.append((score, label, box))
  return kept[:most]


@pytest.mark.parametrize('top_k, most, policy', [
    (1000, 100, 'float32'), (7, 100, 'mixed_bfloat16'), (1000, 4, 'mixed_float16')])
def test_detections_equal_numpy(top_k, most, policy):
  logits, boxes, centerness = predictions()
  shape = np.array([[32.0, 40.0], [24.0, 28.0]])
  generator = dense_detections.DetectionGenerator(top_k, 0.1, 0.4, most, dtype=policy)
  outputs = generator(*tf.nest.map_structure(
      lambda x: tf.constant(x, tf.float32), (logits, boxes, centerness, shape)))
  assert outputs['detection_boxes'].shape == (2, most, 4)
  for image in range(2):
    kept = detect_by_hand({level: x[image] for level, x in logits.items()}, boxes[image],
                          {level: x[image] for level, x in centerness.items()}, shape[image],
                          top_k, 0.1, 0.4, most)
    count = outputs['num_detections'][image].numpy()
    assert count == len(kept) > 0
    scores, labels, rows = zip(*kept)
    np.testing.assert_allclose(outputs['detection_scores'][image, :count], scores, 1e-5)
    np.testing.assert_array_equal(
        outputs['detection_classes'][image, :count], np.array(labels) + 1)
    np.testing.assert_allclose(outputs['detection_boxes'][image, :count], rows, 1e-4, 1e-4)
    assert not np.any(outputs['detection_scores'][image, count:])


@pytest.mark.parametrize('kind, anchors', [('objectness', 1), ('none', 3)])
@pytest.mark.parametrize('version', ['batched', 'portable'])
def test_detections_without_center_ness_equal_numpy(kind, anchors, version):
  """Those of AutoAssign, and of FreeAnchor, which has several anchors at a location."""
  random = np.random.default_rng(0)
  logits, _, objectness = predictions(batch=1)
  logits = {level: random.normal(-2, 2, [*x.shape[:3], anchors * CLASSES])
            for level, x in logits.items()}
  start = random.uniform(-5, 30, [1, 26 * anchors, 2])
  boxes = np.concatenate([start, start + random.uniform(5, 20, start.shape)], -1)
  shape = np.array([[32.0, 40.0]])
  given = objectness if kind == 'objectness' else None
  logits32, boxes32, shape32, given32 = tf.nest.map_structure(
      lambda x: tf.constant(x, tf.float32), (logits, boxes, shape, given or {}))
  generator = dense_detections.DetectionGenerator(9, 0.05, 0.4, 100, version)
  outputs = generator(logits32, boxes32, None, shape32, given32 or None)
  kept = detect_by_hand({level: x[0] for level, x in logits.items()}, boxes[0],
                        {level: x[0] for level, x in objectness.items()}, shape[0], 9, 0.05, 0.4,
                        100, kind)
  count = int(outputs['num_detections'][0])
  scores, labels, rows = zip(*kept)
  assert count == len(kept) > 5
  np.testing.assert_allclose(outputs['detection_scores'][0, :count], scores, 1e-5)
  np.testing.assert_array_equal(outputs['detection_classes'][0, :count], np.array(labels) + 1)
  np.testing.assert_allclose(outputs['detection_boxes'][0, :count], rows, 1e-4, 1e-4)
  decoded = dense_detections.DetectionGenerator(apply_nms=False)(
      logits32, boxes32, None, shape32, given32 or None)
  assert set(decoded) == {'decoded_boxes', 'decoded_box_scores'}
  assert decoded['decoded_box_scores'].shape == (1, 26 * anchors, CLASSES)


def test_levels_are_taken_finest_first_whatever_the_order_of_the_dictionary():
  levels = {level: tf.fill([1, 1, 1, 2], float(level)) for level in ('10', '3', '9')}
  np.testing.assert_array_equal(dense_levels.flatten(levels)[0, :, 0], [3, 9, 10])


@pytest.mark.parametrize('options, message', [
    ({'assigner': 'fcso'}, "assigner is 'fcso'.*Change model.assigner.$"),
    ({'assigner': 'atss', 'center_radius': 0}, 'ATSS has no.*Change model.center_radius.$'),
    ({'assigner': 'atss', 'head': {'distance_activation': 'exp'}},
     'predicts deltas.*Change model.head.distance_activation.$'),
    ({'assigner': 'freeanchor', 'head': {'centerness_tower': 'class'}},
     "'class', but FreeAnchor has neither.*Change model.head.centerness_tower.$"),
    ({'assigner': 'autoassign', 'head': {'distance_activation': 'exp'}},
     "with AutoAssign it must be 'relu'.*Change model.head.distance_activation.$"),
    ({'assigner': 'atss', 'anchor': {'num_scales': 3}},
     'only FreeAnchor has several.*Change model.anchor.num_scales.$'),
    ({'location_offset': 2}, 'location_offset is 2; it.*Change model.location_offset.$'),
    ({'head': {'centerness_tower': 'both'}}, "'both'.*Change model.head.centerness_tower.$"),
    ({'input_size': [None, 64, 3]}, 'level 3; boxes need .*Change model.input_size.')])
def test_a_wrong_option_is_named_with_its_field(options, message):
  config = detectors.DenseDetectorConfig()
  config.override({'num_classes': 3, 'min_level': 3, 'max_level': 3, 'input_size': [64, 64, 3],
                   'head': {'num_filters': 4, 'tower': {'plain': {'num_convs': 1}}},
                   'backbone': {'resnet': {'model_id': 10}},
                   'decoder': {'fpn': {'num_filters': 4}}})
  config.override(options)
  with pytest.raises(ValueError, match=message):
    model = dense_detector.build_dense_detector(
        tf_keras.layers.InputSpec(shape=[None, *config.input_size]), config)
    model(tf_keras.Input(config.input_size), training=False)


def test_an_option_that_a_head_with_towers_lacks_is_named_with_its_field():
  config = detectors.RetinaNetConfig()
  config.override({'head': {'share_classification_heads': True, 'tower': {'type': 'plain'}}})
  with pytest.raises(ValueError, match='with head.tower it must be False, or head.tower.type null. '
                     'Change model.head.share_classification_heads.$'):
    dense_detector.with_towers(None, config)


# Table 4 of the dynamic head's paper: 80 classes at 800x1344 pixels, in its units.
COUNTS = [('fcos_fpn_resnet50_coco', None, 214.7), ('fcos_fpn_resnet101_coco', 51.2, 294.3),
          ('retinanet_fpn_resnet50_coco', 33.8, 249.4)]


@pytest.mark.slow
@pytest.mark.parametrize('name, parameters, gmac', COUNTS)
def test_published_counts(name, parameters, gmac):
  params = experiment.resolve(name, lock=False)
  params.task.model.override({'input_size': [800, 1344, 3], 'num_classes': 81})
  if name.startswith('retinanet'):
    # Model Garden counts the background among the classes that the head predicts.
    params.task.model.override({
        'num_classes': 80, 'detection_generator': {'nms_version': 'batched'},
        'head': {'tower': {'type': 'plain', 'plain': {'norm': 'none'}}}})
  network = task_factory.get_task(params.task).build_model()
  cost = network_cost.whole_network_cost(network, (800, 1344))
  assert cost.maximum / 1e9 == pytest.approx(gmac, rel=0.01)
  if parameters:
    assert profile.count_parameters(network)['total'] / 1e6 == pytest.approx(parameters, rel=0.01)


# Specifications of the papers' codes: an FPN without norm, level 6 from level 5 or from C5; 80
# classes at 800x1344 pixels.  Weights without the statistics of batch norm, 10^9 multiply-adds.
# The authors' ResNet for AutoAssign has strides in its 1x1 convolutions, ours in the 3x3 ones.
_STRIDES = 3 * 0.75 * 2.202009600
LEARNED = [('autoassign', 'backbone', 36_426_458, 210.90 + _STRIDES),
           ('freeanchor', 'result', 33_839_924, 249.36)]


@pytest.mark.slow
@pytest.mark.parametrize('name, source, parameters, gmac', LEARNED)
def test_counts_of_learned_assignment(name, source, parameters, gmac):
  params = experiment.resolve(f'{name}_fpn_resnet50_coco', lock=False)
  params.task.model.override({
      'input_size': [800, 1344, 3], 'num_classes': 81, 'decoder': {
          'type': 'inception_fpn',
          'inception_fpn': {'branches': ['1x1'], 'norm': 'none', 'coarse_input': source}}})
  network = task_factory.get_task(params.task).build_model()
  assert profile.count_parameters(network)['total'] == parameters
  cost = network_cost.whole_network_cost(network, (800, 1344))
  assert cost.maximum / 1e9 == pytest.approx(gmac, abs=0.01)


@pytest.mark.parametrize('name', ['fcos', 'retinanet'])
def test_a_tower_that_adds_to_its_input_has_the_channels_of_the_decoder(name):
  params = experiment.resolve(f'{name}_fpn_efficientnetlite0_sample', params_override=(
      'task.model.head.num_filters=32,task.model.head.tower.type=dynamic,'
      'task.model.input_size=[64,64,3],task.model.max_level=5'))
  with pytest.raises(checks.FieldError, match='is 32, but the decoder gives 64 channels.'
                     '.*Change (task.)?model.head.num_filters'):
    task_factory.get_task(params.task).build_model()
