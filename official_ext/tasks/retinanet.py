"""The task of RetinaNet, with registered towers, the losses of papers and of single images."""
from collections.abc import Mapping
import functools
from typing import Any

from official.core import task_factory
from official.vision.dataloaders import retinanet_input
from official.vision.losses import focal_loss
from official.vision.losses import loss_utils
from official.vision.tasks import retinanet
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.configs import field_ranges
from official_ext.configs import head_styles
from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.losses import paper_losses
from official_ext.losses import task_budgets
from official_ext.modeling import dense_detector
from official_ext.modeling import detection_generators
from official_ext.modeling import float32_layers
from official_ext.modeling.layers import convolutions
from official_ext.modeling import stock_levels
from official_ext.ops import anchors
from official_ext.ops import checks
from official_ext.tasks import budgeted_task
from official_ext.tasks import routed
from official_ext.tasks import sized_inputs


def _check_options(model_config: detectors.RetinaNetConfig) -> None:
  """Checks anchors and channels of the head, which Model Garden does not.

  Args:
    model_config: the options.

  Raises:
    FieldError: an option is not allowed; the message names the field.
  """
  anchor, head = model_config.anchor, model_config.head
  with checks.naming_field('task.model.anchor'):
    checks.check_types(type(anchor), anchor.as_dict())
    anchors.check(anchors.Shapes(
        anchor.anchor_size, anchor.num_scales, tuple(anchor.aspect_ratios)))
  with checks.naming_field('task.model.head'):
    checks.check_types(type(head), {
        name: getattr(head, name) for name in ('num_filters', 'use_separable_conv')})
    checks.check_positive('num_filters', head.num_filters)


class TowerRetinaNetTask(retinanet.RetinaNetTask, budgeted_task.BudgetedTask):
  """Model Garden's RetinaNet task with registered towers, and with boxes for the budget."""

  def build_model(self) -> tf_keras.Model:
    """Builds Model Garden's model, and replaces the parts that tower and style differ in.

    Raises:
      FieldError: an option is not allowed; the message names the field.
    """
    config = self.task_config
    _check_options(config.model)
    field_ranges.check_detector(config)
    is_paper = head_styles.is_paper(config.model)
    if is_paper and not config.model.head.tower.type:
      raise checks.FieldError(
          "task.model.head_style is 'paper', which Model Garden's head with batch norm is not: "
          'task.model.head.tower.type must name a tower, such as `plain`, or head_style be garden.')
    with stock_levels.naming_field(config.model):
      model = super().build_model()
    if config.model.head.tower.type:
      model = dense_detector.with_towers(
          model, config.model, convolutions.l2_regularizer(config.losses.l2_weight_decay))
    with checks.naming_field('task.model'):
      model = detection_generators.with_detections(model, is_paper)
    model = float32_layers.float32_retinanet(model)
    # The call makes the variables of new parts; one call for all, because it takes seconds.
    model(tf_keras.Input(config.model.input_size), training=True)
    return model

  def build_inputs(self, params: Any,
                   input_context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
    """Reads Model Garden's inputs, and `boxes` beside them if the budget depends on objects."""
    model, needs_objects = self.task_config.model, task_budgets.needs_objects(self.task_config)
    if (not needs_objects and not image_sizes.is_paper(self.task_config)
        and (model.head.attribute_heads or not params.is_training)):
      return super().build_inputs(params, input_context)
    make_parser = functools.partial(
        dense_input.AnchorParser if needs_objects else retinanet_input.Parser,
        min_level=model.min_level, max_level=model.max_level, dtype=params.dtype,
        box_coder_weights=model.detection_generator.box_coder_weights,
        **model.anchor.as_dict(), **dense_input.options(params.parser))
    return sized_inputs.read(self.task_config, params, make_parser, input_context)

  def build_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any],
                   aux_losses: Any | None = None) -> tuple[tf.Tensor, ...]:
    """Builds the losses of the style of the heads: total, class, box and model loss."""
    config = self.task_config
    if not head_styles.is_paper(config.model):
      return super().build_losses(outputs, labels, aux_losses)
    terms = paper_losses.retinanet_losses(outputs, labels, config.model.num_classes, config.losses)
    model_loss = terms.classes + config.losses.box_loss_weight * terms.boxes
    total = model_loss + tf.add_n(aux_losses) if aux_losses else model_loss
    return config.losses.loss_weight * total, terms.classes, terms.boxes, model_loss

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the model loss of each image as if it were a batch of its own."""
    config, num_classes = self.task_config.losses, self.task_config.model.num_classes
    if head_styles.is_paper(self.task_config.model):
      terms = paper_losses.retinanet_losses(outputs, labels, num_classes, config, per_image=True)
      return terms.classes + config.box_loss_weight * terms.boxes
    logits, boxes, box_targets = (
        loss_utils.multi_level_flatten(levels, last_dim=depth) for levels, depth in (
            (outputs['cls_outputs'], num_classes), (outputs['box_outputs'], 4),
            (labels['box_targets'], 4)))
    classes = loss_utils.multi_level_flatten(labels['cls_targets'], last_dim=None)
    focal = focal_loss.FocalLoss(config.focal_loss_alpha, config.focal_loss_gamma).call(
        tf.one_hot(classes, num_classes), logits)
    huber = tf_keras.losses.huber(box_targets, boxes, config.huber_loss_delta)
    sums = (tf.reduce_sum(labels['cls_weights'] * tf.reduce_sum(focal, -1), -1)
            + config.box_loss_weight * tf.reduce_sum(labels['box_weights'] * huber, -1))
    return sums / (tf.reduce_sum(labels['box_weights'], -1) + 1)


@task_factory.register_task_cls(detectors.RetinaNetTaskConfig)
class RoutedRetinaNetTask(routed.RoutedTask, TowerRetinaNetTask):
  """The task of RetinaNet, with routed parts."""
