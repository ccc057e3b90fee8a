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
import tensorflow as tf

from official_ext.ops import anchors
from official_ext.ops import checks
from official_ext.ops import overlaps

NAMES = ('fcos', 'atss', 'autoassign', 'freeanchor')
CENTER_OF_CELL = 0.5  # strides: where in its cell a location lies
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


def locations(sizes: Sequence[tuple[int, int]], min_level: int,
              offset: float = CENTER_OF_CELL) -> Locations:
  """Returns one location for every cell of every level's grid.

  Args:
    sizes: `(height, width)` of every level's map, finest first.
    min_level: the finest level; its stride is `2**min_level`.
    offset: distance of a location from the top and the left of its cell, in strides.

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
    points.append((grid + offset) * 2**level)
    strides.append(np.full(len(grid), 2**level))
  return Locations(np.concatenate(points).astype(np.float32),
                   np.concatenate(strides).astype(np.float32), tuple(map(len, points)))


class Assigner(NamedTuple):
  """A rule of assignment, and the box coding that belongs to it.

  Attributes:
    name: one of `NAMES`.
    box_coding: how the head predicts boxes, `distances` or `deltas`.
    decode: function of locations and the head's box predictions `[batch, locations, values]`; it
      returns boxes `[batch, boxes, 4]`, one for each anchor, or one for each location.
    match: function of locations, boxes `[batch, boxes, 4]` and classes `[batch, boxes]`; it
      returns the row of each location's box, int32 `[batch, locations]`, -1 for background.
      None for AutoAssign and FreeAnchor, whose losses weigh all locations or anchors.
    offset: where in its cell a location lies, see `locations`.
    anchor_shapes: the anchors of a location; not used by FCOS and AutoAssign.
  """
  name: str
  box_coding: str
  decode: Callable[[Locations, tf.Tensor], tf.Tensor]
  match: Callable[[Locations, tf.Tensor, tf.Tensor], tf.Tensor] | None = None
  offset: float = CENTER_OF_CELL
  anchor_shapes: anchors.Shapes = anchors.Shapes()


def assigner(name: str, anchor_size: float = 8.0, center_radius: float = CENTER_RADIUS,
             num_scales: int = 1, aspect_ratios: Sequence[float] = (1.0,),
             location_offset: float = CENTER_OF_CELL) -> Assigner:
  """Returns an assigner.

  Args:
    name: one of `NAMES`.
    anchor_size: side of the smallest square anchor of ATSS or FreeAnchor, in strides.
    center_radius: of FCOS's center sampling, in strides; 0: no center sampling.
    num_scales: sizes of FreeAnchor's anchors, see `anchors.Shapes`.
    aspect_ratios: aspect ratios of FreeAnchor's anchors, see `anchors.Shapes`.
    location_offset: where in its cell a location lies, in strides.

  Raises:
    ArgumentError: an unknown name, named `assigner` as the argument of the callers; a value that
      is not allowed; or one that only another assigner has.
  """
  checks.check_one_of('assigner', name, NAMES)
  shapes = anchors.Shapes(anchor_size, num_scales, tuple(aspect_ratios))
  _check_options(name, shapes, center_radius, location_offset)
  if name in ('fcos', 'autoassign'):
    match = None if name == 'autoassign' else functools.partial(
        fcos_matches, center_radius=center_radius)
    return Assigner(name, 'distances', lambda at, outputs: boxes_from_distances(
        tf.cast(at.points, outputs.dtype), outputs), match, location_offset)
  match = None if name == 'freeanchor' else functools.partial(
      atss_matches, anchor_size=anchor_size)
  return Assigner(name, 'deltas', functools.partial(_decode_deltas, shapes), match,
                  location_offset, shapes)


def _check_options(name: str, shapes: anchors.Shapes, center_radius: float,
                   location_offset: float) -> None:
  """Raises an ArgumentError for an option that has no meaning, or none with this assigner."""
  title = {'atss': 'ATSS', 'autoassign': 'AutoAssign', 'freeanchor': 'FreeAnchor'}.get(name, '')
  if name == 'fcos' and center_radius < 0:
    raise checks.ArgumentError(
        'center_radius', f'center_radius is {center_radius}; it must be positive, or 0 for no '
        'center sampling.')
  if name != 'fcos' and center_radius != CENTER_RADIUS:
    raise checks.ArgumentError(
        'center_radius', f'center_radius is {center_radius}, but {title} has no center sampling; '
        f'it must be {CENTER_RADIUS}, which is not used, or assigner `fcos`.')
  if not 0 <= location_offset <= 1:
    raise checks.ArgumentError(
        'location_offset', f'location_offset is {location_offset}; it must be in [0, 1].')
  anchors.check(shapes)
  if name == 'freeanchor':
    return
  for argument, value, only in (('num_scales', shapes.num_scales, 1),
                                ('aspect_ratios', list(shapes.aspect_ratios), [1.0])):
    if value != only:
      raise checks.ArgumentError(
          argument, f'{argument} is {value}, but only FreeAnchor has several anchors at a '
          f'location; it must be {only}, or assigner `freeanchor`.')


def _decode_deltas(shapes: anchors.Shapes, at: Locations, outputs: tf.Tensor) -> tf.Tensor:
  """Returns boxes `[batch, anchors, 4]` of deltas `[batch, locations, 4 * anchors of each]`."""
  anchor_boxes = tf.cast(anchors.boxes(at.points, at.strides, shapes), outputs.dtype)
  return anchors.boxes_from_deltas(
      tf.reshape(outputs, [-1, anchor_boxes.shape[0], 4]), anchor_boxes)


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
  boxes, classes = _with_a_row(boxes, classes)
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


def centerness(points: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
  """Returns how central points `[..., 2]` are in boxes: `[...]`, 1 in the middle, 0 outside.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, eq. 3.
  """
  to_sides = tf.maximum(distances(points, boxes), 0)
  first, second = to_sides[..., :2], to_sides[..., 2:]
  ratios = tf.math.divide_no_nan(tf.minimum(first, second), tf.maximum(first, second))
  return tf.sqrt(tf.reduce_prod(ratios, -1))


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
  boxes, classes = _with_a_row(boxes, classes)
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
  is_match &= is_object(boxes, classes[:, None])
  return _best(is_match, -overlaps.areas(boxes))


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
  boxes, classes = _with_a_row(boxes, classes)
  anchor_boxes = anchors.boxes(at.points, at.strides, anchors.Shapes(anchor_size))
  shared = overlaps.intersection_over_union(boxes[:, :, None], anchor_boxes)
  is_candidate = _closest(at, (boxes[..., :2] + boxes[..., 2:]) / 2)
  threshold = _mean_and_deviation(shared, is_candidate)
  is_inside = tf.reduce_min(distances(at.points, boxes[:, :, None]), -1) > _INSIDE
  # Equal overlaps may round to just below their mean.
  is_match = is_candidate & (shared >= threshold * (1 - _ROUNDING)) & is_inside
  is_match &= is_object(boxes, classes)[:, :, None]
  return _best(tf.transpose(is_match, [0, 2, 1]), tf.transpose(shared, [0, 2, 1]))


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


def _with_a_row(boxes: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns ground truth that has a row, which is padding if it may have had none.

  The largest of no rows is an error.
  """
  if boxes.shape[1]:
    return boxes, classes
  return tf.pad(boxes, [[0, 0], [0, 1], [0, 0]]), tf.pad(classes, [[0, 0], [0, 1]])


def is_object(boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
  """Returns whether a row of the ground truth is an object."""
  return (classes > 0) & (overlaps.areas(boxes) > 0)


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
