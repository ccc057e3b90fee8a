"""Linear systems of a few unknowns, one for each image, in operations that every engine has.

Other engines lack `tf.linalg.solve`, `tf.linalg.triangular_solve` and `tf.linalg.diag_part`.
"""
import numpy as np
import tensorflow as tf


def diagonal(matrix: tf.Tensor) -> tf.Tensor:
  """Returns the diagonal `[batch, size]` of matrices `[batch, size, size]`."""
  own = np.eye(matrix.shape[1], dtype=bool)
  # Not a product with 0 and 1, because 0 * NaN is NaN.
  return tf.reduce_sum(tf.where(own, matrix, tf.zeros([], matrix.dtype)), 2)


def solve_positive(matrix: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
  """Solves systems with symmetric positive definite matrices, by Gauss-Jordan elimination.

  For such matrices elimination is stable without a choice of pivots.

  Args:
    matrix: `[batch, size, size]`.
    right: `[batch, size]`.

  Returns:
    x with matrix x = right, `[batch, size]`.
  """
  size = matrix.shape[1]
  rows = tf.concat([matrix, right[:, :, None]], 2)
  for index in range(size):
    pivot = rows[:, index] / rows[:, index, index, None]
    others = rows[:, :, index] * (np.arange(size) != index).astype(matrix.dtype.as_numpy_dtype)
    rows = tf.where(np.arange(size)[:, None] == index, pivot[:, None],
                    rows - others[:, :, None] * pivot[:, None])
  return rows[:, :, size]


def solve_unit_lower(below: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
  """Solves systems with lower triangular matrices that have ones on the diagonal.

  Args:
    below: `[batch, size, size]`, the matrices without their diagonal; zero on and above it.
    right: `[batch, size]`.

  Returns:
    x with x + below x = right, `[batch, size]`.
  """
  solution = right
  for index in range(below.shape[1] - 1):
    solution -= below[:, :, index] * solution[:, index, None]
  return solution
