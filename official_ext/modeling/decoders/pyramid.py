"""The base class of feature pyramids.

A decoder maps the backbone's `{level: features}` to `{level: features}` for `min_level` to
`max_level`, every level with `num_filters` channels.  A subclass makes the levels that the
backbone has, in `build_pyramid`.  The base class adds output convolutions, coarser levels and
batch norm, as Model Garden's FPN does.
"""
from collections.abc import Mapping
import dataclasses
from typing import Any

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import sampling

Features = dict[str, tf.Tensor]


@dataclasses.dataclass
class LevelsConfig(hyperparams.Config):
  """Options that all decoders have; see the arguments of `LevelsDecoder`."""
  num_filters: int = 256
  norm: str = 'batch_norm'


@dataclasses.dataclass
class PyramidConfig(LevelsConfig):
  """Options that decoders with output convolutions have; see `PyramidDecoder`."""
  coarse_levels: str = 'conv'
  coarse_input: str = 'result'
  coarse_activation: str = 'between'
  symmetric_padding: bool = False


def _checked_shape(level: str, shape: Any) -> list[Any]:
  """Returns the shape of a level of the input; raises an ArgumentError for another form."""
  if not (isinstance(level, str) and level.isdecimal()):
    raise checks.ArgumentError(
        'input_specs', f"input_specs has level {level!r}; levels are numbers as texts, such as "
        "'3'.")
  sizes = tf.TensorShape(shape)
  if sizes.rank != 4 or not sizes[-1]:
    raise checks.ArgumentError(
        'input_specs', f'input_specs[{level!r}] is {shape}; it must be [batch, height, width, '
        'channels], with a number of channels.')
  return sizes.as_list()


class LevelsDecoder(convolutions.ConvBlock):
  """Base class of everything that maps the backbone's levels to levels of one width.

  A subclass computes the result in `build_levels`.
  """

  def __init__(self,
               input_specs: Mapping[str, Any],
               min_level: int = 3,
               max_level: int = 7,
               num_filters: int = 256,
               norm: str = 'batch_norm',
               activation: str = 'relu',
               use_sync_bn: bool = False,
               norm_momentum: float = 0.99,
               norm_epsilon: float = 0.001,
               **kwargs):
    """Initializes the decoder.

    Args:
      input_specs: level -> shape `[batch, height, width, channels]` of the backbone's
        output.  The decoder ignores other levels that the backbone emits.
      min_level: finest level of the result; its stride is `2**min_level`.
      max_level: coarsest level of the result.
      num_filters: channels of every level of the result.
      norm: `batch_norm` or `none`; a subclass says where.
      activation: name of the activation; a subclass says where.
      use_sync_bn: whether replicas share the statistics of batch norm.
      norm_momentum: momentum of the moving averages of batch norm.
      norm_epsilon: constant that batch norm adds to the variance.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ArgumentError: no channel, an unknown norm, input specs of other forms, or levels that the
        backbone does not give.
    """
    super().__init__(**kwargs)
    checks.check_positive('num_filters', num_filters)
    checks.check_one_of('norm', norm, ('batch_norm', 'none'))
    self._input_specs = {
        level: _checked_shape(level, shape) for level, shape in input_specs.items()}
    self._min_level, self._max_level = min_level, max_level
    self._num_filters = num_filters
    self._norm = norm
    self._activation = activation
    self._norm_options = {
        'synchronized': use_sync_bn, 'momentum': norm_momentum, 'epsilon': norm_epsilon}
    self._set_levels()

  def _set_levels(self) -> None:
    """Splits the levels of the result into those that the backbone has and coarser ones."""
    given = sorted(int(level) for level in self._input_specs)
    if self._min_level > self._max_level:
      raise checks.ArgumentError(
          'min_level', f'min_level {self._min_level} is above max_level {self._max_level}.')
    needed = list(range(self._min_level, min(given[-1], self._max_level) + 1))
    if not needed or not set(needed) <= set(given):
      raise checks.ArgumentError(
          'min_level', f'min_level is {self._min_level} and max_level {self._max_level}, but the '
          f'backbone gives levels {given}: min_level must be one of them, and no level between '
          'it and the coarsest may be missing.')
    self._backbone_levels = [str(level) for level in needed]
    self._coarser_levels = [str(level) for level in range(given[-1] + 1, self._max_level + 1)]

  def conv(self, kernel_size: int, name: str, filters: int | None = None,
           **options: Any) -> tf_keras.layers.Layer:
    """Makes a convolution as `ConvBlock.conv` does.

    Args:
      kernel_size: height and width of the kernel.
      name: name of the convolution.
      filters: channels of the result; None: `num_filters`.
      **options: arguments of `ConvBlock.conv`.

    Returns:
      A convolution, `convolutions.Conv2D` by default.
    """
    return super().conv(kernel_size, name, filters or self._num_filters, **options)

  def batch_norm(self, name: str) -> tf_keras.layers.BatchNormalization:
    """Makes a batch norm with the decoder's options and dtype policy."""
    return tf_keras.layers.BatchNormalization(
        name=name, dtype=self.dtype_policy, **self._norm_options)

  @property
  def backbone_levels(self) -> list[str]:
    """Levels of the result that the backbone has, finest first."""
    return self._backbone_levels

  @property
  def input_channels(self) -> dict[str, int]:
    """Level -> channels of the backbone's output, for `backbone_levels`."""
    return {level: self._input_specs[level][-1] for level in self._backbone_levels}

  @property
  def output_specs(self) -> dict[str, tf.TensorShape]:
    """Level -> shape of the result."""
    specs = {}
    for level in self._backbone_levels:
      specs[level] = tf.TensorShape(self._input_specs[level][:-1] + [self._num_filters])
    shape = specs[self._backbone_levels[-1]].as_list()
    for level in self._coarser_levels:
      shape = [shape[0], *(size and -(-size // 2) for size in shape[1:3]), shape[3]]
      specs[level] = tf.TensorShape(shape)
    return specs

  def checked(self, inputs: Mapping[str, tf.Tensor]) -> Features:
    """Returns `backbone_levels` of the input.

    Args:
      inputs: `{level: [batch, height, width, channels]}`.

    Returns:
      The input without other levels.

    Raises:
      ValueError: a level is missing, is not of rank 4, or has other channels than its spec.
    """
    for level, channels in self.input_channels.items():
      if level not in inputs:
        raise ValueError(
            f'{self.name} needs level {level!r}, but inputs has levels {sorted(inputs)}.')
      shape = inputs[level].shape
      if len(shape) != 4 or shape[-1] != channels:
        raise ValueError(f'{self.name}: inputs[{level!r}] has shape {shape}, expected '
                         f'[batch, height, width, channels] with the {channels} channels of '
                         'input_specs.')
    return {level: inputs[level] for level in self._backbone_levels}

  def call(self, inputs: Mapping[str, tf.Tensor], training: bool | None = None) -> Features:
    """Maps the backbone's levels to the pyramid.

    Args:
      inputs: `{level: [batch, height, width, channels]}`; levels that are not in
        `backbone_levels` are ignored.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}` for `min_level` to `max_level`.

    Raises:
      ValueError: a level is missing, is not of rank 4, or has other channels than its spec.
    """
    return self.build_levels(self.checked(inputs), training)

  def build_levels(self, inputs: Features, training: bool | None) -> Features:
    """Computes the result from `backbone_levels` of the input; `call` says in which shapes."""
    raise NotImplementedError

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'input_specs': {level: list(shape) for level, shape in self._input_specs.items()},
        'min_level': self._min_level,
        'max_level': self._max_level,
        'num_filters': self._num_filters,
        'norm': self._norm,
        'activation': self._activation,
        'use_sync_bn': self._norm_options['synchronized'],
        'norm_momentum': self._norm_options['momentum'],
        'norm_epsilon': self._norm_options['epsilon'],
    }


class PyramidDecoder(LevelsDecoder):
  """Base class of decoders: a pyramid from the backbone's levels, then coarser levels.

  Reference: Tsung-Yi Lin et al., Feature Pyramid Networks for Object Detection,
  https://arxiv.org/abs/1612.03144.

  Differs: by default coarser levels are made as in Model Garden's FPN, not as in the toolboxes of
  the papers.  Those pad symmetrically, so that kernels are centered on pixels 0, 2, 4, ...; if a
  size is even, Keras pads at the end only, and kernels are centered on pixels 1, 3, 5, ....
  RetinaNet of mmdetection makes the first coarser level from the backbone's C5.

  Attributes:
    has_output_convs: whether a 3x3 convolution follows `build_pyramid` on every level; False in
      a subclass whose own blocks end in convolutions.
  """

  has_output_convs = True

  def __init__(self, input_specs: Mapping[str, Any], coarse_levels: str = 'conv',
               coarse_input: str = 'result', coarse_activation: str = 'between',
               symmetric_padding: bool = False, **kwargs):
    """Initializes the decoder.

    Args:
      input_specs: see `LevelsDecoder`, whose `norm` follows the last convolution of every level,
        as in Model Garden's FPN; most papers have none.
      coarse_levels: the operation that makes levels coarser than the backbone's: `conv`, a 3x3
        convolution of stride 2, or `max_pool`, of kernel 1 and stride 2.
      coarse_input: what the first coarser level is made from: the coarsest level of the `result`
        that the backbone has, or that level of the `backbone`.
      coarse_activation: the coarser levels whose convolution the activation precedes: `every`,
        `between`, all but the first, or `none`.
      symmetric_padding: whether the convolutions of coarser levels pad one zero on all sides, as
        PyTorch does, or as Keras does.
      **kwargs: arguments of `LevelsDecoder`.

    Raises:
      ArgumentError: an unknown option, or levels that the backbone does not give.
    """
    super().__init__(input_specs=input_specs, **kwargs)
    checks.check_one_of('coarse_levels', coarse_levels, ('conv', 'max_pool'))
    checks.check_one_of('coarse_input', coarse_input, ('result', 'backbone'))
    checks.check_one_of('coarse_activation', coarse_activation, ('every', 'between', 'none'))
    if (coarse_input, coarse_levels) == ('backbone', 'max_pool'):
      raise checks.ArgumentError(
          'coarse_input', 'coarse_input is `backbone`, whose levels have other channels than the '
          'result; with coarse_levels `max_pool` it must be `result`.')
    self._coarse, self._coarse_input = coarse_levels, coarse_input
    self._coarse_activation, self._symmetric_padding = coarse_activation, symmetric_padding
    self._build_outputs()

  def output_conv(self, level: str) -> tf_keras.layers.Layer:
    """Makes the convolution that follows `build_pyramid` on a level."""
    return self.conv(3, f'output_{level}')

  def coarser_conv(self, level: str) -> tf_keras.layers.Layer:
    """Makes the convolution that computes a coarser level from the level before it."""
    return self.conv(3, f'coarser_{level}', strides=2, symmetric_padding=self._symmetric_padding)

  def _build_outputs(self) -> None:
    self._output_convs, self._coarser_convs, self._norms = {}, {}, {}
    if self.has_output_convs:
      self._output_convs = {level: self.output_conv(level) for level in self._backbone_levels}
    if self._coarse == 'conv':
      self._coarser_convs = {level: self.coarser_conv(level) for level in self._coarser_levels}
    if self._norm == 'batch_norm':
      self._norms = {level: self.batch_norm(f'norm_{level}')
                     for level in self._backbone_levels + self._coarser_levels}

  def build_pyramid(self, inputs: Features, training: bool | None) -> Features:
    """Computes the levels that the backbone has, before the output convolutions, if any.

    Args:
      inputs: `{level: [batch, height, width, channels]}`, for `backbone_levels`.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}` for the same levels.
    """
    raise NotImplementedError

  def top_down(self, laterals: Features) -> Features:
    """Adds to every level the resized sum of the next coarser level (FPN, section 3)."""
    merged = {}
    for level in reversed(self._backbone_levels):
      merged[level] = laterals[level]
      coarser = merged.get(str(int(level) + 1))
      if coarser is not None:
        merged[level] += sampling.resize_nearest(coarser, laterals[level])
    return merged

  def build_levels(self, inputs: Features, training: bool | None) -> Features:
    return self.finish(self.build_pyramid(inputs, training=training), inputs, training)

  def finish(self, features: Features, inputs: Features, training: bool | None) -> Features:
    """Applies the output convolutions, adds coarser levels and normalizes every level.

    Args:
      features: `{level: [batch, height, width, num_filters]}` for `backbone_levels`.
      inputs: the backbone's map of each of these levels.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}` for `min_level` to `max_level`.
    """
    outputs = dict(features)
    for level, conv in self._output_convs.items():
      outputs[level] = conv(features[level])
    coarsest = self._backbone_levels[-1]
    finer = (inputs if self._coarse_input == 'backbone' else outputs)[coarsest]
    for level in self._coarser_levels:
      if self._coarse == 'max_pool':
        finer = finer[:, ::2, ::2]
      else:
        if level in self._activated_levels():
          finer = tf_keras.activations.get(self._activation)(finer)
        finer = self._coarser_convs[level](finer)
      outputs[level] = finer
    for level, norm in self._norms.items():
      outputs[level] = norm(outputs[level], training=training)
    return outputs

  def _activated_levels(self) -> list[str]:
    """Returns the coarser levels whose convolution the activation precedes."""
    return {'every': self._coarser_levels, 'between': self._coarser_levels[1:],
            'none': []}[self._coarse_activation]

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'coarse_levels': self._coarse,
        'coarse_input': self._coarse_input,
        'coarse_activation': self._coarse_activation,
        'symmetric_padding': self._symmetric_padding,
    }
