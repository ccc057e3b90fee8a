"""Assigners against plain loops on random and crafted ground truth; box coding; overlaps."""
import functools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import assigners
from official_ext.ops import checks

IMAGE = (96, 128)
SIZES = [tuple(-(-side // 2**level) for side in IMAGE) for level in range(3, 7)]
AT = assigners.locations(SIZES, 3)
RULES = {'fcos': assigners.fcos_matches, 'atss': assigners.atss_matches,
         'fcos_whole_box': functools.partial(assigners.fcos_matches, center_radius=0),
         'fcos_radius_3': functools.partial(assigners.fcos_matches, center_radius=3)}
NAMES = ('fcos', 'atss')


def random_cases(count=200, rows=6, seed=0):
  """Returns boxes on a coarse grid, for many ties; some are empty, outside or padding."""
  random = np.random.default_rng(seed)
  boxes, classes = np.full([count, rows, 4], -1.0), np.full([count, rows], -1)
  for case in range(count):
    for row in range(random.integers(0, rows + 1)):
      size = 4 * random.integers(0, [8, 8] if random.random() < 0.5 else [24, 32])
      start = 4 * random.integers([-8, -8], [24, 32])
      boxes[case, row] = [*start, *(start + size)]
      if row and random.random() < 0.3:
        boxes[case, row] = boxes[case, row - 1]
      # Rows of classes 0 and -1, anywhere, are no objects, as a crowd's row is not.
      classes[case, row] = random.choice([-1, 0, 1, 2, 3], p=[0.05, 0.05, 0.3, 0.3, 0.3])
  boxes[1, 0], classes[1, 0] = [1000, 1000, 1040, 1080], 1  # wholly outside
  boxes[2], classes[2] = [0, 0, *IMAGE], 1  # equal rows
  return boxes, classes


def points_by_hand():
  points, strides = [], []
  for level, (height, width) in enumerate(SIZES, 3):
    for row in range(height):
      for column in range(width):
        points.append([(row + 0.5) * 2**level, (column + 0.5) * 2**level])
        strides.append(2**level)
  return np.array(points), np.array(strides)


def is_object(box, label):
  return label > 0 and box[2] > box[0] and box[3] > box[1]


def fcos_by_hand(boxes, classes, radius=1.5):
  points, strides = points_by_hand()
  best, area_of_best = np.full(len(points), -1), np.full(len(points), np.inf)
  for row, (box, label) in enumerate(zip(boxes, classes)):
    if not is_object(box, label):
      continue
    area = (box[2] - box[0]) * (box[3] - box[1])
    for i in np.flatnonzero(np.all((points > box[:2]) & (points < box[2:]), axis=-1)):
      (y, x), stride = points[i], strides[i]
      middle_y, middle_x = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
      if not max(box[0], middle_y - radius * stride) < y < min(box[2], middle_y + radius * stride):
        continue
      if not max(box[1], middle_x - radius * stride) < x < min(box[3], middle_x + radius * stride):
        continue
      farthest = max(y - box[0], x - box[1], box[2] - y, box[3] - x)
      low, high = {8: (-1, 64), 16: (64, 128), 32: (128, 256), 64: (256, np.inf)}[stride]
      if low <= farthest <= high and area < area_of_best[i]:
        best[i], area_of_best[i] = row, area
  return best


def iou_by_hand(a, b):
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  shared = max(height, 0) * max(width, 0)
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def atss_by_hand(boxes, classes):
  points, strides = points_by_hand()
  best, overlap_of_best = np.full(len(points), -1), np.full(len(points), -np.inf)
  for row, (box, label) in enumerate(zip(boxes, classes)):
    if not is_object(box, label):
      continue
    center = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    distance = np.sum((points - center)**2, -1)
    candidates = np.concatenate([
        np.flatnonzero(strides == 2**level)[
            np.argsort(distance[strides == 2**level], kind='stable')[:9]]
        for level in range(3, 7)])
    overlaps = np.array([
        iou_by_hand([*(points[i] - 4 * strides[i]), *(points[i] + 4 * strides[i])], box)
        for i in candidates])
    threshold = overlaps.mean() + overlaps.std(ddof=1)
    for i, overlap in zip(candidates, overlaps):
      y, x = points[i]
      if overlap >= threshold * (1 - 1e-6) and min(
          y - box[0], x - box[1], box[2] - y, box[3] - x) > 0.01:
        if overlap > overlap_of_best[i] + 1e-9:
          best[i], overlap_of_best[i] = row, overlap
  return best


BY_HAND = {'fcos': fcos_by_hand, 'atss': atss_by_hand,
           'fcos_whole_box': functools.partial(fcos_by_hand, radius=np.inf),
           'fcos_radius_3': functools.partial(fcos_by_hand, radius=3)}


@pytest.mark.parametrize('rule', RULES)
def test_200_random_cases_against_loops(rule):
  boxes, classes = random_cases()
  found = RULES[rule](AT, tf.constant(boxes, tf.float32), tf.constant(classes)).numpy()
  expected = np.stack([BY_HAND[rule](*case) for case in zip(boxes, classes)])
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(found)) == boxes.shape[1] + 1
  assert np.all(found[2] <= 0)
  strides = points_by_hand()[1]
  assert {*strides[np.any(found >= 0, axis=0)]} >= {8, 16}


@pytest.mark.parametrize('rule', NAMES)
def test_the_order_of_images_does_not_matter(rule):
  boxes, classes = (value[:20] for value in random_cases(seed=1))
  found = RULES[rule](AT, tf.constant(boxes, tf.float32), tf.constant(classes)).numpy()
  again = RULES[rule](AT, tf.constant(boxes[::-1], tf.float32), tf.constant(classes[::-1]))
  np.testing.assert_array_equal(found[::-1], again)


@pytest.mark.slow
@pytest.mark.parametrize('rule', NAMES)
def test_compiled_equals_eager(rule):
  boxes, classes = random_cases(count=4, seed=2)
  boxes = tf.constant(boxes, tf.float32)

  def run(boxes, classes):
    return tuple(assigners.targets(RULES[rule], AT, boxes, classes))

  expected = run(boxes, tf.constant(classes))
  found = tf.function(run, jit_compile=True)(boxes, tf.constant(classes))
  assert np.any(expected[0])
  for one, other in zip(expected, found):
    np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('rule', NAMES)
def test_without_boxes_all_is_background(rule):
  boxes, classes = tf.fill([2, 8, 4], -1.0), tf.fill([2, 8], -1)
  targets = assigners.targets(RULES[rule], AT, boxes, classes)
  assert not np.any(targets.is_positive)
  assert not np.any(targets.classes) and not np.any(targets.centerness)
  assert np.all(np.isfinite(targets.boxes))


@pytest.mark.parametrize('rule', RULES)
def test_without_rows_all_is_background(rule):
  """A batch whose images all have no box may be padded to no row at all."""
  boxes, classes = tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.int32)
  traced = tf.function(functools.partial(RULES[rule], AT), input_signature=[
      tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.int32)])
  for match in (functools.partial(RULES[rule], AT), traced):
    assert match(boxes, classes).shape == (2, len(AT.strides))
    assert np.all(match(boxes, classes) == -1)
  found = assigners.targets(RULES[rule], AT, boxes, classes)
  assert not np.any(found.is_positive)
  assert not np.any(found.classes)
  boxes, classes = (x[3:5] for x in random_cases())
  np.testing.assert_array_equal(
      traced(tf.constant(boxes, tf.float32), tf.constant(classes, tf.int32)),
      RULES[rule](AT, tf.constant(boxes, tf.float32), classes))


def test_one_level_gives_every_box_of_atss_a_location():
  """If a small box has nine equal overlaps, their mean must not round above them."""
  at = assigners.locations([(20, 24)], 3)
  random = np.random.default_rng(3)
  start = random.uniform(30, 100, [50, 1, 2])
  boxes = np.concatenate([start, start + random.uniform(9, 20, [50, 1, 2])], -1)
  rows = assigners.atss_matches(at, tf.constant(boxes, tf.float32), tf.ones([50, 1], tf.int32))
  assert np.all(np.any(rows.numpy() == 0, axis=1))


def test_targets_are_those_of_the_matched_rows():
  boxes, classes = random_cases(count=10, seed=4)
  targets = assigners.Targets(*(value.numpy() for value in assigners.targets(
      assigners.fcos_matches, AT, tf.constant(boxes, tf.float32), tf.constant(classes))))
  points = points_by_hand()[0]
  for case in range(10):
    for i, row in enumerate(fcos_by_hand(boxes[case], classes[case])):
      assert targets.is_positive[case, i] == (row >= 0)
      if row < 0:
        continue
      assert targets.classes[case, i] == classes[case, row]
      np.testing.assert_array_equal(targets.boxes[case, i], boxes[case, row])
      (y, x), (y1, x1, y2, x2) = points[i], boxes[case, row]
      expected = np.sqrt(min(x - x1, x2 - x) / max(x - x1, x2 - x) *
                         min(y - y1, y2 - y) / max(y - y1, y2 - y))
      np.testing.assert_allclose(targets.centerness[case, i], expected, rtol=1e-5)


def test_centerness_is_one_in_the_middle_and_zero_outside():
  box = tf.constant([10.0, 20.0, 30.0, 60.0])
  points = tf.constant([[20.0, 40.0], [10.0, 40.0], [20.0, 61.0], [5.0, 5.0], [15.0, 30.0]])
  np.testing.assert_allclose(
      assigners.centerness(points, box), [1, 0, 0, 0, np.sqrt(5 / 15 * 10 / 30)], rtol=1e-6)
  assert assigners.centerness(points[0], tf.constant([20.0, 40.0, 20.0, 40.0])) == 0


def test_locations_are_the_centers_of_cells():
  points, strides = points_by_hand()
  np.testing.assert_array_equal(AT.points, points)
  np.testing.assert_array_equal(AT.strides, strides)
  assert AT.counts == tuple(height * width for height, width in SIZES)
  with pytest.raises(checks.ArgumentError, match='sizes has .None, 1. for level 4'):
    assigners.locations([(2, 2), (None, 1)], 3)


def encode_by_hand(boxes, at, anchor_size=8):
  size = (boxes[:, 2:] - boxes[:, :2]) / (anchor_size * at.strides[:, None])
  center = (boxes[:, 2:] + boxes[:, :2]) / 2 - at.points
  return np.concatenate([center / (anchor_size * at.strides[:, None]) / 0.1,
                         np.log(size) / 0.2], -1)


@pytest.mark.parametrize('name', NAMES)
def test_decoding_undoes_encoding(name):
  random = np.random.default_rng(5)
  start = AT.points - random.uniform(1, 100, AT.points.shape)
  boxes = np.concatenate([start, AT.points + random.uniform(1, 100, AT.points.shape)], -1)
  encoded = encode_by_hand(boxes, AT) if name == 'atss' else np.concatenate(
      [AT.points - boxes[:, :2], boxes[:, 2:] - AT.points], -1)
  decoded = assigners.assigner(name).decode(AT, tf.constant(encoded, tf.float32)[None])
  np.testing.assert_allclose(decoded[0], boxes, atol=1e-4)
  if name == 'fcos':
    np.testing.assert_allclose(
        assigners.distances(AT.points, tf.constant(boxes, tf.float32)), encoded, atol=1e-4)


def test_an_unknown_assigner_is_refused():
  with pytest.raises(checks.ArgumentError, match="assigner is 'fcso'; allowed are 'fcos', 'atss'"):
    assigners.assigner('fcso')


@pytest.mark.parametrize('name, radius, message', [
    ('fcos', -1, 'center_radius is -1; it must be positive, or 0'),
    ('atss', 0, 'center_radius is 0, but ATSS has no center sampling'),
    ('autoassign', 2, 'center_radius is 2, but AutoAssign has no center sampling'),
    ('freeanchor', 0, 'center_radius is 0, but FreeAnchor has no center sampling')])
def test_a_radius_without_a_meaning_is_refused(name, radius, message):
  with pytest.raises(checks.ArgumentError, match=message):
    assigners.assigner(name, center_radius=radius)


def test_a_rule_takes_its_radius_from_the_assigner():
  boxes, classes = (tf.constant(value[:20], dtype) for value, dtype in zip(
      random_cases(), (tf.float32, tf.int64)))
  found = {radius: assigners.assigner('fcos', center_radius=radius).match(AT, boxes, classes)
           for radius in (0, 1.5)}
  assert np.sum(found[0] >= 0) > np.sum(found[1.5] >= 0)


@pytest.mark.parametrize('name, options, message', [
    ('atss', {'num_scales': 3}, 'num_scales is 3, but only FreeAnchor has several anchors'),
    ('fcos', {'aspect_ratios': [2.0]}, r'aspect_ratios is \[2.0\], but only FreeAnchor'),
    ('freeanchor', {'aspect_ratios': []}, r'aspect_ratios is \[\]; it must be a list of pos'),
    ('freeanchor', {'anchor_size': -1.0}, 'anchor_size is -1.0; it must be positive'),
    ('fcos', {'location_offset': 1.5}, r'location_offset is 1.5; it must be in \[0, 1\]')])
def test_an_anchor_or_offset_without_a_meaning_is_refused(name, options, message):
  with pytest.raises(checks.ArgumentError, match=message):
    assigners.assigner(name, **options)


def test_an_offset_moves_all_locations():
  corner = assigners.locations(SIZES, 3, assigners.assigner('autoassign', location_offset=0).offset)
  np.testing.assert_array_equal(corner.points, AT.points - AT.strides[:, None] / 2)
  assert tuple(corner.points[SIZES[0][1] + 2]) == (8, 16)


def test_learned_assigners_leave_the_assignment_to_their_losses():
  for name in ('autoassign', 'freeanchor'):
    assert assigners.assigner(name).match is None
  for name in NAMES:
    assert assigners.assigner(name).match is not None


def test_every_anchor_of_a_location_is_decoded():
  rule = assigners.assigner('freeanchor', anchor_size=4, num_scales=3, aspect_ratios=[0.5, 1, 2])
  at = assigners.locations([(2, 3)], 3)
  raw = np.random.default_rng(7).normal(0, 1, [2, 6, 36])
  decoded = rule.decode(at, tf.constant(raw, tf.float64)).numpy()
  assert decoded.shape == (2, 54, 4)
  for image, location, anchor in np.ndindex(2, 6, 9):
    scale, aspect = divmod(anchor, 3)
    side, ratio = 32 * 2**(scale / 3), (0.5, 1, 2)[aspect]
    size = np.array([side / np.sqrt(ratio), side * np.sqrt(ratio)])
    deltas = raw[image, location, 4 * anchor:4 * anchor + 4]
    center = at.points[location] + deltas[:2] * 0.1 * size
    half = size * np.exp(0.2 * deltas[2:]) / 2
    np.testing.assert_allclose(decoded[image, 9 * location + anchor],
                               [*(center - half), *(center + half)], rtol=1e-5)
