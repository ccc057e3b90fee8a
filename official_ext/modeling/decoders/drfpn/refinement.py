"""Blocks that merge two neighboring levels of a pyramid.

A block is called with `(source, target)` and adds information of the source to the target, whose
size the result has.  On the way down a pyramid (`direction='down'`) the source is the coarser
level, on the way up the finer one.

Reference: Jialiang Ma, Bin Chen, Dual Refinement Feature Pyramid Networks for Object
Detection, https://arxiv.org/abs/2012.01733.
"""
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import sampling

Pair = tuple[tf.Tensor, tf.Tensor]


class SamplingPositions(NamedTuple):
  """Where a block samples its source for each position of its target, rows and columns in pixels.

  Attributes:
    aligned: `[target_height, target_width, 2]`, without offsets.
    sampled: `[batch, target_height, target_width, 2]`, with the offsets.
  """
  aligned: tf.Tensor
  sampled: tf.Tensor


CONTEXTS = ('source', 'target', 'add', 'cat')
ACTIVATIONS = ('sigmoid', 'linear')
DIRECTIONS = ('down', 'up')


class _Refinement(convolutions.ConvBlock):
  """Base of the blocks: filters, direction, context and activation of the weights."""

  def __init__(self, filters: int, direction: str, context: str, activation: str, **kwargs):
    super().__init__(**kwargs)
    checks.check_one_of('direction', direction, DIRECTIONS)
    checks.check_one_of('context', context, CONTEXTS)
    checks.check_one_of('activation', activation, ACTIVATIONS)
    self._filters, self._direction = filters, direction
    self._context, self._activation = context, activation

  def resampling_conv(self, filters: int, name: str) -> tf_keras.layers.Layer:
    """Makes a 3x3 convolution of the source, of stride 2 on the way up."""
    if self._direction == 'down':
      return self.conv(3, name, filters)
    return self.conv(3, name, filters, strides=2, symmetric_padding=True)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters, 'direction': self._direction,
            'context': self._context, 'activation': self._activation}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SpatialRefinementBlock(_Refinement):
  """SRB: samples the source at learned offsets and multiplies the samples by learned weights.

      offset, weight = convolutions of both levels, compressed
      sampled = source at (own position + offset)
      output = conv_3(activation(weight) * sampled + resized(source) + target)      (eq. 4)

  Offsets are in units of 2 / (height + width) of the target in the normalized grid [-1, 1]: an
  offset of 1 moves by about half a pixel of the target.  Both branches start near 0, so the
  block starts as plain bilinear resizing.

  Reference: see the module.

  Differs: a hidden 3x3 convolution in both branches, because the published cost needs it (the
  text has two convolutions, eq. 1 one); a sigmoid of the weight, which eq. 1 does not print.
  """

  def __init__(self, filters: int, compressed_filters: int, direction: str = 'down',
               context: str = 'cat', use_offset: bool = True, use_weight: bool = True,
               activation: str = 'sigmoid', padding: str = 'zeros', **kwargs):
    """Initializes the block.

    Args:
      filters: channels of source, target and result.
      compressed_filters: channels of the maps from which offset and weight are computed.
      direction: `down`, the source is coarser than the target, or `up`, it is finer.
      context: the map from which offset and weight are computed: `source`, `target`, their sum
        (`add`) or both concatenated (`cat`).
      use_offset: whether to sample at offsets; if False, the resized source is the sample.
      use_weight: whether to compute a weight of the sample; if False, the weight is 1.
      activation: activation of the weight, `sigmoid` or `linear`.
      padding: value of samples outside the source, as in `sampling.sample_bilinear`.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ArgumentError: an unknown option, or neither offset nor weight.
    """
    super().__init__(filters, direction, context, activation, **kwargs)
    checks.check_one_of('padding', padding, sampling.PADDINGS)
    if not (use_offset or use_weight):
      raise checks.ArgumentError(
          'use_offset', 'use_offset and use_weight are both false, which leaves nothing to '
          'refine; one of them must be true.')
    self._compressed_filters, self._padding = compressed_filters, padding
    self._use_offset, self._use_weight = use_offset, use_weight
    if context != 'target':
      self._compress_source = self.conv(1, 'compress_source', compressed_filters)
      self._resample = self._resampling_layer()
    if context != 'source':
      self._compress_target = self.conv(1, 'compress_target', compressed_filters)
    small = tf_keras.initializers.RandomNormal(stddev=0.001)
    if use_offset:
      self._offset_hidden = self.conv(3, 'offset_hidden', compressed_filters, activation='relu')
      self._offset = self.conv(
          3, 'offset', 2, kernel_initializer=convolutions.copy_initializer(small))
    if use_weight:
      self._weight_hidden = self.conv(3, 'weight_hidden', compressed_filters, activation='relu')
      self._weight = self.conv(
          3, 'weight', 1, kernel_initializer=convolutions.copy_initializer(small))
    self._output = self.conv(3, 'output', filters)

  def _resampling_layer(self) -> tf_keras.layers.Layer:
    if self._direction == 'up':
      return self.resampling_conv(self._compressed_filters, 'resample')
    return self.conv(3, 'resample', self._compressed_filters, cls=tf_keras.layers.Conv2DTranspose,
                     strides=2, padding='valid')

  def _resampled(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns the compressed source, resampled to the target's size."""
    outputs = self._resample(self._compress_source(source))
    if self._direction == 'down':
      # Pixel i of the source lies on pixel 2 i + 1 of the convolution's result, and on pixel 2 i
      # after the crop.
      size, wanted = tf.shape(source)[1:3], tf.shape(target)[1:3]
      end = 1 + tf.where((wanted + 1) // 2 == size, wanted, 2 * size)
      outputs = outputs[:, 1:end[0], 1:end[1]]
      outputs.set_shape(outputs.shape[:1] + _cropped(source, target) + outputs.shape[3:])
    return sampling.resize_bilinear(outputs, target)

  def _context_map(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns the map from which offset and weight are computed (eq. 1)."""
    if self._context == 'target':
      return self._compress_target(target)
    resampled = self._resampled(source, target)
    if self._context == 'source':
      return resampled
    compressed = self._compress_target(target)
    if self._context == 'add':
      return resampled + compressed
    return tf.concat([resampled, compressed], axis=-1)

  def _positions(self, context: tf.Tensor, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns where the source is sampled, rows and columns in its pixels (eq. 2)."""
    grid = sampling.aligned_grid(source, target)
    offset = tf.cast(self._offset(self._offset_hidden(context)), grid.dtype)
    last = tf.cast(tf.shape(source)[1:3] - 1, grid.dtype)
    sides = tf.cast(tf.reduce_sum(tf.shape(target)[1:3]), grid.dtype)
    # The channels of the offset are x and y, those of the grid row and column.
    return grid + tf.reverse(offset, [-1]) * (last / sides)

  def positions(self, inputs: Pair) -> SamplingPositions:
    """Returns where the block samples; it must have offsets.

    Args:
      inputs: source and target, as of `call`.
    """
    source, target = inputs
    return SamplingPositions(
        sampling.aligned_grid(source, target),
        self._positions(self._context_map(source, target), source, target))

  def _base(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns the map to which the refined source is added."""
    del source
    return target

  def call(self, inputs: Pair) -> tf.Tensor:
    """Refines and merges.

    Args:
      inputs: source and target, `[batch, height, width, filters]`, each of its own size.

    Returns:
      `[batch, target_height, target_width, filters]`.
    """
    source, target = inputs
    context = self._context_map(source, target)
    resized = sampled = sampling.resize_bilinear(source, target)
    if self._use_offset:
      sampled = sampling.sample_bilinear(
          source, self._positions(context, source, target), self._padding)
    if self._use_weight:
      weight = self._weight(self._weight_hidden(context))
      sampled *= tf_keras.activations.get(self._activation)(weight)
    return self._output(sampled + resized + self._base(source, target))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'compressed_filters': self._compressed_filters,
            'use_offset': self._use_offset, 'use_weight': self._use_weight,
            'padding': self._padding}


def _cropped(source: tf.Tensor, target: tf.Tensor) -> tf.TensorShape:
  """Returns the static height and width of a transposed convolution after its crop."""
  sizes = zip(source.shape[1:3], target.shape[1:3])
  return tf.TensorShape([
      None if size is None or wanted is None else
      wanted if (wanted + 1) // 2 == size else 2 * size for size, wanted in sizes])


class _ChannelWeights(_Refinement):
  """Computes one weight per channel from averages over all positions (eq. 5)."""

  def __init__(self, filters: int, direction: str, context: str, activation: str, **kwargs):
    super().__init__(filters, direction, context, activation, **kwargs)
    if context in ('add', 'cat'):
      self._context_conv = self.resampling_conv(filters, 'context')
    if context == 'cat':
      self._merge = self.conv(1, 'merge', filters)
    self._dense = self.conv(1, 'channels', filters)

  def call(self, inputs: Pair) -> tf.Tensor:
    """Returns one weight per image and channel, `[batch, 1, 1, filters]`."""
    source, target = inputs
    features = {'source': source, 'target': target}.get(self._context)
    if features is None:
      features = sampling.resize_bilinear(self._context_conv(source), target)
      if self._context == 'add':
        features += target
      else:
        features = self._merge(tf.concat([features, target], axis=-1))
    exact = tf.float64 if features.dtype == tf.float64 else tf.float32
    mean = tf.reduce_mean(tf.cast(features, exact), axis=[1, 2], keepdims=True)
    weights = self._dense(tf.cast(mean, features.dtype))
    return tf_keras.activations.get(self._activation)(weights)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ChannelRefinementBlock(_Refinement):
  """CRB: multiplies the channels of the target by weights, by default from the source.

      alpha = activation(conv_4(mean of source over its positions))                (eq. 5)
      merged = conv_5(target) * alpha + resampled(source), output = conv_6(merged) (eq. 6)

  Reference: see the module.

  Differs: conv_5 and conv_6 are both 3x3, because the published cost needs it (text and eq. 6
  contradict each other); a sigmoid of alpha, which eq. 5 does not print.
  """

  def __init__(self, filters: int, direction: str = 'up', context: str = 'source',
               activation: str = 'sigmoid', **kwargs):
    """Initializes the block.

    Args:
      filters: channels of source, target and result.
      direction: `up`, the source is finer than the target, or `down`, it is coarser.
      context: the map from which the weights are computed: `source`, `target`, their sum
        (`add`) or both concatenated (`cat`); for the last two a convolution resamples the source
        to the target's size.
      activation: activation of the weights, `sigmoid` or `linear`.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ArgumentError: an unknown option.
    """
    super().__init__(filters, direction, context, activation, **kwargs)
    self._channel_weights = _ChannelWeights(**_shared_options(self), name='weights')
    self._target_conv = self.conv(3, 'target', filters)
    self._source_conv = self.resampling_conv(filters, 'source')
    self._output = self.conv(3, 'output', filters)

  def call(self, inputs: Pair) -> Pair:
    """Refines and merges.

    Args:
      inputs: source and target, `[batch, height, width, filters]`, each of its own size.

    Returns:
      The result, and the merged map before the last convolution, which is the source of the
      next block; both `[batch, target_height, target_width, filters]`.
    """
    source, target = inputs
    resampled = sampling.resize_bilinear(self._source_conv(source), target)
    merged = self._target_conv(target) * self._channel_weights((source, target)) + resampled
    return self._output(merged), merged


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SpatialChannelRefinementBlock(SpatialRefinementBlock):
  """SRB and CRB in one: both refinements on one path (Table 3, TD[SRB+CRB]).

      output = conv_3(activation(weight) * sampled + resized(source) + conv_5(target) * alpha)

  Reference: see the module.

  Differs: the paper names this row and prints no formula; this formula joins eqs. 4 and 6.
  """

  def __init__(self, filters: int, compressed_filters: int, channel_context: str = 'source',
               **kwargs):
    """Initializes the block.

    Args:
      filters: channels of source, target and result.
      compressed_filters: channels of the maps from which offset and weight are computed.
      channel_context: the map from which the channel weights are computed, as in
        `ChannelRefinementBlock`.
      **kwargs: arguments of `SpatialRefinementBlock`.

    Raises:
      ArgumentError: an unknown option.
    """
    super().__init__(filters, compressed_filters, **kwargs)
    self._channel_weights = _ChannelWeights(
        **{**_shared_options(self), 'context': channel_context}, name='weights')
    self._target_conv = self.conv(3, 'target', filters)
    self._channel_context = channel_context

  def _base(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    return self._target_conv(target) * self._channel_weights((source, target))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'channel_context': self._channel_context}


def _shared_options(block: _Refinement) -> dict[str, Any]:
  """Returns the arguments that a block passes on to a layer inside it."""
  config = _Refinement.get_config(block)
  del config['name'], config['trainable']
  return {**config, 'dtype': block.dtype_policy}
