"""Tensors whose gradients differ from their values."""
import tensorflow as tf


def scaled(value: tf.Tensor, factor: float) -> tf.Tensor:
  """Returns a value whose gradient is multiplied by a factor.

  Of a variable that is the learning rate of plain or momentum SGD times the factor; optimizers that
  divide by the size of gradients, such as Adam, undo it.  Weight decay is not scaled.

  Args:
    value: any tensor of floating point.
    factor: of the gradient; 1 returns the tensor itself.

  Returns:
    The same values, bit by bit.
  """
  if factor == 1:
    return value
  constant = tf.stop_gradient(value)
  return constant + factor * (value - constant)
