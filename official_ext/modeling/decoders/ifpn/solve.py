"""One solve of an implicit network: which way, with which gradient, and what it cost."""
from typing import Any, List, Mapping, NamedTuple, Optional

import tensorflow as tf

from official_ext.modeling.decoders.ifpn import connections
from official_ext.modeling.decoders.ifpn import maps
from official_ext.ops import fixed_point

Levels = List[tf.Tensor]


class Found(NamedTuple):
  """What a solve gave.

  Attributes:
    outputs: the map at the solution; differentiable in training.
    state: the solution P*.
    residual: float32 `[batch]`, relative, of `state`.
    steps: float32 `[batch]`, evaluations of the map until the image stopped.
    evaluations: float32 `[batch]`, all evaluations that the image needed, those that are
      made for the gradient included.
  """
  outputs: Levels
  state: Levels
  residual: tf.Tensor
  steps: tf.Tensor
  evaluations: tf.Tensor


class Cost(NamedTuple):
  """Multiply-adds of a solve, float64 scalars; see `routing.Routing`."""
  evaluation: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor
  dense: tf.Tensor


def check_options(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
  """Raises a ValueError for options of a solver that cannot be.

  Args:
    options: as in `options.SolverConfig`.
    known: all options there are.
  """
  where = 'change decoder.<type>.solver.'
  unknown = sorted(set(options) - set(known))
  if unknown:
    raise ValueError(f'solver has no option {unknown}; it has {sorted(known)}: {where}')
  evaluations = [options['training_evaluations'], options['inference_evaluations']]
  is_unrolled = options['solver'] == 'unroll'
  if min(evaluations) < (0 if is_unrolled else 1):
    raise ValueError(f'solver evaluates {evaluations} times in training and at inference; it needs '
                     f'at least 1, or 0 with `unroll`: {where}')
  if is_unrolled and evaluations[0] != evaluations[1]:
    raise ValueError(
        f'solver `unroll` applies the map {evaluations[0]} times in training and {evaluations[1]} '
        'times at inference: what was trained unrolled has to run alike, so training_evaluations '
        f'and inference_evaluations must be equal: {where}')
  if options['warmup_unroll_steps'] < 0 or options['warmup_evaluations'] < 1:
    raise ValueError(f'solver.warmup_unroll_steps is {options["warmup_unroll_steps"]} and '
                     f'warmup_evaluations {options["warmup_evaluations"]}; they must be at least 0 '
                     f'and 1: {where}')
  try:
    # The solver's own checks, on a map that costs nothing.
    if evaluations[0]:
      fixed_point.equilibrium(
          lambda levels: levels, [tf.zeros([1, 1])], max_evaluations=evaluations[0],
          **_solver_options(options))
  except ValueError as error:
    raise ValueError(f'{error} ({where[:-1]})') from error


def _solver_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
  names = ('solver', 'tolerance', 'memory', 'gradient', 'backward_evaluations', 'phantom_steps',
           'phantom_damping')
  return {name: options[name] for name in names}


class Equilibrium:
  """Solves P = G(P; B) once."""

  def __init__(self, network: connections.Connection, options: Mapping[str, Any], basis: Levels,
               masks: maps.Masks, training: Optional[bool]):
    """Prepares the weights of the map: they are computed once, whatever the solver does.

    Args:
      network: the map G, with the methods of `maps.ResidualMap`.
      options: as in `options.SolverConfig`.
      basis: B, levels `[batch, height, width, num_filters]`.
      masks: of channel dropout, or None.
      training: None counts as False.
    """
    self._network, self._options, self._training = network, options, training
    self._basis = basis
    self._masks = masks and [tf.cast(mask, basis[0].dtype) for mask in masks]
    self._weights = network.prepare(basis[0].dtype)
    # How often the map stands in the graph; run eagerly, how often it was run.
    self._written = 0
    self._updates = False

  def function(self, state: Levels) -> Levels:
    """Returns G(P; B)."""
    self._written += 1
    return self._network.run(self._weights, state, self._basis, self._masks)

  @property
  def _budget(self) -> int:
    options = self._options
    return options['training_evaluations' if self._training else 'inference_evaluations']

  @property
  def _gradient_evaluations(self) -> int:
    """Evaluations behind the solver's own, which are differentiated."""
    options = self._options
    if not self._training or options['gradient'] == 'unroll':
      return 0
    return options['phantom_steps'] if options['gradient'] == 'phantom' else 1

  def run(self, initial: Levels, step: Optional[tf.Tensor] = None) -> Found:
    """Solves.

    Args:
      initial: P to start from.
      step: number of the training step, if the first ones are unrolled.
    """
    if step is None:
      return self._solve(initial)
    return Found(*tf.cond(step < self._options['warmup_unroll_steps'],
                          lambda: tuple(self._warm_up(initial)),
                          lambda: tuple(self._solve(initial))))

  def _solve(self, initial: Levels) -> Found:
    outputs, solution = fixed_point.equilibrium(
        self.function, initial, max_evaluations=self._budget, training=bool(self._training),
        **_solver_options(self._options))
    return self._found(outputs, solution, self._gradient_evaluations)

  def _warm_up(self, initial: Levels) -> Found:
    outputs, solution = fixed_point.equilibrium(
        self.function, initial, solver='unroll', gradient='unroll', training=True,
        max_evaluations=self._options['warmup_evaluations'])
    return self._found(outputs, solution, 0)

  def _found(self, outputs: Levels, solution: fixed_point.Solution, more: int) -> Found:
    steps = tf.cast(solution.steps, tf.float32)
    if not self._options['tolerance']:
      # A fixed budget is spent on all images, also on those that diverged.
      steps = tf.zeros_like(steps) + tf.cast(solution.evaluations, tf.float32)
    return Found(outputs, solution.state, solution.residual, steps, steps + more)

  def update(self, state: Levels) -> None:
    """Moves the averages of batch norm by what one more evaluation, at the solution, sees."""
    self._updates = True
    self._written += 1
    weights = self._network.prepare(self._basis[0].dtype, watch=True)
    state, basis = ([tf.stop_gradient(x) for x in levels] for levels in (state, self._basis))
    self._network.run(weights, state, basis, self._masks)
    self._network.update(weights)

  def cost(self) -> Cost:
    """Returns what the solve costs one image, once it has run."""
    sizes = [tf.shape(level)[1:3] for level in self._basis]
    evaluation = self._network.multiply_adds(sizes)
    more = self._gradient_evaluations
    counts = [(1 if self._options['tolerance'] else self._budget) + more, self._budget + more]
    if self._training and self._options['warmup_unroll_steps']:
      counts.append(self._options['warmup_evaluations'])
    extra = int(self._updates)
    return Cost(evaluation, evaluation * (min(counts) + extra),
                evaluation * (max(counts) + extra), evaluation * self._written)

  def evaluations(self, found: Found) -> tf.Tensor:
    """Returns the evaluations that each image needed, that of `update` included, `[batch]`."""
    return found.evaluations + int(self._updates)


def standard_deviation(features: tf.Tensor) -> tf.Tensor:
  """Returns float32 `[batch]`, over positions and channels."""
  features = tf.cast(features, tf.float32)
  mean = tf.reduce_mean(features, [1, 2, 3], keepdims=True)
  return tf.sqrt(tf.reduce_mean(tf.square(features - mean), [1, 2, 3]))
