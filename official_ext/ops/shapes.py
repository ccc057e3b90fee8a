"""Sizes of tensors: numbers where the graph knows them, tensors where it does not.

Sizes that are computed at every call cost an executor several small operations for each layer, and
engines that do not know them choose slower kernels, or none.
"""
from typing import Any

import tensorflow as tf


def sizes(x: tf.Tensor, *axes: int) -> list[int | tf.Tensor]:
  """Returns the sizes of axes of a tensor.

  Args:
    x: a tensor of known rank.
    *axes: numbers of axes, not negative.

  Returns:
    For each axis an int, or an int32 scalar if the size is not known when the graph is built.
  """
  known = [x.shape[axis] for axis in axes]
  if None not in known:
    return known
  shape = tf.shape(x)
  return [shape[axis] if size is None else size for axis, size in zip(axes, known)]


def divide_up(size: Any, divisor: Any) -> Any:
  """Returns the quotient of whole numbers, or of tensors of them, rounded up.

  -(-size // divisor) is the same in TensorFlow, but not in ONNX Runtime, which rounds the quotients
  of negative numbers towards 0.

  Args:
    size: not negative.
    divisor: positive.
  """
  return (size + divisor - 1) // divisor


def num_positions(x: tf.Tensor) -> int | tf.Tensor:
  """Returns height times width of a map `[batch, height, width, ...]`, as `sizes` does."""
  height, width = sizes(x, 1, 2)
  return height * width
