"""The task of Faster, Mask and Cascade R-CNN."""
from typing import Any

from official.core import task_factory
from official.vision.modeling import factory
from official.vision.tasks import maskrcnn
import tf_keras

from official_ext.configs import detectors
from official_ext.modeling import float32_layers
from official_ext.modeling.layers import convolutions
from official_ext.tasks import routed


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
    model(tf_keras.Input(size), image_shape=tf_keras.Input([2]), training=False)
    return model

  def _update_metrics(self, labels: Any, outputs: Any, logs: Any) -> None:
    """Hands results to the evaluators in float32, which NumPy and pycocotools need."""
    super()._update_metrics(labels, float32_layers.to_float32(outputs), logs)


@task_factory.register_task_cls(detectors.MaskRCNNTaskConfig)
class RoutedMaskRCNNTask(routed.RoutedTask, Float32MaskRCNNTask):
  """Model Garden's Faster, Mask and Cascade R-CNN task, with routed parts."""
