"""PAFPN: an FPN with a second path, from fine to coarse."""
import dataclasses
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import norms
from official_ext.ops import checks
from official_ext.ops import sampling

CHAINS = ('output', 'sum')
PATH_NORMS = ('none', 'group_norm')
PATH_ACTIVATIONS = ('none', 'relu')


@dataclasses.dataclass
class PAFPNConfig(pyramid.PyramidConfig):
  """Options of `PAFPN`; see its arguments."""
  chain: str = 'output'
  path_norm: str = 'none'
  path_activation: str = 'none'
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

  Differs: by default ReLU follows none of the convolutions of the second path, as in its authors'
  code; the text has it after each (`path_activation: relu`).  Batch norm on every level of the
  result by default, as in Model Garden's FPN; `norm: none` is the paper's form.
  """

  # The FPN's output convolutions precede the second path, so this class makes them.
  has_output_convs = False

  def __init__(self, chain: str = 'output', path_norm: str = 'none',
               path_activation: str = 'none', symmetric_padding: bool = True, **kwargs):
    """Initializes the decoder.

    Args:
      chain: source of the next coarser level: N_l (`output`), as in the paper, or T_l (`sum`), as
        in mmdetection.
      path_norm: norm after every convolution of the second path: `none`, or `group_norm`, of 32
        groups or the largest smaller number that divides the channels.
      path_activation: activation behind it, `none` or `relu`.
      symmetric_padding: see `PyramidDecoder`; the second path always pads so.
      **kwargs: arguments of `PyramidDecoder`.

    Raises:
      ArgumentError: an unknown chain, norm or activation.
    """
    super().__init__(symmetric_padding=symmetric_padding, **kwargs)
    checks.check_one_of('chain', chain, CHAINS)
    checks.check_one_of('path_norm', path_norm, PATH_NORMS)
    checks.check_one_of('path_activation', path_activation, PATH_ACTIVATIONS)
    self._chain, self._path_norm, self._path_activation = chain, path_norm, path_activation
    levels = self.backbone_levels
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in levels}
    self._level_convs = {level: self.conv(3, f'output_{level}') for level in levels}
    self._strided = {
        level: self.conv(3, f'strided_{level}', strides=2, symmetric_padding=True)
        for level in levels[1:]}
    self._bottom_up = {level: self.conv(3, f'bottom_up_output_{level}') for level in levels[1:]}
    self._path_norms = {
        conv.name: norms.GroupNorm(group_size=None, name=f'{conv.name}_norm',
                                   dtype=self.dtype_policy)
        for convs in (self._strided, self._bottom_up) for conv in convs.values()
        if path_norm == 'group_norm'}

  def _along_path(self, conv: tf_keras.layers.Layer, features: tf.Tensor) -> tf.Tensor:
    """Runs a convolution of the second path, its norm and its activation."""
    features = conv(features)
    if conv.name in self._path_norms:
      features = self._path_norms[conv.name](features)
    return tf.nn.relu(features) if self._path_activation == 'relu' else features

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    merged = self.top_down({level: lateral(inputs[level])
                            for level, lateral in self._laterals.items()})
    features = {level: conv(merged[level]) for level, conv in self._level_convs.items()}
    finest = self.backbone_levels[0]
    source = features[finest]
    outputs = {finest: source}
    for level, conv in self._bottom_up.items():
      strided = self._along_path(self._strided[level], source)
      total = sampling.resize_bilinear(strided, features[level]) + features[level]
      outputs[level] = self._along_path(conv, total)
      source = outputs[level] if self._chain == 'output' else total
    return outputs

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'chain': self._chain, 'path_norm': self._path_norm,
            'path_activation': self._path_activation}
