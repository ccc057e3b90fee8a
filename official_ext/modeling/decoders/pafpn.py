"""PAFPN: an FPN with a second path, from fine to coarse."""
import dataclasses
from typing import Any

import tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.ops import checks
from official_ext.ops import sampling

CHAINS = ('output', 'sum')


@dataclasses.dataclass
class PAFPNConfig(pyramid.PyramidConfig):
  """Options of `PAFPN`; see its arguments."""
  chain: str = 'output'
  symmetric_padding: bool = True


@components.register_decoder('pafpn', PAFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class PAFPN(pyramid.PyramidDecoder):
  """An FPN, then a path that adds each level, convolved with stride 2, to the next coarser one.

      P = FPN of the backbone's levels;  N_low = P_low
      T_{l+1} = conv3x3, stride 2 (source_l) + P_{l+1};  N_{l+1} = conv3x3(T_{l+1})

  Coarser levels are made from N.  With `chain: output` this is `drfpn` with `top_down: fpn`,
  `bottom_up: panet` and `context: none`, with the same weights under the same names.

  Reference: Shu Liu et al., Path Aggregation Network for Instance Segmentation,
  https://arxiv.org/abs/1803.01534, section 3.1.

  Differs: ReLU follows none of the new convolutions, as in its authors' code; the text has it
  after each.  Batch norm on every level of the result by default, as in Model Garden's FPN;
  `norm: none` is the paper's form.
  """

  # The FPN's output convolutions precede the second path, so this class makes them.
  has_output_convs = False

  def __init__(self, chain: str = 'output', symmetric_padding: bool = True, **kwargs):
    """Initializes the decoder.

    Args:
      chain: source of the next coarser level: N_l (`output`), as in the paper, or T_l (`sum`), as
        in mmdetection.
      symmetric_padding: see `PyramidDecoder`; the second path always pads so.
      **kwargs: arguments of `PyramidDecoder`.

    Raises:
      ArgumentError: an unknown chain.
    """
    super().__init__(symmetric_padding=symmetric_padding, **kwargs)
    checks.check_one_of('chain', chain, CHAINS)
    self._chain = chain
    levels = self.backbone_levels
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in levels}
    self._level_convs = {level: self.conv(3, f'output_{level}') for level in levels}
    self._strided = {
        level: self.conv(3, f'strided_{level}', strides=2, symmetric_padding=True)
        for level in levels[1:]}
    self._bottom_up = {level: self.conv(3, f'bottom_up_output_{level}') for level in levels[1:]}

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    merged = self.top_down({level: lateral(inputs[level])
                            for level, lateral in self._laterals.items()})
    features = {level: conv(merged[level]) for level, conv in self._level_convs.items()}
    finest = self.backbone_levels[0]
    source = features[finest]
    outputs = {finest: source}
    for level, conv in self._bottom_up.items():
      total = sampling.resize_bilinear(self._strided[level](source), features[level])
      total += features[level]
      outputs[level] = conv(total)
      source = outputs[level] if self._chain == 'output' else total
    return outputs

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'chain': self._chain}
