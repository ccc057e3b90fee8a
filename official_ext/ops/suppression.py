"""Suppression of overlapping boxes, class by class, as one fast operation or in portable ones.

Both ways, and `serving.suppression` in NumPy, follow one rule.  Pairs of a box and a class whose
score is above a threshold are candidates, or the best of them in each level.  Among the candidates
of a class, a box is dropped that overlaps a better one by more than the threshold of overlap.  The
best that are left, of all classes, are the detections.  Boxes without area are never detected.
"""
from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

VERSIONS = ('batched', 'portable')
Detections = dict[str, tf.Tensor]


class Rule(NamedTuple):
  """The numbers of a suppression.

  Attributes:
    score_threshold: candidates have a score above this.
    iou_threshold: overlap above which the lower-scored box of a class is dropped.
    max_detections: largest number of detections of an image.
    per_level: largest number of candidates of a level; None: all.
    best: what `per_level` counts: `boxes`, ranked by their highest score, or `pairs` of a box and
      a class, ranked by their score.
  """
  score_threshold: float
  iou_threshold: float
  max_detections: int
  per_level: int | None = None
  best: str = 'boxes'


class Level(NamedTuple):
  """Predictions of one level, or of all levels together.

  Attributes:
    boxes: float32 `[batch, boxes, classes, 4]` in pixels (top, left, bottom, right), or
      `[batch, boxes, 1, 4]` if all classes have the same box.
    scores: float32 `[batch, boxes, classes]`, the scores that choose candidates.
    centerness: float32 `[batch, boxes]`, or None.  With it, a detection's score is the square root
      of score times center-ness.
  """
  boxes: tf.Tensor
  scores: tf.Tensor
  centerness: tf.Tensor | None = None


def without_empty(level: Level) -> tf.Tensor:
  """Returns the scores of a level, with zeros for boxes without area or with NaN."""
  return tf.where(_has_area(level), level.scores, 0.0)


def _has_area(level: Level) -> tf.Tensor:
  """Returns which boxes have an area, boolean `[..., boxes, classes or 1]`."""
  return tf.reduce_all(level.boxes[..., 2:] > level.boxes[..., :2], -1)


def _best_scores(level: Level) -> tf.Tensor:
  """Returns the highest score of any class, `[..., boxes]`; 0 for boxes without area."""
  if level.boxes.shape[-2] > 1:
    return tf.reduce_max(without_empty(level), -1)
  return tf.where(_has_area(level)[..., 0], tf.reduce_max(level.scores, -1), 0.0)


def best_boxes(level: Level, count: int) -> Level:
  """Returns the boxes of a level with the highest scores of any class, at most `count`."""
  return _gather(level, _best_rows(level, count))


def _best_rows(level: Level, count: int) -> tf.Tensor:
  """Returns the rows of the boxes with the highest scores of any class, `[batch, rows]`."""
  return tf.math.top_k(_best_scores(level), min(count, level.scores.shape[1])).indices


def best_pairs(level: Level, count: int) -> Level:
  """Returns the highest scores of a level as boxes that have one class each, at most `count`."""
  # A pair among the best `count` is of a box among the best `count`, so that the scores of all
  # other boxes need no search.  Rows stay in order, which decides between equal scores.
  level = _gather(level, tf.sort(_best_rows(level, count)))
  _, num_boxes, num_classes = level.scores.shape
  scores = tf.reshape(without_empty(level), [-1, num_boxes * num_classes])
  best, places = tf.math.top_k(scores, min(count, num_boxes * num_classes))
  chosen = _gather(level, places // num_classes)
  return chosen._replace(scores=best[..., None] * tf.one_hot(places % num_classes, num_classes))


def _gather(level: Level, rows: tf.Tensor) -> Level:
  """Returns some rows, `[batch, rows]`, of a level."""
  return _map(lambda value: tf.gather(value, rows, batch_dims=1), level)


def _map(function: Callable[[tf.Tensor], tf.Tensor], level: Level) -> Level:
  """Returns a level with a function applied to its tensors."""
  return Level(*(None if value is None else function(value) for value in level))


def _concat(levels: Sequence[Level]) -> Level:
  return Level(*(None if values[0] is None else tf.concat(values, 1) for values in zip(*levels)))


def suppress(version: str, levels: Sequence[Level], rule: Rule) -> Detections:
  """Suppresses with one of `VERSIONS`.

  Args:
    version: `batched` or `portable`.
    levels: the predictions; with `per_level`, those of one level each.
    rule: the numbers.

  Returns:
    `detection_boxes`, float32 `[batch, max_detections, 4]`; `detection_scores`, float32
    `[batch, max_detections]`, descending, 0 behind the last detection; `detection_classes`, int32,
    from 0; `num_detections`, int32 `[batch]`.
  """
  return portable(levels, rule) if version == 'portable' else batched(levels, rule)


def batched(levels: Sequence[Level], rule: Rule) -> Detections:
  """Suppresses a whole batch with one operation, `tf.image.combined_non_max_suppression`.

  Arguments and result are those of `suppress`.  The operation looks at every score, class by
  class.  It therefore gets only the boxes with a score above the threshold, as many rows as the
  image that has most of them.  TPUs do not have it.
  """
  if rule.per_level:
    choose = best_boxes if rule.best == 'boxes' else best_pairs
    levels = [choose(level, rule.per_level) for level in levels]
  level = _concat(levels)
  best = _best_scores(level)
  above = tf.reduce_sum(tf.cast(best > rule.score_threshold, tf.int32), 1)
  count = tf.maximum(tf.reduce_max(above, keepdims=True)[0], 1)
  # In the order of the predictions, which decides between equal scores.
  level = _gather(level, tf.sort(tf.math.top_k(best, count).indices))
  boxes, scores, classes, found = tf.image.combined_non_max_suppression(
      level.boxes, _final_scores(level, rule.score_threshold), rule.max_detections,
      rule.max_detections, rule.iou_threshold, score_threshold=0.0, clip_boxes=False)
  return {'detection_boxes': boxes, 'detection_scores': scores,
          'detection_classes': tf.cast(classes, tf.int32), 'num_detections': found}


def _final_scores(level: Level, threshold: float) -> tf.Tensor:
  """Returns the scores of detections; 0 where the score that chooses is not above a threshold."""
  chosen = without_empty(level)
  scores = chosen
  if level.centerness is not None:
    scores = tf.sqrt(chosen * level.centerness[..., None])
  return tf.where(chosen > threshold, scores, 0.0)


def portable(levels: Sequence[Level], rule: Rule) -> Detections:
  """Suppresses with operations that other engines know too, image by image.

  Arguments and result are those of `suppress`.  The threshold comes first, by `tf.where` of the
  best score of every box, so that everything after it is small: OpenVINO takes half a second to
  choose a thousand of a hundred thousand scores.  Each class then gets boxes of its own place, and
  one `tf.image.non_max_suppression` serves all classes.
  """
  batch = levels[0].scores.shape[0]
  if batch is not None:
    images = [_portable_image([_image(level, index) for level in levels], rule)
              for index in range(batch)]
    return {name: tf.stack([image[name] for image in images]) for name in images[0]}
  shape = [rule.max_detections]
  signature = {
      'detection_boxes': tf.TensorSpec([*shape, 4]), 'detection_scores': tf.TensorSpec(shape),
      'detection_classes': tf.TensorSpec(shape, tf.int32),
      'num_detections': tf.TensorSpec([], tf.int32)}
  return tf.map_fn(lambda index: _portable_image([_image(level, index) for level in levels], rule),
                   tf.range(tf.shape(levels[0].scores)[0]), fn_output_signature=signature)


def _image(level: Level, index: tf.Tensor | int) -> Level:
  """Returns the predictions of one image, without the axis of the batch."""
  # OpenVINO 2026.4 loses `value[index]` in a loop over a known number of images.
  return _map(lambda value: tf.gather(value, index), level)


def _portable_image(levels: Sequence[Level], rule: Rule) -> Detections:
  """Returns the detections of one image; tensors have no axis of the batch."""
  found = [_candidates(level, rule) for level in levels]
  boxes, scores, classes = (tf.concat(values, 0) for values in zip(*found))
  num_classes = levels[0].scores.shape[-1]
  # A square of places, because the digits of a float would not suffice for places in one row.
  side = math.ceil(math.sqrt(num_classes))
  places = np.stack(np.divmod(np.arange(num_classes), side), -1).astype(np.float32)
  # The zero is for images without candidates.
  corners = tf.concat([tf.reshape(boxes, [-1]), [0.0]], 0)
  place = tf.reduce_max(corners) - tf.reduce_min(corners) + 1
  kept = tf.image.non_max_suppression(
      boxes + place * tf.gather(np.tile(places, 2), classes), scores, rule.max_detections,
      rule.iou_threshold, score_threshold=0.0)
  return {**{name: _padded(tf.gather(values, kept), rule.max_detections) for name, values in (
      ('detection_boxes', boxes), ('detection_scores', scores), ('detection_classes', classes))},
          'num_detections': tf.shape(kept)[0]}


def _padded(values: tf.Tensor, count: int) -> tf.Tensor:
  """Returns values `[rows, ...]` with zeros behind them, `[count, ...]`."""
  missing = count - tf.shape(values)[0]
  padded = tf.pad(values, [[0, missing], *[[0, 0]] * (values.shape.rank - 1)])
  # LiteRT has no `tf.ensure_shape`.
  padded.set_shape([count, *values.shape[1:]])
  return padded


def _candidates(level: Level, rule: Rule) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Returns boxes `[pairs, 4]`, final scores `[pairs]` and classes `[pairs]` of one image."""
  best = _best_scores(level)
  rows = tf.where(best > rule.score_threshold)
  if rule.best == 'boxes' and rule.per_level:
    rows = _best(rows, best, rule.per_level)
  # From here on there are few boxes.
  level = _map(lambda value: tf.gather(value, rows[:, 0]), level)
  scores = without_empty(level)
  pairs = tf.where(scores > rule.score_threshold)
  if rule.best == 'pairs' and rule.per_level:
    pairs = _best(pairs, scores, rule.per_level)
  values = tf.gather_nd(scores, pairs)
  rows, classes = pairs[:, 0], pairs[:, 1]
  if level.centerness is not None:
    values = tf.sqrt(values * tf.gather(level.centerness, rows))
  own = level.boxes.shape[1] > 1
  boxes = tf.gather_nd(level.boxes, pairs) if own else tf.gather(level.boxes[:, 0], rows)
  return boxes, values, tf.cast(classes, tf.int32)


def _best(places: tf.Tensor, scores: tf.Tensor, count: int) -> tf.Tensor:
  """Returns at most `count` of the places `[found, axes]` in scores, those of the highest."""
  _, order = tf.math.top_k(tf.gather_nd(scores, places), tf.minimum(count, tf.shape(places)[0]))
  return tf.gather(places, order)
