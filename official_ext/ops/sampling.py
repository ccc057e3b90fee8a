"""Resizing of feature maps to a target size, and sampling of them at any positions."""
from typing import Any

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import shapes

PADDINGS = ('zeros', 'border')
# Name scope of the matrix products that interpolate; `multiply_adds` does not count them.
RESIZE_SCOPE = 'resize_bilinear'


def _nearest_indices(size_in: int | tf.Tensor, size_out: int | tf.Tensor) -> tf.Tensor:
  return tf.range(size_out) * size_in // size_out


def resize_nearest(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Resizes to the height and width of another map: source index floor(i * in / out).

  It replaces `tf.image.resize`, which in TensorFlow 2 shifts by half a pixel on odd sizes and
  has no gradient under XLA on a CPU.

  Args:
    features: `[batch, height, width, channels]`.
    target: `[batch, target_height, target_width, any]`; only its size is used.

  Returns:
    `[batch, target_height, target_width, channels]`.
  """
  static_in, static_out = features.shape[1:3], tf.TensorShape(target.shape[1:3])
  if (static_in.is_fully_defined() and static_out.is_fully_defined()
      and all(a == -(-b // 2) for a, b in zip(static_in, static_out))):
    # The maps are neighboring levels of a pyramid, odd sizes included: repeat pixels and crop.
    height, width = static_in
    channels = features.shape[3]
    doubled = tf.tile(tf.reshape(features, [-1, height, 1, width, 1, channels]), [1, 1, 2, 1, 2, 1])
    doubled = tf.reshape(doubled, [-1, 2 * height, 2 * width, channels])
    return doubled[:, :static_out[0], :static_out[1]]
  size_in, size_out = tf.shape(features)[1:3], tf.shape(target)[1:3]
  rows = tf.gather(features, _nearest_indices(size_in[0], size_out[0]), axis=1)
  resized = tf.gather(rows, _nearest_indices(size_in[1], size_out[1]), axis=2)
  return _with_static_shape(resized, features, target)


def _with_static_shape(resized: tf.Tensor, features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns a resized map with the sizes that are known, which slices of `tf.shape` lose."""
  resized.set_shape([features.shape[0], *target.shape[1:3], features.shape[3]])
  return resized


def _in_xla() -> bool:
  """Returns whether XLA will compile the graph that is being traced."""
  graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
  while graph is not None:
    context = graph._get_control_flow_context()
    while context is not None:
      if context.IsXLAContext():
        return True
      context = context.outer_context
    graph = getattr(graph, 'outer_graph', None)
  return False


def _has_kernel(features: tf.Tensor) -> bool:
  """Returns whether TensorFlow's image kernels can be used: they are float32 and not for XLA."""
  return features.dtype != tf.float64 and not _in_xla()


def _aligned(size_in: tf.Tensor, size_out: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  """Returns positions in the source from its first pixel to its last, evenly spaced."""
  last_in, last_out = (tf.cast(size - 1, dtype) for size in (size_in, size_out))
  # The product is a whole number, so the quotient is exact if it is the index of a pixel.
  return tf.range(size_out, dtype=dtype) * last_in / tf.maximum(last_out, 1)


def aligned_grid(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns where the pixels of one map lie in another, with corner pixels on corner pixels.

  Args:
    features: `[batch, height, width, channels]`; only its size and dtype are used.
    target: `[batch, target_height, target_width, any]`; only its size is used.

  Returns:
    `[target_height, target_width, 2]`, row and column in pixels of `features`; float64 if the
    features are float64, otherwise float32.
  """
  dtype = tf.float64 if features.dtype == tf.float64 else tf.float32
  size_in, size_out = (shapes.sizes(x, 1, 2) for x in (features, target))
  axes = [_aligned(size_in[axis], size_out[axis], dtype) for axis in (0, 1)]
  grid = tf.stack(tf.meshgrid(*axes, indexing='ij'), axis=-1)
  grid.set_shape([*target.shape[1:3], 2])
  return grid


def _half_pixel(size_in: tf.Tensor, size_out: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  """Returns source positions that align outer edges, clipped to the centers of pixels."""
  ratio = tf.cast(size_in, dtype) / tf.cast(size_out, dtype)
  positions = (tf.range(size_out, dtype=dtype) + 0.5) * ratio - 0.5
  return tf.clip_by_value(positions, 0, tf.cast(size_in - 1, dtype))


def _interpolation(size_in: tf.Tensor, size_out: tf.Tensor, dtype: tf.DType,
                   align_corners: bool) -> tf.Tensor:
  """Returns the matrix `[size_out, size_in]` of linear interpolation."""
  exact = tf.float64 if dtype == tf.float64 else tf.float32
  positions = (_aligned if align_corners else _half_pixel)(size_in, size_out, exact)
  distance = positions[:, None] - tf.range(size_in, dtype=exact)
  return tf.cast(tf.maximum(1 - tf.abs(distance), 0), dtype)


def resize_bilinear(features: tf.Tensor, target: tf.Tensor,
                    align_corners: bool = True) -> tf.Tensor:
  """Resizes to the height and width of another map.

  In plain graphs it is TensorFlow's kernel.  XLA and float64 get two matrix products, because
  `tf.image.resize` compiled for a CPU is many times slower.

  Args:
    features: `[batch, height, width, channels]`.
    target: `[batch, target_height, target_width, any]`; only its size is used.
    align_corners: align the centers of the corner pixels; if False, align the outer edges of
      the maps, as `tf.image.resize` does.

  Returns:
    `[batch, target_height, target_width, channels]`, of the features' dtype.
  """
  static_in, static_out = features.shape[1:3], tf.TensorShape(target.shape[1:3])
  if static_in.is_fully_defined() and static_in == static_out:
    return features
  size = tf.shape(features)
  size_out = (tf.constant(static_out.as_list())
              if static_out.is_fully_defined() else tf.shape(target)[1:3])
  if _has_kernel(features):
    resized = tf.raw_ops.ResizeBilinear(
        images=tf.cast(features, tf.float32), size=size_out, align_corners=align_corners,
        half_pixel_centers=not align_corners)
    return _with_static_shape(tf.cast(resized, features.dtype), features, target)
  channels = features.shape[3]
  with tf.name_scope(RESIZE_SCOPE):
    rows, columns = (_interpolation(size[axis + 1], size_out[axis], features.dtype, align_corners)
                     for axis in (0, 1))
    wide = tf.matmul(columns, features)
    resized = tf.matmul(
        rows, tf.reshape(wide, [size[0], size[1], size_out[1] * channels]))
  resized = tf.reshape(resized, [size[0], size_out[0], size_out[1], channels])
  return _with_static_shape(resized, features, target)


def sample_bilinear(features: tf.Tensor, positions: tf.Tensor, padding: str = 'zeros',
                    one_sided: bool = False) -> tf.Tensor:
  """Interpolates a map between the four pixels around each position.

  The result is differentiable in features and positions.  In plain graphs it is TensorFlow's
  kernel for image crops, each crop one pixel: several times faster than gathers, and more so in
  the gradient.  XLA and float64 get four gathers, which XLA fuses.  The choice is made while a
  graph is traced, so a function compiled by XLA must not call a `tf.function` traced outside.

  Args:
    features: `[batch, height, width, channels]`, of any floating dtype.
    positions: `[batch, target_height, target_width, 2]`, row and column in pixels, float32
      or float64; whole numbers are the centers of pixels.
    padding: value outside the map: `zeros`, to which values fade within a pixel of the border,
      or `border`, the value of the nearest pixel.
    one_sided: whether the gradient of a position exactly on a pixel is the slope towards the next
      pixel, down and to the right, as in PyTorch.  TensorFlow's kernel has 0 there, so that
      positions that start on pixels would never move; four gathers give the slope.

  Returns:
    `[batch, target_height, target_width, channels]`, of the features' dtype.

  Raises:
    ArgumentError: unknown padding, or positions of less than 32 bits.
  """
  checks.check_one_of('padding', padding, PADDINGS)
  if positions.dtype not in (tf.float32, tf.float64):
    raise checks.ArgumentError(
        'positions', f'positions has dtype {positions.dtype.name}; allowed are float32 and '
        'float64, because 16 bits cannot tell the pixels of a large map apart.')
  last = tf.cast(tf.shape(features)[1:3] - 1, positions.dtype)
  # More than one pixel outside of the map the result is constant, so clipping changes nothing
  # and keeps the integers small.
  margin = tf.constant(1 if padding == 'zeros' else 0, positions.dtype)
  # For NaN the kernel would read an arbitrary address.
  positions = tf.where(tf.math.is_nan(positions), -margin, positions)
  positions = tf.clip_by_value(positions, -margin, last + margin)
  sample = _sample_with_gathers
  if _has_kernel(features):
    sample = _sample_one_sided if one_sided else _sample_with_kernel
  shape = tf.shape(positions)
  sampled = tf.reshape(sample(features, positions),
                       [shape[0], shape[1], shape[2], features.shape[3]])
  sampled.set_shape([*positions.shape[:3], features.shape[3]])
  return sampled


def _sample_with_kernel(features: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
  """Takes crops of one pixel from the map, which gets a frame of zeros."""
  framed = tf.pad(tf.cast(features, tf.float32), [[0, 0], [1, 1], [1, 1], [0, 0]])
  last = tf.cast(tf.shape(framed)[1:3] - 1, tf.float32)
  shape = tf.shape(positions)
  corners = tf.reshape((tf.cast(positions, tf.float32) + 1) / last, [-1, 2])
  images = tf.repeat(tf.range(shape[0]), shape[1] * shape[2])
  sampled = tf.image.crop_and_resize(
      framed, tf.concat([corners, corners], axis=-1), images, crop_size=[1, 1])
  return tf.cast(sampled, features.dtype)


def _sample_one_sided(features: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
  """Samples as `_sample_with_kernel` does, with other gradients of the positions."""

  @tf.custom_gradient
  def with_slopes(sampled: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, Any]:
    return tf.identity(sampled), lambda upstream: (
        upstream, _slopes(features, positions, upstream))

  return with_slopes(_sample_with_kernel(features, tf.stop_gradient(positions)), positions)


def _slopes(features: tf.Tensor, positions: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
  """Returns the gradient of positions, of products of `upstream` with the pixels around them."""
  # A position in the last row reads one more row below the frame.
  framed = tf.pad(features, [[0, 0], [1, 2], [1, 2], [0, 0]])
  size, channels = tf.shape(framed), features.shape[3]
  table = tf.reshape(framed, [-1, channels])
  start = tf.floor(positions)
  down, right = tf.unstack(positions - start, axis=-1)
  row, column = tf.unstack(tf.cast(start, tf.int32) + 1, axis=-1)
  first = ((tf.range(size[0]) * size[1])[:, None, None] + row) * size[2] + column
  upstream = tf.reshape(upstream, [-1, channels, 1])

  def product(step: Any) -> tf.Tensor:
    pixels = tf.gather(table, tf.reshape(first + step, [-1, 1]))
    return tf.cast(tf.reshape(tf.matmul(pixels, upstream), tf.shape(first)), positions.dtype)

  here, there = product(0), product(1)
  below, across = product(size[2]), product(size[2] + 1)
  return tf.stack([(1 - right) * (below - here) + right * (across - there),
                   (1 - down) * (there - here) + down * (across - below)], axis=-1)


def _sample_with_gathers(features: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
  """Adds up the four pixels around each position, each times its weight."""
  size = tf.shape(features)
  table = tf.reshape(features, [-1, features.shape[3]])
  first_row = (tf.range(size[0]) * size[1])[:, None, None]
  start = tf.floor(positions)
  share = positions - tf.stop_gradient(start)
  corner = tf.cast(start, tf.int32)
  total = 0
  for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
    row, column = corner[..., 0] + down, corner[..., 1] + right
    inside = (row >= 0) & (row < size[1]) & (column >= 0) & (column < size[2])
    weight = (share[..., 0] if down else 1 - share[..., 0]) * (
        share[..., 1] if right else 1 - share[..., 1])
    weight = tf.cast(tf.where(inside, weight, 0), features.dtype)
    row, column = tf.clip_by_value(row, 0, size[1] - 1), tf.clip_by_value(column, 0, size[2] - 1)
    pixels = tf.gather(table, tf.reshape((first_row + row) * size[2] + column, [-1]))
    total += pixels * tf.reshape(weight, [-1, 1])
  return total
