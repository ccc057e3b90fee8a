"""FPN with separable output convolutions, for small backbones.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, which uses it with MobileNet and MobileNetV2 (Table 4) and, as
an ablation, with CADDet (Table 3).
"""
import dataclasses

import tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions


@dataclasses.dataclass
class FPNLiteConfig(pyramid.PyramidConfig):
  """Options of `FPNLite`; see `PyramidDecoder`."""
  num_filters: int = 128
  coarse_activation: str = 'every'
  symmetric_padding: bool = True


@components.register_decoder('fpn_lite', FPNLiteConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class FPNLite(pyramid.PyramidDecoder):
  """FPN with separable 3x3 output convolutions, and coarser levels by plain 3x3 convolutions.

  Reference: see the module.

  Differs: by default batch norm follows the output convolutions, as in Model Garden's FPN, and
  ReLU precedes the convolution of every coarser level; the paper mentions neither.
  """

  def __init__(self, num_filters: int = 128, coarse_activation: str = 'every',
               symmetric_padding: bool = True, **kwargs):
    """Initializes the decoder.

    Args:
      num_filters: channels of every level of the result.
      coarse_activation: see `PyramidDecoder`.
      symmetric_padding: see `PyramidDecoder`.
      **kwargs: arguments of `PyramidDecoder`.
    """
    super().__init__(num_filters=num_filters, coarse_activation=coarse_activation,
                     symmetric_padding=symmetric_padding, **kwargs)
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in self.backbone_levels}

  def output_conv(self, level: str) -> tf_keras.layers.SeparableConv2D:
    depthwise, pointwise = (
        convolutions.copy_initializer(self._kernel_initializer) for _ in range(2))
    return tf_keras.layers.SeparableConv2D(
        self._num_filters, 3, padding='same', name=f'output_{level}', dtype=self.dtype_policy,
        depthwise_initializer=depthwise, depthwise_regularizer=self._kernel_regularizer,
        pointwise_initializer=pointwise, pointwise_regularizer=self._kernel_regularizer,
        bias_regularizer=self._bias_regularizer)

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return self.top_down({level: lateral(inputs[level])
                          for level, lateral in self._laterals.items()})
