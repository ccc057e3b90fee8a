"""Model Garden's heads of R-CNN without batch norm, as the papers have them.

The layers with variables keep their names, so that a checkpoint of Model Garden's heads loads but
for its norms.

Reference: Shaoqing Ren et al., Faster R-CNN, https://arxiv.org/abs/1506.01497; Kaiming He et al.,
Mask R-CNN, https://arxiv.org/abs/1703.06870; Tsung-Yi Lin et al., Feature Pyramid Networks,
https://arxiv.org/abs/1612.03144.

Differs: weights start as in Model Garden, predictors of the region proposal network with a
standard deviation of 1e-5 instead of 0.01, fully connected layers with 1 / sqrt(3 * outputs)
instead of Xavier's.
"""
from typing import Any

from official.vision.modeling.heads import dense_prediction_heads
from official.vision.modeling.heads import instance_heads
import tf_keras


def _identities(norms: Any) -> Any:
  """Returns layers that change nothing in the place of a norm, or of each norm in nested lists."""
  if isinstance(norms, list):
    return [_identities(norm) for norm in norms]
  return tf_keras.layers.Activation('linear')


def _remove_norms(head: tf_keras.layers.Layer, *attributes: str) -> None:
  """Replaces the norms that attributes of a head hold, before their first call makes variables."""
  for name in attributes:
    setattr(head, name, _identities(getattr(head, name)))


@tf_keras.utils.register_keras_serializable(package='official_ext')
class NormFreeRPNHead(dense_prediction_heads.RPNHead):
  """Model Garden's head of a region proposal network without batch norm."""

  def build(self, input_shape: Any) -> None:
    super().build(input_shape)
    _remove_norms(self, '_norms')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class NormFreeDetectionHead(instance_heads.DetectionHead):
  """Model Garden's head of classes and boxes without batch norm."""

  def build(self, input_shape: Any) -> None:
    super().build(input_shape)
    _remove_norms(self, '_conv_norms', '_fc_norms')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class NormFreeMaskHead(instance_heads.MaskHead):
  """Model Garden's head of masks without batch norm."""

  def build(self, input_shape: Any) -> None:
    super().build(input_shape)
    _remove_norms(self, '_conv_norms', '_deconv_bn')


_WITHOUT_NORM = {
    dense_prediction_heads.RPNHead: NormFreeRPNHead,
    instance_heads.DetectionHead: NormFreeDetectionHead,
    instance_heads.MaskHead: NormFreeMaskHead,
}


def without_norm(head: tf_keras.layers.Layer, name: str | None = None) -> tf_keras.layers.Layer:
  """Returns a head with the same options and no batch norm, whose variables are new.

  Args:
    head: an `RPNHead`, `DetectionHead` or `MaskHead` of Model Garden.
    name: name of the new head; None: that of `head`.
  """
  return _WITHOUT_NORM[type(head)](**head.get_config(), name=name or head.name)
