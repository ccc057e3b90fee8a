"""Solvers of x = f(x): every solver on every problem, and against plain NumPy."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import fixed_point
import fixed_points

ACCELERATED = ['anderson', 'broyden']


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
@pytest.mark.parametrize('tolerance', [0.0, 1e-9])
@pytest.mark.parametrize('problem', fixed_points.PROBLEMS)
def test_finds_the_known_answer(problem, solver, tolerance):
  function, shapes, answer = fixed_points.PROBLEMS[problem]
  budget = 250 if solver == 'unroll' else 24
  if solver == 'unroll' and not tolerance:
    function = fixed_points.repeated(function, 10)
    budget = 25

  def solve(initial):
    return fixed_point.solve(function, initial, solver=solver, max_evaluations=budget,
                             tolerance=tolerance, memory=10)

  if tolerance:  # Without it the steps are no loop, and take longer to trace than to run.
    solve = tf.function(solve, autograph=False)
  solution = solve(fixed_points.zeros(shapes))
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
@pytest.mark.parametrize('problem', fixed_points.PROBLEMS)
@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_more_evaluations_never_make_the_residual_worse(problem, solver, dtype):
  function, shapes, _ = fixed_points.PROBLEMS[problem]
  before = np.inf
  for budget in (1, 2, 3, 5, 8):
    solution = fixed_point.solve(
        function, fixed_points.zeros(shapes, dtype), solver=solver, max_evaluations=budget,
        memory=3)
    residual = solution.residual.numpy()
    assert (residual <= before).all()
    recomputed = fixed_points.residual(function, solution.state)
    np.testing.assert_allclose(residual, recomputed, 1e-4, 1e-6)
    np.testing.assert_array_equal(residual, solution.residuals.numpy().min(0))
    before = residual


@pytest.mark.parametrize('solver', ACCELERATED)
def test_converges_where_plain_iteration_fails(solver):
  def function(levels):
    return [tf.constant([[-1.5, 0.3], [0.1, -1.2]], tf.float64)[None] @ levels[0] + 1]

  initial = fixed_points.zeros([[1, 2, 1]])
  options = {'max_evaluations': 8, 'tolerance': 1e-9}
  assert fixed_point.solve(function, initial, solver=solver, **options).converged.numpy().all()
  plain = fixed_point.solve(function, initial, solver='unroll', **options)
  assert not plain.converged.numpy().any() and float(plain.residual[0]) > 1


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


def _plain_broyden(function, x, count, memory, step_size=1.0):
  """The iterates of one image, with the inverse Jacobian of Q as a dense matrix."""
  del memory
  inverse, iterates = -np.eye(len(x)), []
  q = function(x) - x
  for _ in range(count):
    iterates.append(x)
    dx = -step_size * inverse @ q
    x = x + dx
    dq = function(x) - x - q
    q = q + dq
    inverse = inverse + np.outer(dx - inverse @ dq, dx @ inverse) / (dx @ inverse @ dq)
  return iterates


@pytest.mark.parametrize('solver, plain, options', [
    ('anderson', _plain_anderson, {}), ('broyden', _plain_broyden, {}),
    ('broyden', _plain_broyden, {'step_size': 0.6}),
    ('broyden', _plain_broyden, {'step_size': 1.2})])
@pytest.mark.parametrize('problem', ['linear', 'pyramid'])
@pytest.mark.parametrize('tolerance', [0.0, 1e-12])
@pytest.mark.parametrize('memory', [2, 5])
def test_iterates_equal_those_of_plain_numpy(problem, solver, plain, options, tolerance, memory):
  function, shapes, _ = fixed_points.PROBLEMS[problem]
  count, seen = 7, []
  fixed_point.solve(fixed_points.spied(function, seen), fixed_points.zeros(shapes), solver=solver,
                    memory=memory, max_evaluations=count, tolerance=tolerance, **options)
  sizes = [int(np.prod(shape[1:])) for shape in shapes]
  assert len(seen) == count

  def one_image(image):
    def single(vector):
      flat = np.zeros([shapes[0][0], sum(sizes)])
      flat[image] = vector
      levels = [tf.reshape(level, shape) for level, shape in zip(
          np.split(flat, np.cumsum(sizes)[:-1], axis=1), shapes)]
      return fixed_points.flat(function(levels))[image]
    return single

  for image in range(shapes[0][0]):
    iterates = plain(one_image(image), np.zeros(sum(sizes)), count, memory, **options)
    for ours, expected in zip(seen, iterates):
      np.testing.assert_allclose(ours[image], expected, atol=1e-10 * max(1, abs(expected).max()))


def _poles(levels):
  """Image 0 does not move, 1 diverges, 2 becomes NaN, 3 jumps between two, 4 converges."""
  x = levels[0]
  rows = [0 * x[0], -3 * x[1] ** 3 - 1, 1 / x[2], 1 - x[3], tf.cos(x[4])]
  return [tf.stack(rows)]


@pytest.mark.parametrize('solver', ACCELERATED)
@pytest.mark.parametrize('tolerance', [0.0, 1e-5])
@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_never_gives_nan_and_the_best_iterate_wins(solver, tolerance, dtype):
  start = tf.constant([0, 0, 1e-30, 0, 0], dtype)
  initial = [start[:, None, None, None] * tf.ones([5, 2, 1, 3], dtype)]
  options = {'solver': solver, 'max_evaluations': 16, 'tolerance': tolerance}
  solution = fixed_point.solve(_poles, initial, **options)
  for value in [*solution.state, solution.residual, solution.residuals]:
    assert np.isfinite(value).all()
  converged = solution.converged.numpy()
  assert converged[0] and converged[4] and not converged[2]
  assert float(solution.residual[0]) == 0
  recomputed = fixed_points.residual(_poles, solution.state)[[1, 3, 4]]
  np.testing.assert_allclose(solution.residual.numpy()[[1, 3, 4]], recomputed, 1e-3, 1e-6)
  # Images that fail do not change the result of the one that converges.
  alone = fixed_point.solve(fixed_points.cosine, [initial[0][4:]], **options)
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


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
def test_stopping_of_one_image_leaves_the_others_alone(solver):
  rates = np.array([0.05, 0.9, 0.5, 0.99])

  def function(chosen):
    rate = tf.constant(rates[chosen])[:, None, None, None]
    return lambda levels: [rate * tf.sin(levels[0]) + 1]

  options = {'solver': solver, 'max_evaluations': 60, 'tolerance': 1e-4}
  initial = tf.constant(fixed_points.RNG.normal(size=[4, 2, 2, 1]))
  together = fixed_point.solve(function(np.arange(4)), [initial], **options)
  steps = together.steps.numpy()
  assert len(set(steps)) > 1 and together.converged.numpy().all()
  for image in range(4):
    alone = fixed_point.solve(function([image]), [initial[image:image + 1]], **options)
    assert int(alone.steps[0]) == steps[image] == int(alone.evaluations)
    np.testing.assert_allclose(together.state[0][image], alone.state[0][0], 1e-12)


def test_spectral_radius():
  spectrum = np.max(abs(np.linalg.eigvals(fixed_points.MATRICES)), axis=1)
  ours = fixed_point.spectral_radius(
      fixed_points.linear, fixed_points.zeros([[3, 2, 1, 2]] * 2), iterations=60)
  np.testing.assert_allclose(ours, spectrum, rtol=0.05)
  turn = tf.constant([[0.0, -0.7], [0.7, 0.0]])  # eigenvalues +-0.7i
  ours = fixed_point.spectral_radius(lambda x: [tf.linalg.matvec(turn, x[0])], [tf.zeros([4, 2])])
  np.testing.assert_allclose(ours, [0.7] * 4, 1e-5)
  ours = fixed_point.spectral_radius(lambda x: [tf.zeros_like(x[0])], [tf.ones([2, 2])])
  np.testing.assert_array_equal(ours, [0, 0])


def test_wrong_functions_and_iterations_are_errors():
  with pytest.raises(ValueError, match='returned 2 levels for 1'):
    fixed_point.solve(lambda x: x + x, [tf.zeros([1, 1])])
  with pytest.raises(ValueError, match='solver is'):
    fixed_point.solve(fixed_points.cosine, [tf.zeros([1, 1])], solver='Anderson')
  with pytest.raises(ValueError, match='iterations is 1'):
    fixed_point.spectral_radius(fixed_points.cosine, [tf.zeros([1, 1])], iterations=1)


@pytest.mark.slow
@pytest.mark.parametrize('solver', ACCELERATED)
def test_a_saved_model_takes_fewer_steps_on_easier_input(solver, tmp_path):
  module = tf.Module()

  def run(rate):
    outputs, solution = fixed_point.solve_with_gradient(
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


@pytest.mark.parametrize('solver', fixed_point.SOLVERS)
def test_an_image_with_a_limit_gets_what_it_gets_alone_with_as_many_evaluations(solver):
  limits, shapes = [4, 1, 6], [[3, 2, 1, 2]] * 2
  solve = tf.function(lambda initial: fixed_point.solve(
      fixed_points.linear, initial, solver=solver, max_evaluations=8, memory=3,
      limits=tf.constant(limits)), autograph=False)
  together = solve(fixed_points.zeros(shapes))
  np.testing.assert_array_equal(together.steps, limits)
  assert int(together.evaluations) == 6
  for image, count in enumerate(limits):
    alone = fixed_point.solve(
        fixed_points.linear, fixed_points.zeros(shapes), solver=solver, max_evaluations=count,
        memory=3)
    for ours, theirs in zip(together.state, alone.state):
      np.testing.assert_allclose(ours[image], theirs[image], 1e-7, 1e-9)
    np.testing.assert_allclose(together.residual[image], alone.residual[image], 1e-5)
