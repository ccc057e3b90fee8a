"""AutoAssign's losses against plain loops in float64, and the values of the authors' code."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import autoassign
from official_ext.losses import objects as objects_lib
from official_ext.ops import assigners
import crowded_boxes
import reference

CLASSES, ROWS = 3, 5
SIZES = {'3': (5, 6), '4': (3, 3)}
AT = assigners.locations(list(SIZES.values()), 3, 0.0)


def giou(a, b):
  shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
  hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
  return (shared / union if union else 0) - ((hull - union) / hull if hull else 0)


def terms_by_hand(at, scores, predicted, boxes, classes, offsets, spreads):
  """Returns the four sums of one image; `scores` is `[locations, classes]`."""
  rows = [i for i in range(len(boxes)) if crowded_boxes.is_object(boxes[i], classes[i])]
  overlap = np.zeros(len(scores))
  for n in range(len(scores)):
    for row in rows:
      overlap[n] = max(overlap[n], crowded_boxes.iou(predicted[n], boxes[row]))
  relief, positive, centers = np.zeros_like(scores), 0.0, 0.0
  for row in rows:
    box, label = boxes[row], classes[row] - 1
    inside = [n for n, (y, x) in enumerate(at.points.astype(float))
              if box[0] < y < box[2] and box[1] < x < box[3]]
    weights, likelihoods = [], []
    for n in inside:
      exponent = sum(
          ((at.points[n, axis] - (box[axis] + box[2 + axis]) / 2) / at.strides[n]
           - offsets[label, axis])**2 / (2 * spreads[label, axis]**2) for axis in (0, 1))
      weights.append(np.exp(-exponent))
      likelihoods.append(scores[n, label] * np.exp(-5 * (1 - giou(predicted[n], box))))
    weights, likelihoods = np.array(weights), np.array(likelihoods)
    centers += weights.sum()
    if not inside:
      continue
    share = weights * np.exp(3 * likelihoods)
    positive -= np.log(max(np.sum(share / share.sum() * likelihoods), 1e-12))
    doubt = 1 / np.maximum(1 - overlap[inside], 1e-12)
    trust = (doubt - doubt.min() + 1e-12) / (doubt.max() - doubt.min() + 1e-12)
    for n, value in zip(inside, trust):
      relief[n, label] = max(relief[n, label], value)
  left = scores * (1 - relief)
  return positive, np.sum(-left**2 * np.log(np.maximum(1 - left, 1e-12))), len(rows), centers


def losses_by_hand(images):
  """Returns the three losses of a batch of the results of `terms_by_hand`."""
  positive, negative, objects, centers = map(np.array, zip(*images))
  ratio = np.where(centers > 0, objects / np.maximum(centers, 1e-12), 0)
  return (0.25 * positive.sum() / max(objects.sum(), 1),
          0.75 * negative.sum() / max(centers.sum(), 1), 0.75 * ratio.mean())


def run(at, scores, predicted, boxes, classes, offsets, spreads):
  """Returns the sums of each image from arrays as they are above, with an axis of the batch."""
  predictions = autoassign.Predictions(
      tf.transpose(scores, [0, 2, 1]), *(tf.convert_to_tensor(value) for value in (
          predicted, offsets, spreads)))
  labels = {'boxes': tf.constant(boxes, tf.float64), 'classes': tf.constant(classes)}
  return autoassign.image_terms(
      predictions, objects_lib.of(labels, tf.float64), at, 5.0, 2.0)


def random_predictions(count, seed=1):
  random = np.random.default_rng(seed)
  near = np.concatenate([AT.points - AT.strides[:, None], AT.points + AT.strides[:, None]], -1)
  predicted = near + random.normal(0, 4, [count, len(near), 4])
  predicted[..., 2:] = np.maximum(predicted[..., :2], predicted[..., 2:])  # some without area
  scores = random.uniform(0, 1, [count, len(near), CLASSES])**2
  return scores, predicted, random.normal(0, 0.5, [CLASSES, 2]), random.uniform(
      0.5, 2, [CLASSES, 2])


def test_200_random_cases_against_loops():
  boxes, classes = crowded_boxes.cases(200, ROWS, (40, 48), CLASSES)
  scores, predicted, offsets, spreads = random_predictions(200)
  # A perfect prediction, whose confidence is 1 / 1e-12 before it is mapped.
  predicted[:, :2] = np.where(classes[:, :1, None] > 0, boxes[:, :1], predicted[:, :2])
  found = run(AT, scores, predicted, boxes, classes, offsets, spreads)
  expected = [terms_by_hand(AT, *case, offsets, spreads)
              for case in zip(scores, predicted, boxes, classes)]
  np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-9, atol=1e-9)
  positive, negative, objects, centers = np.transpose(expected)
  assert np.all(negative > 0) and {0, ROWS} <= set(objects)
  assert np.any((objects > 0) & (centers == 0)) and np.sum(positive > 0) > 80
  np.testing.assert_allclose(
      autoassign.batch_terms(found, 0.25), losses_by_hand(expected), rtol=1e-9)
  for name, values in zip(autoassign.LossTerms._fields, autoassign.per_image_terms(found, 0.25)):
    alone = [losses_by_hand([image]) for image in expected]
    index = autoassign.LossTerms._fields.index(name)
    np.testing.assert_allclose(values, [loss[index] for loss in alone], rtol=1e-9)


def test_compiled_equals_eager_in_float32_with_finite_gradients():
  boxes, classes = crowded_boxes.cases(6, ROWS, (40, 48), CLASSES)
  classes[0] = -1
  values = [tf.constant(value, tf.float32) for value in random_predictions(6)]
  labels = {'boxes': tf.constant(boxes, tf.float32), 'classes': tf.constant(classes)}

  def step(scores, *others):
    with tf.GradientTape() as tape:
      tape.watch([scores, *others])
      terms = autoassign.image_terms(
          autoassign.Predictions(tf.transpose(scores, [0, 2, 1]), *others),
          objects_lib.of(labels), AT, 5.0, 2.0)
      total = tf.add_n(autoassign.batch_terms(terms, 0.25))
    gradients = tape.gradient(total, [scores, *others])
    return total, [tf.convert_to_tensor(gradient) for gradient in gradients]

  expected, found = step(*values), tf.function(step, jit_compile=True)(*values)
  for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found)):
    assert np.all(np.isfinite(one)) and np.any(one != 0)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  # Without boxes only the scores learn.
  assert np.any(expected[1][0][0]) and not np.any(expected[1][1][0])


def test_a_graph_gives_the_only_location_of_a_box_all_confidence():
  random = np.random.default_rng(0)
  is_inside = random.uniform(size=[10, 100, 340]) < 0.01
  is_inside[0, 0] = np.arange(340) == 7
  overlap = tf.constant(random.uniform(0, 0.6, [10, 340]), tf.float32)
  found = tf.function(autoassign.confidences)(overlap, tf.constant(is_inside)).numpy()
  assert found[0, 0, 7] == found[0, 0].sum() == 1
  assert np.all((found >= 0) & (found <= 1))


# --- Values of the authors' code and of mmdetection's, in float64 ------------------------

PUBLISHED_AT = assigners.locations([(4, 4), (2, 2)], 3, 0.0)
A, B, SMALL = [5, 3, 27, 21], [10, 12, 22, 30], [17, 17, 20, 19]


def published(*objects):
  """Returns sums of images, each of a list of (box, class), and a tape over the weights."""
  n = np.arange(20.0)
  logits = np.stack([-2 + 0.1 * n, -1 - 0.05 * n], -1)
  scores = reference.sigmoid(logits) * reference.sigmoid(0.5 - 0.05 * n)[:, None]
  stride = PUBLISHED_AT.strides.astype(float)
  sides = stride[:, None] * np.stack([
      0.5 + 0.1 * (n % 4), 1 + 0.1 * (n % 3), np.ones(20), 1.5 - 0.1 * (n % 2)], -1)
  points = PUBLISHED_AT.points.astype(float)
  predicted = np.concatenate([points - sides[:, :2], points + sides[:, 2:]], -1)
  rows = [[*image, *[([-1] * 4, -1)] * (3 - len(image))] for image in objects]
  boxes, classes = (np.array([[row[part] for row in image] for image in rows]) for part in (0, 1))
  offsets = tf.Variable(tf.zeros([2, 2], tf.float64))
  spreads = tf.Variable(tf.ones([2, 2], tf.float64))
  with tf.GradientTape() as tape:
    batch = len(objects)
    losses = autoassign.batch_terms(run(
        PUBLISHED_AT, np.stack([scores] * batch), np.stack([predicted] * batch), boxes, classes,
        offsets, spreads), 0.25)
    total = tf.add_n(losses)
  return losses, [tf.convert_to_tensor(value) for value in tape.gradient(total, [offsets, spreads])]


@pytest.mark.parametrize('objects, expected', [
    ([[(A, 1), (B, 2)]], (1.310363200, 0.007692235, 0.197829217)),
    ([[]], (0, 0.066492281, 0)),
    ([[(SMALL, 1)]], (0, 0.066492281, 0)),
    ([[(A, 1), (B, 2)], []], (1.310363200, 0.016461646, 0.098914609))],
    ids=['two boxes', 'none', 'no location inside', 'a batch of both'])
def test_losses_equal_the_authors(objects, expected):
  losses, gradients = published(*objects)
  np.testing.assert_allclose(losses, expected, atol=1e-9)
  assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_gradients_of_the_center_prior_equal_the_authors():
  _, (offsets, spreads) = published([(A, 1), (B, 2)])
  # Theirs are x, y; ours y, x.
  np.testing.assert_allclose(
      offsets.numpy()[:, ::-1], [[0.001716853, 0.001848283], [0.008937602, 0]], atol=1e-9)
  np.testing.assert_allclose(
      spreads.numpy()[:, ::-1], [[-0.023843737, -0.026019623], [-0.021590025, 0]], atol=1e-9)


def test_parts_equal_the_authors():
  loss = autoassign.positive_losses(
      tf.constant([0.2, 0.5, 0.05], tf.float64), tf.constant([1, 0.5, 0.8], tf.float64))
  assert 0.25 * float(loss) == pytest.approx(0.295448, abs=1e-6)
  trust = autoassign.confidences(
      tf.constant([[0.2, 0.5, 0.8]], tf.float64), tf.fill([1, 1, 3], True))[0, 0]
  np.testing.assert_allclose(trust, [0, 0.2, 1], atol=1e-9)
  np.testing.assert_allclose(
      0.75 * autoassign.negative_losses(0.3 * (1 - trust), 2.0),
      [0.0240756, 0.0118557, 0], atol=1e-7)
  at = assigners.Locations(np.array([[-2.0, 1.0]], np.float32), np.ones(1, np.float32), (1,))
  objects = objects_lib.of(
      {'boxes': tf.constant([[[-9, -9, 9, 9]]]), 'classes': tf.constant([[1]])}, tf.float64)
  for mean, deviation, expected in ((0.0, 1.0, 0.0820850), (0.5, 2.0, 0.4437473)):
    weight = autoassign.center_weights(
        at, objects, tf.fill([1, 1, 1], True), tf.fill([1, 2], tf.constant(mean, tf.float64)),
        tf.fill([1, 2], tf.constant(deviation, tf.float64)))
    np.testing.assert_allclose(weight, [[[expected]]], atol=1e-7)


def test_the_losses_of_no_images_are_zero():
  terms = autoassign.ImageTerms(*[tf.zeros([0])] * 4)
  assert [float(term) for term in autoassign.batch_terms(terms, 0.25)] == [0, 0, 0]
