"""The implicit feature pyramid: levels that are the fixed point of one learned map.

Reference: Tiancai Wang, Xiangyu Zhang, Jian Sun, Implicit Feature Pyramid Network for
Object Detection, https://arxiv.org/abs/2012.13563.
"""
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.configs import options
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.decoders.ifpn import connections
from official_ext.modeling.decoders.ifpn import deformable_kernels as deformable_lib
from official_ext.modeling.decoders.ifpn import maps
from official_ext.modeling.decoders.ifpn import solve
from official_ext.modeling.decoders.ifpn import weight_norm
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import deformable
from official_ext.modeling.layers import norms
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import fixed_point
from official_ext.ops import routing

Levels = list[tf.Tensor]


@dataclasses.dataclass
class ImplicitFPNConfig(pyramid.PyramidConfig):
  """Options of `ImplicitFPN`, which documents them as its arguments."""
  solver: options.SolverConfig = dataclasses.field(default_factory=options.SolverConfig)
  residual: bool = True
  cross_scale: str = 'pyramid'
  shared: bool = True
  deformable_kernels: bool = False
  offset_rate: float = 1.0
  injection: str = 'sum'
  block_norm: str = 'group_norm'
  output_norm_scale: float = 0.3
  normalize_basis: bool = False
  dropout: float = 0.02
  norm: str = 'none'
  symmetric_padding: bool = True


@components.register_decoder('ifpn', ImplicitFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class ImplicitFPN(routed.RoutedLayer, pyramid.PyramidDecoder):
  """A pyramid P that solves P = G(P + B) for basis features B of the backbone (eq. 7).

  Reference: Tiancai Wang, Xiangyu Zhang, Jian Sun, Implicit Feature Pyramid Network for Object
  Detection, https://arxiv.org/abs/2012.13563.

  B is a convolution of each level of the backbone, and coarser levels, without a top-down path;
  G is residual blocks and connections between levels (section 3.2.2), with the same weights at
  every evaluation.  The head gets G(P* + B).

  The layer records no gates on a routing tape, but the cost of each image, as a multiple of one
  evaluation of G, and the metrics `residual`, `evaluations` (of G, until the image stopped) and
  `basis_std/<level>`, which should be near 1: with the scale of G's norms it decides whether G
  contracts.  If the tape diagnoses, the layer also records `spectral_radius` of G's Jacobian at
  P*, at inference.

  Differs:

  * Anderson acceleration with 5 evaluations instead of 15 steps of Broyden.
  * Group norm follows every convolution of G, with a small initial scale at the output.  The
    paper names no norm there, but G has no fixed point without one.
  * Eq. 8 writes a kernel W_ij for each pair of levels; by default three kernels serve all levels
    (`shared`).
  * The paper prints no value of the step size alpha of eqs. 10-11; `solver.step_size` is 1.
  * The paper prints no dropout rate; 0.02 is ours.
  """

  def __init__(self, input_specs: Mapping[str, Any], solver: Mapping[str, Any] | None = None,
               residual: bool = True, cross_scale: str = 'pyramid', shared: bool = True,
               deformable_kernels: bool = False, offset_rate: float = 1.0, injection: str = 'sum',
               block_norm: str = 'group_norm', output_norm_scale: float = 0.3,
               normalize_basis: bool = False, dropout: float = 0.02, norm: str = 'none',
               symmetric_padding: bool = True, **kwargs):
    """Initializes the decoder.

    Args:
      input_specs: see `PyramidDecoder`.
      solver: options of the solver, as in `options.SolverConfig`.  With `unroll` and 0
        evaluations the pyramid is the basis alone.
      residual: whether G has residual blocks (Table 3).
      cross_scale: connections between levels: `none`, `pyramid`, `dense`, `bifpn` or
        `nasfpn` (Table 4).
      shared: whether all levels share the kernels of `pyramid`.
      deformable_kernels: whether the kernels of `pyramid` are deformable convolutions of version 2,
        which start as the plain ones.
      offset_rate: factor of the gradients of their offsets' convolutions, see
        `layers.deformable.WithOffsets`.
      injection: how B enters G: `sum`, G(P + B), or `mdeq`, inside blocks of another map
        that has its own connections (Table 5).
      block_norm: norm in G: `group_norm`, or `batch_norm`, whose statistics are frozen during a
        solve and common to all levels at the output.
      output_norm_scale: initial scale of G's last norm, positive; the smaller, the more G
        contracts.
      normalize_basis: whether group norm follows each level of B.
      dropout: share of channels that residual blocks drop, in [0, 1); the same channels in all
        evaluations of a training step.
      norm: norm of the basis, see `PyramidDecoder`.
      symmetric_padding: of the basis, see `PyramidDecoder`.
      **kwargs: arguments of `PyramidDecoder`; `activation` is also that of G.

    Raises:
      ArgumentError: an unknown option, a number out of range, or options that exclude each other.
    """
    super().__init__(input_specs=input_specs, norm=norm, symmetric_padding=symmetric_padding,
                     **kwargs)
    self._solver = {**options.SolverConfig().as_dict(), **(solver or {})}
    self._options: dict[str, Any] = {
        'residual': residual, 'cross_scale': cross_scale, 'shared': shared,
        'deformable_kernels': deformable_kernels, 'offset_rate': offset_rate,
        'injection': injection, 'block_norm': block_norm,
        'output_norm_scale': output_norm_scale,
        'normalize_basis': normalize_basis, 'dropout': dropout}
    self._check_options()
    variables = tf.as_dtype(self.variable_dtype)
    self._basis_norms = {
        level: norms.GroupNorm(name=f'basis_norm_{level}', dtype=variables)
        for level in (self.levels if normalize_basis else ())}
    self._masks = None
    if dropout or self._solver['warmup_unroll_steps']:
      self._masks = maps.ChannelDropout(
          dropout, len(self.levels), self._num_filters, name=f'{self.name}_dropout')
    self.map: connections.Connection | None = (
        self._build_map(variables) if self._is_implicit else None)

  def _check_options(self) -> None:
    given = self._options
    checks.check_one_of('cross_scale', given['cross_scale'], maps.CONNECTIONS)
    checks.check_one_of('injection', given['injection'], ('sum', 'mdeq'))
    checks.check_one_of('block_norm', given['block_norm'], ('group_norm', 'batch_norm'))
    if given['output_norm_scale'] <= 0:
      raise checks.ArgumentError(
          'output_norm_scale',
          f'output_norm_scale is {given["output_norm_scale"]}; it must be positive.')
    maps.check_dropout_rate('dropout', given['dropout'])
    own = {'residual': True, 'cross_scale': 'pyramid', 'shared': True,
           'deformable_kernels': False}
    if given['injection'] == 'mdeq' and any(given[name] != own[name] for name in own):
      raise checks.ArgumentError(
          'injection', f'injection `mdeq` has its own map: {", ".join(own)} must keep their '
          f'defaults {own}, or injection be `sum`.')
    if given['deformable_kernels'] and given['cross_scale'] != 'pyramid':
      raise checks.ArgumentError(
          'deformable_kernels', 'deformable_kernels is true, but cross_scale is '
          f'{given["cross_scale"]!r}: only the kernels of `pyramid` may be deformable.')
    deformable.check_offset_rate(given['offset_rate'])
    solve.check_options(self._solver, options.SolverConfig().as_dict())
    if given['normalize_basis'] or (self._is_implicit and given['block_norm'] == 'group_norm'):
      norms.check_group_size('num_filters', self._num_filters)

  @property
  def _is_implicit(self) -> bool:
    return self._solver['training_evaluations'] > 0

  @property
  def has_budget_input(self) -> bool:
    """Whether the number of evaluations follows `routing.wanted_budget`."""
    return self._solver['budget_input'] and self._is_implicit

  @property
  def levels(self) -> list[str]:
    """All levels of the pyramid, finest first."""
    return self._backbone_levels + self._coarser_levels

  @property
  def metric_names(self) -> list[str]:
    solved = ['residual', 'evaluations'] if self._is_implicit else []
    return solved + [f'basis_std/{level}' for level in self.levels]

  @property
  def metric_limits(self) -> Mapping[str, routed.Limit]:
    return {'residual': (
        0.3, 'the fixed point is not reached, and the implicit gradient is wrong: raise '
        'solver.training_evaluations or lower the learning rate')}

  def output_conv(self, level: str) -> convolutions.Conv2D:
    return self.conv(1, f'lateral_{level}')

  def _build_map(self, variables: tf.DType) -> connections.Connection:
    if self._options['block_norm'] == 'group_norm':
      norm = functools.partial(norms.GroupNorm, dtype=variables)
    else:
      norm = functools.partial(
          norms.FrozenBatchNorm, dtype=variables, momentum=self._norm_options['momentum'],
          epsilon=self._norm_options['epsilon'])
    conv, deformable_conv = (functools.partial(
        cls, self._num_filters, dtype=variables, kernel_regularizer=self._kernel_regularizer,
        bias_regularizer=self._bias_regularizer) for cls in (
            weight_norm.WeightNormConv2D, deformable_lib.DeformableWeightNormConv2D))
    deformable_conv = functools.partial(
        deformable_conv, offset_rate=self._options['offset_rate'])
    pieces = connections.PieceFactory(
        conv, deformable_conv, norm, tf_keras.activations.get(self._activation),
        self._options['output_norm_scale'], self._num_filters)
    common = {'name': 'map', 'dtype': variables}
    if self._options['injection'] == 'mdeq':
      return maps.InjectedMap(pieces, len(self.levels), **common)
    return maps.ResidualMap(
        pieces, len(self.levels), is_residual=self._options['residual'],
        cross_scale_type=self._options['cross_scale'], is_shared=self._options['shared'],
        is_deformable=self._options['deformable_kernels'], **common)

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    layers = [*self._basis_norms.values(), *filter(None, (self.map, self._masks))]
    shape = [None, None, None, self._num_filters]
    convolutions.build_in_scope(layers, [shape] * len(layers))
    super().build(input_shape)

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return inputs

  def basis(self, inputs: Mapping[str, tf.Tensor],
            training: bool | None = None) -> pyramid.Features:
    """Returns B, `{level: [batch, height, width, num_filters]}`.

    Args:
      inputs: the backbone's levels, `{level: [batch, height, width, channels]}`.
      training: None counts as False.
    """
    inputs = self.checked(inputs)
    basis = self.finish(inputs, inputs, training)
    for level, norm in self._basis_norms.items():
      basis[level] = norm.run(norm.prepare(self.compute_dtype), basis[level])
    return basis

  def function(self, basis: Mapping[str, tf.Tensor]) -> fixed_point.Function:
    """Returns the map from P to G(P + B), whose fixed point is the pyramid at inference.

    Args:
      basis: B, which the method `basis` returns.

    Raises:
      ValueError: the pyramid is the basis alone (`unroll` with 0 evaluations).
    """
    if self.map is None:
      raise ValueError(f'{self.name} has no map: its solver evaluates 0 times.')
    return solve.ImplicitSolve(
        self.map, self._solver, [basis[level] for level in self.levels], None, False).function

  def call(self, inputs: Mapping[str, tf.Tensor], training: bool | None = None,
           initial: Mapping[str, tf.Tensor] | None = None) -> pyramid.Features:
    """Maps the backbone's levels to the pyramid.

    Args:
      inputs: `{level: [batch, height, width, channels]}`; levels beyond the input specs
        are ignored.
      training: None counts as False, with which the pyramid has a gradient only if the solver
        unrolls.
      initial: a pyramid to start from, such as this decoder's result for the previous frame;
        None: start from zero.  With `solver.tolerance` above 0 a good start needs fewer
        evaluations of G.  A routing tape has their number for each image as the metric
        `evaluations`, and their cost in `executed`.

    Returns:
      `{level: [batch, height, width, num_filters]}` for `min_level` to `max_level`.

    Raises:
      ValueError: a level is missing or is not of rank 4.
    """
    basis = list(self.basis(inputs, training).values())
    if self.map is None:
      self._record(basis)
      return dict(zip(self.levels, basis))
    step, masks = self._begin_step(basis, training)
    problem = solve.ImplicitSolve(self.map, self._solver, basis, masks, training)
    result = problem.run(self._start(basis, initial), step)
    if training and self.trainable and self._options['block_norm'] == 'batch_norm':
      problem.update(result.state)
    self._record(basis, problem, result, training)
    return dict(zip(self.levels, result.outputs))

  def _start(self, basis: Levels, initial: Mapping[str, tf.Tensor] | None) -> Levels:
    if initial is None:
      return [tf.zeros_like(level) for level in basis]
    missing = sorted(set(self.levels) - set(initial))
    if missing:
      raise ValueError(f'{self.name} starts from levels {sorted(initial)}: {missing} are missing.')
    return [tf.cast(initial[level], self.compute_dtype) for level in self.levels]

  def _begin_step(self, basis, training):
    """Returns the number of the training step if warm-up needs it, and the masks of the step."""
    if not training or self._masks is None:
      return None, None
    step = self._masks.steps() if self._solver['warmup_unroll_steps'] else None
    masks = self._masks.draw(tf.shape(basis[0])[0])
    return step, masks if self._options['dropout'] else None

  def _record(self, basis: Levels, problem: solve.ImplicitSolve | None = None,
              result: solve.SolveResult | None = None, training: bool | None = None) -> None:
    """Records cost and metrics, which are computed only if a routing tape is open."""
    tape = routing.RoutingTape.current()
    if tape is None:
      return
    metrics = {f'basis_std/{level}': solve.standard_deviation(features)
               for level, features in zip(self.levels, basis)}
    cost = solve.SolveCost(*[tf.constant(0.0, tf.float64)] * 4)
    executed = tf.zeros(tf.shape(basis[0])[:1], tf.float64)
    if problem is not None and result is not None:
      cost = problem.cost()
      executed = cost.evaluation * tf.cast(problem.evaluations(result), tf.float64)
      metrics.update(residual=result.residual, evaluations=result.steps)
      if tape.diagnose and not training:
        metrics['spectral_radius'] = fixed_point.spectral_radius(problem.function, result.state)
    self.record(
        gates={}, executed=executed, expected=executed, minimum=cost.minimum,
        maximum=cost.maximum, all_branches=cost.all_branches, metrics=metrics)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'solver': dict(self._solver), **self._options}
