"""Which location of a one-stage detector learns which box, and how boxes are written there.

All functions work on whole batches with padded ground truth and static shapes, so that they
compile.  Boxes are `[y1, x1, y2, x2]` and points `[y, x]`, in pixels of the network's input.
A ground-truth row counts if its class is above 0 and its box has an area: padding (class -1)
and empty boxes match nothing.
"""
import functools
from typing import Callable, NamedTuple, Sequence, Tuple

import numpy as np
from official.vision.ops import box_ops
import tensorflow as tf

# Reciprocals of the deviations .1, .1, .2, .2 of center and size.
DELTA_WEIGHTS = [10.0, 10.0, 5.0, 5.0]
_RADIUS = 1.5  # strides around a box's center in which FCOS looks for locations
_REACH = 8  # strides: the largest distance that a location of FCOS predicts
_CLOSEST = 9  # anchors per level that are ATSS's candidates for a box
_ROUNDING = 1e-6
_INSIDE = 0.01  # pixels that an anchor's center lies within its box


class Locations(NamedTuple):
  """The locations of all levels, finest level first, row by row.

  Attributes:
    points: float32 `[locations, 2]`.
    strides: float32 `[locations]`, in pixels.
    counts: how many locations each level has.
  """
  points: np.ndarray
  strides: np.ndarray
  counts: Tuple[int, ...]


def locations(sizes: Sequence[Tuple[int, int]], min_level: int) -> Locations:
  """Returns the centers of the cells of every level's grid.

  Args:
    sizes: `(height, width)` of every level's map, finest first.
    min_level: the first one's; its stride is `2**min_level`.

  Raises:
    ValueError: a size is not known.
  """
  points, strides = [], []
  for level, size in enumerate(sizes, min_level):
    if None in tuple(size):
      raise ValueError(f'The map of level {level} has size {tuple(size)}: boxes need images of a '
                       'fixed size, model.input_size.')
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing='ij'), -1).reshape([-1, 2])
    points.append((grid + 0.5) * 2**level)
    strides.append(np.full(len(grid), 2**level))
  return Locations(np.concatenate(points).astype(np.float32),
                   np.concatenate(strides).astype(np.float32), tuple(map(len, points)))


class Assigner(NamedTuple):
  """A rule of assignment, and the coding of boxes that goes with it.

  Attributes:
    box_coding: what the head predicts, `distances` or `deltas`.
    match: of locations, boxes `[batch, boxes, 4]` and classes `[batch, boxes]`, returns the
      row of each location's box, `[batch, locations]`, -1 for background.
    decode: of locations and what the head predicts, `[batch, locations, 4]`, returns boxes.
  """
  box_coding: str
  match: Callable[[Locations, tf.Tensor, tf.Tensor], tf.Tensor]
  decode: Callable[[Locations, tf.Tensor], tf.Tensor]


def assigner(name: str, anchor_size: float = 8.0) -> Assigner:
  """Returns an assigner.

  Args:
    name: `fcos` or `atss`.
    anchor_size: side of ATSS's anchor of a location, in strides.

  Raises:
    ValueError: an unknown name.
  """
  if name == 'fcos':
    return Assigner('distances', fcos_matches, lambda at, outputs: boxes_at(at.points, outputs))
  if name == 'atss':
    return Assigner(
        'deltas', functools.partial(atss_matches, anchor_size=anchor_size),
        lambda at, outputs: boxes_of_deltas(outputs, anchors(at, anchor_size)))
  raise ValueError(f'assigner is {name!r}; allowed are `fcos` and `atss`: change model.assigner.')


class Targets(NamedTuple):
  """What every location learns.

  Attributes:
    is_positive: boolean `[batch, locations]`.
    classes: int32 `[batch, locations]`, 0 for background.
    boxes: float32 `[batch, locations, 4]`; of no meaning for background.
    centerness: float32 `[batch, locations]`, 0 for background.
  """
  is_positive: tf.Tensor
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor


def targets(match: Callable[..., tf.Tensor], at: Locations, boxes: tf.Tensor,
            classes: tf.Tensor) -> Targets:
  """Returns the targets of all locations under a rule.

  Args:
    match: the rule.
    at: the locations.
    boxes: float32 `[batch, boxes, 4]`.
    classes: integers `[batch, boxes]`; 0 and below are no object.
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


def boxes_at(points: tf.Tensor, to_sides: tf.Tensor) -> tf.Tensor:
  """Returns the boxes `[..., 4]` whose `distances` from points these are."""
  return tf.concat([points - to_sides[..., :2], points + to_sides[..., 2:]], -1)


def anchors(at: Locations, anchor_size: float) -> tf.Tensor:
  """Returns one square box per location, of `anchor_size` strides: `[locations, 4]`."""
  half = at.strides[:, None] * anchor_size / 2
  return tf.constant(np.concatenate([at.points - half, at.points + half], -1))


def boxes_of_deltas(deltas: tf.Tensor, anchor_boxes: tf.Tensor) -> tf.Tensor:
  """Returns the boxes `[..., 4]` that deltas of center and size make of anchors."""
  return box_ops.decode_boxes(deltas, anchor_boxes, DELTA_WEIGHTS)


def centerness(points: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
  """Returns how central points `[..., 2]` are in boxes: `[...]`, 1 in the middle, 0 outside.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, Eq. 3.
  """
  to_sides = tf.maximum(distances(points, boxes), 0)
  first, second = to_sides[..., :2], to_sides[..., 2:]
  ratios = tf.math.divide_no_nan(tf.minimum(first, second), tf.maximum(first, second))
  return tf.sqrt(tf.reduce_prod(ratios, -1))


# --- Overlaps --------------------------------------------------------------------------


def areas(boxes: tf.Tensor) -> tf.Tensor:
  """Returns areas `[...]`; 0 for boxes that end before they begin."""
  size = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0)
  return size[..., 0] * size[..., 1]


def intersections(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the areas `[...]` that boxes of two broadcastable tensors share."""
  return areas(tf.concat([tf.maximum(first[..., :2], second[..., :2]),
                          tf.minimum(first[..., 2:], second[..., 2:])], -1))


def intersection_over_union(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the overlaps `[...]`, in [0, 1]; 0 for two empty boxes."""
  shared = intersections(first, second)
  return tf.math.divide_no_nan(shared, areas(first) + areas(second) - shared)


def generalized_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the generalized overlaps `[...]`, in [-1, 1].

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


def fcos_matches(at: Locations, boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
  """Assigns boxes to locations by FCOS's rule, with center sampling.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, section 3.2, and its authors' code.  A
  location learns a box if it lies strictly inside of the square of 1.5 strides around the
  box's center, clipped to the box, and the largest distance to a side is 4 to 8 strides; on
  the finest level it may be less, on the coarsest more.  The smallest box wins, of equal ones
  the first.

  Args:
    at: the locations.
    boxes: float32 `[batch, boxes, 4]`.
    classes: integers `[batch, boxes]`.

  Returns:
    int32 `[batch, locations]`: the row of the box, -1 for background.
  """
  points = at.points[None, :, None]
  boxes, reach = boxes[:, None], _RADIUS * at.strides[None, :, None, None]
  center = (boxes[..., :2] + boxes[..., 2:]) / 2
  middle = tf.concat([tf.maximum(center - reach, boxes[..., :2]),
                      tf.minimum(center + reach, boxes[..., 2:])], -1)
  is_central = tf.reduce_min(distances(points, middle), -1) > 0
  farthest = tf.reduce_max(distances(points, boxes), -1)
  low, high = (limit[None, :, None] for limit in _size_ranges(at))
  is_match = is_central & (farthest >= low) & (farthest <= high)
  is_match &= _counts(boxes, classes[:, None])
  return _best(is_match, -areas(boxes))


def _size_ranges(at: Locations) -> Tuple[np.ndarray, np.ndarray]:
  """Returns the smallest and largest distance of each location, `[locations]`."""
  low = np.where(at.strides == at.strides[0], -1, at.strides * (_REACH / 2))
  high = np.where(at.strides == at.strides[-1], np.inf, at.strides * _REACH)
  return low.astype(np.float32), high.astype(np.float32)


def atss_matches(at: Locations, boxes: tf.Tensor, classes: tf.Tensor,
                 anchor_size: float = 8.0) -> tf.Tensor:
  """Assigns boxes to locations by adaptive training sample selection.

  Reference: ATSS, https://arxiv.org/abs/1912.02424, Algorithm 1.  Candidates of a box are
  the 9 anchors of each level whose centers are closest to its own, of equal ones the first;
  those learn it whose overlap reaches the mean plus the standard deviation (n - 1) of the
  candidates', and whose center lies inside of the box.  The highest overlap wins, of equal
  ones the first.

  Args:
    at: the locations.
    boxes: float32 `[batch, boxes, 4]`.
    classes: integers `[batch, boxes]`.
    anchor_size: side of the anchor of a location, in strides.

  Returns:
    int32 `[batch, locations]`: the row of the box, -1 for background.
  """
  anchor_boxes = anchors(at, anchor_size)
  overlaps = intersection_over_union(boxes[:, :, None], anchor_boxes)
  is_candidate = _closest(at, (boxes[..., :2] + boxes[..., 2:]) / 2)
  threshold = _mean_and_deviation(overlaps, is_candidate)
  is_inside = tf.reduce_min(distances(at.points, boxes[:, :, None]), -1) > _INSIDE
  # Overlaps that are all alike may round to just below their mean.
  is_match = is_candidate & (overlaps >= threshold * (1 - _ROUNDING)) & is_inside
  is_match &= _counts(boxes, classes)[:, :, None]
  return _best(tf.transpose(is_match, [0, 2, 1]), tf.transpose(overlaps, [0, 2, 1]))


def _closest(at: Locations, centers: tf.Tensor) -> tf.Tensor:
  """Marks the locations of each level that are closest to centers: `[batch, boxes, locations]`."""
  squared = tf.reduce_sum(tf.square(centers[:, :, None] - at.points), -1)
  marks = []
  for on_level in tf.split(squared, at.counts, -1):
    count = on_level.shape[-1]
    rows = tf.math.top_k(-on_level, min(_CLOSEST, count)).indices
    marks.append(functools.reduce(
        tf.logical_or, [row == tf.range(count) for row in tf.split(rows, rows.shape[-1], -1)]))
  return tf.concat(marks, -1)


def _mean_and_deviation(values: tf.Tensor, is_candidate: tf.Tensor) -> tf.Tensor:
  """Returns mean + standard deviation of the candidates along the last axis, which is kept."""
  weights = tf.cast(is_candidate, values.dtype)
  count = tf.reduce_sum(weights, -1, keepdims=True)
  mean = tf.reduce_sum(values * weights, -1, keepdims=True) / count
  squares = tf.reduce_sum(tf.square(values - mean) * weights, -1, keepdims=True)
  return mean + tf.sqrt(squares / tf.maximum(count - 1, 1))


def _counts(boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
  return (classes > 0) & (areas(boxes) > 0)


def _best(is_match: tf.Tensor, merit: tf.Tensor) -> tf.Tensor:
  """Returns the matching row of the highest merit, the first of equal ones, or -1."""
  merit = tf.where(is_match, merit, -np.inf)
  row = tf.argmax(merit, -1, output_type=tf.int32)
  return tf.where(tf.reduce_any(is_match, -1), row, -1)
