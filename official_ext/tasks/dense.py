"""The task of FCOS and ATSS: their model, their labels and losses, Model Garden's evaluation."""
from collections.abc import Mapping
import functools
import math
from typing import Any

from official.core import task_factory
from official.vision.tasks import retinanet
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.losses import dense_losses
from official_ext.modeling import dense_detector
from official_ext.modeling.layers import convolutions
from official_ext.ops import assigners
from official_ext.ops import checks
from official_ext.tasks import budgeted_task
from official_ext.tasks import routed
from official_ext.tasks import sized_inputs


class DenseTask(retinanet.RetinaNetTask, budgeted_task.BudgetedTask):
  """Model Garden's RetinaNet task with another model, other labels and other losses."""

  def build_model(self) -> tf_keras.Model:
    """Builds the detector that the config describes."""
    config = self.task_config
    with checks.naming_field('task.losses'):
      checks.check_one_of('box_loss', config.losses.box_loss, dense_losses.BOX_LOSSES)
    model = dense_detector.build_dense_detector(
        tf_keras.layers.InputSpec(shape=[None, *config.model.input_size]), config.model,
        convolutions.l2_regularizer(config.losses.l2_weight_decay))
    if config.freeze_backbone:
      model.backbone.trainable = False
    return model

  def build_inputs(self, params: detectors.DenseDataConfig,
                   input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
    """Reads images and padded boxes."""
    options = {**dense_input.options(params.parser), 'max_level': self.task_config.model.max_level}
    if image_sizes.is_paper(self.task_config):
      # The parser pads to multiples of 2**max_level, for which alone it needs this level.
      options.update(pad=True, max_level=int(math.log2(image_sizes.stride(self.task_config))))
    make_parser = functools.partial(dense_input.Parser, dtype=params.dtype, **options)
    return sized_inputs.read(self.task_config, params, make_parser, input_context)

  def build_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any],
                   aux_losses: list[tf.Tensor] | None = None) -> tuple[tf.Tensor, ...]:
    """Returns the total, class, box and model loss, which Model Garden's steps expect.

    The model loss is the sum of the class loss, the weighted box loss and the center-ness loss.
    The total adds `aux_losses` to it.
    """
    losses = dense_losses.batch_losses(outputs, labels, *self._loss_options())
    model_loss = self._model_loss(losses)
    total = model_loss + tf.add_n(aux_losses) if aux_losses else model_loss
    return (self.task_config.losses.loss_weight * total, losses.classes, losses.boxes,
            model_loss)

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the model loss of each image as if it were a batch of its own."""
    return self._model_loss(dense_losses.image_losses(outputs, labels, *self._loss_options()))

  def _loss_options(self) -> tuple[assigners.Assigner, float, float, str]:
    """Returns the assigner, alpha and gamma of the focal loss, and the kind of box loss."""
    losses = self.task_config.losses
    return (dense_detector.config_assigner(self.task_config.model), losses.focal_loss_alpha,
            losses.focal_loss_gamma, losses.box_loss)

  def _model_loss(self, losses: dense_losses.LossTerms) -> tf.Tensor:
    weight = self.task_config.losses.box_loss_weight
    return losses.classes + weight * losses.boxes + losses.centerness

  def validation_step(self, inputs: tuple[tf.Tensor, Mapping[str, Any]], model: tf_keras.Model,
                      metrics: list[Any] | None = None) -> dict[str, Any]:
    """Runs Model Garden's validation step, which passes `anchor_boxes` of the labels on."""
    images, labels = inputs
    return super().validation_step((images, {**labels, 'anchor_boxes': None}), model, metrics)


@task_factory.register_task_cls(detectors.DenseTaskConfig)
class RoutedDenseTask(routed.RoutedTask, DenseTask):
  """The task of FCOS and ATSS, with routed parts."""
