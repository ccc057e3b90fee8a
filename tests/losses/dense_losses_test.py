"""Losses of FCOS and ATSS against NumPy, location by location."""
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import autoassign
from official_ext.losses import dense_losses
from official_ext.losses import free_anchor
from official_ext.ops import assigners
from official_ext.ops import checks
import reference

SIZES = {'3': (12, 16), '4': (6, 8), '5': (3, 4)}
LOCATIONS = assigners.locations(list(SIZES.values()), 3)
POINTS, STRIDES = LOCATIONS.points, LOCATIONS.strides[:, None]
CLASSES = 3
BOXES = np.array([[[10, 20, 50, 70], [4, 4, 30, 30], [60, 8, 90, 120], [-1, -1, -1, -1]],
                  [[0, 0, 96, 128], [40, 40, 40, 60], [-1, -1, -1, -1], [-1, -1, -1, -1]]])
LABELS = np.array([[1, 3, 2, -1], [2, 1, -1, -1]])
NAMES = ('fcos', 'atss')


def labels(boxes=BOXES, classes=LABELS):
  return {'boxes': tf.constant(boxes, tf.float32), 'classes': tf.constant(classes)}


def by_level(values):
  """Returns `[batch, locations, channels]` as the maps of a head."""
  rows = np.split(values, np.cumsum(LOCATIONS.counts)[:-1], axis=1)
  return {level: tf.constant(rows_of_level.reshape([len(values), *size, -1]), tf.float32)
          for (level, size), rows_of_level in zip(SIZES.items(), rows)}


def head_outputs(classes, boxes, centerness):
  return {'cls_outputs': by_level(classes), 'box_outputs': by_level(boxes),
          'attribute_outputs': {'centerness': by_level(centerness[..., None])}}


def random_outputs(seed=0, batch=2):
  random = np.random.default_rng(seed)
  count = sum(LOCATIONS.counts)
  boxes = np.abs(random.normal(0, 20, [batch, count, 4]))
  return (random.normal(-2, 2, [batch, count, CLASSES]), boxes,
          random.normal(0, 2, [batch, count]))


def encode(name, boxes):
  """Returns what the head must predict so that these boxes are decoded."""
  if name == 'fcos':
    return np.concatenate([POINTS - boxes[..., :2], boxes[..., 2:] - POINTS], -1)
  anchor = 8 * STRIDES
  return np.concatenate([
      ((boxes[..., :2] + boxes[..., 2:]) / 2 - POINTS) / anchor / 0.1,
      np.log((boxes[..., 2:] - boxes[..., :2]) / anchor) / 0.2], -1)


def decode(name, raw):
  if name == 'fcos':
    return np.concatenate([POINTS - raw[..., :2], POINTS + raw[..., 2:]], -1)
  anchor = 8 * STRIDES
  center, size = POINTS + raw[..., :2] * 0.1 * anchor, np.exp(raw[..., 2:] * 0.2) * anchor
  return np.concatenate([center - size / 2, center + size / 2], -1)


def giou(a, b):
  shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
  hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
  return shared / union - (hull - union) / hull


def iou_loss(a, b):
  shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
  return -np.log(max(shared / union, 1e-6))


BOX_LOSSES = {'giou': lambda a, b: 1 - giou(a, b), 'iou': iou_loss}


def losses_by_hand(name, rows, class_logits, raw, centerness_logits, box_loss='giou'):
  """Returns focal loss, overlap loss and center-ness loss, summed one location after the other."""
  decoded, focal, overlap, entropy, weights, positives = decode(name, raw), 0, 0, 0, 0, 0
  for image, location in np.ndindex(*rows.shape):
    row = rows[image, location]
    label = LABELS[image, row] if row >= 0 else 0
    for index, logit in enumerate(class_logits[image, location], 1):
      p = reference.sigmoid(logit)
      focal -= (0.25 * (1 - p)**2 * np.log(p) if index == label
                else 0.75 * p**2 * np.log(1 - p))
    if row < 0:
      continue
    (y, x), box = POINTS[location].astype(float), BOXES[image, row].astype(float)
    top, left, bottom, right = y - box[0], x - box[1], box[2] - y, box[3] - x
    target = np.sqrt(min(top, bottom) / max(top, bottom) * min(left, right) / max(left, right))
    overlap += target * BOX_LOSSES[box_loss](decoded[image, location], box)
    p = reference.sigmoid(centerness_logits[image, location])
    entropy -= target * np.log(p) + (1 - target) * np.log(1 - p)
    weights, positives = weights + target, positives + 1
  return focal / positives, overlap / max(weights, 1), entropy / positives


def matches(name):
  return assigners.assigner(name).match(LOCATIONS, labels()['boxes'], labels()['classes']).numpy()


@pytest.mark.parametrize('box_loss', BOX_LOSSES)
@pytest.mark.parametrize('name', NAMES)
def test_losses_equal_numpy(name, box_loss):
  classes, raw, centerness = random_outputs()
  # ATSS's deltas are logarithms: 20 would be a box of e^4 anchors, where Model Garden clips.
  raw = raw if name == 'fcos' else raw / 20
  rows = matches(name)
  assert np.sum(rows >= 0) > 5 and np.all(rows[1] <= 0)
  losses = dense_losses.batch_losses(
      head_outputs(classes, raw, centerness), labels(), assigners.assigner(name),
      box_loss=box_loss)
  np.testing.assert_allclose(
      losses, losses_by_hand(name, rows, classes, raw, centerness, box_loss), 1e-4)


def test_the_iou_loss_of_boxes_apart_and_of_empty_boxes_is_finite_with_its_gradient():
  predicted = tf.constant([[0.0, 0, 4, 4], [9, 9, 12, 12], [1, 1, 1, 1]])
  with tf.GradientTape() as tape:
    tape.watch(predicted)
    losses = dense_losses.overlap_losses(predicted, tf.constant([[0.0, 0, 4, 2]] * 3), 'iou')
  np.testing.assert_allclose(losses, -np.log([0.5, 1e-6, 1e-6]), 1e-6)
  gradient = tape.gradient(losses, predicted)
  assert np.all(np.isfinite(gradient)) and np.any(gradient[0])


def test_an_unknown_box_loss_is_refused():
  with pytest.raises(checks.ArgumentError, match="box_loss is 'l1'; allowed are 'giou', 'iou'"):
    dense_losses.overlap_losses(tf.zeros([1, 4]), tf.zeros([1, 4]), 'l1')


@pytest.mark.parametrize('name', NAMES)
def test_a_perfect_prediction_costs_nothing_but_the_entropy_of_the_center_ness(name):
  targets = assigners.targets(
      assigners.assigner(name).match, LOCATIONS, labels()['boxes'], labels()['classes'])
  is_positive, target = targets.is_positive.numpy(), np.float64(targets.centerness)
  boxes = np.where(is_positive[..., None], targets.boxes, [[0.0, 0, 1, 1]])
  classes = np.where(np.eye(CLASSES + 1)[targets.classes][..., 1:] == 1, 20.0, -20.0)
  target = np.clip(target, 1e-6, 1 - 1e-6)
  losses = dense_losses.batch_losses(
      head_outputs(classes, encode(name, boxes), np.log(target / (1 - target))), labels(),
      assigners.assigner(name))
  entropy = -target * np.log(target) - (1 - target) * np.log(1 - target)
  np.testing.assert_allclose(losses.classes, 0, atol=1e-6)
  np.testing.assert_allclose(losses.boxes, 0, atol=1e-4)
  np.testing.assert_allclose(losses.centerness, entropy[is_positive].mean(), rtol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_a_batch_without_boxes_is_finite_and_only_the_classes_learn(name):
  outputs = head_outputs(*random_outputs())
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses = dense_losses.batch_losses(
        outputs, labels(np.full([2, 4, 4], -1), np.full([2, 4], -1)), assigners.assigner(name))
    total = tf.add_n(losses)
  assert (float(losses.boxes), float(losses.centerness)) == (0, 0)
  classes, _, _ = random_outputs()
  p = reference.sigmoid(classes)
  np.testing.assert_allclose(losses.classes, np.sum(-0.75 * p**2 * np.log(1 - p)), 1e-4)
  gradients = tape.gradient(total, outputs)
  assert all(np.all(np.isfinite(x)) for x in tf.nest.flatten(gradients) if x is not None)
  assert all(np.any(x != 0) for x in gradients['cls_outputs'].values())


def test_the_order_of_images_and_boxes_changes_nothing():
  classes, raw, centerness = random_outputs()
  first = dense_losses.batch_losses(head_outputs(classes, raw, centerness), labels(),
                             assigners.assigner('fcos'))
  again = dense_losses.batch_losses(
      head_outputs(classes[::-1], raw[::-1], centerness[::-1]),
      labels(BOXES[::-1, ::-1], LABELS[::-1, ::-1]), assigners.assigner('fcos'))
  np.testing.assert_allclose(first, again, rtol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_the_loss_of_an_image_is_that_of_a_batch_of_one(name):
  classes, raw, centerness = random_outputs(batch=3)
  raw = raw if name == 'fcos' else raw / 20
  boxes = np.concatenate([BOXES, np.full([1, 4, 4], -1)])
  rows = np.concatenate([LABELS, np.full([1, 4], -1)])
  assigner = assigners.assigner(name)
  together = dense_losses.image_losses(
      head_outputs(classes, raw, centerness), labels(boxes, rows), assigner)
  for i in range(3):
    alone = dense_losses.batch_losses(
        head_outputs(classes[i:i + 1], raw[i:i + 1], centerness[i:i + 1]),
        labels(boxes[i:i + 1], rows[i:i + 1]), assigner)
    np.testing.assert_allclose([term[i] for term in together], alone, rtol=1e-5)


@pytest.mark.slow
def test_two_replicas_share_their_denominators():
  tests = pathlib.Path(__file__).resolve().parents[1]
  done = subprocess.run(
      [sys.executable, tests / 'processes' / 'dense_replicas.py'], capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(tests.parent)}, timeout=300, check=True)
  report = json.loads(done.stdout.strip().splitlines()[-1])
  assert report['replicas'] == 2
  assert set(report['losses']) == {'fcos', 'autoassign', 'freeanchor'}
  for name, losses in report['losses'].items():
    assert all(losses['one_device'])
    np.testing.assert_allclose(
        losses['two_replicas'], losses['one_device'], rtol=1e-5, err_msg=name)


def test_an_assigner_with_losses_of_its_own_is_refused():
  with pytest.raises(checks.ArgumentError, match="'autoassign', which has losses of its own"):
    dense_losses.batch_losses(
        head_outputs(*random_outputs()), labels(), assigners.assigner('autoassign'))


@pytest.mark.parametrize('name', assigners.NAMES)
def test_an_object_of_a_class_that_the_detector_lacks_is_no_background(name):
  """It would have no class, and a box all the same."""
  rng = np.random.default_rng(3)
  count, anchors = len(POINTS), 1
  classes, boxes = rng.normal(size=[2, count, CLASSES * anchors]), np.ones([2, count, 4])
  outputs = {**head_outputs(classes, boxes, np.zeros([2, count])),
             'center_prior': (tf.zeros([CLASSES, 2]), tf.ones([CLASSES, 2]))}
  outputs['attribute_outputs']['objectness'] = outputs['attribute_outputs']['centerness']
  losses = {'autoassign': autoassign.losses, 'freeanchor': free_anchor.losses}.get(
      name, dense_losses.batch_losses)
  assigner = assigners.assigner(name)
  loss = tf.function(lambda given: tf.add_n(losses(outputs, given, assigner)), autograph=False)
  assert np.isfinite(loss(labels()))
  unknown = labels(classes=np.where(LABELS == 3, 4, LABELS))
  for function in (loss, loss.python_function):
    with pytest.raises(tf.errors.InvalidArgumentError,
                       match='labels have a class that the detector does not.* and it has 3'):
      function(unknown)
