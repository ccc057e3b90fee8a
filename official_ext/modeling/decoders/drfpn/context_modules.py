"""Layers that add to every position of a map information from a large surrounding.

Each maps `[batch, height, width, channels]` to a map of the same height and width.
"""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import sampling
from official_ext.ops import shapes


def _bin_weights(size: tf.Tensor, bins: int, dtype: tf.DType) -> tf.Tensor:
  """Returns the matrix `[bins, size]` of `adaptive_average_pool` along one axis."""
  index = tf.range(bins)
  start = index * size // bins
  end = shapes.divide_up((index + 1) * size, bins)
  pixel = tf.range(size)
  inside = (pixel >= start[:, None]) & (pixel < end[:, None])
  exact = tf.float64 if dtype == tf.float64 else tf.float32
  share = tf.cast(inside, exact) / tf.cast(end - start, exact)[:, None]
  return tf.cast(share, dtype)


def adaptive_average_pool(features: tf.Tensor, bins: int) -> tf.Tensor:
  """Averages a map of any size over a grid of bins.

  Bin i of n spans pixels floor(i * size / n) up to ceil((i + 1) * size / n).  So bins overlap if
  n does not divide the size, and a map smaller than the grid repeats pixels.

  Args:
    features: `[batch, height, width, channels]`.
    bins: number of rows and of columns of the grid.

  Returns:
    `[batch, bins, bins, channels]`.
  """
  size, channels = tf.shape(features), features.shape[3]
  columns = tf.matmul(_bin_weights(size[2], bins, features.dtype), features)
  rows = tf.matmul(_bin_weights(size[1], bins, features.dtype),
                   tf.reshape(columns, [size[0], size[1], bins * channels]))
  pooled = tf.reshape(rows, [size[0], bins, bins, channels])
  pooled.set_shape([features.shape[0], bins, bins, channels])
  return pooled


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PyramidPooling(convolutions.ConvBlock):
  """Concatenates a map and its averages over grids of several sizes.

  Reference: Hengshuang Zhao et al., Pyramid Scene Parsing Network,
  https://arxiv.org/abs/1612.01105, as DRFPN (https://arxiv.org/abs/2012.01733) uses it.

  Differs: no batch norm after the 1x1 convolutions, as in DRFPN.
  """

  def __init__(self, filters: int, bins: Sequence[int] = (1, 2, 3, 6), **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the 1x1 convolution of each grid.
      bins: number of rows and of columns of each grid.
      **kwargs: arguments of `ConvBlock`.
    """
    super().__init__(**kwargs)
    self._filters, self._bins = filters, list(bins)
    self._convs = [
        self.conv(1, f'bins_{bins}', filters, activation='relu') for bins in self._bins]

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, height, width, channels + len(bins) * filters]`."""
    pooled = [conv(adaptive_average_pool(features, bins))
              for bins, conv in zip(self._bins, self._convs)]
    return tf.concat(
        [features, *(sampling.resize_bilinear(x, features) for x in pooled)], axis=-1)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters, 'bins': list(self._bins)}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class NonLocal(convolutions.ConvBlock):
  """Adds to every position a mean over all positions, weighted by similarity.

  The weights are the embedded Gaussian: softmax over positions of theta^T phi, in float32.  The
  layer starts near the identity, because the last kernel is drawn from N(0, 0.001).

  Reference: Xiaolong Wang, Ross Girshick, Abhinav Gupta, Kaiming He, Non-local Neural
  Networks, https://arxiv.org/abs/1711.07971, eqs. 1, 4, 6.
  """

  def __init__(self, filters: int, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of theta, phi and the values.
      **kwargs: arguments of `ConvBlock`.
    """
    super().__init__(**kwargs)
    self._filters = filters
    self._theta, self._phi, self._value = (
        self.conv(1, name, filters) for name in ('theta', 'phi', 'value'))

  def build(self, input_shape: tf.TensorShape) -> None:
    self._output = self.conv(
        1, 'output', input_shape[-1],
        kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.001))
    super().build(input_shape)

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Returns a map of the same shape."""
    size = tf.shape(features)
    exact = tf.float64 if features.dtype == tf.float64 else tf.float32

    def positions(embedding):
      return tf.reshape(embedding(features), [size[0], size[1] * size[2], self._filters])

    similarity = tf.matmul(tf.cast(positions(self._theta), exact),
                           tf.cast(positions(self._phi), exact), transpose_b=True)
    weights = tf.cast(tf.nn.softmax(similarity), features.dtype)
    mean = tf.matmul(weights, positions(self._value))
    return features + self._output(
        tf.reshape(mean, [size[0], size[1], size[2], self._filters]))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DenseASPP(convolutions.ConvBlock):
  """Dilated convolutions of growing rates; each gets the results of all before it.

  Each branch is a 1x1 convolution to `bottleneck` channels, ReLU, dilated 3x3 to `filters`, ReLU.

  Reference: Maoke Yang et al., DenseASPP for Semantic Segmentation in Street Scenes, CVPR
  2018, as DRFPN (https://arxiv.org/abs/2012.01733) uses it.

  Differs: no batch norm and no dropout, as in DRFPN.
  """

  def __init__(self, filters: int, bottleneck: int, rates: Sequence[int] = (3, 6, 12, 18, 24),
               **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result of each branch.
      bottleneck: channels of the 1x1 convolutions.
      rates: dilation rates of the branches.
      **kwargs: arguments of `ConvBlock`.
    """
    super().__init__(**kwargs)
    self._filters, self._bottleneck, self._rates = filters, bottleneck, list(rates)
    self._reduce = [
        self.conv(1, f'reduce_{rate}', bottleneck, activation='relu') for rate in self._rates]
    self._dilated = [
        self.conv(3, f'dilated_{rate}', filters, activation='relu', dilation_rate=rate)
        for rate in self._rates]

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Returns the results of all branches, `[batch, height, width, len(rates) * filters]`."""
    results: list[tf.Tensor] = []
    for reduce, dilated in zip(self._reduce, self._dilated):
      results.append(dilated(reduce(tf.concat([features, *results], axis=-1))))
    return tf.concat(results, axis=-1)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'filters': self._filters, 'bottleneck': self._bottleneck,
            'rates': list(self._rates)}
