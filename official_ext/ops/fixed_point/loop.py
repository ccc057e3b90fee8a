"""The loop of a fixed-point solver: evaluations, the best iterate, and which images have stopped.

The rules of `update_rules` compute the next iterate; `solving` has the public functions and the
gradients.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf, tf_keras  # noqa: F401

from official_ext.ops.fixed_point import update_rules

Levels = list[tf.Tensor]
Function = Callable[[Levels], Levels]

# With a fixed budget there is no tolerance: an image whose residual is at most this has converged.
CONVERGED = 1e-2
# Relative residuals that rounding alone leaves, about 0.64 units in the last place.
ROUNDING = {tf.bfloat16: 5e-3, tf.float16: 6.3e-4, tf.float32: 7.6e-8, tf.float64: 1.4e-16}
# Larger residuals, NaN and inf are reported as this value.
WORST = 1e6


class Solution(NamedTuple):
  """The result of a solver, per image.

  Attributes:
    state: levels in the dtype of `initial`, the iterate P* of least residual; for the
      solver `unroll` the last iterate.
    residual: float32 `[batch]`, |f(P*) - P*| / |f(P*)| over all levels, at most 1e6; for
      `unroll` that of the last evaluation, the change of the state by the last application.
    steps: int32 `[batch]`, evaluations of f until the image stopped.
    converged: boolean `[batch]`, whether `residual` is at most the tolerance, or 1e-2
      where the tolerance is 0.
    evaluations: int32 scalar, evaluations of f that ran for the batch.
    residuals: float32 `[max_evaluations, batch]`, the residual of every iterate; after an
      image has stopped, its last one is repeated.
  """
  state: Levels
  residual: tf.Tensor
  steps: tf.Tensor
  converged: tf.Tensor
  evaluations: tf.Tensor
  residuals: tf.Tensor


class Progress(NamedTuple):
  """The loop variables of a solver.

  Attributes:
    x: the next iterate to evaluate.
    history: what the update rule remembers.
    best_x: the iterate of least residual so far.
    best_f: f at `best_x`.
    residual: `[batch]`, relative, at `best_x`.
    start: `[batch]`, |f(x) - x|^2 at the first iterate.
    active: boolean `[batch]`, images that have not stopped.
    steps: int32 `[batch]`, evaluations until the image stopped.
    evaluations: int32 scalar, evaluations for the batch.
    residuals: `[max_evaluations, batch]`, see `Solution`.
  """
  x: Levels
  history: NamedTuple
  best_x: Levels
  best_f: Levels
  residual: tf.Tensor
  start: tf.Tensor
  active: tf.Tensor
  steps: tf.Tensor
  evaluations: tf.Tensor
  residuals: tf.Tensor


def _relative_residual(squared: tf.Tensor, f_squared: tf.Tensor) -> tf.Tensor:
  """Returns |f(x) - x| / |f(x)| from the squares of both, finite."""
  tiny = np.finfo(squared.dtype.as_numpy_dtype).tiny
  ratio = tf.sqrt(squared / tf.maximum(f_squared, tiny))
  return tf.where(tf.math.is_finite(ratio), tf.minimum(ratio, WORST), WORST)


class Iteration:
  """The loop of one solver on one function; an update rule computes its iterates."""

  def __init__(self, function: Function, initial: Levels, solver: str, max_evaluations: int,
               tolerance: float = 0.0, memory: int = 5, step_size: float = 1.0,
               limits: tf.Tensor | None = None):
    """Initializes the loop; arguments are those of `solving.solve`, which checks them."""
    self._function = function
    self._dtypes = [level.dtype for level in initial]
    self._algebra = tf.float64 if tf.float64 in self._dtypes else tf.float32
    self._max_evaluations = max_evaluations
    self._tolerance, self._limits = tolerance, limits
    # Whether an image may stop before the others.
    self._stops = bool(tolerance) or limits is not None
    rules: dict[str, Callable[[], update_rules.UpdateRule]] = {
        'anderson': lambda: update_rules.Anderson(memory),
        'broyden': lambda: update_rules.Broyden(max_evaluations, step_size),
        'unroll': update_rules.Plain,
    }
    self._rule = rules[solver]()
    # A model that was trained on T applications gets T applications, not the best of them.
    self._keep_best = solver != 'unroll'
    self._output_dtypes = self._dtypes

  def run(self, initial: Levels, known: Levels | None = None,
          roll_after: int | None = None) -> Progress:
    """Iterates.

    Args:
      initial: the first iterate.
      known: f at the first iterate if the caller has it, or None; it is not counted as an
        evaluation.
      roll_after: if no image stops before the others, number of evaluations that are unrolled in
        the graph; the others run in a `tf.while_loop`, and the history must have its final size
        by then.  None: all are unrolled.  A loop saves memory, because TensorFlow runs unrolled
        operations as soon as it can and so holds tensors of several evaluations at a time.

    Returns:
      The loop variables at the end.
    """
    progress = self._begin(initial)
    if self._stops:
      return tf.while_loop(
          lambda p: (p.evaluations == 0) | tf.reduce_any(p.active),
          lambda p: (self._advance(p, p.evaluations == 0),), (progress,),
          maximum_iterations=self._max_evaluations)[0]
    if known is not None:
      progress = self._advance(progress, True, known)._replace(evaluations=tf.constant(0))
    last = self._max_evaluations - 1
    num_unrolled = last if roll_after is None else min(roll_after, last)
    for count in range(num_unrolled):
      progress = self._advance(progress, count == 0 and known is None)
    if num_unrolled < last:
      progress = tf.while_loop(
          lambda p: True, lambda p: (self._advance(p, False),), (progress,),
          maximum_iterations=last - num_unrolled, parallel_iterations=1)[0]
    return self._advance(progress, last == 0 and known is None, is_last=True)

  def outputs(self, progress: Progress) -> Levels:
    """Returns f at the best iterate, in the dtype that f returned."""
    return [tf.cast(level, dtype) for level, dtype in zip(progress.best_f, self._output_dtypes)]

  def state(self, progress: Progress) -> Levels:
    """Returns the best iterate, in the dtype of `initial`."""
    return [tf.cast(level, dtype) for level, dtype in zip(progress.best_x, self._dtypes)]

  def solution(self, progress: Progress) -> Solution:
    """Returns the public record, through which no gradient flows."""
    state = progress.best_x if self._keep_best else progress.best_f
    tolerance = self._reachable_tolerance() if self._tolerance else CONVERGED
    return tf.nest.map_structure(tf.stop_gradient, Solution(
        state=[tf.cast(level, dtype) for level, dtype in zip(state, self._dtypes)],
        residual=tf.cast(progress.residual, tf.float32), steps=progress.steps,
        converged=progress.residual <= tolerance, evaluations=progress.evaluations,
        residuals=tf.cast(progress.residuals, tf.float32)))

  def _begin(self, initial: Levels) -> Progress:
    x = [tf.cast(level, self._algebra) for level in initial]
    zeros = [tf.zeros_like(level) for level in x]
    batch = tf.shape(x[0])[0]
    infinite = tf.fill([batch], tf.constant(np.inf, self._algebra))
    return Progress(
        x=x, history=self._rule.start(x, room=self._stops), best_x=x, best_f=zeros,
        residual=infinite, start=infinite, active=tf.fill([batch], True),
        steps=tf.fill([batch], 0), evaluations=tf.constant(0),
        residuals=tf.zeros([self._max_evaluations, batch], self._algebra))

  def _evaluate(self, x: Levels) -> Levels:
    """Returns f(x), cast to the dtype in which the solver computes."""
    outputs = list(self._function([tf.cast(level, d) for level, d in zip(x, self._dtypes)]))
    if len(outputs) != len(x):
      raise ValueError(f'function returned {len(outputs)} levels for {len(x)}: a fixed point needs '
                       'as many levels, of the same shapes.')
    self._output_dtypes = [level.dtype for level in outputs]
    return [tf.ensure_shape(tf.cast(f, self._algebra), level.shape)
            for f, level in zip(outputs, x)]

  def _reachable_tolerance(self) -> float:
    """Returns the tolerance, or the residual that rounding of f and x leaves if that is larger."""
    rounding = max(ROUNDING[dtype] for dtype in self._dtypes + self._output_dtypes)
    return max(self._tolerance, rounding)

  def _advance(self, progress: Progress, is_first, known: Levels | None = None,
               is_last: bool = False) -> Progress:
    """Evaluates f once and moves every image that has not stopped."""
    x, active, count = progress.x, progress.active, progress.evaluations
    f = self._evaluate(x) if known is None else known
    q = [a - b for a, b in zip(f, x)]
    squared, f_squared = update_rules.dot(q, q), update_rules.dot(f, f)
    residual = _relative_residual(squared, f_squared)
    start = tf.where(is_first, squared, progress.start)
    failed = ~tf.math.is_finite(squared + f_squared) | (squared > WORST**2 * start)
    # An iterate whose absolute residual is worse than the first one's never wins: if f grows
    # without bound, |f| in the denominator makes its relative residual small.
    better = active & (residual < progress.residual) & ~(squared > start)
    best_x, best_f = x, f
    if is_first is not True and self._keep_best:
      best_x = update_rules.choose(better, x, progress.best_x)
      best_f = update_rules.choose(better, f, progress.best_f)
    going = active & ~failed
    if self._tolerance:
      going &= residual > self._reachable_tolerance()
    if self._limits is not None:
      going &= count + 1 < self._limits
    history = progress.history
    if not is_last:
      moved, history = self._rule.step(history, x, f, q, squared)
      # Rounded to the dtype in which f gets it, so that f(x) - x belongs to the same x.
      moved = [tf.cast(tf.cast(level, dtype), self._algebra)
               for level, dtype in zip(moved, self._dtypes)]
      x = update_rules.choose(going, moved, x) if self._stops else moved
    rest = tf.range(self._max_evaluations)[:, None] >= count
    return Progress(
        x=x, history=history, best_x=best_x, best_f=best_f,
        residual=tf.where(better if self._keep_best else active, residual, progress.residual),
        start=start, active=going, steps=progress.steps + tf.cast(active, tf.int32),
        evaluations=count + 1,
        residuals=tf.where(rest & active, residual, progress.residuals))
