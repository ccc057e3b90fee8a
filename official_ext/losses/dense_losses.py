"""Detection losses of FCOS and ATSS: focal loss, overlap loss and center-ness loss.

Reference: Zhi Tian, Chunhua Shen, Hao Chen, Tong He, FCOS: Fully Convolutional One-Stage Object
Detection, https://arxiv.org/abs/1904.01355, section 3, and the authors' code.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

from official.vision.losses import focal_loss
import tensorflow as tf

from official_ext.losses import objects as objects_lib
from official_ext.losses import replicas
from official_ext.modeling import dense_levels
from official_ext.ops import assigners
from official_ext.ops import checks
from official_ext.ops import overlaps

BOX_LOSSES = ('giou', 'iou')
_LEAST_IOU = 1e-6  # overlaps below count as this in the IoU loss, where the logarithm has no limit


class LossTerms(NamedTuple):
  """Losses, float32: scalars for a batch, or `[batch]` with one loss per image.

  Attributes:
    classes: focal loss of all locations.
    boxes: overlap loss of the assigned boxes, weighted by the center-ness target.
    centerness: cross entropy of the center-ness at locations that have a box.
  """
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor


class _LocationTerms(NamedTuple):
  """Losses of each location, and what their sums are divided by: float32 `[batch, locations]`.

  Attributes:
    classes: focal loss, summed over the classes.
    boxes: weighted overlap loss.
    centerness: center-ness loss, 0 without a box.
    positives: 1 at locations that have a box, else 0.
    box_weights: weight of the overlap loss: the center-ness target.
  """
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor
  positives: tf.Tensor
  box_weights: tf.Tensor


def _location_terms(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
                    assigner: assigners.Assigner, alpha: float, gamma: float,
                    box_loss: str) -> _LocationTerms:
  """Assigns boxes to locations and returns the loss of each location; see `batch_losses`."""
  if assigner.match is None:
    raise checks.ArgumentError(
        'assigner', f'assigner is {assigner.name!r}, which has losses of its own.')
  locations = dense_levels.grid_locations(outputs['box_outputs'], assigner.offset)
  class_logits, raw_boxes, centerness_logits = (
      tf.cast(dense_levels.flatten(levels), tf.float32) for levels in (
          outputs['cls_outputs'], outputs['box_outputs'],
          outputs['attribute_outputs']['centerness']))
  labels = objects_lib.with_known_classes(labels, class_logits.shape[-1])
  targets = assigners.targets(
      assigner.match, locations, tf.cast(labels['boxes'], tf.float32), labels['classes'])
  # Classes count from 1.  Background becomes -1 here, for which `one_hot` returns zeros.
  class_losses = focal_loss.FocalLoss(alpha, gamma).call(
      tf.one_hot(targets.classes - 1, class_logits.shape[-1]), class_logits)
  box_losses = overlap_losses(assigner.decode(locations, raw_boxes), targets.boxes, box_loss)
  entropy = tf.nn.sigmoid_cross_entropy_with_logits(
      labels=targets.centerness, logits=centerness_logits[..., 0])
  return _LocationTerms(
      classes=tf.reduce_sum(class_losses, -1),
      boxes=targets.centerness * box_losses,
      centerness=tf.where(targets.is_positive, entropy, 0.0),
      positives=tf.cast(targets.is_positive, tf.float32),
      box_weights=targets.centerness)


def overlap_losses(predicted: tf.Tensor, target: tf.Tensor, box_loss: str) -> tf.Tensor:
  """Returns the overlap losses `[...]` of boxes `[..., 4]`.

  Args:
    predicted: the predicted boxes.
    target: the assigned boxes.
    box_loss: `giou`, 1 - generalized overlap, or `iou`, -log(overlap), the loss of
      https://arxiv.org/abs/1608.01471 and the default of mmdetection 2.1.

  Raises:
    ArgumentError: an unknown loss.
  """
  checks.check_one_of('box_loss', box_loss, BOX_LOSSES)
  if box_loss == 'giou':
    return 1 - overlaps.generalized_iou(predicted, target)
  overlap = overlaps.intersection_over_union(predicted, target)
  return -tf.math.log(tf.maximum(overlap, _LEAST_IOU))


def batch_losses(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
                 assigner: assigners.Assigner, alpha: float = 0.25, gamma: float = 2.0,
                 box_loss: str = 'giou') -> LossTerms:
  """Assigns boxes to locations and returns the losses of a batch.

  The focal loss and the center-ness loss are divided by the number of locations with a box, the
  box loss by the sum of its weights.  Both denominators are at least 1.  With several replicas
  they are the mean over the replicas.

  Args:
    outputs: `cls_outputs`, `box_outputs` and `attribute_outputs` of a `DenseDetector`.
    labels: `boxes` `[batch, instances, 4]` in pixels, and `classes` `[batch, instances]`;
      rows with classes below 1 are padding.  A class that the outputs do not have ends the step
      with an `InvalidArgumentError`, except where XLA compiles it.
    assigner: assigns boxes to locations, and decodes the boxes that the head predicts.
    alpha: weight of objects in the focal loss.
    gamma: exponent of the focal loss.
    box_loss: one of `BOX_LOSSES`, see `overlap_losses`.

  Returns:
    Float32 scalars.

  Raises:
    ArgumentError: an unknown box loss, or an assigner that has losses of its own.
  """
  terms = _location_terms(outputs, labels, assigner, alpha, gamma, box_loss)
  num_positives = tf.maximum(replicas.mean_sum(terms.positives), 1.0)
  box_weight = tf.maximum(replicas.mean_sum(terms.box_weights), 1.0)
  return LossTerms(
      classes=tf.reduce_sum(terms.classes) / num_positives,
      boxes=tf.reduce_sum(terms.boxes) / box_weight,
      centerness=tf.reduce_sum(terms.centerness) / num_positives)


def image_losses(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
                 assigner: assigners.Assigner, alpha: float = 0.25, gamma: float = 2.0,
                 box_loss: str = 'giou') -> LossTerms:
  """Returns the losses of each image, `[batch]`, as if it were a batch of its own.

  Arguments and errors are those of `batch_losses`.
  """
  sums = _LocationTerms(*(
      tf.reduce_sum(term, -1)
      for term in _location_terms(outputs, labels, assigner, alpha, gamma, box_loss)))
  num_positives = tf.maximum(sums.positives, 1.0)
  return LossTerms(
      classes=sums.classes / num_positives,
      boxes=sums.boxes / tf.maximum(sums.box_weights, 1.0),
      centerness=sums.centerness / num_positives)
