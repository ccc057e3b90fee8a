"""The convolutions between CADDet's supernet and a head, which replace a neck.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 3.4.
"""
import dataclasses

import tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid


@dataclasses.dataclass
class CADDetProjectionConfig(pyramid.PyramidConfig):
  """Options of `CADDetProjection`; see `PyramidDecoder`."""
  norm: str = 'none'
  coarse_activation: str = 'every'
  symmetric_padding: bool = True


@components.register_decoder('caddet_projection', CADDetProjectionConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class CADDetProjection(pyramid.PyramidDecoder):
  """A 1x1 convolution per level, and coarser levels by 3x3 convolutions of stride 2.

  Reference: see the module.

  Differs: by default ReLU precedes the convolution that makes C7 from C6; section 3.4 names the
  convolution alone, which is `coarse_activation: none`.
  """

  has_output_convs = False

  def __init__(self, norm: str = 'none', coarse_activation: str = 'every',
               symmetric_padding: bool = True, **kwargs):
    """Initializes the decoder.

    Args:
      norm: `none`, as in the paper, or `batch_norm`.
      coarse_activation: see `PyramidDecoder`.
      symmetric_padding: see `PyramidDecoder`.
      **kwargs: arguments of `PyramidDecoder`.
    """
    super().__init__(norm=norm, coarse_activation=coarse_activation,
                     symmetric_padding=symmetric_padding, **kwargs)
    self._projections = {
        level: self.conv(1, f'projection_{level}') for level in self.backbone_levels}

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return {level: projection(inputs[level]) for level, projection in self._projections.items()}
