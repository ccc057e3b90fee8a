"""Losses and targets of the style `paper` against mmdetection's rules in NumPy, float64."""
import types

import numpy as np
from official.vision.ops import anchor
import pytest
import tensorflow as tf

from official_ext.configs import detectors
from official_ext.losses import paper_losses

PAPER = {'model': {'head_style': 'paper'}}
CLASSES = 4


def smooth_l1(errors, beta):
  """mmdetection's `smooth_l1_loss`, and `l1_loss` for a beta of 0, without reduction."""
  errors = np.abs(errors)
  return np.where(errors < beta, errors**2 / (2 * beta or 1), errors - beta / 2)


def sigmoid_entropy(logits, targets):
  return np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * targets


def focal(logits, targets, alpha, gamma):
  """mmdetection's `py_sigmoid_focal_loss` without reduction."""
  probability = 1 / (1 + np.exp(-logits))
  wrong = (1 - probability) * targets + probability * (1 - targets)
  weight = (alpha * targets + (1 - alpha) * (1 - targets)) * wrong**gamma
  return sigmoid_entropy(logits, targets) * weight


# --- RetinaNet -----------------------------------------------------------------------------


def retinanet_batch(seed=0):
  """Predictions and labels of three images, with ignored anchors; the last has no object."""
  random = np.random.default_rng(seed)
  sizes = {'3': (4, 3), '4': (2, 2)}
  outputs = {'cls_outputs': {}, 'box_outputs': {}}
  labels = {'cls_targets': {}, 'box_targets': {}}
  state = []
  for level, size in sizes.items():
    outputs['cls_outputs'][level] = random.normal(0, 2, (3, *size, 2 * CLASSES))
    outputs['box_outputs'][level] = random.normal(0, 1, (3, *size, 8))
    labels['cls_targets'][level] = random.choice([-1, -1, 1, 2, 3], (3, *size, 2))
    labels['box_targets'][level] = random.normal(0, 1, (3, *size, 8))
    labels['cls_targets'][level][2] = -1
    state.append(random.choice([0, 1, 1], (3, size[0] * size[1] * 2)))
  classes = flat(labels['cls_targets'], 1)[..., 0]
  labels['cls_weights'] = np.where(classes > 0, 1, np.concatenate(state, 1))
  labels['box_weights'] = classes > 0
  return outputs, labels


def flat(levels, last):
  return np.concatenate([values.reshape(len(values), -1, last) for values in levels.values()], 1)


def tensors(values):
  return tf.nest.map_structure(lambda value: tf.constant(value, tf.float32), values)


def as_given(labels):
  return {**tensors(labels), 'cls_targets': {
      level: tf.constant(value, tf.int32) for level, value in labels['cls_targets'].items()}}


def expected_retinanet(outputs, labels, alpha, gamma, beta):
  classes = flat(labels['cls_targets'], 1)[..., 0]
  targets = np.eye(CLASSES)[np.maximum(classes, 0)] * (classes > 0)[..., None]
  class_loss = focal(flat(outputs['cls_outputs'], CLASSES), targets, alpha, gamma).sum(-1)
  box_loss = smooth_l1(flat(outputs['box_outputs'], 4) - flat(labels['box_targets'], 4), beta)
  positives = np.maximum(labels['box_weights'].sum(-1), 1)
  return ((class_loss * labels['cls_weights']).sum(-1),
          (box_loss.sum(-1) * labels['box_weights']).sum(-1), positives)


@pytest.mark.parametrize('beta', [0.0, 0.1])
def test_losses_of_retinanet(beta):
  outputs, labels = retinanet_batch()
  losses = types.SimpleNamespace(focal_loss_alpha=0.3, focal_loss_gamma=2.0, huber_loss_delta=beta)
  classes, boxes, positives = expected_retinanet(outputs, labels, 0.3, 2.0, beta)
  assert positives.min() == 1 and labels['cls_weights'].min() == 0
  arguments = tensors(outputs), as_given(labels), CLASSES, losses
  found = paper_losses.retinanet_losses(*arguments)
  np.testing.assert_allclose(
      found, [classes.sum() / positives.sum(), boxes.sum() / positives.sum()], rtol=1e-5)
  found = paper_losses.retinanet_losses(*arguments, per_image=True)
  np.testing.assert_allclose(found, [classes / positives, boxes / positives], rtol=1e-5)


def iou(first, second):
  low = np.maximum(first[:, None, :2], second[None, :, :2])
  high = np.minimum(first[:, None, 2:], second[None, :, 2:])
  shared = np.prod(np.maximum(high - low, 0), -1)
  areas = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (first, second)]
  return shared / (areas[0][:, None] + areas[1][None] - shared)


def test_anchors_between_the_thresholds_are_ignored():
  config = detectors.RetinaNetTaskConfig(PAPER)
  parser, random = config.train_data.parser, np.random.default_rng(1)
  low = random.uniform(0, 60, (600, 2))
  anchors = np.concatenate([low, low + random.uniform(20, 40, (600, 2))], 1)
  boxes = np.array([[5., 8, 37, 34], [30, 40, 62, 79], [70, 70, 75, 74]])  # The last is tiny.
  overlaps = iou(anchors, boxes)
  classes = np.where(overlaps.max(1) >= 0.5, overlaps.argmax(1) + 1, 0)
  classes[(overlaps.max(1) >= 0.4) & (classes == 0)] = -1
  classes[overlaps.argmax(0)] = [1, 2, 3]  # Every object gets its best anchor.
  assert (classes == -1).sum() > 3 and overlaps[:, 2].max() < 0.4

  labeler = anchor.AnchorLabeler(parser.match_threshold, parser.unmatched_threshold)
  found, _, _, class_weights, box_weights = labeler.label_anchors(
      {'3': tf.constant(anchors.reshape(20, 30, 4), tf.float32)}, tf.constant(boxes, tf.float32),
      tf.constant([[1], [2], [3]]))
  np.testing.assert_array_equal(class_weights, classes >= 0)
  np.testing.assert_array_equal(box_weights, classes > 0)
  np.testing.assert_array_equal(
      np.where(classes > 0, np.reshape(found['3'], -1), 0), np.maximum(classes, 0))


# --- R-CNN ---------------------------------------------------------------------------------


@pytest.mark.parametrize('beta', [0.0, 1 / 9])
def test_losses_of_a_region_proposal_network(beta):
  random = np.random.default_rng(2)
  sizes = {'3': (4, 3), '4': (2, 2)}
  scores, targets, boxes, box_targets = {}, {}, {}, {}
  for level, size in sizes.items():
    scores[level] = random.normal(0, 2, (2, *size, 3))
    targets[level] = random.choice([-1, 0, 1], (2, *size, 3), p=[0.5, 0.3, 0.2])
    boxes[level] = random.normal(0, 1, (2, *size, 12))
    # Model Garden encodes targets of anchors that are positive, sampled or not.
    box_targets[level] = random.normal(0, 1, (2, *size, 12))
  wanted = flat(targets, 1)[..., 0]
  sampled = (wanted >= 0).sum()
  entropy = sigmoid_entropy(flat(scores, 1)[..., 0], wanted == 1)[wanted >= 0].sum()
  errors = (flat(boxes, 4) - flat(box_targets, 4))[wanted == 1]
  found = paper_losses.rpn_losses(
      tensors({'rpn_scores': scores, 'rpn_boxes': boxes}),
      tensors({'rpn_score_targets': targets, 'rpn_box_targets': box_targets}), beta)
  np.testing.assert_allclose(
      found, [entropy / sampled, smooth_l1(errors, beta).sum() / sampled], rtol=1e-5)


@pytest.mark.parametrize('is_class_agnostic, beta', [(False, 0.0), (True, 1.0)])
def test_box_loss_of_the_sampled_boxes(is_class_agnostic, beta):
  random = np.random.default_rng(3)
  classes = random.integers(0, CLASSES, (2, 9))
  targets = random.normal(0, 1, (2, 9, 4))
  predictions = random.normal(0, 1, (2, 9, 1 if is_class_agnostic else CLASSES, 4))
  expected = 0.0
  for image, box in zip(*np.nonzero(classes)):
    chosen = 0 if is_class_agnostic else classes[image, box]
    expected += smooth_l1(predictions[image, box, chosen] - targets[image, box], beta).sum()
  found = paper_losses.box_loss(
      tf.constant(predictions.reshape(2, 9, -1), tf.float32), tf.constant(classes, tf.float32),
      tf.constant(targets, tf.float32), beta, is_class_agnostic)
  np.testing.assert_allclose(found, expected / 18, rtol=1e-5)


def test_stages_count_half_as_much_as_the_one_before():
  assert float(paper_losses.sum_of_stages([tf.constant(x) for x in (8.0, 4.0, 4.0)])) == 11.0


def test_the_box_loss_of_no_images_is_zero():
  loss = paper_losses.box_loss(
      tf.zeros([0, 5, 4]), tf.zeros([0, 5], tf.int32), tf.zeros([0, 5, 4]), 1.0, True)
  assert loss.numpy() == 0
