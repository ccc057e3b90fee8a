"""The task of Faster, Mask and Cascade R-CNN."""
import functools
from typing import Any

from official.core import task_factory
from official.vision.dataloaders import maskrcnn_input
from official.vision.modeling import factory
from official.vision.tasks import maskrcnn
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.modeling import float32_layers
from official_ext.modeling.layers import convolutions
from official_ext.tasks import routed
from official_ext.tasks import sized_inputs


class Float32MaskRCNNTask(maskrcnn.MaskRCNNTask):
  """Model Garden's task with boxes, scores and masks in float32 under any precision policy."""

  def build_model(self) -> tf_keras.Model:
    """Builds Model Garden's model, with its computation of boxes in float32."""
    config = self.task_config
    size = config.model.input_size
    # The whole of Model Garden's method, because it calls the model at its end.
    model = float32_layers.float32_maskrcnn(factory.build_maskrcnn(
        tf_keras.layers.InputSpec(shape=[None, *size]), config.model,
        convolutions.l2_regularizer(config.losses.l2_weight_decay)))
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

  def _update_metrics(self, labels: Any, outputs: Any, logs: Any) -> None:
    """Hands results to the evaluators in float32, which NumPy and pycocotools need."""
    super()._update_metrics(labels, float32_layers.to_float32(outputs), logs)


@task_factory.register_task_cls(detectors.MaskRCNNTaskConfig)
class RoutedMaskRCNNTask(routed.RoutedTask, Float32MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task, with routed parts."""
