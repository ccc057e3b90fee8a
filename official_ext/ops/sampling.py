"""Resizing of feature maps to a target size."""
from typing import Union

import tensorflow as tf


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
