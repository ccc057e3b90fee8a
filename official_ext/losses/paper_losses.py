"""Losses of RetinaNet, Faster, Mask and Cascade R-CNN as the papers' toolbox has them.

The toolbox is mmdetection 2, https://arxiv.org/abs/1906.07155.  Unlike Model Garden's losses, box
losses sum over the four coordinates, and are divided by the number of positive anchors (RetinaNet)
or of sampled anchors or boxes (R-CNN), not by the number of coordinates of positive ones.  Each
replica divides by the numbers of its own images.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from official.vision.losses import focal_loss
from official.vision.losses import loss_utils
import tensorflow as tf

from official_ext.losses import replicas


def smooth_l1(targets: tf.Tensor, predictions: tf.Tensor, beta: float) -> tf.Tensor:
  """Returns smooth L1 losses, summed over the last axis.

  Args:
    targets: `[..., coordinates]`.
    predictions: `[..., coordinates]`.
    beta: the loss is quadratic for errors below this, linear above; 0 for L1.
  """
  errors = tf.abs(predictions - targets)
  if beta:
    errors = tf.where(errors < beta, 0.5 * errors**2 / beta, errors - 0.5 * beta)
  return tf.reduce_sum(errors, -1)


def _flatten(levels: Mapping[str, tf.Tensor], last_dim: int | None = None) -> tf.Tensor:
  """Returns maps of all levels as `[batch, values]` or `[batch, positions, last_dim]`."""
  return loss_utils.multi_level_flatten(dict(sorted(levels.items())), last_dim)


class AnchorTerms(NamedTuple):
  """Losses of anchors, float32: scalars for a batch, or `[batch]` with one loss per image.

  Attributes:
    classes: loss of the classes of all anchors that are not ignored.
    boxes: smooth L1 loss of positive anchors.
  """
  classes: tf.Tensor
  boxes: tf.Tensor


def retinanet_losses(outputs: Mapping[str, Any], labels: Mapping[str, Any], num_classes: int,
                     losses: Any, per_image: bool = False) -> AnchorTerms:
  """Returns the losses of RetinaNet, divided by the number of positive anchors.

  An image without positive anchors counts as if it had one.

  Args:
    outputs: `cls_outputs` and `box_outputs` of Model Garden's model, float32.
    labels: `cls_targets`, `box_targets`, `cls_weights` and `box_weights` of Model Garden's parser;
      ignored anchors have a weight of 0 in both.
    num_classes: number of classes, background included.
    losses: `focal_loss_alpha`, `focal_loss_gamma`, and `huber_loss_delta` as beta of smooth L1.
    per_image: whether each image is a batch of its own.
  """
  logits, boxes, box_targets = (
      _flatten(levels, size) for levels, size in (
          (outputs['cls_outputs'], num_classes), (outputs['box_outputs'], 4),
          (labels['box_targets'], 4)))
  classes = tf.one_hot(_flatten(labels['cls_targets']), num_classes)
  focal = focal_loss.FocalLoss(losses.focal_loss_alpha, losses.focal_loss_gamma).call(
      classes, logits)
  sums = (tf.reduce_sum(labels['cls_weights'] * tf.reduce_sum(focal, -1), -1),
          tf.reduce_sum(labels['box_weights'] * smooth_l1(
              box_targets, boxes, losses.huber_loss_delta), -1))
  positives = tf.maximum(tf.reduce_sum(labels['box_weights'], -1), 1.0)
  if not per_image:
    sums, positives = tuple(map(tf.reduce_sum, sums)), tf.reduce_sum(positives)
  return AnchorTerms(*(loss / positives for loss in sums))


def rpn_losses(outputs: Mapping[str, Any], labels: Mapping[str, Any], beta: float) -> AnchorTerms:
  """Returns the losses of a region proposal network, divided by the number of sampled anchors.

  Args:
    outputs: `rpn_scores` and `rpn_boxes` of Model Garden's model, float32.
    labels: `rpn_score_targets`, 1 and 0 for sampled anchors, -1 for others; `rpn_box_targets`.
    beta: beta of smooth L1.

  Returns:
    Scalars: the cross entropy of sampled anchors, and smooth L1 of positive sampled ones.
  """
  scores, targets = map(_flatten, (outputs['rpn_scores'], labels['rpn_score_targets']))
  boxes, box_targets = (_flatten(levels, 4)
                        for levels in (outputs['rpn_boxes'], labels['rpn_box_targets']))
  is_sampled, is_positive = (tf.cast(chosen, tf.float32)
                             for chosen in (targets >= 0, tf.equal(targets, 1)))
  entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=is_positive, logits=scores)
  num_sampled = tf.maximum(tf.reduce_sum(is_sampled), 1.0)
  return AnchorTerms(
      classes=tf.reduce_sum(is_sampled * entropy) / num_sampled,
      boxes=tf.reduce_sum(is_positive * smooth_l1(box_targets, boxes, beta)) / num_sampled)


def box_loss(predictions: tf.Tensor, classes: tf.Tensor, targets: tf.Tensor, beta: float,
             is_class_agnostic: bool) -> tf.Tensor:
  """Returns smooth L1 of positive boxes, divided by the number of all sampled boxes.

  Args:
    predictions: float32 `[batch, boxes, 4]` if class-agnostic, else `[batch, boxes, classes * 4]`.
    classes: `[batch, boxes]`; 0 is background.
    targets: `[batch, boxes, 4]`.
    beta: beta of smooth L1.
    is_class_agnostic: whether all classes share a prediction.
  """
  classes = tf.cast(classes, tf.int32)
  if not is_class_agnostic:
    num_boxes, channels = predictions.shape[1:]
    predictions = tf.reshape(predictions, [-1, num_boxes, channels // 4, 4])
    predictions = tf.gather(predictions, tf.maximum(classes, 0), batch_dims=2)
  losses = tf.where(classes > 0, smooth_l1(targets, predictions, beta), 0.0)
  return replicas.mean_or_zero(losses)


def sum_of_stages(losses: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns the sum of the losses of a cascade's stages, weighted by 1, 1/2, 1/4, ...

  Reference: Cascade R-CNN's authors' code, and mmdetection's `stage_loss_weights`.
  """
  return tf.add_n([loss / 2**stage for stage, loss in enumerate(losses)])
