"""FreeAnchor's losses: each box chooses among a bag of anchors while the detector trains.

Reference: Xiaosong Zhang, Fang Wan, Chang Liu, Rongrong Ji, Qixiang Ye, FreeAnchor: Learning to
Match Anchors for Visual Object Detection, https://arxiv.org/abs/1909.02466, section 3, and the
authors' code.

Differs: the number of boxes that both losses are divided by is that of all replicas, not of each
one.  Boxes reach from edge to edge, without the pixel that the authors' code adds.  A logarithm's
argument is at least 1e-12.
"""
from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import tensorflow as tf

from official_ext.losses import objects as objects_lib
from official_ext.losses import paper_losses
from official_ext.losses import replicas
from official_ext.modeling import dense_levels
from official_ext.ops import anchors
from official_ext.ops import assigners
from official_ext.ops import overlaps

BAG_SIZE = 50
_LEAST = 1e-12
_BETA = 0.11  # of smooth L1
_LEAST_MATCH = 0.6  # overlap of a prediction with a box, up to which it is not matched at all


class LossTerms(NamedTuple):
  """Losses, floats: scalars for a batch, or `[batch]` with one loss per image.

  Attributes:
    positive: -log of the mean-max likelihood of each box's bag.
    negative: focal loss of probabilities where no prediction matches a box.
  """
  positive: tf.Tensor
  negative: tf.Tensor


class Predictions(NamedTuple):
  """The outputs of the detector that the losses need.

  Attributes:
    probabilities: `[batch, anchors, classes]`.
    deltas: `[batch, anchors, 4]`.
    boxes: `[batch, anchors, 4]`, the decoded deltas, in pixels.
  """
  probabilities: tf.Tensor
  deltas: tf.Tensor
  boxes: tf.Tensor


class ImageTerms(NamedTuple):
  """Sums over the anchors and boxes of each image, `[batch]`, not weighted by alpha.

  Attributes:
    positive: -log of the likelihoods of boxes.
    negative: focal loss.
    objects: number of boxes.
  """
  positive: tf.Tensor
  negative: tf.Tensor
  objects: tf.Tensor


def mean_max(values: tf.Tensor) -> tf.Tensor:
  """Returns the mean of likelihoods, weighted by 1 / (1 - likelihood), eq. 7.

  It is near the mean if all are small, and near the largest one if that is near 1.

  Args:
    values: `[..., anchors]`, in [0, 1].

  Returns:
    `[...]`.
  """
  weights = 1 / tf.maximum(1 - values, _LEAST)
  return tf.reduce_sum(weights * values, -1) / tf.reduce_sum(weights, -1)


def saturated(overlap: tf.Tensor) -> tf.Tensor:
  """Returns the probabilities that predictions match a box, eq. 6.

  Args:
    overlap: `[..., anchors]`, overlaps of all predictions with the box.

  Returns:
    `[..., anchors]`: 0 up to an overlap of 0.6, 1 at the largest overlap, linear between them.
  """
  best = tf.reduce_max(overlap, -1, keepdims=True)
  is_matched = best > _LEAST_MATCH
  scale = tf.where(is_matched, best - _LEAST_MATCH, 1.0)
  return tf.where(is_matched, tf.clip_by_value((overlap - _LEAST_MATCH) / scale, 0.0, 1.0), 0.0)


def _image_matches(image: tuple[tf.Tensor, ...], anchor_boxes: tf.Tensor, bag_size: int,
                   num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the bags and the matches of one image.

  Args:
    image: predicted boxes `[anchors, 4]`, and a row of each field of `objects.Objects`.
    anchor_boxes: `[anchors, 4]`.
    bag_size: number of anchors of a bag.
    num_classes: number of classes.

  Returns:
    int32 `[boxes, bag_size]`, the anchors with the largest overlap, the first ones of equal ones;
    and `[classes, anchors]`, the largest probability that a prediction matches any box of a class.
  """
  predicted, boxes, columns, is_object = image
  overlap = overlaps.intersection_over_union(anchor_boxes, boxes[:, None])
  bags = tf.math.top_k(overlap, bag_size).indices
  matches = saturated(overlaps.intersection_over_union(predicted, boxes[:, None]))
  matches = tf.math.unsorted_segment_max(
      tf.where(is_object[:, None], matches, 0.0), columns, num_classes)
  return bags, tf.maximum(matches, 0.0)


def matches_of(predictions: Predictions, objects: objects_lib.Objects, anchor_boxes: tf.Tensor,
               bag_size: int = BAG_SIZE) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the bag of each box, and how far predictions match the boxes of each class.

  Image by image, because the overlaps of all anchors with all rows are large.  No gradient.

  Args:
    predictions: the detector's outputs.
    objects: the ground truth.
    anchor_boxes: `[anchors, 4]`.
    bag_size: number of anchors of a bag; all if there are fewer.

  Returns:
    int32 `[batch, boxes, bag_size]`, arbitrary for padding; and `[batch, anchors, classes]`.
  """
  num_anchors, num_classes = predictions.probabilities.shape[1:]
  bag_size = min(bag_size, num_anchors)
  find = functools.partial(_image_matches, anchor_boxes=anchor_boxes, bag_size=bag_size,
                           num_classes=num_classes)
  images = tf.nest.map_structure(tf.stop_gradient, (predictions.boxes, *objects))
  bags, matches = tf.map_fn(find, images, fn_output_signature=(
      tf.TensorSpec([objects.boxes.shape[1], bag_size], tf.int32),
      tf.TensorSpec([num_classes, num_anchors], predictions.boxes.dtype)))
  return bags, tf.stop_gradient(tf.transpose(matches, [0, 2, 1]))


def likelihoods(predictions: Predictions, objects: objects_lib.Objects, anchor_boxes: tf.Tensor,
                bags: tf.Tensor, box_weight: float) -> tf.Tensor:
  """Returns the likelihood that an anchor of a bag has the box's class and place, eq. 2.

  Args:
    predictions: the detector's outputs.
    objects: the ground truth.
    anchor_boxes: `[anchors, 4]`.
    bags: int32 `[batch, boxes, bag_size]`.
    box_weight: weight of smooth L1 in the exponent.

  Returns:
    `[batch, boxes, bag_size]`.
  """
  targets = anchors.deltas_from_boxes(objects.boxes[:, :, None], tf.gather(anchor_boxes, bags))
  deltas = tf.gather(predictions.deltas, bags, batch_dims=1)
  errors = paper_losses.smooth_l1(targets, deltas, _BETA)
  columns = tf.broadcast_to(objects.columns[:, :, None], tf.shape(bags))
  chosen = tf.gather_nd(predictions.probabilities, tf.stack([bags, columns], -1), batch_dims=1)
  return chosen * tf.exp(-box_weight * errors)


def image_terms(predictions: Predictions, objects: objects_lib.Objects, anchor_boxes: tf.Tensor,
                box_weight: float, gamma: float, bag_size: int = BAG_SIZE) -> ImageTerms:
  """Returns the sums of each image's losses, of the dtype of the predictions.

  Args:
    predictions: the detector's outputs.
    objects: the ground truth.
    anchor_boxes: `[anchors, 4]`.
    box_weight: weight of smooth L1 in the exponent of a likelihood.
    gamma: exponent of the focal loss.
    bag_size: number of anchors of a bag.
  """
  bags, matches = matches_of(predictions, objects, anchor_boxes, bag_size)
  bag_likelihoods = mean_max(likelihoods(predictions, objects, anchor_boxes, bags, box_weight))
  positive = tf.where(
      objects.is_object, -tf.math.log(tf.maximum(bag_likelihoods, _LEAST)), 0.0)
  scores = predictions.probabilities * (1 - matches)
  negative = -scores**gamma * tf.math.log(tf.maximum(1 - scores, _LEAST))
  return ImageTerms(
      positive=tf.reduce_sum(positive, -1), negative=tf.reduce_sum(negative, [1, 2]),
      objects=tf.reduce_sum(tf.cast(objects.is_object, positive.dtype), -1))


def batch_terms(terms: ImageTerms, alpha: float, bag_size: int = BAG_SIZE) -> LossTerms:
  """Returns the losses of a batch.

  The positive loss is divided by the number of boxes, the negative loss by the number of anchors
  in their bags, both at least 1 and averaged over replicas.

  Args:
    terms: sums of each image.
    alpha: weight of the positive loss; the negative loss has 1 minus it.
    bag_size: number of anchors of a bag.
  """
  return _divided(ImageTerms(*map(tf.reduce_sum, terms))._replace(
      objects=replicas.mean_sum(terms.objects)), alpha, bag_size)


def _divided(terms: ImageTerms, alpha: float, bag_size: int = BAG_SIZE) -> LossTerms:
  """Returns the losses of sums, whether these are of a batch or of each image."""
  return LossTerms(
      positive=alpha * terms.positive / tf.maximum(terms.objects, 1.0),
      negative=(1 - alpha) * terms.negative / tf.maximum(bag_size * terms.objects, 1.0))


def losses(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
           assigner: assigners.Assigner, alpha: float = 0.5, gamma: float = 2.0,
           box_weight: float = 0.75, per_image: bool = False) -> LossTerms:
  """Returns the losses of a batch or of each of its images.

  Args:
    outputs: `cls_outputs` and `box_outputs` of a `DenseDetector` with several anchors.
    labels: see `objects.of`.
    assigner: has the anchors, and decodes the boxes that the head predicts.
    alpha: see `batch_terms`.
    gamma: exponent of the focal loss of negatives.
    box_weight: see `image_terms`.
    per_image: whether each image is a batch of its own.

  Returns:
    Float32 scalars, or `[batch]`.
  """
  at = dense_levels.grid_locations(outputs['box_outputs'], assigner.offset)
  anchor_boxes = anchors.boxes(at.points, at.strides, assigner.anchor_shapes)
  logits, raw_boxes = (
      tf.cast(dense_levels.flatten(outputs[name]), tf.float32)
      for name in ('cls_outputs', 'box_outputs'))
  number = anchor_boxes.shape[0]
  num_classes = logits.shape[1] * logits.shape[2] // number
  predictions = Predictions(
      tf.sigmoid(tf.reshape(logits, [-1, number, num_classes])),
      tf.reshape(raw_boxes, [-1, number, 4]), assigner.decode(at, raw_boxes))
  labels = objects_lib.with_known_classes(labels, num_classes)
  terms = image_terms(predictions, objects_lib.of(labels), anchor_boxes, box_weight, gamma)
  return _divided(terms, alpha) if per_image else batch_terms(terms, alpha)
