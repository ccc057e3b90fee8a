"""The convolutions between CADDet's supernet and a head, which replace a neck.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 3.4.
"""
import dataclasses

from official.modeling import hyperparams
import tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions


@dataclasses.dataclass
class CADDetProjectionConfig(hyperparams.Config):
  """Options of `CADDetProjection`; see `PyramidDecoder`."""
  num_filters: int = 256
  norm: str = 'none'


@components.register_decoder('caddet_projection', CADDetProjectionConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class CADDetProjection(pyramid.PyramidDecoder):
  """A 1x1 convolution per level, and coarser levels by 3x3 convolutions of stride 2.

  Reference: see the module.

  Differs: ReLU before the convolution that makes C7 from C6; section 3.4 names the convolution
  alone.
  """

  has_output_convs = False
  activates_coarse_input = True

  def __init__(self, norm: str = 'none', **kwargs):
    """Initializes the decoder.

    Args:
      norm: `none`, as in the paper, or `batch_norm`.
      **kwargs: arguments of `PyramidDecoder`.
    """
    super().__init__(norm=norm, **kwargs)
    self._projections = {
        level: self.conv(1, f'projection_{level}') for level in self.backbone_levels}

  def coarser_conv(self, level: str) -> convolutions.Conv2D:
    return self.conv(3, f'coarser_{level}', strides=2, symmetric_padding=True)

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return {level: projection(inputs[level]) for level, projection in self._projections.items()}
