"""The task of FCOS, ATSS, AutoAssign and FreeAnchor: their model, labels and losses.

Evaluation is Model Garden's.
"""
from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

from official.core import task_factory
from official.vision.tasks import retinanet
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.losses import autoassign
from official_ext.losses import dense_losses
from official_ext.losses import free_anchor
from official_ext.modeling import dense_detector
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.tasks import budgeted_task
from official_ext.tasks import routed
from official_ext.tasks import sized_inputs


# Assigner -> the box losses that it may have.
_BOX_LOSSES = {'fcos': dense_losses.BOX_LOSSES, 'atss': dense_losses.BOX_LOSSES,
               'autoassign': ('giou',), 'freeanchor': ('smooth_l1',)}
# Assigners that learn with the detector: their losses assign and weigh.
_LEARNED: dict[str, Callable[..., Any]] = {
    'autoassign': autoassign.losses, 'freeanchor': free_anchor.losses}


class _Losses(NamedTuple):
  """Losses, float32: scalars for a batch, or `[batch]` with one loss per image.

  Attributes:
    classes: loss of classes; of AutoAssign and FreeAnchor the negative loss.
    boxes: loss of boxes, not weighted; of AutoAssign and FreeAnchor the positive loss, which is of
      classes and boxes together.
    model: the weighted sum of all losses of the model.
  """
  classes: tf.Tensor
  boxes: tf.Tensor
  model: tf.Tensor


def _check_losses(losses: detectors.DenseLossesConfig, assigner: str) -> None:
  """Raises an ArgumentError if an option of the losses is not allowed."""
  checks.check_types(type(losses), losses.as_dict())
  checks.check_one_of(
      'box_loss', losses.box_loss, _BOX_LOSSES.get(assigner, dense_losses.BOX_LOSSES))
  checks.check_range('focal_loss_alpha', losses.focal_loss_alpha, 0, 1)
  for name in ('loss_weight', 'focal_loss_gamma', 'box_loss_weight', 'l2_weight_decay'):
    checks.check_range(name, getattr(losses, name), 0)


class DenseTask(retinanet.RetinaNetTask, budgeted_task.BudgetedTask):
  """Model Garden's RetinaNet task with another model, other labels and other losses."""

  def build_model(self) -> tf_keras.Model:
    """Builds the detector that the config describes."""
    config = self.task_config
    with checks.naming_field('task.losses'):
      _check_losses(config.losses, config.model.assigner)
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

    `_Losses` says what they are.  The total adds `aux_losses` to the model loss.
    """
    losses = self._losses(outputs, labels)
    total = losses.model + tf.add_n(aux_losses) if aux_losses else losses.model
    return self.task_config.losses.loss_weight * total, *losses

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the model loss of each image as if it were a batch of its own."""
    return self._losses(outputs, labels, per_image=True).model

  def _losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any],
              per_image: bool = False) -> _Losses:
    """Returns the losses of a batch or of each image."""
    config = self.task_config.losses
    assigner = dense_detector.config_assigner(self.task_config.model)
    alpha, gamma = config.focal_loss_alpha, config.focal_loss_gamma
    if assigner.name in _LEARNED:
      terms = _LEARNED[assigner.name](
          outputs, labels, assigner, alpha, gamma, config.box_loss_weight, per_image)
      return _Losses(terms.negative, terms.positive, tf.add_n(terms))
    function = dense_losses.image_losses if per_image else dense_losses.batch_losses
    terms = function(outputs, labels, assigner, alpha, gamma, config.box_loss)
    return _Losses(terms.classes, terms.boxes, (
        terms.classes + config.box_loss_weight * terms.boxes + terms.centerness))

  def validation_step(self, inputs: tuple[tf.Tensor, Mapping[str, Any]], model: tf_keras.Model,
                      metrics: list[Any] | None = None) -> dict[str, Any]:
    """Runs Model Garden's validation step, which passes `anchor_boxes` of the labels on."""
    images, labels = inputs
    return super().validation_step((images, {**labels, 'anchor_boxes': None}), model, metrics)


@task_factory.register_task_cls(detectors.DenseTaskConfig)
class RoutedDenseTask(routed.RoutedTask, DenseTask):
  """The task of FCOS, ATSS, AutoAssign and FreeAnchor, with routed parts."""
