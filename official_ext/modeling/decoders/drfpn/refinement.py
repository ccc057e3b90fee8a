"""Blocks that merge two neighboring levels of a pyramid: where to look, and what to keep.

Both are called with `(source, target)`: the level that information comes from, and the
level that receives it, whose size the result has.  On the way down a pyramid
(`direction: down`) the source is the coarser one, on the way up the finer one.

Reference: Jialiang Ma, Bin Chen, Dual Refinement Feature Pyramid Networks for Object
Detection, https://arxiv.org/abs/2012.01733.
"""
from typing import Any, Dict, Tuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import sampling

Pair = Tuple[tf.Tensor, tf.Tensor]

CONTEXTS = ('source', 'target', 'add', 'cat')
ACTIVATIONS = ('sigmoid', 'linear')


def _check(option: str, value: Any, allowed: Tuple[str, ...]) -> None:
  if value not in allowed:
    raise ValueError(f'{option} is {value!r}; allowed are {", ".join(map(repr, allowed))}: change '
                     f'decoder.drfpn.{option}.')


class _Refinement(convolutions.ConvBlock):
  """What the blocks share: filters, direction and gate."""

  def __init__(self, filters: int, direction: str, context: str, activation: str, **kwargs):
    super().__init__(**kwargs)
    _check('direction', direction, ('down', 'up'))
    _check('context', context, CONTEXTS)
    _check('activation', activation, ACTIVATIONS)
    self._filters, self._direction = filters, direction
    self._context, self._activation = context, activation

  def resampling_conv(self, filters: int, name: str) -> convolutions.Conv2D:
    """Returns a 3x3 convolution on the source, of stride 2 on the way up."""
    if self._direction == 'down':
      return self.conv(filters, 3, name)
    return self.conv(filters, 3, name, strides=2, symmetric_padding=True)

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters, 'direction': self._direction,
            'context': self._context, 'activation': self._activation}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SpatialRefinementBlock(_Refinement):
  """SRB: samples the source where learned offsets point, and weighs what was found.

      offset, weight = convolutions of both levels, compressed
      sampled = source at (own position + offset)
      output = conv_3(activation(weight) * sampled + resized(source) + target)      (eq. 4)

  Offsets are in shares of the normalized grid [-1, 1]: 1 is 2 / (height + width) of the
  target, about half a pixel of it.  Both branches start near 0, and the block as plain
  bilinear resizing.

  Reference: see the module.

  Differs: a hidden 3x3 convolution in both branches, without which the published cost is not
  met (its text says two, eq. 1 one); a sigmoid on the weight, which eq. 1 does not print.
  """

  def __init__(self, filters: int, compressed_filters: int, direction: str = 'down',
               context: str = 'cat', use_offset: bool = True, use_weight: bool = True,
               activation: str = 'sigmoid', padding: str = 'zeros', **kwargs):
    """Initializes the block.

    Args:
      filters: channels of source, target and result.
      compressed_filters: channels that offset and weight are computed with.
      direction: `down` the pyramid, the source is coarser, or `up`.
      context: what offset and weight are computed from: `source`, `target`, their sum
        (`add`) or both (`cat`).
      use_offset: sample at offsets; otherwise the resized source takes the sample's place.
      use_weight: weigh the sample; otherwise its weight is 1.
      activation: of the weight, `sigmoid` or `linear`.
      padding: of samples outside the source, as in `sampling.sample_bilinear`.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ValueError: an unknown option, or neither offset nor weight.
    """
    super().__init__(filters, direction, context, activation, **kwargs)
    _check('padding', padding, sampling.PADDINGS)
    if not (use_offset or use_weight):
      raise ValueError('use_offset and use_weight are both false, which leaves nothing to refine: '
                       'change decoder.drfpn.use_offset or use_weight.')
    self._compressed_filters, self._padding = compressed_filters, padding
    self._use_offset, self._use_weight = use_offset, use_weight
    if context != 'target':
      self._compress_source = self.conv(compressed_filters, 1, 'compress_source')
      self._resample = self._resampling_layer()
    if context != 'source':
      self._compress_target = self.conv(compressed_filters, 1, 'compress_target')
    small = tf_keras.initializers.RandomNormal(stddev=0.001)
    if use_offset:
      self._offset_hidden = self.conv(compressed_filters, 3, 'offset_hidden', activation='relu')
      self._offset = self.conv(
          2, 3, 'offset', kernel_initializer=convolutions.copy_initializer(small))
    if use_weight:
      self._weight_hidden = self.conv(compressed_filters, 3, 'weight_hidden', activation='relu')
      self._weight = self.conv(
          1, 3, 'weight', kernel_initializer=convolutions.copy_initializer(small))
    self._output = self.conv(filters, 3, 'output')

  def _resampling_layer(self) -> tf_keras.layers.Layer:
    if self._direction == 'up':
      return self.resampling_conv(self._compressed_filters, 'resample')
    return self.conv(self._compressed_filters, 3, 'resample', tf_keras.layers.Conv2DTranspose,
                     strides=2, padding='valid')

  def _resampled(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The compressed source, convolved to the target's size."""
    outputs = self._resample(self._compress_source(source))
    if self._direction == 'down':
      # Pixel i of the source lies on pixel 2 i of the result, 2 i + 1 before the crop.
      size, wanted = tf.shape(source)[1:3], tf.shape(target)[1:3]
      end = 1 + tf.where((wanted + 1) // 2 == size, wanted, 2 * size)
      outputs = outputs[:, 1:end[0], 1:end[1]]
      outputs.set_shape(outputs.shape[:1] + _cropped(source, target) + outputs.shape[3:])
    return sampling.resize_bilinear(outputs, target)

  def _context_map(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """What offset and weight are computed from (eq. 1)."""
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
    """Where the source is sampled, rows and columns in its pixels (eq. 2)."""
    grid = sampling.aligned_grid(source, target)
    offset = tf.cast(self._offset(self._offset_hidden(context)), grid.dtype)
    last = tf.cast(tf.shape(source)[1:3] - 1, grid.dtype)
    sides = tf.cast(tf.reduce_sum(tf.shape(target)[1:3]), grid.dtype)
    # The convolution's channels are x and y.
    return grid + tf.reverse(offset, [-1]) * (last / sides)

  def _base(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """What the refined source is added to."""
    del source
    return target

  def call(self, inputs: Pair) -> tf.Tensor:
    """Refines and merges.

    Args:
      inputs: source and target, `[batch, height, width, filters]` each with its own size.

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

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'compressed_filters': self._compressed_filters,
            'use_offset': self._use_offset, 'use_weight': self._use_weight,
            'padding': self._padding}


def _cropped(source: tf.Tensor, target: tf.Tensor) -> tf.TensorShape:
  """Returns what is known before it runs of the size of a transposed convolution's crop."""
  sizes = zip(source.shape[1:3], target.shape[1:3])
  return tf.TensorShape([
      None if size is None or wanted is None else
      wanted if (wanted + 1) // 2 == size else 2 * size for size, wanted in sizes])


class _ChannelWeights(_Refinement):
  """Weights per channel from averages over all positions (eq. 5)."""

  def __init__(self, filters: int, direction: str, context: str, activation: str, **kwargs):
    super().__init__(filters, direction, context, activation, **kwargs)
    if context in ('add', 'cat'):
      self._context_conv = self.resampling_conv(filters, 'context')
    if context == 'cat':
      self._merge = self.conv(filters, 1, 'merge')
    self._dense = self.conv(filters, 1, 'channels')

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
  """CRB: the source decides which channels of the target count.

      alpha = activation(conv_4(mean of source over its positions))                (eq. 5)
      merged = conv_5(target) * alpha + resampled(source), output = conv_6(merged) (eq. 6)

  Reference: see the module.

  Differs: conv_5 and conv_6 are both 3x3, which the published cost asks for (text and eq. 6
  contradict each other); a sigmoid on alpha, which eq. 5 does not print.
  """

  def __init__(self, filters: int, direction: str = 'up', context: str = 'source',
               activation: str = 'sigmoid', **kwargs):
    """Initializes the block.

    Args:
      filters: channels of source, target and result.
      direction: `up` the pyramid, the source is finer, or `down`.
      context: what the weights are computed from: `source`, `target`, their sum (`add`) or
        both (`cat`); the last two bring the source to the target's size by a convolution.
      activation: of the weights, `sigmoid` or `linear`.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ValueError: an unknown option.
    """
    super().__init__(filters, direction, context, activation, **kwargs)
    self._channel_weights = _ChannelWeights(**_shared_options(self), name='weights')
    self._target_conv = self.conv(filters, 3, 'target')
    self._source_conv = self.resampling_conv(filters, 'source')
    self._output = self.conv(filters, 3, 'output')

  def call(self, inputs: Pair) -> Pair:
    """Refines and merges.

    Args:
      inputs: source and target, `[batch, height, width, filters]` each with its own size.

    Returns:
      The result, and the merged map before its last convolution, which is the next block's
      source; both `[batch, target_height, target_width, filters]`.
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

  Differs: the paper names this row and prints no formula; this one joins eqs. 4 and 6.
  """

  def __init__(self, filters: int, compressed_filters: int, channel_context: str = 'source',
               **kwargs):
    """Initializes the block.

    Args:
      filters: channels of source, target and result.
      compressed_filters: channels that offset and weight are computed with.
      channel_context: what the channels' weights are computed from, as in
        `ChannelRefinementBlock`.
      **kwargs: arguments of `SpatialRefinementBlock`.

    Raises:
      ValueError: an unknown option.
    """
    super().__init__(filters, compressed_filters, **kwargs)
    self._channel_weights = _ChannelWeights(
        **{**_shared_options(self), 'context': channel_context}, name='weights')
    self._target_conv = self.conv(filters, 3, 'target')
    self._channel_context = channel_context

  def _base(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    return self._target_conv(target) * self._channel_weights((source, target))

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'channel_context': self._channel_context}


def _shared_options(block: _Refinement) -> Dict[str, Any]:
  """Returns the arguments of a block that a part of it takes over."""
  config = _Refinement.get_config(block)
  del config['name'], config['trainable']
  return {**config, 'dtype': block.dtype_policy}
