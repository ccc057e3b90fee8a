"""DRFPN: a pyramid that merges levels by learned sampling positions and channel weights.

Reference: Jialiang Ma, Bin Chen, Dual Refinement Feature Pyramid Networks for Object
Detection, https://arxiv.org/abs/2012.01733.
"""
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.decoders.drfpn import context_modules
from official_ext.modeling.decoders.drfpn import refinement
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import sampling

_ALLOWED = {
    'top_down': ('fpn', 'srb', 'crb', 'srb_crb'),
    'bottom_up': ('none', 'panet', 'crb', 'srb'),
    'context': ('none', 'ppm', 'non_local', 'dense_aspp'),
    'srb_context': ('low', 'high', 'add', 'cat'),
    'crb_context': ('low', 'high', 'add', 'cat'),
    'weight_activation': refinement.ACTIVATIONS,
    'padding': sampling.PADDINGS,
}


@dataclasses.dataclass
class DRFPNConfig(pyramid.PyramidConfig):
  """Options of `DRFPN`; see its arguments."""
  top_down: str = 'srb'
  bottom_up: str = 'crb'
  context: str = 'ppm'
  srb_context: str = 'cat'
  crb_context: str = 'low'
  use_offset: bool = True
  use_weight: bool = True
  weight_activation: str = 'sigmoid'
  padding: str = 'zeros'
  symmetric_padding: bool = True


@components.register_decoder('drfpn', DRFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class DRFPN(pyramid.PyramidDecoder):
  """A top-down path of spatial refinement blocks, then a bottom-up path of channel ones.

      L = 1x1 convolutions of the backbone's levels, the coarsest after a context module
      P_top = conv(L_top);  P_l = SRB(P_{l+1}, L_l), the first from L_top
      N_low = conv1x1(P_low);  N_{l+1} = CRB(T_l, P_{l+1}), the first from T_low = P_low

  The options express every row of the paper's Tables 2 to 7.  `top_down: fpn`,
  `bottom_up: none`, `context: none` has the weights of Model Garden's FPN.

  Reference: see the module.

  Differs: batch norm on every level of the result by default, as in Model Garden's FPN;
  `norm: none` is the paper's form.  The paper prints no width inside SRB and the PPM and no
  convolutions of P_top and N_low: a quarter of `num_filters` (64 of 256), a 3x3 convolution of
  P_top and a 1x1 convolution of N_low are chosen so that the numbers of weights in Table 7 are
  met.
  """

  # The blocks end in convolutions, and this class makes the convolutions of `top_down: fpn`.
  has_output_convs = False

  def __init__(self, top_down: str = 'srb', bottom_up: str = 'crb', context: str = 'ppm',
               srb_context: str = 'cat', crb_context: str = 'low', use_offset: bool = True,
               use_weight: bool = True, weight_activation: str = 'sigmoid',
               padding: str = 'zeros', symmetric_padding: bool = True, **kwargs):
    """Initializes the decoder.

    Args:
      top_down: block of the path from coarse to fine: `fpn`, nearest-neighbor resizing and
        addition; `srb`; `crb`; or `srb_crb`, both in one block (Table 3).
      bottom_up: block of the path from fine to coarse: `none`; `panet`, strided convolution and
        addition; `crb`; or `srb` (Table 3).
      context: module on the coarsest level of the backbone: `none`, `ppm`, `non_local` or
        `dense_aspp` (Table 7).
      srb_context: the level from which an SRB computes offset and weight: the finer of its two
        levels (`low`), the coarser (`high`), their sum (`add`) or both (`cat`) (Table 5).
      crb_context: the level from which a CRB computes channel weights, with the same values
        (Table 6).
      use_offset: whether SRBs sample at offsets (Table 4).
      use_weight: whether SRBs multiply samples by weights (Table 4).
      weight_activation: activation of the weights in both blocks, `sigmoid` or `linear`.
      padding: value of samples outside a map, `zeros` or `border`.
      symmetric_padding: see `PyramidDecoder`; strided convolutions of the blocks always pad so.
      **kwargs: arguments of `PyramidDecoder`.

    Raises:
      ArgumentError: an unknown option.
    """
    options: dict[str, Any] = {
        'top_down': top_down, 'bottom_up': bottom_up, 'context': context,
        'srb_context': srb_context, 'crb_context': crb_context, 'use_offset': use_offset,
        'use_weight': use_weight, 'weight_activation': weight_activation, 'padding': padding}
    for option, allowed in _ALLOWED.items():
      checks.check_one_of(option, options[option], allowed)
    super().__init__(symmetric_padding=symmetric_padding, **kwargs)
    self._options = options
    self._build_laterals()
    self._build_top_down()
    self._build_bottom_up()

  def conv(self, kernel_size: int, name: str, filters: int | None = None,
           **options: Any) -> tf_keras.layers.Layer:
    """Makes a convolution of the pyramid; by default strided ones pad as PyTorch does."""
    options.setdefault('symmetric_padding', options.get('strides', 1) != 1)
    return super().conv(kernel_size, name, filters, **options)

  def _block(self, cls: type, name: str, **options: Any) -> convolutions.ConvBlock:
    return cls(name=name, dtype=self.dtype_policy, kernel_regularizer=self._kernel_regularizer,
               kernel_initializer=tf_keras.initializers.serialize(self._kernel_initializer),
               bias_regularizer=self._bias_regularizer, **options)

  def _build_laterals(self) -> None:
    filters = self._num_filters
    cls, options = {
        'none': (None, {}),
        'ppm': (context_modules.PyramidPooling, {'filters': max(filters // 4, 1)}),
        'non_local': (context_modules.NonLocal, {'filters': filters}),
        'dense_aspp': (context_modules.DenseASPP, {'filters': filters, 'bottleneck': 2 * filters}),
    }[self._options['context']]
    self._context = self._block(cls, self._options['context'], **options) if cls else None
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in self._backbone_levels}

  def _refinement(self, kind: str, direction: str, name: str) -> convolutions.ConvBlock:
    """Makes a refinement block.

    Args:
      kind: `srb`, `crb` or `srb_crb`.
      direction: `down` or `up`.
      name: name of the block.

    Returns:
      The block.
    """
    # On the way down the finer level is the target; on the way up it is the source.
    roles = {'low': 'target', 'high': 'source'}
    if direction == 'up':
      roles = {'low': 'source', 'high': 'target'}
    options = self._options
    spatial = {
        'compressed_filters': max(self._num_filters // 4, 1), 'use_offset': options['use_offset'],
        'use_weight': options['use_weight'], 'padding': options['padding'],
        'context': roles.get(options['srb_context'], options['srb_context'])}
    channels = roles.get(options['crb_context'], options['crb_context'])
    cls, arguments = {
        'srb': (refinement.SpatialRefinementBlock, spatial),
        'crb': (refinement.ChannelRefinementBlock, {'context': channels}),
        'srb_crb': (refinement.SpatialChannelRefinementBlock,
                    {**spatial, 'channel_context': channels}),
    }[kind]
    return self._block(cls, name, filters=self._num_filters, direction=direction,
                       activation=options['weight_activation'], **arguments)

  def _build_top_down(self) -> None:
    kind = self._options['top_down']
    convs = self._backbone_levels if kind == 'fpn' else self._backbone_levels[-1:]
    self._level_convs = {level: self.conv(3, f'output_{level}') for level in convs}
    self._top_down = {
        level: self._refinement(kind, 'down', f'top_down_{level}')
        for level in self._backbone_levels if level not in convs}

  def _build_bottom_up(self) -> None:
    kind, levels = self._options['bottom_up'], self._backbone_levels
    self._bottom_up = {}
    if kind == 'panet':
      self._strided = {
          level: self.conv(3, f'strided_{level}', strides=2) for level in levels[1:]}
      self._bottom_up = {level: self.conv(3, f'bottom_up_output_{level}') for level in levels[1:]}
    elif kind != 'none':
      self._finest = self.conv(1, f'bottom_up_output_{levels[0]}')
      self._bottom_up = {
          level: self._refinement(kind, 'up', f'bottom_up_{level}') for level in levels[1:]}

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return self._refine_up(self._refine_down(self._compute_laterals(inputs)))

  def sampling_positions(self, inputs: Mapping[str, tf.Tensor]
                         ) -> dict[str, refinement.SamplingPositions]:
    """Returns where the SRBs of the top-down path sample.

    Args:
      inputs: as of `call`.

    Returns:
      Level -> positions in the next coarser level; empty without SRBs or without offsets.
    """
    found: dict[str, refinement.SamplingPositions] = {}
    laterals = self._compute_laterals(self.checked(inputs))

    def add(level: str, source: tf.Tensor) -> None:
      found[level] = self._top_down[level].positions((source, laterals[level]))

    if self._options['top_down'] in ('srb', 'srb_crb') and self._options['use_offset']:
      self._refine_down(laterals, add)
    return found

  def _compute_laterals(self, inputs: pyramid.Features) -> pyramid.Features:
    coarsest = self._backbone_levels[-1]
    if self._context is not None:
      inputs = {**inputs, coarsest: self._context(inputs[coarsest])}
    return {level: self._laterals[level](inputs[level]) for level in inputs}

  def _refine_down(self, laterals: pyramid.Features,
                   visit: Callable[[str, tf.Tensor], None] | None = None) -> pyramid.Features:
    """Computes P from the laterals; `visit` gets each level of a block, with the block's source."""
    if self._options['top_down'] == 'fpn':
      merged = self.top_down(laterals)
      return {level: self._level_convs[level](merged[level]) for level in merged}
    source = laterals[self._backbone_levels[-1]]
    outputs = {}
    for level in reversed(self._backbone_levels):
      if level in self._level_convs:
        outputs[level] = self._level_convs[level](source)
      else:
        if visit:
          visit(level, source)
        outputs[level], source = _output_and_source(
            self._top_down[level]((source, laterals[level])))
    return outputs

  def _refine_up(self, features: pyramid.Features) -> pyramid.Features:
    """Computes N from P."""
    kind, levels = self._options['bottom_up'], self._backbone_levels
    if kind == 'none':
      return features
    source = features[levels[0]]
    outputs = {levels[0]: source if kind == 'panet' else self._finest(source)}
    for level in levels[1:]:
      if kind == 'panet':
        resampled = sampling.resize_bilinear(self._strided[level](source), features[level])
        outputs[level] = source = self._bottom_up[level](resampled + features[level])
      else:
        outputs[level], source = _output_and_source(
            self._bottom_up[level]((source, features[level])))
    return outputs

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._options}


def _output_and_source(result: Any) -> Any:
  """Returns a block's output and the next block's source; for SRBs both are the output."""
  return result if isinstance(result, tuple) else (result, result)
