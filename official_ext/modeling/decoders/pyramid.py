"""What all feature pyramids share.

A decoder maps the backbone's `{level: features}` to the same for `min_level` to
`max_level`, every level with `num_filters` channels.  A subclass says how the levels
that the backbone has are made, in `build_pyramid`; levels, coarser levels and
normalization are handled here, as in Model Garden's FPN.
"""
from typing import Any, Dict, List, Mapping, Optional

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import sampling

Features = Dict[str, tf.Tensor]


class PyramidDecoder(tf_keras.layers.Layer):
  """Base class of decoders: a pyramid from the backbone's levels, then coarser levels.

  Reference: Tsung-Yi Lin et al., Feature Pyramid Networks for Object Detection,
  https://arxiv.org/abs/1612.03144.

  Attributes:
    has_output_convs: a 3x3 convolution follows `build_pyramid` on every level; a subclass
      whose own blocks end in convolutions says False.
    activates_coarse_input: the first coarser level is made of the activated level before it.
  """

  has_output_convs = True
  activates_coarse_input = False

  def __init__(self,
               input_specs: Mapping[str, Any],
               min_level: int = 3,
               max_level: int = 7,
               num_filters: int = 256,
               norm: str = 'batch_norm',
               coarse_levels: str = 'conv',
               activation: str = 'relu',
               use_sync_bn: bool = False,
               norm_momentum: float = 0.99,
               norm_epsilon: float = 0.001,
               kernel_initializer: Any = 'glorot_uniform',
               kernel_regularizer: Optional[Any] = None,
               bias_regularizer: Optional[Any] = None,
               **kwargs):
    """Initializes the decoder.

    Args:
      input_specs: level -> shape `[batch, height, width, channels]` of the backbone's
        output; what else the backbone emits is ignored.
      min_level: finest level of the result; its stride is `2**min_level`.
      max_level: coarsest level of the result.
      num_filters: channels of every level of the result.
      norm: `batch_norm` after the last convolution of every level, as Model Garden's FPN
        has it, or `none`, as papers have it.
      coarse_levels: how levels are made that the backbone does not have: `conv`, a 3x3
        convolution of stride 2, or `max_pool`, of kernel 1 and stride 2.
      activation: between two coarser levels.
      use_sync_bn: synchronize batch norm over replicas.
      norm_momentum: momentum of the moving averages.
      norm_epsilon: added to the variance.
      kernel_initializer: of all convolutions.
      kernel_regularizer: of all kernels.
      bias_regularizer: of all convolutions' biases.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: an unknown option, or levels that the backbone cannot give.
    """
    super().__init__(**kwargs)
    if norm not in ('batch_norm', 'none'):
      raise ValueError(f'norm is {norm!r}; allowed are `batch_norm` and `none`: change '
                       'decoder.<type>.norm.')
    if coarse_levels not in ('conv', 'max_pool'):
      raise ValueError(f'coarse_levels is {coarse_levels!r}; allowed are `conv` and `max_pool`: '
                       'change decoder.<type>.coarse_levels.')
    self._input_specs = {
        level: tf.TensorShape(shape).as_list() for level, shape in input_specs.items()}
    self._min_level, self._max_level = min_level, max_level
    self._num_filters = num_filters
    self._norm = norm
    self._coarse = coarse_levels
    self._activation = activation
    self._norm_options = {
        'synchronized': use_sync_bn, 'momentum': norm_momentum, 'epsilon': norm_epsilon}
    self._kernel_initializer = tf_keras.initializers.get(kernel_initializer)
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._bias_regularizer = tf_keras.regularizers.get(bias_regularizer)
    self._check_levels()
    self._build_outputs()

  def _check_levels(self) -> None:
    levels = sorted(int(level) for level in self._input_specs)
    if self._min_level > self._max_level:
      raise ValueError(f'min_level {self._min_level} is above max_level {self._max_level}.')
    missing = [
        level for level in range(self._min_level, min(levels[-1], self._max_level) + 1)
        if level not in levels
    ]
    if missing or self._min_level > levels[-1]:
      raise ValueError(
          f'The backbone gives levels {levels}, the decoder needs levels {self._min_level} to '
          f'{min(levels[-1], self._max_level)}: change model.min_level or the backbone.')
    self._backbone_levels = [
        str(level) for level in range(self._min_level, min(levels[-1], self._max_level) + 1)]
    self._coarser_levels = [
        str(level) for level in range(levels[-1] + 1, self._max_level + 1)]

  def conv(self, kernel_size: int, name: str, **options: Any) -> convolutions.Conv2D:
    """Returns a convolution with `num_filters` filters and the decoder's options."""
    return convolutions.Conv2D(
        self._num_filters, kernel_size, name=name, **{
            'dtype': self.dtype_policy,
            'kernel_initializer': convolutions.copy_initializer(self._kernel_initializer),
            'kernel_regularizer': self._kernel_regularizer,
            'bias_regularizer': self._bias_regularizer, **options})

  def output_conv(self, level: str) -> convolutions.Conv2D:
    """Makes the convolution that `build_pyramid`'s result goes through."""
    return self.conv(3, f'output_{level}')

  def coarser_conv(self, level: str) -> convolutions.Conv2D:
    """Makes the convolution that makes a coarser level of the one before it."""
    return self.conv(3, f'coarser_{level}', strides=2)

  def _build_outputs(self) -> None:
    self._output_convs, self._coarser_convs, self._norms = {}, {}, {}
    if self.has_output_convs:
      self._output_convs = {level: self.output_conv(level) for level in self._backbone_levels}
    if self._coarse == 'conv':
      self._coarser_convs = {level: self.coarser_conv(level) for level in self._coarser_levels}
    if self._norm == 'batch_norm':
      self._norms = {
          level: tf_keras.layers.BatchNormalization(
              name=f'norm_{level}', dtype=self.dtype_policy, **self._norm_options)
          for level in self._backbone_levels + self._coarser_levels}

  @property
  def backbone_levels(self) -> List[str]:
    """Levels that are made from the backbone's, finest first."""
    return self._backbone_levels

  @property
  def input_channels(self) -> Dict[str, int]:
    """Level -> channels of the backbone's output, for `backbone_levels`."""
    return {level: self._input_specs[level][-1] for level in self._backbone_levels}

  @property
  def output_specs(self) -> Dict[str, tf.TensorShape]:
    """Level -> shape of the result."""
    specs = {}
    for level in self._backbone_levels:
      specs[level] = tf.TensorShape(self._input_specs[level][:-1] + [self._num_filters])
    shape = specs[self._backbone_levels[-1]].as_list()
    for level in self._coarser_levels:
      shape = [shape[0], *(size and -(-size // 2) for size in shape[1:3]), shape[3]]
      specs[level] = tf.TensorShape(shape)
    return specs

  def build_pyramid(self, inputs: Features, training: Optional[bool]) -> Features:
    """Makes the levels that the backbone has, before the output convolutions, if any.

    Args:
      inputs: `{level: [batch, height, width, channels]}`, for `backbone_levels`.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}` for the same levels.
    """
    raise NotImplementedError

  def top_down(self, laterals: Features) -> Features:
    """Adds to every level the next coarser result, resized (FPN, section 3)."""
    merged = {}
    for level in reversed(self._backbone_levels):
      merged[level] = laterals[level]
      coarser = merged.get(str(int(level) + 1))
      if coarser is not None:
        merged[level] += sampling.resize_nearest(coarser, laterals[level])
    return merged

  def call(self, inputs: Mapping[str, tf.Tensor], training: Optional[bool] = None) -> Features:
    """Maps the backbone's levels to the pyramid.

    Args:
      inputs: `{level: [batch, height, width, channels]}`; levels beyond the input specs
        are ignored.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}` for `min_level` to `max_level`.

    Raises:
      ValueError: a level is missing or is not of rank 4.
    """
    return self.finish(self.build_pyramid(self.checked(inputs), training=training), training)

  def checked(self, inputs: Mapping[str, tf.Tensor]) -> Features:
    """Returns `backbone_levels` of the input, or raises a ValueError that names what is wrong."""
    for level in self._backbone_levels:
      if level not in inputs:
        raise ValueError(f'{self.name} needs level {level!r}, the input has {sorted(inputs)}.')
      if len(inputs[level].shape) != 4:
        raise ValueError(f'{self.name}: level {level!r} has shape {inputs[level].shape}, expected '
                         '[batch, height, width, channels].')
    return {level: inputs[level] for level in self._backbone_levels}

  def finish(self, features: Features, training: Optional[bool]) -> Features:
    """Makes the outputs: last convolutions, coarser levels, and norms of every level."""
    outputs = dict(features)
    for level, conv in self._output_convs.items():
      outputs[level] = conv(features[level])
    previous = self._backbone_levels[-1]
    for level in self._coarser_levels:
      finer = outputs[previous]
      if self._coarse == 'max_pool':
        outputs[level] = finer[:, ::2, ::2]
      else:
        if previous in self._coarser_levels or self.activates_coarse_input:
          finer = tf_keras.activations.get(self._activation)(finer)
        outputs[level] = self._coarser_convs[level](finer)
      previous = level
    for level, norm in self._norms.items():
      outputs[level] = norm(outputs[level], training=training)
    return outputs

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'input_specs': {level: list(shape) for level, shape in self._input_specs.items()},
        'min_level': self._min_level,
        'max_level': self._max_level,
        'num_filters': self._num_filters,
        'norm': self._norm,
        'coarse_levels': self._coarse,
        'activation': self._activation,
        'use_sync_bn': self._norm_options['synchronized'],
        'norm_momentum': self._norm_options['momentum'],
        'norm_epsilon': self._norm_options['epsilon'],
        'kernel_initializer': tf_keras.initializers.serialize(self._kernel_initializer),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
        'bias_regularizer': tf_keras.regularizers.serialize(self._bias_regularizer),
    }
