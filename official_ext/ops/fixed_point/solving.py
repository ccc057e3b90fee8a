"""Solves x = f(x) for every image of a batch, and differentiates through the solution.

    outputs, solution = solve_with_gradient(lambda levels: block(levels), initial)

`f` maps a list of levels, `[batch, ...]` tensors, to levels of the same shapes, and treats
images apart.  The solver's iterates are not kept for back-propagation: at x = f(x) the implicit
function theorem gives the gradient from f at the solution alone (S. Bai, J. Z. Kolter,
V. Koltun, "Deep equilibrium models", https://arxiv.org/abs/1909.01377).
"""

import numpy as np
import tensorflow as tf, tf_keras  # noqa: F401

from official_ext.ops import checks
from official_ext.ops.fixed_point import loop
from official_ext.ops.fixed_point import update_rules

Levels = list[tf.Tensor]
Function = loop.Function
Solution = loop.Solution

SOLVERS = ('anderson', 'broyden', 'unroll')
GRADIENTS = ('implicit', 'phantom', 'jacobian_free', 'unroll')


def _check_solver(solver: str, max_evaluations: int, tolerance: float, memory: int,
                  step_size: float) -> None:
  checks.check_one_of('solver', solver, SOLVERS)
  if max_evaluations < 1:
    raise checks.ArgumentError(
        'max_evaluations', f'max_evaluations is {max_evaluations}; it must be at least 1.')
  if not 0 <= tolerance < np.inf:
    raise checks.ArgumentError(
        'tolerance', f'tolerance is {tolerance}; it must be a relative residual, at least 0 and '
        'finite, or 0 to make max_evaluations for every image.')
  if memory < 1:
    raise checks.ArgumentError(
        'memory', f'memory is {memory}; Anderson needs at least 1 (plain iteration).')
  checks.check_positive('step_size', step_size)
  if step_size != 1 and solver != 'broyden':
    raise checks.ArgumentError(
        'step_size', f'step_size is {step_size}, which only solver `broyden` has; with {solver!r} '
        'it must be 1.')


def solve(function: Function, initial: Levels, *, solver: str = 'anderson',
          max_evaluations: int = 5, tolerance: float = 0.0, memory: int = 5,
          step_size: float = 1.0, limits: tf.Tensor | None = None) -> Solution:
  """Solves x = f(x) for every image, without gradient.

  Args:
    function: f, from levels `[batch, ...]` to levels of the same shapes and any floating
      dtype; images independent of each other.
    initial: levels of the first iterate; f gets all iterates in their dtype.  The solver
      computes in float32, or in float64 if any level is float64.
    solver: `anderson`, `broyden`, or `unroll` for x' = f(x).
    max_evaluations: largest number of evaluations of f, at least 1; T of an unrolled
      iteration.  Broyden's T steps are T + 1 evaluations, as the first is at `initial`.
    tolerance: relative residual at which an image stops; not finer than the dtype of f
      resolves (5e-3 in bfloat16).  An image that has stopped keeps its iterate; the loop
      ends when all have stopped.  With 0 every image gets `max_evaluations` and the loop is
      unrolled: reproducible, and static for XLA.
    memory: number of iterates that Anderson combines.  Broyden always keeps all its steps.
    step_size: factor of Broyden's steps, positive; 1 for the other solvers.
    limits: largest number of evaluations of each image, int32 `[batch]`, at least 1; the loop runs
      as many as the largest.  None: `max_evaluations` for all.

  Returns:
    A `Solution`.  It reports whether an image converged; no error is raised if not.

  Raises:
    ArgumentError: an unknown solver, or a number out of range.
    ValueError: f returned another number of levels.
  """
  _check_solver(solver, max_evaluations, tolerance, memory, step_size)
  initial = [tf.stop_gradient(level) for level in initial]
  iteration = loop.Iteration(
      function, initial, solver, max_evaluations, tolerance, memory, step_size, limits)
  return iteration.solution(iteration.run(initial))


def solve_with_gradient(
    function: Function, initial: Levels, *, solver: str = 'anderson', max_evaluations: int = 5,
    tolerance: float = 0.0, memory: int = 5, gradient: str = 'implicit',
    backward_evaluations: int = 3, phantom_steps: int = 3, phantom_damping: float = 1.0,
    step_size: float = 1.0, limits: tf.Tensor | None = None,
    training: bool = True) -> tuple[Levels, Solution]:
  """Returns f at the solution P* of x = f(x), differentiable in all that f closes over.

  In training f is evaluated once more, at a constant P*, and only that evaluation is
  differentiated, so memory does not depend on the number of steps.  At inference the same
  values come from the solver's own evaluation, and no gradient flows (except with the gradient
  `unroll`).

  Args:
    function: see `solve`.  In training with `implicit`, differentiable.
    initial: see `solve`; no gradient flows to it, except with the gradient `unroll`.
    solver: see `solve`; with `unroll` the outputs are the last iterate.
    max_evaluations: see `solve`.
    tolerance: see `solve`.
    memory: see `solve`.
    gradient: `implicit` solves y = J^T y + g for the upstream gradient g and the Jacobian J
      of f at P*, with the same solver and a fixed budget; `jacobian_free` takes
      y = g (S. W. Fung et al., https://arxiv.org/abs/2103.12803); `phantom`
      differentiates `phantom_steps` applications x' = (1 - t) x + t f(x) from P* (Z. Geng
      et al., https://arxiv.org/abs/2111.05177); `unroll`, with the solver `unroll`,
      differentiates every application.
    backward_evaluations: number of vector-Jacobian products with which `implicit` finds y;
      0 is `jacobian_free`.
    phantom_steps: number of applications of `phantom`, at least 1.
    phantom_damping: t of `phantom`, in (0, 1].
    step_size: see `solve`; `implicit` takes full steps.
    limits: see `solve`.
    training: whether gradients are needed.

  Returns:
    Levels in the dtype of f, and the `Solution`.

  Raises:
    ArgumentError: an unknown option, a number out of range, or options that exclude each
      other.
    ValueError: f returned another number of levels.
  """
  check_options(
      solver=solver, max_evaluations=max_evaluations, tolerance=tolerance, memory=memory,
      gradient=gradient, backward_evaluations=backward_evaluations, phantom_steps=phantom_steps,
      phantom_damping=phantom_damping, step_size=step_size)
  if gradient != 'unroll':
    initial = [tf.stop_gradient(level) for level in initial]
  iteration = loop.Iteration(
      function, initial, solver, max_evaluations, tolerance, memory, step_size, limits)
  progress = iteration.run(initial)
  solution = iteration.solution(progress)
  if gradient == 'unroll':
    return iteration.outputs(progress), solution
  if not training:
    return [tf.stop_gradient(level) for level in iteration.outputs(progress)], solution
  state = [tf.stop_gradient(level) for level in iteration.state(progress)]
  if gradient == 'phantom':
    return _phantom(function, state, phantom_steps, phantom_damping), solution
  if gradient == 'jacobian_free' or not backward_evaluations:
    return list(function(state)), solution
  return _implicit(function, state, solver, backward_evaluations, memory), solution


def check_options(*, solver: str, max_evaluations: int, tolerance: float, memory: int,
                  gradient: str, backward_evaluations: int, phantom_steps: int,
                  phantom_damping: float, step_size: float) -> None:
  """Checks the options of `solve_with_gradient`, which documents them.

  Raises:
    ArgumentError: an unknown option, a number out of range, or options that exclude each
      other.
  """
  _check_solver(solver, max_evaluations, tolerance, memory, step_size)
  checks.check_one_of('gradient', gradient, GRADIENTS)
  if gradient == 'unroll' and (solver != 'unroll' or tolerance):
    raise checks.ArgumentError(
        'gradient', f'gradient is `unroll` with solver {solver!r} and tolerance {tolerance}: it '
        'differentiates a fixed number of applications, so it needs solver `unroll` and '
        'tolerance 0; for other solvers choose `implicit`, `phantom` or `jacobian_free`.')
  if backward_evaluations < 0:
    raise checks.ArgumentError(
        'backward_evaluations',
        f'backward_evaluations is {backward_evaluations}; it must not be negative.')
  if phantom_steps < 1:
    raise checks.ArgumentError(
        'phantom_steps', f'phantom_steps is {phantom_steps}; it must be at least 1.')
  if not 0 < phantom_damping <= 1:
    raise checks.ArgumentError(
        'phantom_damping', f'phantom_damping is {phantom_damping}; it must be in (0, 1].')


def _phantom(function: Function, x: Levels, steps: int, damping: float) -> Levels:
  """Applies x' = (1 - damping) x + damping f(x) so many times."""
  dtypes = [level.dtype for level in x]
  for _ in range(steps):
    outputs = list(function([tf.cast(level, dtype) for level, dtype in zip(x, dtypes)]))
    if damping != 1:
      outputs = [damping * f + (1 - damping) * tf.cast(level, f.dtype)
                 for f, level in zip(outputs, x)]
    x = outputs
  return x


def _transposed(tape: tf.GradientTape, outputs: Levels, state: Levels, vector: Levels) -> Levels:
  """Returns J^T v in the dtype of v, for the Jacobian J of what a persistent tape recorded."""
  upstream = [tf.cast(v, level.dtype) for v, level in zip(vector, outputs)]
  gradients = tape.gradient(outputs, state, output_gradients=upstream,
                            unconnected_gradients=tf.UnconnectedGradients.ZERO)
  return [tf.cast(level, v.dtype) for level, v in zip(gradients, vector)]


def _implicit(function: Function, state: Levels, solver: str, evaluations: int,
              memory: int) -> Levels:
  """Evaluates f at a constant state and gives the outputs the implicit gradient.

  The evaluation is recorded by two tapes: the caller's takes y through it to the weights, and
  the one opened here, which watches the state alone, gives the vector-Jacobian products of
  y = J^T y + g without another evaluation of f.
  """
  algebra = tf.float64 if tf.float64 in [level.dtype for level in state] else tf.float32
  with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
    tape.watch(state)
    outputs = list(function(state))

  @tf.custom_gradient
  def hook(*levels):

    def backward(*upstream):
      g = [tf.cast(level, algebra) for level in upstream]
      zeros = [tf.zeros_like(level) for level in g]

      def transposed(y):
        return [a + b for a, b in zip(_transposed(tape, outputs, state, y), g)]

      iteration = loop.Iteration(transposed, zeros, solver, evaluations, memory=memory)
      # g itself is the first entry of Anderson's history, so `memory - 1` products fill it;
      # Broyden's history grows with every product.
      roll_after = None if solver == 'broyden' else memory - 1
      y = iteration.run(zeros, known=g, roll_after=roll_after).best_f
      return [tf.cast(level, u.dtype) for level, u in zip(y, upstream)]

    return [tf.identity(level) for level in levels], backward

  return list(hook(*outputs))


def spectral_radius(function: Function, state: Levels, *, iterations: int = 8) -> tf.Tensor:
  """Estimates the spectral radius of the Jacobian of f, per image, by power iteration.

  If it is below 1, plain iteration converges near the state.  The estimate is the mean growth
  of a vector under vector-Jacobian products over the later half of the iterations, so that
  complex pairs of eigenvalues, which rotate the vector, average out.  The start vector is the
  same at every call.

  Args:
    function: see `solve`.
    state: levels at which f is linearized.
    iterations: number of vector-Jacobian products, at least 2; f is evaluated once.

  Returns:
    float32 `[batch]`.

  Raises:
    ArgumentError: too few iterations.
  """
  if iterations < 2:
    raise checks.ArgumentError('iterations', f'iterations is {iterations}; it must be at least 2.')
  state = [tf.stop_gradient(level) for level in state]
  algebra = tf.float64 if tf.float64 in [level.dtype for level in state] else tf.float32
  with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
    tape.watch(state)
    outputs = list(function(state))
  vector = [tf.random.stateless_normal(tf.shape(level), [0, i], dtype=algebra)
            for i, level in enumerate(outputs)]
  growths = []
  for _ in range(iterations):
    unit = tf.math.rsqrt(tf.maximum(update_rules.dot(vector, vector), np.finfo(np.float32).tiny))
    vector = _transposed(
        tape, outputs, state, [update_rules.scale(unit, level) for level in vector])
    growths.append(tf.sqrt(update_rules.dot(vector, vector)))
  later = tf.stack(growths[iterations // 2:])
  radius = tf.exp(tf.reduce_mean(tf.math.log(later), axis=0))
  return tf.stop_gradient(tf.cast(radius, tf.float32))
