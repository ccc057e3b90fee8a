"""FreeAnchor's losses against plain loops in float64, and the values of mmdetection."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import free_anchor
from official_ext.losses import objects as objects_lib
from official_ext.ops import anchors
from official_ext.ops import assigners
import crowded_boxes

CLASSES, ROWS, BAG = 3, 5, 7
AT = assigners.locations([(5, 6), (3, 3)], 3)
ANCHORS = anchors.boxes(
    AT.points, AT.strides, anchors.Shapes(2.0, 1, (0.5, 2.0))).numpy().astype(np.float64)


def encode(box, anchor):
  size, anchor_size = box[2:] - box[:2], anchor[2:] - anchor[:2]
  shift = (box[2:] + box[:2] - anchor[2:] - anchor[:2]) / 2
  return np.concatenate([shift / anchor_size / 0.1, np.log(size / anchor_size) / 0.2])


def decode(deltas, boxes):
  size, center = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
  center = center + deltas[..., :2] * 0.1 * size
  size = size * np.exp(deltas[..., 2:] * 0.2)
  return np.concatenate([center - size / 2, center + size / 2], -1)


def terms_by_hand(probabilities, deltas, boxes, classes, anchor_boxes, bag_size):
  """Returns the sums of one image, and its matches `[anchors, classes]`."""
  predicted = decode(deltas, anchor_boxes)
  matches, positive, count = np.zeros_like(probabilities), 0.0, 0
  for box, label in zip(boxes, classes):
    if not crowded_boxes.is_object(box, label):
      continue
    count += 1
    overlap = np.array([crowded_boxes.iou(anchor, box) for anchor in anchor_boxes])
    bag = np.argsort(-overlap, kind='stable')[:bag_size]
    likelihoods = []
    for j in bag:
      errors = np.abs(deltas[j] - encode(box, anchor_boxes[j]))
      errors = np.where(errors < 0.11, errors**2 / 0.22, errors - 0.055)
      likelihoods.append(probabilities[j, label - 1] * np.exp(-0.75 * errors.sum()))
    weights = 1 / np.maximum(1 - np.array(likelihoods), 1e-12)
    positive -= np.log(max(np.sum(weights * likelihoods) / weights.sum(), 1e-12))
    overlap = np.array([crowded_boxes.iou(other, box) for other in predicted])
    if overlap.max() > 0.6:
      for j in np.flatnonzero(overlap > 0.6):
        match = min((overlap[j] - 0.6) / (overlap.max() - 0.6), 1)
        matches[j, label - 1] = max(matches[j, label - 1], match)
  left = probabilities * (1 - matches)
  return (positive, np.sum(-left**2 * np.log(np.maximum(1 - left, 1e-12))), count), matches


def losses_by_hand(images, bag_size):
  positive, negative, count = np.sum(images, 0)
  return 0.5 * positive / max(count, 1), 0.5 * negative / max(bag_size * count, 1)


def inputs_of(probabilities, deltas, boxes, classes, anchor_boxes, dtype=tf.float64):
  deltas, anchor_boxes = (tf.convert_to_tensor(value, dtype) for value in (deltas, anchor_boxes))
  predictions = free_anchor.Predictions(
      tf.constant(probabilities, dtype), deltas, anchors.boxes_from_deltas(deltas, anchor_boxes))
  objects = objects_lib.of(
      {'boxes': tf.constant(boxes, dtype), 'classes': tf.constant(classes)}, dtype)
  return predictions, objects, anchor_boxes


def random_predictions(boxes, classes, seed=1):
  """Returns probabilities and deltas; every other anchor predicts a box, so that some match."""
  random = np.random.default_rng(seed)
  probabilities = random.uniform(0, 1, [len(boxes), len(ANCHORS), CLASSES])**2
  deltas = random.normal(0, 1.5, [len(boxes), len(ANCHORS), 4])
  for case, row in np.ndindex(classes.shape):
    if crowded_boxes.is_object(boxes[case, row], classes[case, row]):
      for j in range(row, len(ANCHORS), 2 * ROWS):
        deltas[case, j] = np.clip(encode(boxes[case, row], ANCHORS[j]), -15, 15)
  return probabilities, deltas + random.normal(0, 0.2, deltas.shape)


def test_200_random_cases_against_loops():
  boxes, classes = crowded_boxes.cases(200, ROWS, (40, 48), CLASSES)
  probabilities, deltas = random_predictions(boxes, classes)
  # The box that padding gets, which a prediction must not match.
  deltas[:, 0] = encode(np.array([0.0, 0, 1, 1]), ANCHORS[0])
  found = free_anchor.image_terms(
      *inputs_of(probabilities, deltas, boxes, classes, ANCHORS), 0.75, 2.0, BAG)
  rows = [terms_by_hand(*case, ANCHORS, BAG)
          for case in zip(probabilities, deltas, boxes, classes)]
  expected = [terms for terms, _ in rows]
  np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-7)
  assert {0, ROWS} <= {terms[2] for terms in expected}
  matched = np.array([matches for _, matches in rows])
  assert np.sum(matched == 1) > 100 and np.sum((matched > 0) & (matched < 1)) > 100
  np.testing.assert_allclose(
      free_anchor.batch_terms(found, 0.5, BAG), losses_by_hand(expected, BAG), rtol=1e-7)


def test_compiled_equals_eager_in_float32_with_finite_gradients():
  boxes, classes = crowded_boxes.cases(4, ROWS, (40, 48), CLASSES)
  values = [tf.constant(value, tf.float32) for value in random_predictions(boxes, classes)]

  def step(probabilities, deltas):
    with tf.GradientTape() as tape:
      tape.watch([probabilities, deltas])
      predictions, *rest = inputs_of(0.0, deltas, boxes, classes, ANCHORS, tf.float32)
      terms = free_anchor.image_terms(
          predictions._replace(probabilities=probabilities), *rest, 0.75, 2.0)
      total = tf.add_n(free_anchor.batch_terms(terms, 0.5))
    gradients = tape.gradient(total, [probabilities, deltas])
    return total, [tf.convert_to_tensor(gradient) for gradient in gradients]

  expected, found = step(*values), tf.function(step, jit_compile=True)(*values)
  for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found)):
    assert np.all(np.isfinite(one)) and np.any(one != 0)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
  # Without boxes only the probabilities learn.
  assert np.any(expected[1][0][0]) and not np.any(expected[1][1][0])


# --- Values of mmdetection's head, in float64 ---------------------------------------------

PUBLISHED = np.array([[0, 0, 16, 16], [0, 8, 16, 24], [8, 0, 24, 16], [8, 8, 24, 24]], float)
PROBABILITIES = np.array([[0.6, 0.1], [0.4, 0.2], [0.3, 0.3], [0.05, 0.7]])
DELTAS = np.array([[0.5, 1, 0, 0.1], [0, -2, 0.2, 0], [-0.5, 0.5, 0, 0], [0, 0, -0.4, 0.4]])
A, B = [1, 2, 17, 18], [9, 7, 23, 25]


def published(boxes, classes):
  return inputs_of(PROBABILITIES[None], DELTAS[None], [boxes], [classes], PUBLISHED)


@pytest.mark.parametrize('boxes, classes, expected', [
    ([A, B], [1, 2], (0.5270236, 0.016592849)),
    ([[-1] * 4, A], [-1, 0], (0, 0.537926254))], ids=['two boxes', 'none'])
def test_losses_equal_mmdetection(boxes, classes, expected):
  terms = free_anchor.image_terms(*published(boxes, classes), 0.75, 2.0, 2)
  np.testing.assert_allclose(free_anchor.batch_terms(terms, 0.5, 2), expected, atol=1e-7)


def test_bags_matches_and_likelihoods_equal_mmdetection():
  predictions, objects, anchor_boxes = published([A, B], [1, 2])
  bags, matches = free_anchor.matches_of(predictions, objects, anchor_boxes, 2)
  np.testing.assert_array_equal(bags, [[[0, 1], [3, 2]]])
  np.testing.assert_allclose(matches, [[[1, 0], [0.0971713, 0], [0, 0], [0, 1]]], atol=1e-7)
  found = free_anchor.likelihoods(predictions, objects, anchor_boxes, bags, 0.75)
  np.testing.assert_allclose(
      found, [[[0.4753678, 0.0656255], [0.5397744, 0.0032425]]], atol=1e-7)
  np.testing.assert_allclose(free_anchor.mean_max(found), [[0.3280319, 0.3702970]], atol=1e-7)


@pytest.mark.parametrize('values, expected', [
    ([0.9, 0.1], 0.82), ([0.2, 0.1], 0.1529412), ([0.5, 0.5, 0.5], 0.5),
    ([0.999999, 0.5], 0.999998), ([1.0, 0.5], 1.0)])
def test_mean_max(values, expected):
  assert float(free_anchor.mean_max(tf.constant(values, tf.float64))) == pytest.approx(
      expected, abs=1e-7)


def test_saturated_overlaps():
  found = free_anchor.saturated(tf.constant(
      [[0.5, 0.6, 0.7, 0.75, 0.9], [0.6, 0.5, 0.1, 0.2, 0.3]], tf.float64))
  np.testing.assert_allclose(found, [[0, 0, 1 / 3, 0.5, 1], [0] * 5], atol=1e-12)
  assert not np.any(free_anchor.saturated(tf.constant([[0.6, 0.6]])))  # not 0 / 0 in float32
