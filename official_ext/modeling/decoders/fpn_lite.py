"""FPN with separable output convolutions, for small backbones.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, which uses it with MobileNet and MobileNetV2 (Table 4) and, as
an ablation, with CADDet (Table 3).
"""
import dataclasses

from official.modeling import hyperparams
import tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions


@dataclasses.dataclass
class FPNLiteConfig(hyperparams.Config):
  """Options of `FPNLite`; see `PyramidDecoder`."""
  num_filters: int = 128
  norm: str = 'batch_norm'


@components.register_decoder('fpn_lite', FPNLiteConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class FPNLite(pyramid.PyramidDecoder):
  """FPN with separable 3x3 output convolutions, and coarser levels by plain 3x3 convolutions.

  Reference: see the module.

  Differs: batch norm after the output convolutions by default, as in Model Garden's FPN; ReLU
  before the convolution of every coarser level, which the paper does not mention.
  """

  activates_coarse_input = True

  def __init__(self, num_filters: int = 128, **kwargs):
    """Initializes the decoder.

    Args:
      num_filters: channels of every level of the result.
      **kwargs: arguments of `PyramidDecoder`.
    """
    super().__init__(num_filters=num_filters, **kwargs)
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in self.backbone_levels}

  def output_conv(self, level: str) -> tf_keras.layers.SeparableConv2D:
    depthwise, pointwise = (
        convolutions.copy_initializer(self._kernel_initializer) for _ in range(2))
    return tf_keras.layers.SeparableConv2D(
        self._num_filters, 3, padding='same', name=f'output_{level}', dtype=self.dtype_policy,
        depthwise_initializer=depthwise, depthwise_regularizer=self._kernel_regularizer,
        pointwise_initializer=pointwise, pointwise_regularizer=self._kernel_regularizer,
        bias_regularizer=self._bias_regularizer)

  def coarser_conv(self, level: str) -> convolutions.Conv2D:
    return self.conv(3, f'coarser_{level}', strides=2, symmetric_padding=True)

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return self.top_down({level: lateral(inputs[level])
                          for level, lateral in self._laterals.items()})
