"""Group normalization as two sums and one scale and shift, over maps or their active positions.

Reference: Yuxin Wu, Kaiming He, Group Normalization, https://arxiv.org/abs/1803.08494.

The sums are taken per channel, because those run along memory, and the few results are then
combined into groups.  The second sum is of squared distances from the mean, which is the first
sum: E[x^2] - E[x]^2 needs as many operations, but in float32 it loses a digit of the variance
for every factor of three between mean and deviation.
"""
from collections.abc import Callable

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import shapes


def num_groups_of(channels: int) -> int:
  """Returns the largest divisor of `channels` up to 32, the usual number of groups."""
  return max(groups for groups in range(1, 33) if channels % groups == 0)


def group_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, num_groups: int,
               epsilon: float = 1e-5, mask: tf.Tensor | None = None) -> tf.Tensor:
  """Normalizes every group of channels of every image.

  Statistics are float32 (float64 for float64 input), per image and group, over all positions or
  over those of the mask; an image without active positions becomes 0.  Values outside the mask
  are not used and may be NaN.

  Args:
    x: `[batch, height, width, channels]`.
    gamma: `[channels]`, the scale.
    beta: `[channels]`, the offset.
    num_groups: a divisor of the number of channels.
    epsilon: small positive number that is added to the variance.
    mask: boolean `[batch, height, width, 1]`, True at active positions; None: all are active.

  Returns:
    The shape and dtype of `x`; 0 outside the mask.

  Raises:
    ArgumentError: `num_groups` does not divide the number of channels, or `x` is no maps.
  """
  checks.check_maps('x', x.shape)

  def keep(value):
    # `tf.where` and not a product, because 0 * NaN is NaN.
    return value if mask is None else tf.where(mask, value, tf.zeros([], value.dtype))

  positions = shapes.num_positions(x) if mask is None else tf.math.count_nonzero(
      mask, axis=[1, 2], dtype=tf.int32)
  return keep(_normalize(
      keep(x), positions, lambda value: _sum_positions(keep(value)),
      lambda value: value[:, None, None], gamma, beta, num_groups, epsilon))


def scale_and_shift(x: tf.Tensor, bias: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor,
                    num_groups: int, epsilon: float = 1e-5) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the numbers that `group_norm` of x + bias multiplies x by and adds to it.

  A caller that resizes the result, or multiplies it by a number, can resize first and scale the
  smaller map, or multiply these few numbers instead.

  Args:
    x: `[batch, height, width, channels]`.
    bias: `[channels]`, added to `x` before the norm.
    gamma: `[channels]`, the scale.
    beta: `[channels]`, the offset.
    num_groups: a divisor of the number of channels.
    epsilon: small positive number that is added to the variance.

  Returns:
    Scale and shift, both `[batch, 1, 1, channels]`, float32 (float64 for float64 input).

  Raises:
    ArgumentError: `num_groups` does not divide the number of channels, or `x` is no maps.
  """
  checks.check_maps('x', x.shape)
  _check_groups(x, num_groups)
  value = tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)
  bias = tf.cast(bias, value.dtype)
  count = tf.cast(shapes.num_positions(x), value.dtype)
  mean = _sum_positions(value) / count
  # As in `_normalize`, the gradient needs no way through this mean.
  distance = tf.math.squared_difference(value, tf.stop_gradient(mean)[:, None, None])
  scale, shift = _scale_and_shift(
      mean + bias, _sum_positions(distance) / count, gamma, beta, num_groups, epsilon)
  return scale[:, None, None], (shift + scale * bias)[:, None, None]


def group_norm_at(x: tf.Tensor, index: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor,
                  num_groups: int, epsilon: float = 1e-5) -> tf.Tensor:
  """`group_norm` of a map by the statistics of listed positions, for lists of most positions.

  It is faster than a mask, because sums over a list need no second map with zeros.

  Args:
    x: `[batch, height, width, channels]`.
    index: int32 `[positions, 3]`, image, row and column of every listed position, in ascending
      order of images.
    gamma: `[channels]`, the scale.
    beta: `[channels]`, the offset.
    num_groups: a divisor of the number of channels.
    epsilon: small positive number that is added to the variance.

  Returns:
    The shape and dtype of `x`; positions that are not listed are normalized too.

  Raises:
    ArgumentError: `num_groups` does not divide the number of channels, or `x` is no maps.
  """
  checks.check_maps('x', x.shape)
  batch, height, width = shapes.sizes(x, 0, 1, 2)
  images, places = index[:, 0], (index[:, 0] * height + index[:, 1]) * width + index[:, 2]

  def total(value):
    return tf.sparse.segment_sum(
        tf.reshape(value, [-1, x.shape[-1]]), places, images, num_segments=batch)

  # OpenVINO has no sorted sum of an empty list, which a map whose gates are all shut has.
  positions = tf.math.unsorted_segment_sum(tf.ones_like(images)[:, None], images, batch)
  return _normalize(x, positions, total, lambda value: value[:, None, None], gamma, beta,
                    num_groups, epsilon)


def group_norm_rows(rows: tf.Tensor, images: tf.Tensor, batch: tf.Tensor, gamma: tf.Tensor,
                    beta: tf.Tensor, num_groups: int, epsilon: float = 1e-5) -> tf.Tensor:
  """`group_norm` of a list of positions instead of a map and a mask.

  Args:
    rows: `[positions, channels]`, the positions of each image next to each other.
    images: int32 `[positions]`, the image of every position, in ascending order.
    batch: int32 scalar, the number of images; some may have no position.
    gamma: `[channels]`, the scale.
    beta: `[channels]`, the offset.
    num_groups: a divisor of the number of channels.
    epsilon: small positive number that is added to the variance.

  Returns:
    The shape and dtype of `rows`.

  Raises:
    ArgumentError: `num_groups` does not divide the number of channels.
  """

  def total(value):
    return _segment_sum(value, images, batch)

  # A single image has one row of statistics for all positions.
  places = images[:tf.where(batch > 1, tf.shape(images)[0], 1)]
  positions = total(tf.ones_like(images)[:, None])
  return _normalize(rows, positions, total, lambda value: tf.gather(value, places), gamma, beta,
                    num_groups, epsilon)


def _segment_sum(value: tf.Tensor, images: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
  """Sums rows `[positions, channels]` of each image: `[batch, channels]`."""
  # `segment_sum` ends at the last image that has a position; the others get a sum of 0.
  sums = tf.math.segment_sum(value, images)
  return tf.pad(sums, [[0, batch - tf.shape(sums)[0]], [0, 0]])


def _sum_positions(value: tf.Tensor) -> tf.Tensor:
  """Sums `[batch, height, width, channels]` over positions: `[batch, channels]`."""
  # TensorFlow's CPU kernel takes several times as long for both axes at once.
  return tf.reduce_sum(tf.reduce_sum(value, axis=1), axis=1)


def _check_groups(x: tf.Tensor, num_groups: int) -> None:
  if num_groups < 1 or x.shape[-1] % num_groups:
    raise checks.ArgumentError(
        'num_groups', f'num_groups is {num_groups}; it must divide the {x.shape[-1]} channels, as '
        f'{num_groups_of(x.shape[-1])} does.')


def _normalize(x: tf.Tensor, positions: tf.Tensor, total: Callable[[tf.Tensor], tf.Tensor],
               spread: Callable[[tf.Tensor], tf.Tensor], gamma: tf.Tensor, beta: tf.Tensor,
               num_groups: int, epsilon: float) -> tf.Tensor:
  """Normalizes values of any layout, whose sums per image `total` computes.

  Args:
    x: values, `[..., channels]`.
    positions: int32 `[batch, 1]`, or a scalar: number of positions of each image in its sum.
    total: function that sums values in the shape of `x` per image, to `[batch, channels]`.
    spread: function that brings `[batch, channels]` to a shape that broadcasts to that of `x`.
    gamma: `[channels]`, the scale.
    beta: `[channels]`, the offset.
    num_groups: a divisor of the number of channels.
    epsilon: small positive number that is added to the variance.

  Returns:
    The shape and dtype of `x`.

  Raises:
    ArgumentError: `num_groups` does not divide the number of channels.
  """
  _check_groups(x, num_groups)
  value = tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)
  count = tf.cast(tf.maximum(positions, 1), value.dtype)
  mean = total(value) / count
  # The derivative of the sum of squares with respect to the mean is 0, so no gradient is lost.
  distance = tf.math.squared_difference(value, spread(tf.stop_gradient(mean)))
  scale, shift = _scale_and_shift(mean, total(distance) / count, gamma, beta, num_groups, epsilon)
  return tf.cast(value * spread(scale) + spread(shift), x.dtype)


def _scale_and_shift(mean: tf.Tensor, variance: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor,
                     num_groups: int, epsilon: float) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the scale and shift that normalize, from the statistics of each channel.

  Args:
    mean: `[batch, channels]`, of each channel.
    variance: `[batch, channels]`, around the mean of each channel.
    gamma: `[channels]`, the learned scale.
    beta: `[channels]`, the learned offset.
    num_groups: a divisor of the number of channels.
    epsilon: small positive number that is added to the variance.

  Returns:
    Scale and shift, both `[batch, channels]`.
  """
  channels = mean.shape[-1]
  mean, variance = (
      tf.reshape(value, [-1, num_groups, channels // num_groups]) for value in (mean, variance))
  gamma, beta = (
      tf.reshape(tf.cast(value, mean.dtype), mean.shape[1:]) for value in (gamma, beta))
  center = tf.reduce_mean(mean, axis=-1, keepdims=True)
  # All channels have the same number of positions, so plain means over channels are exact.
  spread = tf.reduce_mean(
      variance + tf.math.squared_difference(mean, center), axis=-1, keepdims=True)
  scale = tf.math.rsqrt(spread + epsilon) * gamma
  shift = beta - center * scale
  return tf.reshape(scale, [-1, channels]), tf.reshape(shift, [-1, channels])
