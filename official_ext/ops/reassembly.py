"""Content-aware upsampling: every pixel of the result is a weighted sum with weights of its own.

Reference: Jiaqi Wang et al., CARAFE: Content-Aware ReAssembly of FEatures,
https://arxiv.org/abs/1905.02188, section 3.2.
"""
import tensorflow as tf

from official_ext.ops import checks


def reassemble(features: tf.Tensor, kernels: tf.Tensor, scale: int) -> tf.Tensor:
  """Upsamples a map by weighted sums of neighborhoods.

      out[s i + di, s j + dj] = sum over a, b < k of
          kernels[i, j, di s + dj, k a + b] * features[i + a - r, j + b - r],  r = (k - 1) / 2

  Pixels outside the map are 0.  One row of the neighborhood at a time is a batch of small matrix
  products, so that the memory is that of k maps, not of k^2.  The gradient computes the rows
  again instead of keeping them.  It is faster than TensorFlow's own, which fills a map with zeros
  for every slice.

  Args:
    features: `[batch, height, width, channels]`.
    kernels: `[batch, height, width, scale**2, k**2]` for an odd k, of the same dtype.
    scale: factor of height and width.

  Returns:
    `[batch, scale * height, scale * width, channels]`; sums over rows are float32 in half
    precision.

  Raises:
    ArgumentError: the kernels are not of an odd size, or not `scale**2` for each pixel.
  """
  phases, taps = kernels.shape[-2:]
  size = round(taps**0.5)
  if size**2 != taps or size % 2 == 0:
    raise checks.ArgumentError(
        'kernels', f'kernels has {taps} weights for a pixel; allowed are odd squares: 1, 9, 25...')
  if phases != scale**2:
    raise checks.ArgumentError(
        'kernels', f'kernels are for {phases} pixels of the result at each pixel of the features; '
        f'with scale {scale} there are {scale**2}.')

  @tf.custom_gradient
  def sums(features, kernels):
    return _sums(features, kernels, size), lambda upstream: _gradients(
        features, kernels, upstream, size)

  known = [features.shape[axis] for axis in (1, 2, 3)]
  height, width = (known[axis] or tf.shape(features)[axis + 1] for axis in (0, 1))
  pixels = tf.reshape(sums(features, kernels), [-1, width, scale, scale, known[2]])
  outputs = tf.reshape(tf.transpose(pixels, [0, 2, 1, 3, 4]),
                       [-1, scale * height, scale * width, known[2]])
  outputs.set_shape([features.shape[0], *(n and scale * n for n in known[:2]), known[2]])
  return outputs


def _rows(features: tf.Tensor, size: int) -> list[tf.Tensor]:
  """Returns, for each row of the neighborhoods, `[batch, height, width, size, channels]`."""
  reach = size // 2
  padded = tf.pad(features, [[0, 0], [reach, reach], [reach, reach], [0, 0]])
  # The ends are counted from the end of the map, whose size may be unknown.
  ends = [index - size + 1 or None for index in range(size)]
  rows = [padded[:, index:ends[index]] for index in range(size)]
  return [tf.stack([row[:, :, index:ends[index]] for index in range(size)], axis=3)
          for row in rows]


def _wide(tensor: tf.Tensor) -> tf.Tensor:
  """Returns a tensor in a dtype in which many terms can be added."""
  return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def _sums(features: tf.Tensor, kernels: tf.Tensor, size: int) -> tf.Tensor:
  """Returns `[batch, height, width, phases, channels]`."""
  products = [_wide(tf.matmul(weights, row))
              for weights, row in zip(tf.split(kernels, size, axis=-1), _rows(features, size))]
  return tf.cast(tf.add_n(products), features.dtype)


def _gradients(features: tf.Tensor, kernels: tf.Tensor, upstream: tf.Tensor,
               size: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the gradients of `_sums` with respect to features and kernels."""
  of_rows, of_kernels = [], []
  for index, row in enumerate(_rows(features, size)):
    weights = kernels[..., index * size:(index + 1) * size]
    of_kernels.append(tf.matmul(upstream, row, transpose_b=True))
    of_pixels = _wide(tf.matmul(weights, upstream, transpose_a=True))
    of_row = tf.add_n([
        tf.pad(each, [[0, 0], [0, 0], [column, size - 1 - column], [0, 0]])
        for column, each in enumerate(tf.unstack(of_pixels, size, axis=3))])
    of_rows.append(tf.pad(of_row, [[0, 0], [index, size - 1 - index], [0, 0], [0, 0]]))
  reach = size // 2
  end = -reach or None
  of_features = tf.add_n(of_rows)[:, reach:end, reach:end]
  return tf.cast(of_features, features.dtype), tf.concat(of_kernels, axis=-1)
