"""The task of FCOS, ATSS and kin: assignment in the step, losses, Model Garden's evaluation."""
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from official.core import task_factory
from official.vision.losses import focal_loss
from official.vision.tasks import retinanet
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.dataloaders import dense_input
from official_ext.modeling import dense_detector
from official_ext.ops import assigners
from official_ext.tasks import routed


class LossTerms(NamedTuple):
  """Losses of a batch, float32 scalars.

  Attributes:
    classes: focal loss of all locations.
    boxes: 1 - generalized overlap with the assigned boxes.
    centerness: cross entropy.
  """
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor


def dense_losses(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
                 assigner: assigners.Assigner, alpha: float = 0.25,
                 gamma: float = 2.0) -> LossTerms:
  """Assigns boxes to locations and returns the losses of a batch.

  Reference: FCOS, https://arxiv.org/abs/1904.01355, section 3, and its authors' code: the
  focal loss and the center-ness are divided by the number of locations with a box, the box
  loss is weighted by the center-ness of the location and divided by its sum.  Both
  denominators are at least 1, and with several replicas their mean.

  Args:
    outputs: `cls_outputs`, `box_outputs` and `attribute_outputs` of a `DenseDetector`.
    labels: `boxes` `[batch, instances, 4]` in pixels, and `classes` `[batch, instances]`;
      rows with classes below 1 are padding.
    assigner: the one that the head's box coding belongs to.
    alpha: weight of objects in the focal loss.
    gamma: exponent of the focal loss.
  """
  at = dense_detector.locations_of(outputs['box_outputs'])
  logits, raw_boxes, central = (
      tf.cast(dense_detector.flatten(levels), tf.float32) for levels in (
          outputs['cls_outputs'], outputs['box_outputs'],
          outputs['attribute_outputs']['centerness']))
  targets = assigners.targets(
      assigner.match, at, tf.cast(labels['boxes'], tf.float32), labels['classes'])
  num_positives = _denominator(tf.cast(targets.is_positive, tf.float32))
  focal = focal_loss.FocalLoss(alpha, gamma, reduction=tf_keras.losses.Reduction.SUM)
  # Classes count from 1; background is -1 here, which is no class.
  classes = focal(tf.one_hot(targets.classes - 1, logits.shape[-1]), logits)
  overlap = assigners.generalized_iou(assigner.decode(at, raw_boxes), targets.boxes)
  boxes = tf.reduce_sum(targets.centerness * (1 - overlap))
  centerness = tf.reduce_sum(tf.where(
      targets.is_positive, tf.nn.sigmoid_cross_entropy_with_logits(
          labels=targets.centerness, logits=central[..., 0]), 0.0))
  return LossTerms(classes / num_positives, boxes / _denominator(targets.centerness),
                   centerness / num_positives)


def _denominator(values: tf.Tensor) -> tf.Tensor:
  """Returns the sum of this replica's values, averaged over replicas, and at least 1."""
  total, context = tf.reduce_sum(values), tf.distribute.get_replica_context()
  if context and context.num_replicas_in_sync > 1:
    total = context.all_reduce(tf.distribute.ReduceOp.MEAN, total)
  return tf.maximum(total, 1.0)


class DenseTask(retinanet.RetinaNetTask):
  """Model Garden's RetinaNet task with another model, other labels and other losses."""

  def build_model(self) -> tf_keras.Model:
    """Builds the detector of the config."""
    config = self.task_config
    # Half, as tf.nn.l2_loss has it, and Model Garden with it.
    decay = config.losses.l2_weight_decay / 2
    model = dense_detector.build_dense_detector(
        tf_keras.layers.InputSpec(shape=[None, *config.model.input_size]), config.model,
        tf_keras.regularizers.L2(decay) if decay else None)
    if config.freeze_backbone:
      model.backbone.trainable = False
    return model

  def build_inputs(self, params: detectors.DenseDataConfig,
                   input_context: Optional[tf.distribute.InputContext] = None) -> tf.data.Dataset:
    """Reads images and padded boxes."""
    model = self.task_config.model
    return dense_input.read(params, model.input_size[:2], model.max_level, input_context)

  def build_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any],
                   aux_losses: Optional[List[tf.Tensor]] = None) -> Tuple[tf.Tensor, ...]:
    """Returns total, class, box and model loss; the last is the first without `aux_losses`.

    Model Garden's steps take these four.  What the model loss has beyond the class loss and
    the weighted box loss is the center-ness loss.
    """
    model, options = self.task_config.model, self.task_config.losses
    losses = dense_losses(
        outputs, labels, assigners.assigner(model.assigner, model.anchor.anchor_size),
        options.focal_loss_alpha, options.focal_loss_gamma)
    model_loss = losses.classes + options.box_loss_weight * losses.boxes + losses.centerness
    total = model_loss + tf.add_n(aux_losses) if aux_losses else model_loss
    return options.loss_weight * total, losses.classes, losses.boxes, model_loss

  def validation_step(self, inputs: Tuple[tf.Tensor, Mapping[str, Any]], model: tf_keras.Model,
                      metrics: Optional[List[Any]] = None) -> Dict[str, Any]:
    """Runs Model Garden's validation step, which hands anchors to the model."""
    images, labels = inputs
    return super().validation_step((images, {**labels, 'anchor_boxes': None}), model, metrics)


@task_factory.register_task_cls(detectors.DenseTask)
class RoutedDenseTask(routed.RoutedTask, DenseTask):
  """The task of FCOS, ATSS and kin, with routed parts."""
