"""Gradients through fixed points, against finite differences, unrolling and definitions."""
import functools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import fixed_point
import fixed_points

ACCELERATED = ['anderson', 'broyden']


def _sum_of_sines(levels):
  """A loss in which every level has another weight."""
  return tf.add_n([tf.reduce_sum(tf.sin(level) * (i + 1)) for i, level in enumerate(levels)])


def _loss(weights, basis, **options):
  outputs, _ = fixed_point.solve_with_gradient(
      lambda levels: fixed_points.pyramid(levels, weights, basis),
      [tf.zeros_like(level) for level in basis], **options)
  return _sum_of_sines(outputs)


def _gradients(weights, basis, **options):
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    loss = _loss(weights, basis, **options)
  return tape.gradient(loss, [weights, *basis])


def _traced_gradients(**options):
  traced = tf.function(functools.partial(_gradients, **options), autograph=False)
  return [g.numpy() for g in traced(tf.constant(fixed_points.MIX), fixed_points.basis())]


EXACT = {'max_evaluations': 18, 'backward_evaluations': 18, 'memory': 8}
BUDGETS = {'anderson': EXACT, 'broyden': EXACT,
           'unroll': {'max_evaluations': 25, 'backward_evaluations': 25}}


@functools.cache
def _converged_gradients(solver):
  gradients = _gradients(tf.constant(fixed_points.MIX), fixed_points.basis(), solver=solver,
                         **BUDGETS[solver])
  return [gradient.numpy() for gradient in gradients]


@functools.lru_cache(None)
@tf.function(autograph=False)
def _unrolled_gradients():
  weights, basis = tf.constant(fixed_points.MIX), fixed_points.basis()
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    loss = _sum_of_sines(fixed_points.repeated(
        lambda levels: fixed_points.pyramid(levels, weights, basis), 200)(fixed_points.start()))
  return tape.gradient(loss, [weights, *basis])


@pytest.mark.parametrize('solver, accuracy', [
    ('anderson', 1e-7), ('broyden', 1e-7), ('unroll', 1e-3)])
def test_implicit_gradient_equals_unrolling_to_convergence(solver, accuracy):
  for ours, unrolled in zip(_converged_gradients(solver), _unrolled_gradients()):
    np.testing.assert_allclose(ours, unrolled, atol=accuracy)


@functools.cache
def _finite_differences():
  """Returns derivatives of the loss at the fixed point: (argument, index in it) -> derivative."""
  @tf.function(autograph=False)
  def evaluate(weights, *basis):
    return _sum_of_sines(fixed_points.repeated(
        lambda levels: fixed_points.pyramid(levels, weights, basis), 120)(fixed_points.start()))

  arguments, derivatives = [fixed_points.MIX, *fixed_points.BASIS], {}
  for position, argument in enumerate(arguments):
    indices = list(np.ndindex(argument.shape))
    for index in indices[::max(1, len(indices) // 12)]:
      ends = []
      for change in (1e-5, -1e-5):
        moved = [np.array(value) for value in arguments]
        moved[position][index] += change
        ends.append(float(evaluate(*map(tf.constant, moved))))
      derivatives[position, index] = (ends[0] - ends[1]) / 2e-5
  return derivatives


@pytest.mark.parametrize('solver', ACCELERATED)
def test_implicit_gradient_equals_finite_differences(solver):
  gradients = _converged_gradients(solver)
  for (position, index), expected in _finite_differences().items():
    np.testing.assert_allclose(gradients[position][index], expected, atol=1e-6)


def _backward(solver, evaluations, max_evaluations=4):
  """The gradient of the basis by its definition: y^T df/dB, y from a dense Jacobian at P*."""
  basis = fixed_points.basis()
  state = fixed_point.solve(fixed_points.pyramid, [tf.zeros_like(b) for b in basis], solver=solver,
                            max_evaluations=max_evaluations).state
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(state)
    outputs = fixed_points.pyramid(state)
    loss = _sum_of_sines(outputs)
  g = tape.gradient(loss, outputs)
  y = g
  for _ in range(evaluations):
    y = [a + b for a, b in zip(g, tape.gradient(outputs, state, output_gradients=y))]
  with tf.GradientTape() as tape:
    tape.watch(basis)
    outputs = fixed_points.pyramid(state, inputs=basis)
  return tape.gradient(outputs, basis, output_gradients=y)


def test_jacobian_free_and_plain_backward_equal_their_definitions():
  for options, evaluations in [
      ({'gradient': 'jacobian_free', 'solver': 'anderson'}, 0),
      ({'gradient': 'implicit', 'backward_evaluations': 0, 'solver': 'broyden'}, 0),
      ({'gradient': 'phantom', 'phantom_steps': 1, 'solver': 'broyden'}, 0),
      # One product, from y = g, is the same for every solver.
      ({'gradient': 'implicit', 'backward_evaluations': 1, 'solver': 'anderson'}, 1),
      ({'gradient': 'implicit', 'backward_evaluations': 1, 'solver': 'broyden'}, 1)]:
    ours = _gradients(tf.constant(fixed_points.MIX), fixed_points.basis(), max_evaluations=4,
                      **options)[1:]
    for gradient, expected in zip(ours, _backward(options['solver'], evaluations)):
      np.testing.assert_allclose(gradient, expected, 1e-10, 1e-12)


@pytest.mark.parametrize('damping', [0.4, 1.0])
def test_phantom_equals_its_definition(damping):
  weights, basis = tf.constant(fixed_points.MIX), fixed_points.basis()
  ours = _gradients(weights, basis, gradient='phantom', phantom_steps=3, phantom_damping=damping)
  x = fixed_point.solve(fixed_points.pyramid, [tf.zeros_like(b) for b in basis]).state
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    for _ in range(3):
      results = fixed_points.pyramid(x, weights, basis)
      x = [damping * f + (1 - damping) * level for f, level in zip(results, x)]
    loss = _sum_of_sines(x)
  for gradient, expected in zip(ours, tape.gradient(loss, [weights, *basis])):
    np.testing.assert_allclose(gradient, expected, 1e-10, 1e-12)


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('gradient', ['implicit', 'phantom', 'jacobian_free'])
def test_outputs_of_training_and_inference_agree(solver, gradient):
  options = {'solver': solver, 'max_evaluations': 3, 'gradient': gradient, 'phantom_steps': 1}
  initial = fixed_points.start()
  training, _ = fixed_point.solve_with_gradient(fixed_points.pyramid, initial, **options)
  seen = []
  inference, solution = fixed_point.solve_with_gradient(
      fixed_points.spied(fixed_points.pyramid, seen), initial, training=False, **options)
  assert len(seen) == 3 == int(solution.evaluations)
  for first, second in zip(training, inference):
    np.testing.assert_allclose(first, second, 1e-12)


def test_unrolling_applies_the_function_max_evaluations_times():
  state = fixed_points.start()
  outputs, solution = fixed_point.solve_with_gradient(
      fixed_points.pyramid, state, solver='unroll', gradient='unroll', max_evaluations=3)
  for _ in range(3):
    before, state = state, fixed_points.pyramid(state)
  for ours, kept, expected in zip(outputs, solution.state, state):
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(kept, expected)
  expected = fixed_points.residual(fixed_points.pyramid, before)
  np.testing.assert_allclose(solution.residual, expected, 1e-6)


@pytest.mark.parametrize('solver', ACCELERATED)
def test_zero_gradients_stay_zero(solver):
  weights, basis = tf.constant(fixed_points.MIX), fixed_points.basis()
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    loss = 0 * _loss(weights, basis, solver=solver)
  for gradient in tape.gradient(loss, [weights, *basis]):
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('policy', [tf.float16, tf.bfloat16])
@pytest.mark.parametrize('tolerance', [0.0, 1e-6])
def test_finite_in_half_precision(solver, policy, tolerance):
  weights, basis = tf.constant(fixed_points.MIX, tf.float32), fixed_points.basis(tf.float32)

  def function(levels):
    assert all(level.dtype == policy for level in levels)
    return fixed_points.pyramid(levels, weights, basis)

  with tf.GradientTape() as tape:
    tape.watch(weights)
    outputs, solution = fixed_point.solve_with_gradient(
        function, fixed_points.start(policy), solver=solver, tolerance=tolerance,
        max_evaluations=12)
    loss = tf.reduce_sum(tf.cast(outputs[0], tf.float32))
  assert outputs[0].dtype == solution.state[0].dtype == policy
  assert solution.residual.dtype == solution.residuals.dtype == tf.float32
  # The tolerance is not finer than the dtype resolves, so every image converges.
  assert solution.converged.numpy().all() and solution.residual.numpy().max() < 5e-3
  gradient = tape.gradient(loss, weights)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0.1


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('tolerance', [0.0, 1e-6])
def test_any_batch_and_size_in_one_trace(solver, tolerance):
  traces = []

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 2])] * 2)
  def traced(fine, coarse):
    traces.append(1)
    with tf.GradientTape() as tape:
      tape.watch(fine)
      outputs, solution = fixed_point.solve_with_gradient(
          lambda levels: fixed_points.pyramid(levels, inputs=[fine, coarse]),
          [tf.zeros_like(fine), tf.zeros_like(coarse)], solver=solver, tolerance=tolerance)
      loss = tf.reduce_sum(outputs[0])
    return outputs, tape.gradient(loss, fine), solution

  for batch, size in [(2, (4, 6)), (1, (5, 3)), (0, (4, 4))]:
    fine = tf.random.stateless_normal([batch, *size, 2], [1, 2])
    outputs, gradient, solution = traced(fine, fine[:, ::2, ::2])
    assert outputs[0].shape == gradient.shape == fine.shape
    assert solution.residual.shape == (batch,) and solution.residuals.shape == (5, batch)
    for result in (*outputs, gradient):
      assert np.isfinite(result).all()
  assert len(traces) == 1


@pytest.mark.parametrize('solver', ACCELERATED)
def test_gradients_of_a_function_taken_outside_and_inside_a_branch(solver):
  basis = fixed_points.basis()
  expected = _gradients(tf.constant(fixed_points.MIX), basis, solver=solver)

  @tf.function(autograph=False)
  def branched(weights, taken):
    return tf.cond(
        taken, lambda: _loss(weights, basis, solver=solver), lambda: 0 * weights[0, 0, 0])

  weights = tf.constant(fixed_points.MIX)
  with tf.GradientTape() as tape:
    tape.watch(weights)
    loss = branched(weights, tf.constant(True))
  np.testing.assert_allclose(tape.gradient(loss, weights), expected[0], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
def test_compiles_with_xla(solver):
  options = {'solver': solver, 'max_evaluations': 4, 'backward_evaluations': 2}
  traced = tf.function(functools.partial(_gradients, **options), autograph=False, jit_compile=True)
  basis = fixed_points.basis()
  compiled = traced(tf.constant(fixed_points.MIX), basis)
  for ours, plain in zip(compiled, _traced_gradients(**options)):
    np.testing.assert_allclose(ours, plain, atol=1e-9)


@pytest.mark.parametrize('solver', ACCELERATED)
@pytest.mark.parametrize('forward, backward', [(4, 2), (7, 5)])
def test_graph_has_exactly_the_evaluations_of_the_options(solver, forward, backward):
  """An evaluation has 3 tanh, a vector-Jacobian product 3 of its gradients."""
  traced = tf.function(functools.partial(
      _gradients, solver=solver, max_evaluations=forward, backward_evaluations=backward),
      autograph=False)
  graph = traced.get_concrete_function(
      tf.constant(fixed_points.MIX), fixed_points.basis()).graph
  evaluations, products = ([op for op in graph.get_operations() if op.type == kind]
                           for kind in ('Tanh', 'TanhGrad'))
  assert len(evaluations) == 3 * (forward + 1)
  assert len(products) == 3 * (backward + 1)
  # Back-propagation reads one evaluation for any number of steps.
  assert len({op.inputs[0].name for op in products}) == 3


@pytest.mark.parametrize('evaluations', [2, 3, 6])
def test_products_after_a_full_history_run_in_a_loop(evaluations):
  """Their number is exactly `backward_evaluations`, and the graph does not grow with it."""
  options = {'solver': 'unroll', 'max_evaluations': 4, 'backward_evaluations': evaluations,
             'memory': 2}
  # With `unroll`, the last of four evaluations is at the result of the first three.
  for ours, expected in zip(_traced_gradients(**options)[1:],
                            _backward('unroll', evaluations, max_evaluations=3)):
    np.testing.assert_allclose(ours, expected, 1e-10, 1e-12)
  traced = tf.function(functools.partial(_gradients, **{**options, 'solver': 'anderson'}),
                       autograph=False)
  graph = traced.get_concrete_function(
      tf.constant(fixed_points.MIX), fixed_points.basis()).graph
  products = [op for op in graph.get_operations() if op.type == 'TanhGrad']
  # One fills the history, one is the loop's body, and one is for the weights.
  assert len(products) == 3 * (1 + 1 + 1)


@pytest.mark.parametrize('options, match', [
    ({'solver': 'newton'}, "solver is 'newton'"),
    ({'max_evaluations': 0}, 'max_evaluations is 0'),
    ({'tolerance': -1e-3}, 'tolerance is -0.001'),
    ({'tolerance': float('nan')}, 'tolerance is nan'),
    ({'memory': 0}, 'memory is 0'),
    ({'solver': 'broyden', 'step_size': 0.0}, 'step_size is 0.0; it must be positive'),
    ({'solver': 'anderson', 'step_size': 0.5}, 'step_size is 0.5, which only solver `broyden`'),
    ({'gradient': 'exact'}, "gradient is 'exact'"),
    ({'gradient': 'unroll'}, 'needs solver `unroll`'),
    ({'gradient': 'unroll', 'solver': 'unroll', 'tolerance': 0.1}, 'tolerance 0'),
    ({'backward_evaluations': -1}, 'backward_evaluations is -1'),
    ({'phantom_steps': 0}, 'phantom_steps is 0'),
    ({'phantom_damping': 0.0}, 'phantom_damping is 0.0'),
    ({'phantom_damping': 1.5}, 'phantom_damping is 1.5')])
def test_wrong_options_are_errors(options, match):
  with pytest.raises(ValueError, match=match):
    fixed_point.solve_with_gradient(fixed_points.cosine, [tf.zeros([1, 1])], **options)
