"""Resizing of feature maps to a target size."""
from typing import Union

import tensorflow as tf

# Of the operations that interpolate; `multiply_adds` does not count them.
RESIZE_SCOPE = 'resize_bilinear'


def _nearest_indices(size_in: Union[int, tf.Tensor], size_out: Union[int, tf.Tensor]) -> tf.Tensor:
  return tf.range(size_out) * size_in // size_out


def resize_nearest(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Resizes to the height and width of another map: source index floor(i * in / out).

  Differs: `tf.image.resize` in TensorFlow 2 shifts by half a pixel on odd sizes, and has
  no gradient under XLA on CPU.

  Args:
    features: `[batch, height, width, channels]`.
    target: `[batch, target_height, target_width, any]`; only its size is used.

  Returns:
    `[batch, target_height, target_width, channels]`.
  """
  static_in, static_out = features.shape[1:3], target.shape[1:3]
  if (static_in.is_fully_defined() and static_out.is_fully_defined()
      and all(a == -(-b // 2) for a, b in zip(static_in, static_out))):
    # Two levels of a stride-2 pyramid, odd sizes included: repeat each pixel and crop.
    height, width = static_in
    channels = features.shape[3]
    doubled = tf.tile(tf.reshape(features, [-1, height, 1, width, 1, channels]), [1, 1, 2, 1, 2, 1])
    doubled = tf.reshape(doubled, [-1, 2 * height, 2 * width, channels])
    return doubled[:, :static_out[0], :static_out[1]]
  size_in, size_out = tf.shape(features)[1:3], tf.shape(target)[1:3]
  rows = tf.gather(features, _nearest_indices(size_in[0], size_out[0]), axis=1)
  return tf.gather(rows, _nearest_indices(size_in[1], size_out[1]), axis=2)


def _linear_weights(size_in: tf.Tensor, size_out: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  """Returns the matrix `[size_out, size_in]` that interpolates along one axis."""
  span = tf.maximum(size_out - 1, 1)
  # In whole numbers the corners are met exactly.
  distance = tf.abs(tf.range(size_out)[:, None] * (size_in - 1) - tf.range(size_in) * span)
  float_type = tf.float64 if dtype == tf.float64 else tf.float32
  weights = tf.cast(tf.maximum(span - distance, 0), float_type) / tf.cast(span, float_type)
  return tf.cast(weights, dtype)


def resize_bilinear(features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Resizes to the size of another map, corner pixels on corner pixels ("align corners").

  The value at `i` of `out` pixels is interpolated at `i * (in - 1) / (out - 1)`.  Two
  matrix products: differentiable, fast under XLA on CPU (where `tf.image.resize` is
  slow), and in the dtype of the features.

  Args:
    features: `[batch, height, width, channels]`.
    target: `[batch, target_height, target_width, any]`; only its size is used.

  Returns:
    `[batch, target_height, target_width, channels]`; `features` if the sizes are known
    to be equal.
  """
  static_in, static_out = features.shape[1:3], target.shape[1:3]
  if static_in.is_fully_defined() and static_in == static_out:
    return features
  with tf.name_scope(RESIZE_SCOPE):
    shape, size_out = tf.shape(features), tf.shape(target)[1:3]
    channels = features.shape[3]
    columns = tf.matmul(_linear_weights(shape[2], size_out[1], features.dtype), features)
    rows = tf.reshape(columns, [shape[0], shape[1], size_out[1] * channels])
    rows = tf.matmul(_linear_weights(shape[1], size_out[0], features.dtype), rows)
    return tf.ensure_shape(tf.reshape(rows, [shape[0], *tf.unstack(size_out), channels]),
                           [features.shape[0], *static_out, channels])
