"""The task of FCOS, ATSS and kin: assignment in the step, losses, Model Garden's evaluation."""
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from official.core import task_factory
from official.vision.losses import focal_loss
from official.vision.tasks import retinanet
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.dataloaders import dense_input
from official_ext.modeling import dense_detector
from official_ext.modeling.layers import convolutions
from official_ext.ops import assigners
from official_ext.tasks import routed


class LossTerms(NamedTuple):
  """Losses, float32: scalars of a batch, or `[batch]`.

  Attributes:
    classes: focal loss of all locations.
    boxes: 1 - generalized overlap with the assigned boxes.
    centerness: cross entropy.
  """
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor


class _Locations(NamedTuple):
  """What the losses sum over: float32 `[batch, locations]` each."""
  classes: tf.Tensor
  boxes: tf.Tensor
  centerness: tf.Tensor
  is_positive: tf.Tensor
  weights: tf.Tensor


def _of_locations(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
                  assigner: assigners.Assigner, alpha: float, gamma: float) -> _Locations:
  """Assigns boxes to locations and returns the terms of the losses, see `dense_losses`."""
  at = dense_detector.grid_locations(outputs['box_outputs'])
  logits, raw_boxes, central = (
      tf.cast(dense_detector.flatten(levels), tf.float32) for levels in (
          outputs['cls_outputs'], outputs['box_outputs'],
          outputs['attribute_outputs']['centerness']))
  targets = assigners.targets(
      assigner.match, at, tf.cast(labels['boxes'], tf.float32), labels['classes'])
  # Classes count from 1; background is -1 here, which is no class.
  focal = focal_loss.FocalLoss(alpha, gamma).call(
      tf.one_hot(targets.classes - 1, logits.shape[-1]), logits)
  overlap = assigners.generalized_iou(assigner.decode(at, raw_boxes), targets.boxes)
  entropy = tf.nn.sigmoid_cross_entropy_with_logits(
      labels=targets.centerness, logits=central[..., 0])
  return _Locations(
      tf.reduce_sum(focal, -1), targets.centerness * (1 - overlap),
      tf.where(targets.is_positive, entropy, 0.0), tf.cast(targets.is_positive, tf.float32),
      targets.centerness)


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
  terms = _of_locations(outputs, labels, assigner, alpha, gamma)
  num_positives = _denominator(terms.is_positive)
  classes, boxes, centerness = (tf.reduce_sum(term) for term in terms[:3])
  return LossTerms(classes / num_positives, boxes / _denominator(terms.weights),
                   centerness / num_positives)


def dense_image_losses(outputs: Mapping[str, Any], labels: Mapping[str, tf.Tensor],
                       assigner: assigners.Assigner, alpha: float = 0.25,
                       gamma: float = 2.0) -> LossTerms:
  """Returns the losses of each image by itself, `[batch]`; see `dense_losses`."""
  terms = _Locations(*(
      tf.reduce_sum(term, -1)
      for term in _of_locations(outputs, labels, assigner, alpha, gamma)))
  num_positives = tf.maximum(terms.is_positive, 1.0)
  return LossTerms(terms.classes / num_positives, terms.boxes / tf.maximum(terms.weights, 1.0),
                   terms.centerness / num_positives)


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
    model = dense_detector.build_dense_detector(
        tf_keras.layers.InputSpec(shape=[None, *config.model.input_size]), config.model,
        convolutions.l2_regularizer(config.losses.l2_weight_decay))
    if config.freeze_backbone:
      model.backbone.trainable = False
    return model

  def build_inputs(self, params: detectors.DenseDataConfig,
                   input_context: Optional[tf.distribute.InputContext] = None) -> tf.data.Dataset:
    """Reads images and padded boxes."""
    model = self.task_config.model
    parser = dense_input.Parser(model.input_size[:2], model.max_level, dtype=params.dtype,
                                **dense_input.options(params.parser))
    return dense_input.read(params, parser, input_context)

  def build_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any],
                   aux_losses: Optional[List[tf.Tensor]] = None) -> Tuple[tf.Tensor, ...]:
    """Returns total, class, box and model loss; the last is the first without `aux_losses`.

    Model Garden's steps take these four.  What the model loss has beyond the class loss and
    the weighted box loss is the center-ness loss.
    """
    options = self.task_config.losses
    losses = dense_losses(outputs, labels, *self._loss_options())
    model_loss = self._model_loss(losses)
    total = model_loss + tf.add_n(aux_losses) if aux_losses else model_loss
    return options.loss_weight * total, losses.classes, losses.boxes, model_loss

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the loss of each image by itself, as if it were a batch: float32 `[batch]`."""
    return self._model_loss(dense_image_losses(outputs, labels, *self._loss_options()))

  def _loss_options(self) -> Tuple[Any, ...]:
    model, options = self.task_config.model, self.task_config.losses
    return (assigners.assigner(model.assigner, model.anchor.anchor_size),
            options.focal_loss_alpha, options.focal_loss_gamma)

  def _model_loss(self, losses: LossTerms) -> tf.Tensor:
    weight = self.task_config.losses.box_loss_weight
    return losses.classes + weight * losses.boxes + losses.centerness

  def validation_step(self, inputs: Tuple[tf.Tensor, Mapping[str, Any]], model: tf_keras.Model,
                      metrics: Optional[List[Any]] = None) -> Dict[str, Any]:
    """Runs Model Garden's validation step, which hands anchors to the model."""
    images, labels = inputs
    return super().validation_step((images, {**labels, 'anchor_boxes': None}), model, metrics)


@task_factory.register_task_cls(detectors.DenseTaskConfig)
class RoutedDenseTask(routed.RoutedTask, DenseTask):
  """The task of FCOS, ATSS and kin, with routed parts."""
