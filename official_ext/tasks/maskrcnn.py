"""The task of Faster, Mask and Cascade R-CNN, with Model Garden's heads or those of the papers."""
from collections.abc import Mapping
import functools
from typing import Any

from official.core import task_factory
from official.vision.dataloaders import maskrcnn_input
from official.vision.losses import maskrcnn_losses
from official.vision.modeling import factory
from official.vision.tasks import maskrcnn
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.configs import field_ranges
from official_ext.configs import head_styles
from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.losses import paper_losses
from official_ext.modeling import detection_generators
from official_ext.modeling import float32_layers
from official_ext.modeling import stock_levels
from official_ext.modeling import two_stage_detector
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.tasks import budgeted_task
from official_ext.tasks import routed
from official_ext.tasks import sized_inputs


class PaperMaskRCNNTask(maskrcnn.MaskRCNNTask, budgeted_task.BudgetedTask):
  """Model Garden's task with the losses of the papers, if `model.head_style` is `paper`."""

  @property
  def _is_paper(self) -> bool:
    return head_styles.is_paper(self.task_config.model)

  def _build_rpn_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
                        ) -> tuple[tf.Tensor, tf.Tensor]:
    if not self._is_paper:
      return super()._build_rpn_losses(outputs, labels)
    return paper_losses.rpn_losses(outputs, labels, self.task_config.losses.rpn_huber_loss_delta)

  def _build_frcnn_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]
                          ) -> tuple[tf.Tensor, tf.Tensor]:
    if not self._is_paper:
      return super()._build_frcnn_losses(outputs, labels)
    model, losses = self.task_config.model, self.task_config.losses
    class_loss = maskrcnn_losses.FastrcnnClassLoss(
        losses.frcnn_class_use_binary_cross_entropy, losses.frcnn_class_loss_top_k_percent)
    stages = []
    for stage in range(1 + len(model.roi_sampler.cascade_iou_thresholds or [])):
      logits, classes, boxes, box_targets = (
          outputs[two_stage_detector.of_stage(name, stage)]
          for name in ('class_outputs', 'class_targets', 'box_outputs', 'box_targets'))
      stages.append((class_loss(logits, classes, losses.class_weights), paper_losses.box_loss(
          boxes, classes, box_targets, losses.frcnn_huber_loss_delta,
          model.detection_head.class_agnostic_bbox_pred)))
    class_losses, box_losses = zip(*stages)
    return paper_losses.sum_of_stages(class_losses), paper_losses.sum_of_stages(box_losses)

  def _build_mask_loss(self, outputs: Mapping[str, Any]) -> tf.Tensor:
    if not self._is_paper:
      return super()._build_mask_loss(outputs)
    names = ('mask_outputs', 'mask_targets', 'mask_class_targets')
    stages = 1 + len(self.task_config.model.roi_sampler.cascade_iou_thresholds or [])
    return paper_losses.sum_of_stages([
        super(PaperMaskRCNNTask, self)._build_mask_loss(
            {name: outputs[two_stage_detector.of_stage(name, stage)] for name in names})
        for stage in range(stages)])


class Float32MaskRCNNTask(PaperMaskRCNNTask):
  """Task with boxes, scores and masks in float32 under any precision policy."""

  def build_model(self) -> tf_keras.Model:
    """Builds the model, with its computation of boxes in float32.

    Raises:
      ValueError: an option is not allowed; the message names the field.
    """
    config = self.task_config
    field_ranges.check_detector(config)
    size = config.model.input_size
    # The whole of Model Garden's method, because it calls the model at its end.
    with stock_levels.naming_field(config.model):
      model = factory.build_maskrcnn(
          tf_keras.layers.InputSpec(shape=[None, *size]), config.model,
          convolutions.l2_regularizer(config.losses.l2_weight_decay))
    with checks.naming_field('task.model'):
      if self._is_paper:
        model = two_stage_detector.with_paper_heads(model)
      model = detection_generators.with_two_stages(model)
    model = float32_layers.float32_maskrcnn(model)
    if config.freeze_backbone:
      model.backbone.trainable = False
    # Model Garden makes anchors of a known size only; the model then takes any.
    known = [side or 2**config.model.max_level for side in size]
    model(tf_keras.Input(known), image_shape=tf_keras.Input([2]), training=False)
    return model

  def build_inputs(self, params: Any, input_context: tf.distribute.InputContext | None = None,
                   dataset_fn: Any = None) -> tf.data.Dataset:
    """Reads Model Garden's inputs, in training with `dense_input.IMAGE_HASH`."""
    if dataset_fn or not (params.is_training or image_sizes.is_paper(self.task_config)):
      return super().build_inputs(params, input_context, dataset_fn)
    model = self.task_config.model
    options = dense_input.options(params.parser)
    # Options of other parsers, which Model Garden's task does not read either.
    for name in ('match_threshold', 'unmatched_threshold', 'pad', 'keep_aspect_ratio'):
      options.pop(name, None)
    make_parser = functools.partial(
        maskrcnn_input.Parser, min_level=model.min_level, max_level=model.max_level,
        **model.anchor.as_dict(), include_mask=model.include_mask,
        outer_boxes_scale=model.outer_boxes_scale, dtype=params.dtype, **options)
    return sized_inputs.read(self.task_config, params, make_parser, input_context,
                             model.include_mask)

  def boxes(self, labels: Mapping[str, Any]) -> tf.Tensor | None:
    """Returns the boxes that Model Garden's labels of training have."""
    return labels.get('gt_boxes')

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the model loss of each image as if it were a batch of its own."""

    def loss(image: tf.Tensor) -> tf.Tensor:
      own = tf.nest.map_structure(lambda value: value[image:image + 1], (outputs, labels))
      # Not the method of `RoutedTask`, which adds the budget.
      return Float32MaskRCNNTask.build_losses(self, *own)['model_loss']

    num_images = tf.shape(labels['gt_boxes'])[0]
    return tf.map_fn(loss, tf.range(num_images), fn_output_signature=tf.float32)

  def _update_metrics(self, labels: Any, outputs: Any, logs: Any) -> None:
    """Hands results to the evaluators in float32, which NumPy and pycocotools need."""
    super()._update_metrics(labels, float32_layers.to_float32(outputs), logs)


@task_factory.register_task_cls(detectors.MaskRCNNTaskConfig)
class RoutedMaskRCNNTask(routed.RoutedTask, Float32MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task, with routed parts."""
