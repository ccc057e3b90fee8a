"""Small linear systems have the solutions of NumPy, and of the operations of TensorFlow."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops.fixed_point import small_systems

BATCH = 200


def _positive(size, dtype):
  """Gram matrices of unit vectors, some of them parallel, plus a ridge, as Anderson has them."""
  random = np.random.default_rng(size)
  vectors = random.normal(size=[BATCH, size, 2 * size])
  vectors[::4] = vectors[::4, :1] + 1e-3 * vectors[::4]
  vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
  matrix = (vectors @ vectors.swapaxes(1, 2) + 1e-4 * np.eye(size)).astype(dtype)
  return matrix, random.normal(size=[BATCH, size]).astype(dtype)


def _residual(matrix, solution, right):
  """The error of a solver that is as good as its dtype allows: |Ax - b| / (|A| |x|)."""
  matrix, solution = matrix.astype(np.float64), np.asarray(solution, np.float64)
  error = np.linalg.norm(np.einsum('bij,bj->bi', matrix, solution) - right, axis=1)
  return error / (np.linalg.norm(matrix, axis=(1, 2)) * np.linalg.norm(solution, axis=1))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('size', [1, 2, 5, 8])
def test_positive_systems(size, dtype):
  matrix, right = _positive(size, dtype)
  ours = _residual(matrix, small_systems.solve_positive(
      tf.constant(matrix), tf.constant(right)), right)
  theirs = _residual(matrix, tf.linalg.solve(matrix, right[..., None])[..., 0], right)
  epsilon = np.finfo(dtype).eps
  assert ours.max() <= max(4 * theirs.max(), 2 * epsilon)
  assert np.median(ours) <= max(2 * np.median(theirs), epsilon)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('size', [1, 2, 7])
def test_lower_systems(size, dtype):
  random = np.random.default_rng(size)
  below = np.tril(random.normal(size=[BATCH, size, size]), -1).astype(dtype)
  right = random.normal(size=[BATCH, size]).astype(dtype)
  expected = np.linalg.solve(np.eye(size) + below.astype(np.float64), right[..., None])[..., 0]
  solution = small_systems.solve_unit_lower(tf.constant(below), tf.constant(right))
  np.testing.assert_allclose(solution, expected, 200 * np.finfo(dtype).eps,
                             200 * np.finfo(dtype).eps * np.abs(expected).max())


def test_a_diagonal_ignores_what_stands_beside_it():
  matrix = np.float32([[[1, np.nan], [np.inf, 2]]])
  np.testing.assert_array_equal(small_systems.diagonal(tf.constant(matrix)), [[1, 2]])
