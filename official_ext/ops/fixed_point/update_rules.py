"""Update rules of fixed-point solvers: from f at the iterates so far to the next iterate.

A state is a list of levels, `[batch, ...]` tensors of one dtype, and never one flat
vector: dot products are summed over the levels.  Every image of the batch is a problem
of its own.

Every rule has `start`, which returns an empty history, and `step`, which returns the next
iterate and the new history.  A rule holds options only, and the caller passes the history from
step to step, so that the same rule runs unrolled (`room` False: the history grows) and in a
`tf.while_loop` (`room` True: the history has its final size from the start, filled with zeros,
which every rule ignores).

Arguments of `step`: the iterate x, f = f(x), q = Q(x) = f(x) - x, and `squared` = |Q(x)|^2 of
every image, `[batch]`.
"""
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf, tf_keras  # noqa: F401

from official_ext.ops.fixed_point import small_systems

Levels = list[tf.Tensor]


def dot(a: Levels, b: Levels) -> tf.Tensor:
  """Returns `[batch]`, the dot product of two states of every image."""
  return tf.add_n([
      tf.reduce_sum(x * y, axis=list(range(1, x.shape.rank))) for x, y in zip(a, b)])


def scale(coefficients: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
  """Multiplies one level by one coefficient for each image, `[batch]`."""
  return tf.reshape(coefficients, [-1] + [1] * (level.shape.rank - 1)) * level


def combine(coefficients: tf.Tensor, states: list[Levels]) -> Levels:
  """Returns the sum of states, weighted by coefficients `[batch, states]`."""
  weights = tf.unstack(coefficients, num=len(states), axis=1)
  return [tf.add_n([scale(w, x) for w, x in zip(weights, levels)]) for levels in zip(*states)]


def choose(condition: tf.Tensor, chosen: Levels, others: Levels) -> Levels:
  """Takes whole images from `chosen` where the `[batch]` condition is True."""
  # This operation copies rows; `tf.where` would broadcast the condition to every element.
  return [tf.raw_ops.Select(condition=condition, x=x, y=y) for x, y in zip(chosen, others)]


def _append(gram: tf.Tensor, row: tf.Tensor, corner: tf.Tensor) -> tf.Tensor:
  """Adds to `[batch, k, k]` a last row and column `[batch, k]` and a last corner `[batch]`."""
  top = tf.concat([gram, row[:, :, None]], axis=2)
  bottom = tf.concat([row, corner[:, None]], axis=1)
  return tf.concat([top, bottom[:, None]], axis=1)


class UpdateRule(Protocol):
  """The interface of a rule that computes the next iterate from the history of a solver."""

  def start(self, x: Levels, room: bool) -> Any:
    """Returns the history of a solver that has evaluated nothing.

    Args:
      x: the first iterate.
      room: whether the history has its final size from the start, as a TensorFlow loop needs.
    """

  def step(self, history: Any, x: Levels, f: Levels, q: Levels,
           squared: tf.Tensor) -> tuple[Levels, Any]:
    """Returns the next iterate and the history that includes this evaluation.

    Args:
      history: what `start` or the last `step` returned.
      x: the iterate.
      f: f(x).
      q: Q(x) = f(x) - x.
      squared: `[batch]`, |Q(x)|^2.
    """


class Plain:
  """Plain iteration, x' = f(x)."""

  def start(self, x: Levels, room: bool) -> tuple:
    del x, room
    return ()

  def step(self, history: tuple, x: Levels, f: Levels, q: Levels,
           squared: tf.Tensor) -> tuple[Levels, tuple]:
    del x, q, squared
    return f, history


class AndersonHistory(NamedTuple):
  """The last iterates, oldest first: f(x_i), Q(x_i), and the Gram matrix of the Q(x_i)."""
  f: list[Levels]
  q: list[Levels]
  gram: tf.Tensor


class Anderson:
  """x' = sum of a_i f(x_i) over the last iterates, with the a_i that minimize |sum a_i Q(x_i)|.

  Reference: D. G. Anderson, "Iterative procedures for nonlinear integral equations", 1965;
  H. F. Walker, P. Ni, "Anderson acceleration for fixed-point iterations", 2011.  The a_i
  sum to 1 and are damped by a ridge relative to the newest residual.
  """

  RIDGE = 1e-4

  def __init__(self, memory: int):
    """Initializes the rule.

    Args:
      memory: number of iterates that are combined, at least 1.
    """
    self.memory = memory

  def start(self, x: Levels, room: bool) -> AndersonHistory:
    count = self.memory if room else 0
    zeros = [tf.zeros_like(level) for level in x]
    gram = tf.zeros([tf.shape(x[0])[0], count, count], x[0].dtype)
    return AndersonHistory([zeros] * count, [zeros] * count, gram)

  def step(self, history: AndersonHistory, x: Levels, f: Levels, q: Levels,
           squared: tf.Tensor) -> tuple[Levels, AndersonHistory]:
    del x
    drop = max(len(history.f) + 1 - self.memory, 0)
    past = AndersonHistory(history.f[drop:], history.q[drop:], history.gram[:, drop:, drop:])
    if past.q:
      row = tf.stack([dot(q, other) for other in past.q], axis=1)
      gram = _append(past.gram, row, squared)
    else:
      gram = squared[:, None, None]
    history = AndersonHistory(past.f + [f], past.q + [q], gram)
    if len(history.f) == 1:
      return f, history
    return combine(self._coefficients(gram), history.f), history

  def _coefficients(self, gram: tf.Tensor) -> tf.Tensor:
    """Minimizes a^T (gram + ridge) a subject to sum a = 1, in units of the residuals' lengths.

    A residual of length zero (an empty entry of the history) gets no weight.
    """
    size, dtype = gram.shape[1], gram.dtype
    squared = small_systems.diagonal(gram)
    newest = squared[:, -1:]
    length = tf.sqrt(squared)
    unit = tf.math.reciprocal_no_nan(length)
    identity = np.eye(size, dtype=dtype.as_numpy_dtype)
    cosines = gram * unit[:, :, None] * unit[:, None, :] * (1 - identity)
    # A few rounding units keep the matrix regular if residuals are parallel.
    ridge = 1 + 16 * np.finfo(dtype.as_numpy_dtype).eps
    ridge += self.RIDGE * tf.minimum(tf.math.divide_no_nan(newest, squared), 1 / self.RIDGE)
    matrix = cosines + ridge[:, :, None] * identity
    regular = tf.reduce_all(tf.math.is_finite(matrix), axis=[1, 2], keepdims=True)
    matrix = tf.where(regular, matrix, identity)
    unit *= length[:, -1:]
    weights = unit * small_systems.solve_positive(matrix, unit)
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    usable = tf.math.is_finite(total) & (total > 0)
    return tf.where(usable, tf.math.divide_no_nan(weights, total), identity[-1])


class BroydenHistory(NamedTuple):
  """All steps, oldest first, their Gram matrix, and 1 or 0 for updates that are used or not."""
  steps: list[Levels]
  gram: tf.Tensor
  used: tf.Tensor


class Broyden:
  """Broyden's "good" method from the inverse Jacobian -I of Q, with steps of a constant length.

  Reference: C. G. Broyden, "A class of methods for solving nonlinear simultaneous
  equations", 1965; the form that needs the steps s_0, s_1, ... alone: C. T. Kelley,
  "Solving Nonlinear Equations with Newton's Method", 2003, chapter 4.  The rank-one updates of
  the inverse are factors I + (s_{j+1} - (1 - a) s_j) s_j^T / |s_j|^2, where a is the step size;
  their product times Q follows from dot products with Q and among the steps, so that one
  iteration reads the history twice.  Every step is kept, because a window of the last ones is
  another, unstable method.
  """

  # An update is skipped when |v^T dQ| is at most this share of |v| |dQ|.
  REGULAR = {tf.float32: 1e-7, tf.float64: 1e-14}

  def __init__(self, memory: int, step_size: float = 1.0):
    """Initializes the rule.

    Args:
      memory: the largest number of steps.
      step_size: factor of every step, positive; 1 is the full step of a quasi-Newton method.
    """
    self.memory, self._step_size = memory, step_size
    self._rest = 1 - step_size
    # With full steps the first one has the coefficient 0 in all later ones.
    self._first = 0 if self._rest else 1

  def start(self, x: Levels, room: bool) -> BroydenHistory:
    count = self.memory if room else 0
    batch, dtype = tf.shape(x[0])[0], x[0].dtype
    zeros = [tf.zeros_like(level) for level in x]
    return BroydenHistory(
        [zeros] * count, tf.zeros([batch, count, count], dtype), tf.zeros([batch, count], dtype))

  def step(self, history: BroydenHistory, x: Levels, f: Levels, q: Levels,
           squared: tf.Tensor) -> tuple[Levels, BroydenHistory]:
    drop = max(len(history.steps) + 1 - self.memory, 0)
    if not history.steps:
      one = tf.ones_like(squared)[:, None]
      if not self._rest:
        return f, BroydenHistory([q], squared[:, None, None], one)
      step = [self._step_size * level for level in q]
      moved = [level + change for level, change in zip(x, step)]
      return moved, BroydenHistory([step], dot(step, step)[:, None, None], one)
    products = tf.stack([dot(q, step) for step in history.steps], axis=1)
    coefficients, used = self._coefficients(history, products, squared)
    step = combine(coefficients, [q] + history.steps[self._first:])
    row = coefficients[:, :1] * products + tf.linalg.matvec(
        history.gram[:, :, self._first:], coefficients[:, 1:])
    gram = _append(history.gram, row, dot(step, step))
    used = tf.concat([history.used[:, :-1], used, tf.ones_like(used)], axis=1)
    history = BroydenHistory(
        (history.steps + [step])[drop:], gram[:, drop:, drop:], used[:, drop:])
    return [level + change for level, change in zip(x, step)], history

  def _coefficients(self, history: BroydenHistory, products: tf.Tensor,
                    squared: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the coefficients of Q and of the steps from `_first` on in the next step.

    Let t_{j+1} be s_{j+1} - (1 - a) s_j for the step size a.  With
    c_j = s_j^T (Q + sum of c_i t_{i+1}, i < j) / |s_j|^2 the inverse before its newest update
    gives w = Q + sum of c_j t_{j+1}.  After that update the next step is
    a (w - (1 - a) c_n s_n) / (1 - a c_n); for a = 1 it is w / (1 - c_n).

    Args:
      history: k steps.
      products: `[batch, k]`, dot products of the steps with Q.
      squared: `[batch]`, |Q|^2.

    Returns:
      The coefficients `[batch, 1 + k - _first]`, and `[batch, 1]`, 1 if the newest update is used,
      else 0.
    """
    gram, dtype = history.gram, history.gram.dtype
    size = gram.shape[1]
    inverse = history.used * tf.math.reciprocal_no_nan(small_systems.diagonal(gram))
    shifted = tf.pad(gram[:, :, 1:], [[0, 0], [0, 0], [0, 1]])
    if self._rest:
      shifted -= self._rest * gram
    below = np.tril(np.ones([size, size]), -1)
    c = small_systems.solve_unit_lower(
        -shifted * inverse[:, :, None] * below, products * inverse)
    last, full, first = c[:, -1:], 1 / self._step_size, self._first
    denominator = 1 - self._step_size * last
    others = self._of_steps(c, 0 * last)
    newest = gram[:, -1:, -1]
    change = squared[:, None] + tf.reduce_sum(
        others * (2 * products[:, first:] + tf.linalg.matvec(gram[:, first:, first:], others)),
        axis=1, keepdims=True) + newest * full * (full - 2 * last)  # |w - s_n / a|^2
    threshold = self.REGULAR[dtype] * self._step_size * tf.sqrt(newest * tf.maximum(change, 0))
    used = (newest * tf.abs(denominator) > threshold) | (newest <= 0)
    factor = self._step_size * tf.where(used, tf.math.reciprocal_no_nan(denominator), 1)
    others = self._of_steps(c, tf.where(used, last, 0))
    coefficients = factor * tf.concat([tf.ones_like(factor), others], axis=1)
    return coefficients, tf.cast(used, dtype)

  def _of_steps(self, c: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Returns the coefficients of the steps in the sum of c_j t_{j+1} less (1 - a) c_n s_n.

    Args:
      c: `[batch, k]`, c_0 to c_n.
      last: `[batch, 1]`, taken for c_n.

    Returns:
      `[batch, k - _first]`.
    """
    if not self._rest:
      return c[:, :-1]
    return (tf.pad(c[:, :-1], [[0, 0], [1, 0]])
            - self._rest * tf.concat([c[:, :-1], last], axis=1))
