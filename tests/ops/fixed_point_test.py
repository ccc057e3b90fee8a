"""Solvers of x = f(x) and the gradients through them: every solver on every problem."""
import functools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import fixed_point

RNG = np.random.default_rng(0)
ACCELERATED = ['anderson', 'broyden']
BASIS = [RNG.normal(size=[2, 4, 6, 2]), RNG.normal(size=[2, 2, 3, 2]), RNG.normal(size=[2, 1, 2, 2])]
MIX = 0.25 * RNG.normal(size=[3, 2, 2])


def _linear_parts():
  matrices = RNG.normal(size=[3, 8, 8])
  radius = np.max(abs(np.linalg.eigvals(matrices)), axis=1)
  return 0.9 * matrices / radius[:, None, None], RNG.normal(size=[3, 8])


MATRICES, OFFSETS = _linear_parts()
LINEAR = np.stack([np.linalg.solve(np.eye(8) - a, b) for a, b in zip(MATRICES, OFFSETS)])


def _linear(levels):
  """An affine map of each image, whose 8 numbers lie in two levels; no two images alike."""
  flat = tf.concat([tf.reshape(level, [-1, 4]) for level in levels], axis=1)
  result = tf.linalg.matvec(tf.constant(MATRICES, flat.dtype), flat)
  result += tf.constant(OFFSETS, flat.dtype)
  return [tf.reshape(half, [-1, 2, 1, 2]) for half in tf.split(result, 2, axis=1)]


def _cosine(levels):
  return [tf.cos(level) for level in levels]


def _resized(level, target):
  return tf.image.resize(level, tf.shape(target)[1:3], 'nearest')


def _pyramid(levels, mix=None, basis=None):
  """Three levels of which each hears its neighbors."""
  mix = [tf.cast(m, levels[0].dtype) for m in (MIX if mix is None else tf.unstack(mix))]
  basis = [tf.cast(b, levels[0].dtype) for b in (BASIS if basis is None else basis)]
  results = []
  for i, level in enumerate(levels):
    total = tf.einsum('bhwc,cd->bhwd', level, mix[0]) + basis[i]
    if i + 1 < len(levels):
      total += tf.einsum('bhwc,cd->bhwd', _resized(levels[i + 1], level), mix[1])
    if i:
      total += tf.einsum('bhwc,cd->bhwd', _resized(levels[i - 1], level), mix[2])
    results.append(tf.tanh(total))
  return results


def _zeros(shapes, dtype=tf.float64):
  return [tf.zeros(shape, dtype) for shape in shapes]


def _repeated(function, times):
  """Returns the function applied so many times, in a loop: a small graph."""
  return lambda levels: tf.while_loop(
      lambda count, _: count < times, lambda count, x: (count + 1, function(x)),
      (tf.constant(0), levels))[1]


@functools.lru_cache(None)
def _pyramid_solution():
  state = _zeros([b.shape for b in BASIS])
  step = tf.function(_pyramid, autograph=False)
  for _ in range(400):
    state = step(state)
  return [level.numpy() for level in state]


PROBLEMS = {
    'linear': (_linear, [[3, 2, 1, 2]] * 2,
               lambda: [h.reshape(3, 2, 1, 2) for h in np.split(LINEAR, 2, axis=1)]),
    'cosine': (_cosine, [[2, 3, 1, 1]], lambda: [np.full([2, 3, 1, 1], 0.7390851332151607)]),
    'pyramid': (_pyramid, [b.shape for b in BASIS], _pyramid_solution),
}


def _residual(function, state):
  """The relative residual, in NumPy."""
  outputs = [level.numpy().astype(np.float64) for level in function(state)]
  state = [level.numpy().astype(np.float64) for level in state]
  flat = [np.concatenate([level.reshape(len(level), -1) for level in levels], 1)
          for levels in (outputs, state)]
  return np.linalg.norm(flat[0] - flat[1], axis=1) / np.linalg.norm(flat[0], axis=1)


def _flat(levels):
  return np.concatenate([np.reshape(level, [len(level), -1]) for level in levels], axis=1)


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('tolerance', [0.0, 1e-9])
@pytest.mark.parametrize('problem', PROBLEMS)
def test_finds_the_known_answer(problem, solver, tolerance):
  function, shapes, answer = PROBLEMS[problem]
  budget = 250 if solver == 'unroll' else 24
  if solver == 'unroll' and not tolerance:
    function = _repeated(function, 10)
    budget = 25
  solve = tf.function(lambda: fixed_point.solve(
      function, _zeros(shapes), solver=solver, max_evaluations=budget, tolerance=tolerance,
      memory=10), autograph=False)
  solution = solve()
  for level, expected in zip(solution.state, answer()):
    np.testing.assert_allclose(level, expected, atol=1e-7)
  assert solution.converged.numpy().all()
  steps = solution.steps.numpy()
  assert int(solution.evaluations) == steps.max()
  assert (steps.max() < budget) if tolerance else (steps == budget).all()
  residuals = solution.residuals.numpy()
  assert residuals.shape == (budget, len(steps)) and np.isfinite(residuals).all()
  for image, count in enumerate(steps):
    np.testing.assert_array_equal(residuals[count - 1:, image], residuals[-1, image])


@pytest.mark.parametrize('solver', ACCELERATED)
@pytest.mark.parametrize('problem', PROBLEMS)
@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_more_evaluations_never_make_the_residual_worse(problem, solver, dtype):
  function, shapes, _ = PROBLEMS[problem]
  before = np.inf
  for budget in (1, 2, 3, 5, 8):
    solution = fixed_point.solve(
        function, _zeros(shapes, dtype), solver=solver, max_evaluations=budget, memory=3)
    residual = solution.residual.numpy()
    assert (residual <= before).all()
    recomputed = _residual(function, solution.state)
    np.testing.assert_allclose(residual, recomputed, 1e-4, 1e-6)
    np.testing.assert_array_equal(residual, solution.residuals.numpy().min(0))
    before = residual


@pytest.mark.parametrize('solver', ACCELERATED)
def test_converges_where_plain_iteration_fails(solver):
  def function(levels):
    return [tf.constant([[-1.5, 0.3], [0.1, -1.2]], tf.float64)[None] @ levels[0] + 1]

  initial = _zeros([[1, 2, 1]])
  options = {'max_evaluations': 8, 'tolerance': 1e-9}
  assert fixed_point.solve(function, initial, solver=solver, **options).converged.numpy().all()
  plain = fixed_point.solve(function, initial, solver='unroll', **options)
  assert not plain.converged.numpy().any() and float(plain.residual[0]) > 1


def _spied(function, seen):
  def spy(levels):
    seen.append(_flat([level.numpy() for level in levels]))
    return function(levels)
  return spy


def _plain_anderson(function, x, count, memory, ridge=1e-4):
  """The iterates of one image: minimizes |sum a_i q_i|^2 under sum a_i = 1 by its KKT system."""
  iterates, values = [], []
  for _ in range(count):
    iterates.append(x)
    values.append(function(x))
    f = np.stack(values[-memory:], 1)
    q = f - np.stack(iterates[-memory:], 1)
    size = q.shape[1]
    system = np.ones([size + 1, size + 1])
    system[:size, :size] = q.T @ q + ridge * (q[:, -1] @ q[:, -1]) * np.eye(size)
    system[size, size] = 0
    weights = np.linalg.solve(system, np.append(np.zeros(size), 1))[:size]
    x = f @ weights
  return iterates


def _plain_broyden(function, x, count, memory):
  """The iterates of one image, with the inverse Jacobian of Q as a dense matrix."""
  del memory
  inverse, iterates = -np.eye(len(x)), []
  q = function(x) - x
  for _ in range(count):
    iterates.append(x)
    dx = -inverse @ q
    x = x + dx
    dq = function(x) - x - q
    q = q + dq
    inverse = inverse + np.outer(dx - inverse @ dq, dx @ inverse) / (dx @ inverse @ dq)
  return iterates


@pytest.mark.parametrize('solver, plain', [
    ('anderson', _plain_anderson), ('broyden', _plain_broyden)])
@pytest.mark.parametrize('problem', ['linear', 'pyramid'])
@pytest.mark.parametrize('tolerance', [0.0, 1e-12])
@pytest.mark.parametrize('memory', [2, 5])
def test_iterates_equal_those_of_plain_numpy(problem, solver, plain, tolerance, memory):
  function, shapes, _ = PROBLEMS[problem]
  count, seen = 7, []
  fixed_point.solve(_spied(function, seen), _zeros(shapes), solver=solver, memory=memory,
                    max_evaluations=count, tolerance=tolerance)
  sizes = [int(np.prod(shape[1:])) for shape in shapes]
  assert len(seen) == count

  def of_image(image):
    def single(vector):
      flat = np.zeros([shapes[0][0], sum(sizes)])
      flat[image] = vector
      parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
      return _flat(function([tf.reshape(p, s) for p, s in zip(parts, shapes)]))[image]
    return single

  for image in range(shapes[0][0]):
    expected = plain(of_image(image), np.zeros(sum(sizes)), count, memory)
    for ours, theirs in zip(seen, expected):
      np.testing.assert_allclose(ours[image], theirs, atol=1e-10 * max(1, abs(theirs).max()))


def _loss(weights, basis, **options):
  outputs, solution = fixed_point.equilibrium(
      lambda levels: _pyramid(levels, weights, basis), [tf.zeros_like(b) for b in basis], **options)
  return tf.add_n([tf.reduce_sum(tf.sin(level) * (i + 1)) for i, level in enumerate(outputs)])


def _gradients(weights, basis, **options):
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    loss = _loss(weights, basis, **options)
  return tape.gradient(loss, [weights, *basis])


def _traced_gradients(**options):
  traced = tf.function(functools.partial(_gradients, **options), autograph=False)
  return [g.numpy() for g in traced(tf.constant(MIX), [tf.constant(b) for b in BASIS])]


EXACT = {'max_evaluations': 14, 'backward_evaluations': 14, 'memory': 8}


@functools.lru_cache(None)
def _unrolled_gradients():
  return _traced_gradients(solver='unroll', gradient='unroll', max_evaluations=80)


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
def test_implicit_gradient_equals_unrolling_to_convergence(solver):
  budget = EXACT if solver != 'unroll' else {'max_evaluations': 80, 'backward_evaluations': 80}
  for ours, unrolled in zip(_traced_gradients(solver=solver, **budget), _unrolled_gradients()):
    np.testing.assert_allclose(ours, unrolled, atol=1e-7)


@pytest.mark.parametrize('solver', ACCELERATED)
def test_implicit_gradient_equals_finite_differences(solver):
  arguments = [MIX, *BASIS]
  evaluate = tf.function(
      lambda weights, *basis: _loss(weights, list(basis), solver=solver, training=False, **EXACT),
      autograph=False)
  for position, gradient in enumerate(_traced_gradients(solver=solver, **EXACT)):
    indices = list(np.ndindex(gradient.shape))
    for index in indices[::max(1, len(indices) // 12)]:
      ends = []
      for change in (1e-5, -1e-5):
        moved = [np.array(value) for value in arguments]
        moved[position][index] += change
        ends.append(float(evaluate(*map(tf.constant, moved))))
      np.testing.assert_allclose(gradient[index], (ends[0] - ends[1]) / 2e-5, atol=1e-6)


def _backward(solver, evaluations):
  """The gradient of the basis by its definition: y^T df/dB, y from a dense Jacobian at P*."""
  basis = [tf.constant(b) for b in BASIS]
  state = fixed_point.solve(_pyramid, [tf.zeros_like(b) for b in basis], solver=solver,
                            max_evaluations=4).state
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(state)
    outputs = _pyramid(state)
    loss = tf.add_n([tf.reduce_sum(tf.sin(x) * (i + 1)) for i, x in enumerate(outputs)])
  g = tape.gradient(loss, outputs)
  y = g
  for _ in range(evaluations):
    y = [a + b for a, b in zip(g, tape.gradient(outputs, state, output_gradients=y))]
  with tf.GradientTape() as tape:
    tape.watch(basis)
    outputs = _pyramid(state, basis=basis)
  return tape.gradient(outputs, basis, output_gradients=y)


def test_jacobian_free_and_plain_backward_equal_their_definitions():
  for options, evaluations in [
      ({'gradient': 'jacobian_free', 'solver': 'anderson'}, 0),
      ({'gradient': 'implicit', 'backward_evaluations': 0, 'solver': 'broyden'}, 0),
      ({'gradient': 'phantom', 'phantom_steps': 1, 'solver': 'broyden'}, 0),
      # One product, from y = g, is the same for every solver.
      ({'gradient': 'implicit', 'backward_evaluations': 1, 'solver': 'anderson'}, 1),
      ({'gradient': 'implicit', 'backward_evaluations': 1, 'solver': 'broyden'}, 1)]:
    ours = _gradients(tf.constant(MIX), [tf.constant(b) for b in BASIS], max_evaluations=4,
                      **options)[1:]
    for gradient, expected in zip(ours, _backward(options['solver'], evaluations)):
      np.testing.assert_allclose(gradient, expected, 1e-10, 1e-12)


@pytest.mark.parametrize('damping', [0.4, 1.0])
def test_phantom_equals_its_definition(damping):
  weights, basis = tf.constant(MIX), [tf.constant(b) for b in BASIS]
  ours = _gradients(weights, basis, gradient='phantom', phantom_steps=3, phantom_damping=damping)
  x = fixed_point.solve(_pyramid, [tf.zeros_like(b) for b in basis]).state
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    for _ in range(3):
      x = [damping * f + (1 - damping) * a for f, a in zip(_pyramid(x, weights, basis), x)]
    loss = tf.add_n([tf.reduce_sum(tf.sin(level) * (i + 1)) for i, level in enumerate(x)])
  for gradient, expected in zip(ours, tape.gradient(loss, [weights, *basis])):
    np.testing.assert_allclose(gradient, expected, 1e-10, 1e-12)


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('gradient', ['implicit', 'phantom', 'jacobian_free'])
def test_outputs_of_training_and_inference_agree(solver, gradient):
  options = {'solver': solver, 'max_evaluations': 3, 'gradient': gradient, 'phantom_steps': 1}
  initial = _zeros([b.shape for b in BASIS])
  training, _ = fixed_point.equilibrium(_pyramid, initial, **options)
  seen = []
  inference, solution = fixed_point.equilibrium(
      _spied(_pyramid, seen), initial, training=False, **options)
  assert len(seen) == 3 == int(solution.evaluations)
  for ours, theirs in zip(training, inference):
    np.testing.assert_allclose(ours, theirs, 1e-12)


def test_unrolling_applies_the_function_so_often():
  state = _zeros([b.shape for b in BASIS])
  outputs, solution = fixed_point.equilibrium(
      _pyramid, state, solver='unroll', gradient='unroll', max_evaluations=3)
  for _ in range(3):
    before, state = state, _pyramid(state)
  for ours, kept, expected in zip(outputs, solution.state, state):
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(kept, expected)
  np.testing.assert_allclose(solution.residual, _residual(_pyramid, before), 1e-6)


def _poles(levels):
  """Image 0 stands still, 1 diverges, 2 is not a number, 3 jumps between two, 4 converges."""
  x = levels[0]
  rows = [0 * x[0], -3 * x[1] ** 3 - 1, 1 / x[2], 1 - x[3], tf.cos(x[4])]
  return [tf.stack(rows)]


@pytest.mark.parametrize('solver', ACCELERATED)
@pytest.mark.parametrize('tolerance', [0.0, 1e-5])
@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_never_gives_nan_and_the_best_iterate_wins(solver, tolerance, dtype):
  initial = [tf.constant([0, 0, 1e-30, 0, 0], dtype)[:, None, None, None] * tf.ones([5, 2, 1, 3], dtype)]
  options = {'solver': solver, 'max_evaluations': 8, 'tolerance': tolerance}
  solution = fixed_point.solve(_poles, initial, **options)
  for value in [*solution.state, solution.residual, solution.residuals]:
    assert np.isfinite(value).all()
  converged = solution.converged.numpy()
  assert converged[0] and converged[4] and not converged[2]
  assert float(solution.residual[0]) == 0
  recomputed = _residual(_poles, solution.state)[[1, 3, 4]]
  np.testing.assert_allclose(solution.residual.numpy()[[1, 3, 4]], recomputed, 1e-3, 1e-6)
  # The image beside those that fail fares as if alone.
  alone = fixed_point.solve(_cosine, [initial[0][4:]], **options)
  np.testing.assert_allclose(solution.state[0][4], alone.state[0][0], 1e-6)
  assert int(solution.steps[4]) == int(alone.steps[0])


@pytest.mark.parametrize('solver', ACCELERATED)
def test_a_map_that_grows_without_bound_gives_its_start(solver):
  initial = [tf.ones([2, 1, 1, 1])]
  solution = fixed_point.solve(lambda x: [3e12 * tf.square(x[0]) + 1], initial, solver=solver,
                               max_evaluations=6)
  np.testing.assert_array_equal(solution.state[0], initial[0])
  assert not solution.converged.numpy().any()
  assert (solution.steps.numpy() < 6).all()


@pytest.mark.parametrize('solver', ACCELERATED)
def test_zero_gradients_stay_zero(solver):
  weights, basis = tf.constant(MIX), [tf.constant(b) for b in BASIS]
  with tf.GradientTape() as tape:
    tape.watch([weights, *basis])
    loss = 0 * _loss(weights, basis, solver=solver)
  for gradient in tape.gradient(loss, [weights, *basis]):
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
def test_stopping_of_one_image_leaves_the_others_alone(solver):
  rates = np.array([0.05, 0.9, 0.5, 0.99])

  def function(chosen):
    rate = tf.constant(rates[chosen])[:, None, None, None]
    return lambda levels: [rate * tf.sin(levels[0]) + 1]

  options = {'solver': solver, 'max_evaluations': 60, 'tolerance': 1e-4}
  initial = tf.constant(RNG.normal(size=[4, 2, 2, 1]))
  together = fixed_point.solve(function(np.arange(4)), [initial], **options)
  steps = together.steps.numpy()
  assert len(set(steps)) > 1 and together.converged.numpy().all()
  for image in range(4):
    alone = fixed_point.solve(function([image]), [initial[image:image + 1]], **options)
    assert int(alone.steps[0]) == steps[image] == int(alone.evaluations)
    np.testing.assert_allclose(together.state[0][image], alone.state[0][0], 1e-12)


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('policy', [tf.float16, tf.bfloat16])
@pytest.mark.parametrize('tolerance', [0.0, 1e-6])
def test_finite_in_half_precision(solver, policy, tolerance):
  weights, basis = tf.constant(MIX, tf.float32), [tf.constant(b, tf.float32) for b in BASIS]

  def function(levels):
    assert all(level.dtype == policy for level in levels)
    return _pyramid(levels, weights, basis)

  with tf.GradientTape() as tape:
    tape.watch(weights)
    outputs, solution = fixed_point.equilibrium(
        function, _zeros([b.shape for b in BASIS], policy), solver=solver, tolerance=tolerance,
        max_evaluations=12)
    loss = tf.reduce_sum(tf.cast(outputs[0], tf.float32))
  assert outputs[0].dtype == solution.state[0].dtype == policy
  assert solution.residual.dtype == solution.residuals.dtype == tf.float32
  # What the dtype resolves is enough: no image runs into the budget for want of bits.
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
      outputs, solution = fixed_point.equilibrium(
          lambda levels: _pyramid(levels, basis=[fine, coarse]),
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
  basis = [tf.constant(b) for b in BASIS]
  expected = _gradients(tf.constant(MIX), basis, solver=solver)

  @tf.function(autograph=False)
  def branched(weights, taken):
    return tf.cond(taken, lambda: _loss(weights, basis, solver=solver), lambda: 0 * weights[0, 0, 0])

  weights = tf.constant(MIX)
  with tf.GradientTape() as tape:
    tape.watch(weights)
    loss = branched(weights, tf.constant(True))
  np.testing.assert_allclose(tape.gradient(loss, weights), expected[0], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
def test_compiles_with_xla(solver):
  options = {'solver': solver, 'max_evaluations': 4, 'backward_evaluations': 2}
  traced = tf.function(functools.partial(_gradients, **options), autograph=False, jit_compile=True)
  basis = [tf.constant(b) for b in BASIS]
  for ours, plain in zip(traced(tf.constant(MIX), basis), _traced_gradients(**options)):
    np.testing.assert_allclose(ours, plain, atol=1e-9)


def test_spectral_radius():
  spectrum = np.max(abs(np.linalg.eigvals(MATRICES)), axis=1)
  ours = fixed_point.spectral_radius(_linear, _zeros([[3, 2, 1, 2]] * 2), iterations=60)
  np.testing.assert_allclose(ours, spectrum, rtol=0.05)
  turn = tf.constant([[0.0, -0.7], [0.7, 0.0]])  # eigenvalues +-0.7i
  ours = fixed_point.spectral_radius(lambda x: [tf.linalg.matvec(turn, x[0])], [tf.zeros([4, 2])])
  np.testing.assert_allclose(ours, [0.7] * 4, 1e-5)
  ours = fixed_point.spectral_radius(lambda x: [tf.zeros_like(x[0])], [tf.ones([2, 2])])
  np.testing.assert_array_equal(ours, [0, 0])


def _operations(graph):
  counts = {}
  for function in [graph, *[f.graph for f in graph._functions.values()
                            if hasattr(f, 'graph')]]:  # pylint: disable=protected-access
    for operation in function.get_operations():
      counts[operation.type] = counts.get(operation.type, 0) + 1
  return counts


@pytest.mark.parametrize('solver', ACCELERATED)
@pytest.mark.parametrize('forward, backward', [(4, 2), (7, 5)])
def test_evaluates_no_more_than_it_says(solver, forward, backward):
  """Each evaluation is 3 tanh, each vector-Jacobian product 3 of its gradients."""
  traced = tf.function(functools.partial(
      _gradients, solver=solver, max_evaluations=forward, backward_evaluations=backward),
      autograph=False)
  graph = traced.get_concrete_function(tf.constant(MIX), [tf.constant(b) for b in BASIS]).graph
  counts = _operations(graph)
  assert counts['Tanh'] == 3 * (forward + 1)
  assert counts['TanhGrad'] == 3 * (backward + 1)


@pytest.mark.parametrize('options, match', [
    ({'solver': 'newton'}, "solver is 'newton'"),
    ({'max_evaluations': 0}, 'max_evaluations is 0'),
    ({'tolerance': -1e-3}, 'tolerance is -0.001'),
    ({'tolerance': float('nan')}, 'tolerance is nan'),
    ({'memory': 0}, 'memory is 0'),
    ({'gradient': 'exact'}, "gradient is 'exact'"),
    ({'gradient': 'unroll'}, 'needs solver `unroll`'),
    ({'gradient': 'unroll', 'solver': 'unroll', 'tolerance': 0.1}, 'tolerance 0'),
    ({'backward_evaluations': -1}, 'backward_evaluations is -1'),
    ({'phantom_steps': 0}, 'phantom_steps is 0'),
    ({'phantom_damping': 0.0}, 'phantom_damping is 0.0'),
    ({'phantom_damping': 1.5}, 'phantom_damping is 1.5')])
def test_wrong_options_are_errors(options, match):
  with pytest.raises(ValueError, match=match):
    fixed_point.equilibrium(_cosine, [tf.zeros([1, 1])], **options)


def test_wrong_functions_and_iterations_are_errors():
  with pytest.raises(ValueError, match='returned 2 levels for 1'):
    fixed_point.solve(lambda x: x + x, [tf.zeros([1, 1])])
  with pytest.raises(ValueError, match='solver is'):
    fixed_point.solve(_cosine, [tf.zeros([1, 1])], solver='Anderson')
  with pytest.raises(ValueError, match='iterations is 1'):
    fixed_point.spectral_radius(_cosine, [tf.zeros([1, 1])], iterations=1)


@pytest.mark.slow
@pytest.mark.parametrize('solver', ACCELERATED)
def test_a_saved_model_takes_fewer_steps_on_easier_input(solver, tmp_path):
  module = tf.Module()

  def run(rate):
    outputs, solution = fixed_point.equilibrium(
        lambda levels: [rate[:, None] * tf.sin(levels[0]) + 1], [tf.zeros([tf.shape(rate)[0], 3])],
        solver=solver, tolerance=1e-5, max_evaluations=30, training=False)
    return {'outputs': outputs[0], 'steps': solution.steps, 'evaluations': solution.evaluations}

  module.run = tf.function(run, autograph=False, input_signature=[tf.TensorSpec([None])])
  rates = tf.constant([0.01, 0.5, 0.95])
  expected = module.run(rates)
  tf.saved_model.save(module, str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  for name, value in loaded.run(rates).items():
    np.testing.assert_array_equal(value, expected[name])
  assert int(loaded.run(rates[:1])['evaluations']) < int(loaded.run(rates)['evaluations'])
  assert np.all(np.diff(expected['steps'].numpy()) > 0)
