"""Overlaps of boxes against plain loops."""
import numpy as np
import tensorflow as tf

from official_ext.ops import overlaps


def iou_by_hand(a, b):
  height = min(a[2], b[2]) - max(a[0], b[0])
  width = min(a[3], b[3]) - max(a[1], b[1])
  shared = max(height, 0) * max(width, 0)
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def giou_by_hand(a, b):
  height = max(a[2], b[2]) - min(a[0], b[0])
  width = max(a[3], b[3]) - min(a[1], b[1])
  shared = (max(min(a[2], b[2]) - max(a[0], b[0]), 0) *
            max(min(a[3], b[3]) - max(a[1], b[1]), 0))
  union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
  return shared / union - (height * width - union) / (height * width)


def test_overlaps_against_loops():
  random = np.random.default_rng(6)
  start = random.uniform(0, 20, [2, 100, 2])
  first, second = np.concatenate([start, start + random.uniform(1, 20, [2, 100, 2])], -1)
  for function, by_hand in ((overlaps.generalized_iou, giou_by_hand),
                            (overlaps.intersection_over_union, iou_by_hand)):
    np.testing.assert_allclose(
        function(tf.constant(first), tf.constant(second)),
        [by_hand(a, b) for a, b in zip(first, second)], atol=1e-12)


def test_generalized_overlap_of_degenerate_boxes_is_finite_with_its_gradient():
  first = tf.constant([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 4, 4], [9, 9, 9, 9]])
  second = tf.constant([[1.0, 1, 1, 1], [0, 0, 4, 4], [0, 0, 4, 4], [-1, -1, -1, -1]])
  with tf.GradientTape() as tape:
    tape.watch(first)
    overlap = overlaps.generalized_iou(first, second)
  np.testing.assert_allclose(overlap, [0, 0, 1, -1])
  assert np.all(np.isfinite(tape.gradient(overlap, first)))
