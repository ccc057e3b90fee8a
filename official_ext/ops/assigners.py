"""Assignment of boxes to the locations of one-stage detectors, and coding of boxes there.

All functions take whole batches with padded ground truth and static shapes, so that XLA compiles
them.  Boxes are `[y1, x1, y2, x2]` and points `[y, x]`, in pixels of the network's input.  A
row of the ground truth is an object if its class is above 0 and its box has an area; padding
(class -1) and empty boxes are assigned to no location.
"""
from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import numpy as np
from official.vision.ops import box_ops
import tensorflow as tf

from official_ext.ops import checks

# Reciprocals of the deviations 0.1 of center y and x, and 0.2 of height and width.
DELTA_WEIGHTS = [10.0, 10.0, 5.0, 5.0]
CENTER_RADIUS = 1.5  # strides: FCOS assigns locations that are so near to a box's center
_REACH = 8  # strides: the largest distance that a location of FCOS predicts
_CLOSEST = 9  # anchors per level that are candidates of a box in ATSS
_ROUNDING = 1e-6  # relative rounding error of overlaps
_INSIDE = 0.01  # pixels: least distance of an anchor's center from the sides of its box


class Locations(NamedTuple):
  """The locations of all levels, finest level first, row by row.

  Attributes:
    points: float32 `[locations, 2]`, in pixels.
    strides: float32 `[locations]`, in pixels.
    counts: number of locations of each level.
  """
  points: np.ndarray
  strides: np.ndarray
  counts: tuple[int, ...]


def locations(sizes: Sequence[tuple[int, int]], min_level: int) -> Locations:
  """Returns the centers of the cells of every level's grid.

  Args:
    sizes: `(height, width)` of every level's map, finest first.
    min_level: the finest level; its stride is `2**min_level`.

  Raises:
    ArgumentError: a height or width is None.
  """
  points, strides = [], []
  for level, size in enumerate(sizes, min_level):
    if None in tuple(size):
      raise checks.ArgumentError(
          'sizes', f'sizes has {tuple(size)} for level {level}; boxes need images of a fixed '
          'height and width.')
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing='ij'), -1).reshape([-1, 2])
    points.append((grid + 0.5) * 2**level)
    strides.append(np.full(len(grid), 2**level))
  return Locations(np.concatenate(points).astype(np.float32),
                   np.concatenate(strides).astype(np.float32), tuple(map(len, points)))


class Assigner(NamedTuple):
  """A rule of assignment, and the box coding that belongs to it.

  Attributes:
    box_coding: how the head predicts boxes, `distances` or `deltas`.
    match: function of locations, boxes `[batch, boxes, 4]` and classes `[batch, boxes]`; it
      returns the row of each location's box, int32 `[batch, locations]`, -1 for background.
    decode: function of locations and the head's box predictions `[batch, locations, 4]`; it
      returns boxes `[batch, locations, 4]`.
  """
  box_coding: str
  match: Callable[[Locations, tf.Tensor, tf.Tensor], tf.Tensor]
  decode: Callable[[Locations, tf.Tensor], tf.Tensor]


def assigner(name: str, anchor_size: float = 8.0,
             center_radius: float = CENTER_RADIUS) -> Assigner:
  """Returns an assigner.

  Args:
    name: `fcos` or `atss`.
    anchor_size: side of ATSS's anchor of a location, in strides.
    center_radius: of FCOS's center sampling, in strides; 0: no center sampling.

  Raises:
    ArgumentError: an unknown name, named `assigner` as the argument of the callers; or a radius
      that is negative or given to ATSS.
  """
  checks.check_one_of('assigner', name, ('fcos', 'atss'))
  if name == 'fcos':
    if center_radius < 0:
      raise checks.ArgumentError(
          'center_radius', f'center_radius is {center_radius}; it must be positive, or 0 for no '
          'center sampling.')
    return Assigner('distances', functools.partial(fcos_matches, center_radius=center_radius),
                    lambda at, outputs: boxes_from_distances(at.points, outputs))
  if center_radius != CENTER_RADIUS:
    raise checks.ArgumentError(
        'center_radius', f'center_radius is {center_radius}, but ATSS has no center sampling; it '
        f'must be {CENTER_RADIUS}, which is not used, or assigner `fcos`.')
  return Assigner('deltas', functools.partial(atss_matches, anchor_size=anchor_size),
                  lambda at, outputs: boxes_from_deltas(outputs, anchors(at, anchor_size)))


class Targets(NamedTuple):
  """The training targets of every location.

  Attributes:
    is_positive: boolean `[batch, locations]`, whether a box is assigned.
    classes: int32 `[batch, locations]`, 0 for background.
    boxes: float32 `[batch, locations, 4]`, arbitrary for background.
    centerness: float32 `[batch, locations]`, 0 for background.
  """
  is_positive: tf.Tensor
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor


def targets(match: Callable[..., tf.Tensor], at: Locations, boxes: tf.Tensor,
            classes: tf.Tensor) -> Targets:
  """Returns the training targets of all locations.

  Args:
    match: rule of assignment, see `Assigner.match`.
    at: the locations.
    boxes: float32 `[batch, boxes, 4]`.
    classes: integers `[batch, boxes]`; rows of 0 and below are no objects.
  """
  rows = match(at, boxes, classes)
  is_positive, rows = rows >= 0, tf.maximum(rows, 0)
  boxes = tf.gather(boxes, rows, batch_dims=1)
  classes = tf.gather(tf.cast(classes, tf.int32), rows, batch_dims=1)
  return Targets(is_positive, tf.where(is_positive, classes, 0), boxes,
                 tf.where(is_positive, centerness(at.points, boxes), 0.0))


# --- Coding ----------------------------------------------------------------------------


def distances(points: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
  """Returns distances `[..., 4]` from points to the top, left, bottom and right of boxes."""
  return tf.concat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def boxes_from_distances(points: tf.Tensor, to_sides: tf.Tensor) -> tf.Tensor:
  """Returns the boxes `[..., 4]` of which `to_sides` are the `distances` from points."""
  return tf.concat([points - to_sides[..., :2], points + to_sides[..., 2:]], -1)


def anchors(at: Locations, anchor_size: float) -> tf.Tensor:
  """Returns one square box per location, of `anchor_size` strides: `[locations, 4]`."""
  half = at.strides[:, None] * anchor_size / 2
  return tf.constant(np.concatenate([at.points - half, at.points + half], -1))


def boxes_from_deltas(deltas: tf.Tensor, anchor_boxes: tf.Tensor) -> tf.Tensor:
  """Returns anchors `[..., 4]` moved and scaled by deltas of center and size, `[..., 4]`."""
  return box_ops.decode_boxes(deltas, anchor_boxes, DELTA_WEIGHTS)


def centerness(points: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
  """Returns how central points `[..., 2]` are in boxes: `[...]`, 1 in the middle, 0 outside.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, eq. 3.
  """
  to_sides = tf.maximum(distances(points, boxes), 0)
  first, second = to_sides[..., :2], to_sides[..., 2:]
  ratios = tf.math.divide_no_nan(tf.minimum(first, second), tf.maximum(first, second))
  return tf.sqrt(tf.reduce_prod(ratios, -1))


# --- Overlaps --------------------------------------------------------------------------


def areas(boxes: tf.Tensor) -> tf.Tensor:
  """Returns areas `[...]`; 0 for boxes of negative height or width."""
  size = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0)
  return size[..., 0] * size[..., 1]


def intersections(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the areas `[...]` of the intersections of boxes of two broadcastable tensors."""
  return areas(tf.concat([tf.maximum(first[..., :2], second[..., :2]),
                          tf.minimum(first[..., 2:], second[..., 2:])], -1))


def intersection_over_union(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns intersections over unions `[...]`, in [0, 1]; 0 for two empty boxes."""
  shared = intersections(first, second)
  return tf.math.divide_no_nan(shared, areas(first) + areas(second) - shared)


def generalized_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns generalized intersections over unions `[...]`, in [-1, 1].

  Reference: Hamid Rezatofighi et al., Generalized Intersection over Union,
  https://arxiv.org/abs/1902.09630, Algorithm 1.
  """
  shared = intersections(first, second)
  union = areas(first) + areas(second) - shared
  hull = areas(tf.concat([tf.minimum(first[..., :2], second[..., :2]),
                          tf.maximum(first[..., 2:], second[..., 2:])], -1))
  return (tf.math.divide_no_nan(shared, union) -
          tf.math.divide_no_nan(hull - union, hull))


# --- Rules -----------------------------------------------------------------------------


def fcos_matches(at: Locations, boxes: tf.Tensor, classes: tf.Tensor,
                 center_radius: float = CENTER_RADIUS) -> tf.Tensor:
  """Assigns boxes to locations by FCOS's rule, with or without center sampling.

  A box is assigned to a location that lies strictly inside it if the largest distance to a side
  is 4 to 8 strides; on the finest level it may be less, on the coarsest more.  With center
  sampling the location must also lie strictly inside the square of `center_radius` strides
  around the box's center.  If there are several such boxes, the smallest is assigned, the first
  one of equal boxes.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, section 3.2; center sampling is of its
  authors' later code.

  Args:
    at: the locations.
    boxes: float32 `[batch, boxes, 4]`.
    classes: integers `[batch, boxes]`.
    center_radius: half the side of the square, in strides; 0: no center sampling.

  Returns:
    int32 `[batch, locations]`: the row of the assigned box, -1 for background.
  """
  points, boxes = at.points[None, :, None], boxes[:, None]
  to_sides = distances(points, boxes)
  is_match = tf.reduce_min(to_sides, -1) > 0
  if center_radius:
    reach = center_radius * at.strides[None, :, None]
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    is_match &= tf.reduce_max(tf.abs(points - center), -1) < reach
  farthest = tf.reduce_max(to_sides, -1)
  low, high = (limit[None, :, None] for limit in _size_ranges(at))
  is_match &= (farthest >= low) & (farthest <= high)
  is_match &= _is_object(boxes, classes[:, None])
  return _best(is_match, -areas(boxes))


def _size_ranges(at: Locations) -> tuple[np.ndarray, np.ndarray]:
  """Returns the smallest and the largest allowed distance of each location, `[locations]`."""
  low = np.where(at.strides == at.strides[0], -1, at.strides * (_REACH / 2))
  high = np.where(at.strides == at.strides[-1], np.inf, at.strides * _REACH)
  return low.astype(np.float32), high.astype(np.float32)


def atss_matches(at: Locations, boxes: tf.Tensor, classes: tf.Tensor,
                 anchor_size: float = 8.0) -> tf.Tensor:
  """Assigns boxes to locations by adaptive training sample selection.

  Candidates of a box are the 9 anchors of each level whose centers are closest to the box's, the
  first ones of equal anchors.  The box is assigned to candidates whose center lies inside it and
  whose overlap is at least the mean plus the standard deviation (n - 1) of all candidates'
  overlaps.  If there are several such boxes, that of the highest overlap is assigned, the first
  one of equal boxes.

  Reference: ATSS, https://arxiv.org/abs/1912.02424, Algorithm 1.

  Args:
    at: the locations.
    boxes: float32 `[batch, boxes, 4]`.
    classes: integers `[batch, boxes]`.
    anchor_size: side of a location's anchor, in strides.

  Returns:
    int32 `[batch, locations]`: the row of the assigned box, -1 for background.
  """
  anchor_boxes = anchors(at, anchor_size)
  overlaps = intersection_over_union(boxes[:, :, None], anchor_boxes)
  is_candidate = _closest(at, (boxes[..., :2] + boxes[..., 2:]) / 2)
  threshold = _mean_and_deviation(overlaps, is_candidate)
  is_inside = tf.reduce_min(distances(at.points, boxes[:, :, None]), -1) > _INSIDE
  # Equal overlaps may round to just below their mean.
  is_match = is_candidate & (overlaps >= threshold * (1 - _ROUNDING)) & is_inside
  is_match &= _is_object(boxes, classes)[:, :, None]
  return _best(tf.transpose(is_match, [0, 2, 1]), tf.transpose(overlaps, [0, 2, 1]))


def _closest(at: Locations, centers: tf.Tensor) -> tf.Tensor:
  """Returns whether a location is among the closest of its level: `[batch, boxes, locations]`."""
  squared = tf.reduce_sum(tf.square(centers[:, :, None] - at.points), -1)
  marks = []
  for on_level in tf.split(squared, at.counts, -1):
    count = on_level.shape[-1]
    rows = tf.math.top_k(-on_level, min(_CLOSEST, count)).indices
    marks.append(functools.reduce(
        tf.logical_or, [row == tf.range(count) for row in tf.split(rows, rows.shape[-1], -1)]))
  return tf.concat(marks, -1)


def _mean_and_deviation(values: tf.Tensor, is_candidate: tf.Tensor) -> tf.Tensor:
  """Returns mean + standard deviation of candidates' values over the last axis, kept as 1."""
  weights = tf.cast(is_candidate, values.dtype)
  count = tf.reduce_sum(weights, -1, keepdims=True)
  mean = tf.reduce_sum(values * weights, -1, keepdims=True) / count
  squares = tf.reduce_sum(tf.square(values - mean) * weights, -1, keepdims=True)
  return mean + tf.sqrt(squares / tf.maximum(count - 1, 1))


def _is_object(boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
  """Returns whether a row of the ground truth is an object."""
  return (classes > 0) & (areas(boxes) > 0)


def _best(is_match: tf.Tensor, merit: tf.Tensor) -> tf.Tensor:
  """Returns the matching row of the highest merit, the first one of equal rows, or -1.

  Args:
    is_match: boolean `[batch, locations, boxes]`.
    merit: float32, broadcasts with `is_match`.

  Returns:
    int32 `[batch, locations]`.
  """
  merit = tf.where(is_match, merit, -np.inf)
  row = tf.argmax(merit, -1, output_type=tf.int32)
  return tf.where(tf.reduce_any(is_match, -1), row, -1)
