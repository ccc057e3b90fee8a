"""One solve of an implicit network: by which method, with which gradient, at which cost."""
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from official_ext.modeling.decoders.ifpn import connections
from official_ext.modeling.decoders.ifpn import maps
from official_ext.ops import checks
from official_ext.ops import fixed_point
from official_ext.ops import routing

Levels = list[tf.Tensor]

_SOLVER_ARGUMENTS = ('solver', 'tolerance', 'memory', 'gradient', 'backward_evaluations',
                     'phantom_steps', 'phantom_damping', 'step_size')


class SolveResult(NamedTuple):
  """The result of a solve.

  Attributes:
    outputs: the map at the solution; differentiable in training.
    state: the solution P*.
    residual: float32 `[batch]`, relative, at `state`.
    steps: float32 `[batch]`, evaluations of the map until the image stopped.
    evaluations: float32 `[batch]`, all evaluations that the image needed, including those for
      the gradient.
  """
  outputs: Levels
  state: Levels
  residual: tf.Tensor
  steps: tf.Tensor
  evaluations: tf.Tensor


class SolveCost(NamedTuple):
  """Multiply-adds of a solve for one image, float64 scalars.

  Attributes:
    evaluation: one evaluation of the map.
    minimum: all evaluations of an image that stops as early as it can.
    maximum: all evaluations of an image that never stops early.
    all_branches: the map as often as it stands in the graph; a loop's body counts once.
  """
  evaluation: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor
  all_branches: tf.Tensor


def check_options(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
  """Checks the options of a solver.

  Args:
    options: the options, as in `options.SolverConfig`.
    known: all options that exist.

  Raises:
    ArgumentError: an unknown option, a number out of range, or options that exclude each other;
      its argument is `solver` or `solver.<option>`.
  """
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise checks.ArgumentError('solver', f'solver has no option {unknown}; it has {sorted(known)}.')
  is_unrolled = options['solver'] == 'unroll'
  for name in ('training_evaluations', 'inference_evaluations'):
    _check_at_least(options, name, 0 if is_unrolled else 1, '; with `unroll` 0 is allowed too')
  training, inference = options['training_evaluations'], options['inference_evaluations']
  if is_unrolled and training != inference:
    raise checks.ArgumentError(
        'solver.inference_evaluations', f'solver `unroll` applies the map {training} times in '
        f'training and {inference} times at inference: what was trained unrolled has to run '
        'alike, so solver.training_evaluations and solver.inference_evaluations must be equal.')
  _check_at_least(options, 'warmup_unroll_steps', 0)
  _check_at_least(options, 'warmup_evaluations', 1)
  _check_at_least(options, 'least_evaluations', 1)
  most = min(training, inference)
  if options['budget_input'] and options['least_evaluations'] > most:
    raise checks.ArgumentError(
        'solver.least_evaluations', f'solver.least_evaluations is {options["least_evaluations"]}, '
        f'and a budget of 1 runs {most} evaluations: with solver.budget_input it must be at most '
        'solver.training_evaluations and solver.inference_evaluations.')
  if not training:
    return
  try:
    fixed_point.check_options(
        max_evaluations=training, **{name: options[name] for name in _SOLVER_ARGUMENTS})
  except checks.ArgumentError as error:
    raise checks.ArgumentError(f'solver.{error.argument}', str(error)) from error


def _check_at_least(options: Mapping[str, Any], name: str, least: int, hint: str = '') -> None:
  if options[name] < least:
    raise checks.ArgumentError(
        f'solver.{name}', f'solver.{name} is {options[name]}; it must be at least {least}{hint}.')


class ImplicitSolve:
  """Solves P = G(P; B) once."""

  def __init__(self, network: connections.Connection, options: Mapping[str, Any], basis: Levels,
               masks: maps.Masks, training: bool | None):
    """Prepares the weights of the map once, for all evaluations of the solve.

    Args:
      network: the map G, `maps.ResidualMap` or `maps.InjectedMap`.
      options: as in `options.SolverConfig`.
      basis: B, levels `[batch, height, width, num_filters]`.
      masks: masks of channel dropout, one for each level, or None.
      training: None counts as False.
    """
    self._network, self._options, self._training = network, options, training
    self._basis = basis
    self._masks = masks and [tf.cast(mask, basis[0].dtype) for mask in masks]
    self._weights = network.prepare(basis[0].dtype)
    # How often the map stands in the graph; in eager mode, how often it ran.
    self._num_calls = 0
    self._has_updated = False

  def function(self, state: Levels) -> Levels:
    """Returns G(P; B)."""
    self._num_calls += 1
    return self._network.run(self._weights, maps.MapInputs(state, self._basis, self._masks))

  @property
  def _budget(self) -> int:
    """Evaluations that the solver may make."""
    options = self._options
    return options['training_evaluations' if self._training else 'inference_evaluations']

  @property
  def _gradient_evaluations(self) -> int:
    """Evaluations after those of the solver, which are differentiated."""
    options = self._options
    if not self._training or options['gradient'] == 'unroll':
      return 0
    return options['phantom_steps'] if options['gradient'] == 'phantom' else 1

  def run(self, initial: Levels, step: tf.Tensor | None = None) -> SolveResult:
    """Solves.

    Args:
      initial: P to start from.
      step: number of the training step, int64 scalar, if the first steps are unrolled; else None.
    """
    if step is None:
      return self._solve(initial)
    return SolveResult(*tf.cond(step < self._options['warmup_unroll_steps'],
                                lambda: tuple(self._warm_up(initial)),
                                lambda: tuple(self._solve(initial))))

  def _solve(self, initial: Levels) -> SolveResult:
    limits = self._limits(tf.shape(initial[0])[0]) if self._options['budget_input'] else None
    outputs, solution = fixed_point.solve_with_gradient(
        self.function, initial, max_evaluations=self._budget, training=bool(self._training),
        limits=limits, **{name: self._options[name] for name in _SOLVER_ARGUMENTS})
    return self._result(outputs, solution, self._gradient_evaluations, limits is not None)

  def _limits(self, batch: tf.Tensor) -> tf.Tensor:
    """Returns the evaluations of each image at the budget of the call, int32 `[batch]`."""
    least = self._options['least_evaluations']
    more = tf.floor(routing.wanted_budget() * (self._budget - least) + 0.5)
    return tf.broadcast_to(tf.reshape(least + tf.cast(more, tf.int32), [-1]), [batch])

  def _warm_up(self, initial: Levels) -> SolveResult:
    outputs, solution = fixed_point.solve_with_gradient(
        self.function, initial, solver='unroll', gradient='unroll', training=True,
        max_evaluations=self._options['warmup_evaluations'])
    return self._result(outputs, solution, 0, False)

  def _result(self, outputs: Levels, solution: fixed_point.Solution, more: int,
              has_limits: bool) -> SolveResult:
    steps = tf.cast(solution.steps, tf.float32)
    if not self._options['tolerance'] and not has_limits:
      # A fixed budget is spent on all images, also on those that diverged.
      steps = tf.zeros_like(steps) + tf.cast(solution.evaluations, tf.float32)
    return SolveResult(outputs, solution.state, solution.residual, steps, steps + more)

  def update(self, state: Levels) -> None:
    """Moves the averages of batch norm by the features of one more evaluation at the solution."""
    self._has_updated = True
    self._num_calls += 1
    weights = self._network.watch(self._weights)
    state, basis = ([tf.stop_gradient(x) for x in levels] for levels in (state, self._basis))
    self._network.run(weights, maps.MapInputs(state, basis, self._masks))
    self._network.update(weights)

  def cost(self) -> SolveCost:
    """Returns what the solve costs one image; call it after `run` and `update`."""
    sizes = [tf.shape(level)[1:3] for level in self._basis]
    evaluation = self._network.multiply_adds(sizes)
    more = self._gradient_evaluations
    least = self._options['least_evaluations'] if self._options['budget_input'] else self._budget
    counts = [(1 if self._options['tolerance'] else least) + more, self._budget + more]
    if self._training and self._options['warmup_unroll_steps']:
      counts.append(self._options['warmup_evaluations'])
    extra = int(self._has_updated)
    return SolveCost(evaluation, evaluation * (min(counts) + extra),
                     evaluation * (max(counts) + extra), evaluation * self._num_calls)

  def evaluations(self, result: SolveResult) -> tf.Tensor:
    """Returns the evaluations that each image needed, that of `update` included, `[batch]`."""
    return result.evaluations + int(self._has_updated)


def standard_deviation(features: tf.Tensor) -> tf.Tensor:
  """Returns the deviation over positions and channels, float32 `[batch]`."""
  features = tf.cast(features, tf.float32)
  mean = tf.reduce_mean(features, [1, 2, 3], keepdims=True)
  return tf.sqrt(tf.reduce_mean(tf.square(features - mean), [1, 2, 3]))
