"""The generators of RetinaNet and R-CNN against Model Garden's."""
import numpy as np
from official.vision.modeling.layers import detection_generator
from official.vision.modeling.layers import roi_generator
import pytest
import tensorflow as tf

from official_ext.modeling import detection_generators
from official_ext.ops import checks

CLASSES, ANCHORS, KEPT = 4, 2, 5
SIZES = {'3': (8, 8), '4': (4, 4)}


def _predictions(channels: int, seed: int = 0):
  """Makes deltas, logits and anchors of two images; objects are where neighbors agree."""
  random = np.random.default_rng(seed)
  deltas, logits, anchors = {}, {}, {}
  for level, (height, width) in SIZES.items():
    stride = 2**int(level)
    deltas[level] = random.normal(0, 0.2, (2, height, width, ANCHORS * 4))
    logits[level] = random.normal(-3, 2.5, (2, height, width, ANCHORS * channels))
    low = stride * np.stack(np.meshgrid(range(height), range(width), indexing='ij'), -1)
    low = np.repeat(low[:, :, None], ANCHORS, 2).astype(float)
    size = stride * np.array([2.0, 3.0])[:, None]
    corners = np.concatenate([low, low + size], -1).reshape(1, height, width, ANCHORS * 4)
    anchors[level] = np.repeat(corners, 2, 0)
  return [{level: tf.constant(values, tf.float32) for level, values in levels.items()}
          for levels in (deltas, logits, anchors)]


# Boxes that end outside are clipped, but none lies outside altogether, which only v2 detects.
IMAGE_SHAPE = tf.fill([2, 2], 90.0)


def _assert_same(found, expected):
  np.testing.assert_array_equal(found['num_detections'], expected['num_detections'])
  assert found['detection_boxes'].shape == expected['detection_boxes'].shape
  for image, count in enumerate(expected['num_detections'].numpy()):
    assert count > 20
    for name in ('detection_boxes', 'detection_scores', 'detection_classes'):
      np.testing.assert_allclose(
          found[name][image, :count], expected[name][image, :count], atol=1e-4, err_msg=name)


@pytest.mark.parametrize('version', ['batched', 'portable'])
def test_detections_are_those_of_v2(version):
  predictions = _predictions(CLASSES)
  options = {'max_num_detections': 90}
  expected = detection_generator.MultilevelDetectionGenerator(nms_version='v2', **options)(
      *predictions, IMAGE_SHAPE)
  generator = detection_generators.AnchorDetectionGenerator(nms_version=version, **options)
  _assert_same(generator(*predictions, IMAGE_SHAPE), expected)
  assert type(generator).from_config(generator.get_config()).get_config() == (
      generator.get_config())


@pytest.mark.parametrize('version', ['batched', 'portable'])
@pytest.mark.parametrize('per_class', [True, False])
def test_detections_of_the_second_stage_are_those_of_v2(version, per_class):
  random = np.random.default_rng(1)
  low = random.uniform(0, 50, (2, 60, 2))
  rois = np.concatenate([low, low + random.uniform(8, 20, low.shape)], -1)
  boxes = random.normal(0, 0.3, (2, 60, 4 * (CLASSES if per_class else 1)))
  values = [tf.constant(value, tf.float32) for value in (
      boxes, random.normal(0, 2, (2, 60, CLASSES)), rois)]
  arguments = {'regression_weights': [10.0, 10.0, 5.0, 5.0], 'bbox_per_class': per_class}
  generator = detection_generators.BoxDetectionGenerator(nms_version=version)
  found = generator(*values, IMAGE_SHAPE, **arguments)
  expected = detection_generator.DetectionGenerator(nms_version='v2')(
      *values, IMAGE_SHAPE, **arguments)
  _assert_same(found, expected)


@pytest.mark.parametrize('version', ['batched', 'portable'])
def test_proposals_are_those_of_model_garden(version):
  predictions = _predictions(1, seed=2)
  options = {'test_pre_nms_top_k': 40, 'test_num_proposals': 30}
  generator = detection_generators.ProposalGenerator(nms_version=version, **options)
  plain = roi_generator.MultilevelROIGenerator(**options)
  for training in (False, True):
    found = generator(*predictions, IMAGE_SHAPE, training=training)
    expected = plain(*predictions, IMAGE_SHAPE, training=training)
    for one, other in zip(found, expected):
      np.testing.assert_allclose(one, other, atol=1e-4)
  assert np.count_nonzero(expected[1]) > 20
  assert type(generator).from_config(generator.get_config()).get_config() == (
      generator.get_config())


def test_every_level_gives_its_best_anchors():
  deltas, logits, anchors = _predictions(CLASSES)
  logits['4'] -= 4  # No anchor of this level is among the best of all.
  options = {'pre_nms_top_k': KEPT, 'nms_iou_threshold': 1.0, 'pre_nms_score_threshold': 0.0}
  boxes, scores, _ = detection_generators.LevelDetectionGenerator(
      nms_version='batched', **options)._decode_multilevel_outputs(
          deltas, logits, anchors, IMAGE_SHAPE)
  whole = detection_generators.LevelDetectionGenerator(apply_nms=False, nms_version='batched')(
      deltas, logits, anchors, IMAGE_SHAPE)
  decoded, start = whole['decoded_boxes'].numpy(), 0
  for number, (level, (height, width)) in enumerate(SIZES.items()):
    for image in range(2):
      rows = slice(KEPT * number, KEPT * (number + 1))
      own = logits[level][image].numpy().reshape(-1, CLASSES)[:, 1:]  # The first is background.
      best = np.argsort(-own.max(1))[:KEPT]
      np.testing.assert_allclose(scores[image, rows], 1 / (1 + np.exp(-own[best])), rtol=1e-5)
      np.testing.assert_allclose(boxes[image, rows], decoded[image, start + best], rtol=1e-5)
    start += height * width * ANCHORS
  found = {version: detection_generators.LevelDetectionGenerator(nms_version=version, **options)(
      deltas, logits, anchors, IMAGE_SHAPE) for version in ('batched', 'portable')}
  _assert_same(found['portable'], found['batched'])
  # Nothing is suppressed: all classes of the best anchors are detected.
  np.testing.assert_array_equal(found['batched']['num_detections'], 2 * KEPT * (CLASSES - 1))


def test_soft_suppression_is_refused():
  with pytest.raises(checks.ArgumentError, match='soft_nms_sigma is 0.3.*set nms_version: v1'):
    detection_generators.AnchorDetectionGenerator(nms_version='batched', soft_nms_sigma=0.3)
