"""Convolutions of large maps in two halves, which TensorFlow computes faster than the whole ones.

For a single image TensorFlow 2.20 keeps the kernel in a layout for which oneDNN has only slow code.
Two halves take half of the time; a 5x5 kernel on a map of 200 x 304 x 256 takes seconds instead of
many minutes.
"""
from collections.abc import Sequence
import math

import tensorflow as tf

from official_ext.ops import shapes

# The scope of all operations of `convolve`, and the name of the last one in it.
SCOPE, RESULT = 'convolved_in_halves', 'halves_together'
# Size in bytes of all patches of a map, above which it is worth it.
_MANY_BYTES = 2**28


def is_worth_it(shape: Sequence[int | None], kernel_size: Sequence[int], item_bytes: int) -> bool:
  """Returns whether the batch of a convolution of stride 1 may be one image with a large map.

  Args:
    shape: batch, height, width and channels of the map; None where they are not known.
    kernel_size: height and width; `convolve` takes odd ones.
    item_bytes: size of a number of the map.
  """
  batch, *sizes = shape
  known: list[int] = [size for size in sizes if size is not None]
  return (batch in (None, 1) and len(known) == 3 and all(size % 2 for size in kernel_size)
          and math.prod(kernel_size) > 1
          and math.prod(known) * math.prod(kernel_size) * item_bytes > _MANY_BYTES)


def convolve(inputs: tf.Tensor, kernel: tf.Tensor, dilations: Sequence[int]) -> tf.Tensor:
  """Convolves the upper and the lower halves of images as one batch, with `same` padding.

  Args:
    inputs: `[batch, height, width, channels]`.
    kernel: `[odd height, width, channels, filters]`.
    dilations: dilation rates of height and width.

  Returns:
    `[batch, height, width, filters]`.
  """
  with tf.name_scope(SCOPE):
    batch, height = tf.shape(inputs)[0], inputs.shape[1]
    half = shapes.divide_up(height, 2)
    rows, columns = (rate * (size - 1) // 2 for rate, size in zip(dilations, kernel.shape))
    padded = tf.pad(inputs, [[0, 0], [rows, rows + 2 * half - height], [0, 0], [0, 0]])
    halves = tf.concat([padded[:, :half + 2 * rows], padded[:, half:]], axis=0)
    outputs = tf.nn.conv2d(halves, kernel, 1, [[0, 0], [0, 0], [columns, columns], [0, 0]],
                           dilations=dilations)
    return tf.identity(tf.concat([outputs[:batch], outputs[batch:]], axis=1)[:, :height], RESULT)
