"""Sparse execution against plain NumPy, for every pattern of active positions."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import sparse_conv
import reference
import spies

BATCH, HEIGHT, WIDTH, CHANNELS, GROUPS = 3, 6, 7, 8, 4
EXECUTIONS = {'mask': {'execution': 'mask'}, 'list': {'dense_above': 1.0},
              'fall-back': {'dense_above': 0.0}}


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def _masks():
  """Boolean `[batch, height, width, 1]` by the name of the pattern."""
  empty = np.zeros([BATCH, HEIGHT, WIDTH, 1], bool)
  one, corners, blob, several = (empty.copy() for _ in range(4))
  one[:, 3, 2] = True
  corners[0, 0, 0] = corners[1, 0, -1] = corners[2, -1, -1] = corners[2, -1, 0] = True
  blob[:, 1:4, 2:5] = True
  several[0, 2, 3] = several[0, 0, 6] = several[2, 1:, :4] = True
  random = np.random.default_rng(1).uniform(size=empty.shape) < 0.3
  return {'empty': empty, 'one pixel': one, 'corners': corners, 'blob': blob, 'random': random,
          'full': ~empty, 'one image empty': several, 'only the last': np.roll(several, 1, 0) & one}


MASKS = _masks()


def _gate(mask, seed=7):
  return mask * np.random.default_rng(seed).uniform(0.1, 1, size=mask.shape)


def _weights(channels=CHANNELS):
  kernels = 0.3 * _random(2, 3, 3, channels, channels, seed=2)
  gammas, betas = 1 + 0.3 * _random(2, channels, seed=3), _random(2, channels, seed=4)
  return sparse_conv.ResidualWeights(
      kernels[0], gammas[0], betas[0], kernels[1], gammas[1], betas[1])


X, WEIGHTS = _random(BATCH, HEIGHT, WIDTH, CHANNELS) + 0.5, _weights()


def _expected(x, gate, weights, mask=None):
  """`mask` freezes the active positions."""
  mask = gate > 0 if mask is None else mask
  hidden = reference.conv2d(x, weights.kernel1)
  hidden = np.maximum(reference.group_norm(
      hidden, reference.dilate(mask), weights.gamma1, weights.beta1, GROUPS), 0)
  hidden = reference.conv2d(hidden, weights.kernel2)
  return gate * reference.group_norm(hidden, mask, weights.gamma2, weights.beta2, GROUPS)


def _tensors(*values, dtype=None):
  return tf.nest.map_structure(lambda value: tf.cast(tf.constant(value), dtype or value.dtype),
                               values)


def _block(x, gate, weights, **options):
  return sparse_conv.residual_block(x, gate, weights, GROUPS, **options)


def _gradients(x, gate, weights, upstream, **options):
  """Of the inner product with `upstream`, as a flat list: x, gate, weights."""
  with tf.GradientTape() as tape:
    tape.watch([x, gate, weights])
    loss = tf.reduce_sum(upstream * _block(x, gate, weights, **options))
  return tf.nest.flatten(tape.gradient(loss, [x, gate, weights]))


@pytest.mark.parametrize('execution', EXECUTIONS)
@pytest.mark.parametrize('pattern', MASKS)
def test_block_equals_the_equations(pattern, execution):
  gate = _gate(MASKS[pattern])
  result = _block(*_tensors(X, gate, WEIGHTS), **EXECUTIONS[execution])
  np.testing.assert_allclose(result, _expected(X, gate, WEIGHTS), 1e-10, 1e-10)
  np.testing.assert_array_equal(result.numpy()[~MASKS[pattern][..., 0]], 0)


@pytest.mark.parametrize('execution', EXECUTIONS)
@pytest.mark.parametrize('pattern', MASKS)
@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1), (5, 3)])
def test_convolution_equals_the_dense_one_times_the_mask(kernel_size, pattern, execution):
  kernel, mask = _random(*kernel_size, CHANNELS, 5, seed=5), MASKS[pattern]
  result = sparse_conv.conv2d(*_tensors(X, kernel, mask), **EXECUTIONS[execution])
  np.testing.assert_allclose(result, reference.conv2d(X, kernel) * mask, 1e-10, 1e-10)


@pytest.mark.parametrize('execution', EXECUTIONS)
@pytest.mark.parametrize('pattern', ['one pixel', 'random', 'one image empty'])
def test_gradients_against_finite_differences(pattern, execution):
  mask, upstream = MASKS[pattern], _random(*X.shape, seed=6)
  inputs = [X, _gate(mask), *WEIGHTS]
  gradients = _gradients(*_tensors(X, _gate(mask), WEIGHTS), upstream, **EXECUTIONS[execution])
  for number, (value, gradient) in enumerate(zip(inputs, gradients)):
    # A gate that is shut stays shut.
    direction = _random(*value.shape, seed=number) * (mask if number == 1 else 1)
    ends = []
    for step in (1e-6, -1e-6):
      x, gate, *weights = [
          *inputs[:number], value + step * direction, *inputs[number + 1:]]
      weights = sparse_conv.ResidualWeights(*weights)
      ends.append(np.sum(upstream * _expected(x, gate, weights, mask)))
    np.testing.assert_allclose(
        np.sum(direction * gradient), (ends[0] - ends[1]) / 2e-6, 1e-5, 1e-7)
    if number == 1:
      np.testing.assert_array_equal(gradient.numpy()[~mask], 0)


# In float32 the gradients of few positions are nothing but rounding: two values, normalized,
# stay 1 and -1.
@pytest.mark.parametrize('dtype, tolerance, patterns', [
    (tf.float64, 1e-12, MASKS), (tf.float32, 2e-6, ['blob', 'random', 'full'])])
def test_gradients_equal_those_of_the_dense_execution(dtype, tolerance, patterns):
  upstream = tf.constant(_random(*X.shape, seed=6), dtype)
  for pattern in patterns:
    inputs = _tensors(X, _gate(MASKS[pattern]), WEIGHTS, dtype=dtype)
    dense, sparse = (
        _gradients(*inputs, upstream, **EXECUTIONS[execution]) for execution in ('mask', 'list'))
    for first, second in zip(dense, sparse):
      np.testing.assert_allclose(second, first, 0, tolerance * max(1, np.abs(first).max()))
      assert (pattern == 'empty') == (not np.any(second))


@pytest.mark.parametrize('pattern', MASKS)
def test_counts_what_is_multiplied(pattern):
  gate = _gate(MASKS[pattern])
  counted = sparse_conv.residual_block_multiply_adds(tf.constant(gate), CHANNELS)
  assert counted.dtype == tf.float32
  both = reference.dilate(MASKS[pattern]).astype(int) + MASKS[pattern]
  np.testing.assert_array_equal(counted, 9 * CHANNELS**2 * both.sum((1, 2, 3)))
  inputs = _tensors(X, gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    _block(*inputs, dense_above=1.0)
  assert spy.multiply_adds == np.sum(counted)
  assert not spy.rows


@pytest.mark.parametrize('above, dense', [(0.39, True), (0.41, False)])
def test_computes_all_positions_above_the_break_even(above, dense):
  gate = np.zeros([2, 5, 10, 1])
  # 8 positions and their 24 neighbours; then 24 and 24: (32 + 48) / 200 of the work.
  gate[0, :2, :4] = 0.5
  gate[1, :4, :6] = 0.5
  assert reference.dilate(gate > 0).sum() == 15 + 35
  inputs = _tensors(_random(2, 5, 10, CHANNELS), gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    _block(*inputs, dense_above=above)
  assert spy.rows == ([2, 2] if dense else [])


@pytest.mark.parametrize('execution', EXECUTIONS)
def test_nothing_comes_from_outside_the_receptive_field(execution):
  mask = MASKS['one image empty']
  field = reference.dilate(reference.dilate(mask))
  assert not field.all() and not field[1].any()
  gate = _gate(mask)
  healthy = _block(*_tensors(X, gate, WEIGHTS), **EXECUTIONS[execution])
  poisoned = _block(*_tensors(np.where(field, X, np.nan), gate, WEIGHTS), **EXECUTIONS[execution])
  np.testing.assert_array_equal(healthy, poisoned)
  inside = np.where(reference.dilate(mask), np.nan, X)
  assert np.isnan(_block(*_tensors(inside, gate, WEIGHTS), **EXECUTIONS[execution])).any()


@pytest.mark.parametrize('execution', EXECUTIONS)
def test_an_image_does_not_feel_its_company(execution):
  mask = MASKS['random'].copy()
  mask[1] = False
  gate = _gate(mask)
  for row in range(BATCH):
    alone = _block(*_tensors(X[row:row + 1], gate[row:row + 1], WEIGHTS), **EXECUTIONS[execution])
    others = np.where(np.arange(BATCH)[:, None, None, None] == row, X, np.nan)
    order = np.roll(np.arange(BATCH), row)
    together = _block(
        *_tensors(others[order], gate[order], WEIGHTS), **EXECUTIONS[execution]).numpy()
    np.testing.assert_allclose(together[order == row], alone, 0, 1e-12)
    np.testing.assert_array_equal(together[order == 1], 0 * alone)


@pytest.mark.parametrize('dtype, tolerance', [('float16', 0.02), ('bfloat16', 0.15)])
@pytest.mark.parametrize('execution', EXECUTIONS)
def test_half_precision(execution, dtype, tolerance):
  gate = tf.constant(_gate(MASKS['blob']), tf.float32)
  x, weights = _tensors(X, WEIGHTS, dtype=dtype)
  result = _block(x, gate, weights, **EXECUTIONS[execution])
  assert result.dtype == dtype
  np.testing.assert_allclose(
      tf.cast(result, tf.float64), _expected(X, gate.numpy(), WEIGHTS), 0, tolerance)
  gradients = _gradients(x, gate, weights, tf.ones_like(x), **EXECUTIONS[execution])
  assert [gradient.dtype for gradient in gradients] == [dtype, tf.float32, *6 * [dtype]]
  assert all(np.all(np.isfinite(tf.cast(gradient, tf.float32))) for gradient in gradients)


def _signature(dtype=tf.float32):
  return [tf.TensorSpec([None, None, None, CHANNELS], dtype),
          tf.TensorSpec([None, None, None, 1], dtype)]


def test_compiles():
  weights = _tensors(*WEIGHTS, dtype=tf.float64)
  weights = sparse_conv.ResidualWeights(*weights)
  traced = tf.function(
      lambda x, gate: _block(x, gate, weights, execution='mask'), jit_compile=True,
      autograph=False, input_signature=_signature(tf.float64))
  gate = _gate(MASKS['one image empty'])
  np.testing.assert_allclose(traced(X, gate), _expected(X, gate, WEIGHTS), 1e-9, 1e-9)


@pytest.mark.slow
def test_exports_any_size(tmp_path):
  module = tf.Module()
  module.weights = [tf.Variable(value, dtype=tf.float32) for value in WEIGHTS]
  module.serve = tf.function(
      lambda x, gate: _block(x, gate, sparse_conv.ResidualWeights(*module.weights)),
      autograph=False, input_signature=_signature())
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  reloaded = tf.saved_model.load(str(tmp_path / 'exported'))
  for pattern in MASKS:
    x, gate = (value.astype(np.float32)[:, 1:] for value in (X, _gate(MASKS[pattern])))
    for rows in (1, BATCH):
      np.testing.assert_allclose(reloaded.serve(x[:rows], gate[:rows]), _expected(
          x[:rows], gate[:rows], WEIGHTS), 0, 2e-5)
  assert reloaded.serve(x[:0], gate[:0]).shape == (0, HEIGHT - 1, WIDTH, CHANNELS)


@pytest.mark.slow
def test_trains_in_a_graph_of_unknown_sizes():
  weights = sparse_conv.ResidualWeights(*_tensors(*WEIGHTS))
  upstream = _random(*X.shape, seed=6)
  traced = tf.function(
      lambda x, gate: _gradients(x, gate, weights, upstream, dense_above=0.6),
      autograph=False, input_signature=_signature(tf.float64))
  for pattern in ('empty', 'random', 'full'):
    gate = _gate(MASKS[pattern])
    expected = _gradients(*_tensors(X, gate), weights, upstream, execution='mask')
    for first, second in zip(traced(X, gate), expected):
      np.testing.assert_allclose(first, second, 1e-9, 1e-9)


def test_wrong_options():
  inputs = _tensors(X, _gate(MASKS['blob']), WEIGHTS)
  with pytest.raises(ValueError, match="execution is 'tiles'; allowed are `sparse`"):
    _block(*inputs, execution='tiles')
  with pytest.raises(ValueError, match='execution is None'):
    sparse_conv.conv2d(X, WEIGHTS.kernel1, MASKS['blob'], execution=None)
  with pytest.raises(ValueError, match='num_groups is 3'):
    sparse_conv.residual_block(*inputs, 3)
