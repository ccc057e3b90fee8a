"""AutoAssign's losses: every location inside a box is a positive and a negative of it by weight.

Reference: Benjin Zhu, Jianfeng Wang, Zhengkai Jiang, Fuhang Zong, Songtao Liu, Zeming Li, Jian Sun,
AutoAssign: Differentiable Label Assignment for Dense Object Detection,
https://arxiv.org/abs/2007.03496, section 3, and the authors' code.

Differs: of boxes of one class that share a location, the larger confidence relieves its negative
loss, so that the order of boxes does not matter; in the authors' code it is the last one.  A box
without a location adds nothing to the positive loss, where they have a constant.  A logarithm's
argument is at least 1e-12.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from official_ext.losses import objects as objects_lib
from official_ext.losses import replicas
from official_ext.modeling import dense_levels
from official_ext.ops import assigners
from official_ext.ops import overlaps

_LEAST = 1e-12
_LEAST_VARIANCE = 1e-6
_SHARPNESS = 3.0  # exponent of a likelihood in the weights of locations
_CENTER_WEIGHT = 0.75


class LossTerms(NamedTuple):
  """Losses, floats: scalars for a batch, or `[batch]` with one loss per image.

  Attributes:
    positive: -log of the weighted likelihood of each box, of its class and place together.
    negative: focal loss of scores where no box relieves them.
    center: keeps the center weights from vanishing.
  """
  positive: tf.Tensor
  negative: tf.Tensor
  center: tf.Tensor


class Predictions(NamedTuple):
  """The outputs of the detector that the losses need.

  Attributes:
    scores: `[batch, classes, locations]`, class probability times objectness.
    boxes: `[batch, locations, 4]` in pixels.
    offsets: `[classes, 2]`, y and x of the center prior's mean, in strides from the box's center.
    spreads: `[classes, 2]`, its standard deviations, in strides.
  """
  scores: tf.Tensor
  boxes: tf.Tensor
  offsets: tf.Tensor
  spreads: tf.Tensor


class ImageTerms(NamedTuple):
  """Sums over the locations and boxes of each image, `[batch]`.

  Attributes:
    positive: -log of likelihoods, not weighted by alpha.
    negative: focal loss, not weighted by alpha.
    objects: number of boxes.
    center_weights: sum of the center weights of all boxes.
  """
  positive: tf.Tensor
  negative: tf.Tensor
  objects: tf.Tensor
  center_weights: tf.Tensor


def insides(at: assigners.Locations, objects: objects_lib.Objects) -> tf.Tensor:
  """Returns whether a location lies strictly inside a box: boolean `[batch, boxes, locations]`."""
  points = tf.cast(at.points, objects.boxes.dtype)
  nearest = tf.reduce_min(assigners.distances(points, objects.boxes[:, :, None]), -1)
  return (nearest > 0) & objects.is_object[:, :, None]


def center_weights(at: assigners.Locations, objects: objects_lib.Objects, is_inside: tf.Tensor,
                   offsets: tf.Tensor, spreads: tf.Tensor) -> tf.Tensor:
  """Returns the Gaussian center prior of each box's class at the locations inside the box, eq. 2.

  Args:
    at: the locations.
    objects: the ground truth.
    is_inside: see `insides`.
    offsets: see `Predictions`.
    spreads: see `Predictions`.

  Returns:
    `[batch, boxes, locations]`, 1 at the mean of the prior, 0 outside of the box.
  """
  dtype = objects.boxes.dtype
  points, strides = tf.cast(at.points, dtype), tf.cast(at.strides, dtype)
  means, deviations = (tf.gather(values, objects.columns)[:, :, None]
                       for values in (offsets, spreads))
  centers = (objects.boxes[..., :2] + objects.boxes[..., 2:])[:, :, None] / 2
  errors = tf.square((points - centers) / strides[:, None] - means)
  variances = tf.maximum(tf.square(deviations), _LEAST_VARIANCE)
  return tf.where(is_inside, tf.exp(-tf.reduce_sum(errors / (2 * variances), -1)), 0.0)


def positive_losses(likelihoods: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
  """Returns -log of the weighted mean likelihood of each box, eqs. 5 and 6.

  Args:
    likelihoods: `[..., locations]`, probability of the box's class and place at each location.
    weights: `[..., locations]`, center weights; 0 outside of the box.

  Returns:
    `[...]`; 0 for boxes without a location.
  """
  raw = weights * tf.exp(_SHARPNESS * likelihoods)
  total = tf.reduce_sum(raw, -1)
  mean = tf.reduce_sum(raw * likelihoods, -1) / tf.maximum(total, _LEAST)
  return tf.where(total > 0, -tf.math.log(tf.maximum(mean, _LEAST)), 0.0)


def confidences(overlap: tf.Tensor, is_inside: tf.Tensor) -> tf.Tensor:
  """Returns how far each box relieves the negative loss of its locations, eq. 8.

  1 / (1 - overlap) is mapped to [0, 1] over the locations of a box, and to 1 if all are equal.

  Args:
    overlap: `[batch, locations]`, largest overlap of a location's prediction with any box.
    is_inside: see `insides`.

  Returns:
    `[batch, boxes, locations]`, 0 outside of the box.
  """
  values = (1 / tf.maximum(1 - overlap, _LEAST))[:, None]
  least = tf.reduce_min(tf.where(is_inside, values, values.dtype.max), -1, keepdims=True)
  most = tf.reduce_max(tf.where(is_inside, values, values.dtype.min), -1, keepdims=True)
  # The authors add 1e-12 to both sides of the division; TensorFlow's optimizer of graphs adds it to
  # `least` first, where it is lost.
  has_spread = most > least
  shares = (values - least) / tf.where(has_spread, most - least, 1.0)
  return tf.where(is_inside, tf.where(has_spread, shares, 1.0), 0.0)


def _by_class(values: tf.Tensor, columns: tf.Tensor, num_classes: int) -> tf.Tensor:
  """Returns the largest value of any box of each class, at least 0.

  Args:
    values: `[batch, boxes, locations]`.
    columns: int32 `[batch, boxes]`.
    num_classes: number of classes.

  Returns:
    `[batch, num_classes, locations]`.
  """
  batch = tf.shape(values)[0]
  segments = columns + num_classes * tf.range(batch)[:, None]
  largest = tf.math.unsorted_segment_max(
      tf.reshape(values, [-1, values.shape[-1]]), tf.reshape(segments, [-1]), batch * num_classes)
  return tf.maximum(tf.reshape(largest, [batch, num_classes, values.shape[-1]]), 0.0)


def negative_losses(scores: tf.Tensor, gamma: float) -> tf.Tensor:
  """Returns the focal losses `[...]` of scores `[...]` that should be 0, not weighted."""
  return -scores**gamma * tf.math.log(tf.maximum(1 - scores, _LEAST))


def image_terms(predictions: Predictions, objects: objects_lib.Objects, at: assigners.Locations,
                box_weight: float, gamma: float) -> ImageTerms:
  """Returns the sums of each image's losses, of the dtype of the predictions.

  Args:
    predictions: the detector's outputs.
    objects: the ground truth.
    at: the locations.
    box_weight: weight of 1 - generalized overlap in the exponent of a location's likelihood.
    gamma: exponent of the focal loss.
  """
  is_inside = insides(at, objects)
  centers = center_weights(at, objects, is_inside, predictions.offsets, predictions.spreads)
  targets = objects.boxes[:, :, None]
  places = tf.exp(-box_weight * (1 - overlaps.generalized_iou(
      predictions.boxes[:, None], targets)))
  likelihoods = tf.gather(predictions.scores, objects.columns, batch_dims=1) * places
  overlap = overlaps.intersection_over_union(
      tf.stop_gradient(predictions.boxes)[:, None], targets)
  overlap = tf.where(objects.is_object[:, :, None], overlap, 0.0)
  relief = _by_class(confidences(tf.reduce_max(overlap, 1), is_inside), objects.columns,
                     predictions.scores.shape[1])
  return ImageTerms(
      positive=tf.reduce_sum(positive_losses(likelihoods, centers), -1),
      negative=tf.reduce_sum(
          negative_losses(predictions.scores * (1 - relief), gamma), [1, 2]),
      objects=tf.reduce_sum(tf.cast(objects.is_object, centers.dtype), -1),
      center_weights=tf.reduce_sum(centers, [1, 2]))


def _center_losses(terms: ImageTerms) -> tf.Tensor:
  """Returns the center loss of each image: boxes by the sum of their center weights."""
  ratio = terms.objects / tf.maximum(terms.center_weights, _LEAST)
  return _CENTER_WEIGHT * tf.where(terms.center_weights > 0, ratio, 0.0)


def batch_terms(terms: ImageTerms, alpha: float) -> LossTerms:
  """Returns the losses of a batch.

  The positive loss is divided by the number of boxes, the negative loss by the sum of center
  weights, both at least 1 and averaged over replicas.  The center loss is the mean over images.

  Args:
    terms: sums of each image.
    alpha: weight of the positive loss; the negative loss has 1 minus it.
  """
  objects = tf.maximum(replicas.mean_sum(terms.objects), 1.0)
  weights = tf.maximum(replicas.mean_sum(tf.stop_gradient(terms.center_weights)), 1.0)
  return LossTerms(positive=alpha * tf.reduce_sum(terms.positive) / objects,
                   negative=(1 - alpha) * tf.reduce_sum(terms.negative) / weights,
                   center=replicas.mean_or_zero(_center_losses(terms)))


def per_image_terms(terms: ImageTerms, alpha: float) -> LossTerms:
  """Returns the losses of each image, `[batch]`, as if it were a batch of its own."""
  weights = tf.maximum(tf.stop_gradient(terms.center_weights), 1.0)
  return LossTerms(positive=alpha * terms.positive / tf.maximum(terms.objects, 1.0),
                   negative=(1 - alpha) * terms.negative / weights,
                   center=_center_losses(terms))


def losses(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
           assigner: assigners.Assigner, alpha: float = 0.25, gamma: float = 2.0,
           box_weight: float = 5.0, per_image: bool = False) -> LossTerms:
  """Returns the losses of a batch or of each of its images.

  Args:
    outputs: `cls_outputs`, `box_outputs`, `attribute_outputs` and `center_prior` of a
      `DenseDetector` with AutoAssign's head.
    labels: see `objects.of`.
    assigner: decodes the boxes that the head predicts.
    alpha: see `batch_terms`.
    gamma: exponent of the focal loss of negatives.
    box_weight: see `image_terms`.
    per_image: whether each image is a batch of its own.

  Returns:
    Float32 scalars, or `[batch]`.
  """
  at = dense_levels.grid_locations(outputs['box_outputs'], assigner.offset)
  logits, raw_boxes, objectness = (
      tf.cast(dense_levels.flatten(levels), tf.float32) for levels in (
          outputs['cls_outputs'], outputs['box_outputs'],
          outputs['attribute_outputs']['objectness']))
  scores = tf.transpose(tf.sigmoid(logits) * tf.sigmoid(objectness), [0, 2, 1])
  offsets, spreads = (tf.cast(values, tf.float32) for values in outputs['center_prior'])
  labels = objects_lib.with_known_classes(labels, scores.shape[1])
  terms = image_terms(
      Predictions(scores, assigner.decode(at, raw_boxes), offsets, spreads),
      objects_lib.of(labels), at, box_weight, gamma)
  return per_image_terms(terms, alpha) if per_image else batch_terms(terms, alpha)
