"""Sparse execution against plain NumPy, for every pattern of active positions."""
import functools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import sparse_conv
import reference
import residual_blocks
from residual_blocks import BATCH, CHANNELS, GROUPS, HEIGHT, MASKS, WEIGHTS, WIDTH, X
from residual_blocks import expected
from residual_blocks import gate_of
from residual_blocks import gradients
from residual_blocks import random
from residual_blocks import tensors
import spies

EXECUTIONS = {'mask': {'execution': 'mask'}, 'list': {'dense_above': 1.0},
              'fall-back': {'dense_above': 0.0}}
BLOCKS = {
    execution: functools.partial(sparse_conv.residual_block, num_groups=GROUPS, **options)
    for execution, options in EXECUTIONS.items()}
executions = pytest.mark.parametrize('execution', EXECUTIONS)
patterns = pytest.mark.parametrize('pattern', MASKS)


@executions
@patterns
def test_block_equals_the_equations(pattern, execution):
  gate = gate_of(MASKS[pattern])
  result = BLOCKS[execution](*tensors(X, gate, WEIGHTS))
  np.testing.assert_allclose(result, expected(X, gate, WEIGHTS), 1e-10, 1e-10)
  np.testing.assert_array_equal(result.numpy()[~MASKS[pattern][..., 0]], 0)


@executions
@patterns
@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1), (5, 3)])
def test_convolution_equals_the_dense_one_times_the_mask(kernel_size, pattern, execution):
  kernel, mask = random(*kernel_size, CHANNELS, 5, seed=5), MASKS[pattern]
  result = sparse_conv.conv2d(*tensors(X, kernel, mask), **EXECUTIONS[execution])
  np.testing.assert_allclose(result, reference.conv2d(X, kernel) * mask, 1e-10, 1e-10)


@executions
@pytest.mark.parametrize('pattern', ['one pixel', 'random', 'one image empty'])
def test_gradients_against_finite_differences(pattern, execution):
  residual_blocks.check_finite_differences(BLOCKS[execution], pattern)


# In float32 the gradients of few positions are nothing but rounding: two values, normalized,
# stay 1 and -1.
@pytest.mark.parametrize('dtype, tolerance, patterns', [
    (tf.float64, 1e-12, MASKS), (tf.float32, 2e-6, ['blob', 'random', 'full'])])
def test_gradients_equal_those_of_the_dense_execution(dtype, tolerance, patterns):
  upstream = tf.constant(random(*X.shape, seed=6), dtype)
  for pattern in patterns:
    inputs = tensors(X, gate_of(MASKS[pattern]), WEIGHTS, dtype=dtype)
    dense, sparse = (
        gradients(BLOCKS[execution], *inputs, upstream) for execution in ('mask', 'list'))
    for first, second in zip(dense, sparse):
      np.testing.assert_allclose(second, first, 0, tolerance * max(1, np.abs(first).max()))
      assert (pattern == 'empty') == (not np.any(second))


@patterns
def test_counts_what_is_multiplied(pattern):
  gate = gate_of(MASKS[pattern])
  counted = sparse_conv.residual_block_multiply_adds(tf.constant(gate), CHANNELS)
  assert counted.dtype == tf.float32
  positions = reference.dilate(MASKS[pattern]).astype(int) + MASKS[pattern]
  np.testing.assert_array_equal(counted, 9 * CHANNELS**2 * positions.sum((1, 2, 3)))
  inputs = tensors(X, gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    BLOCKS['list'](*inputs)
  assert spy.multiply_adds == np.sum(counted)
  assert not spy.rows


@pytest.mark.parametrize('above, dense', [(0.40, True), (0.42, False)])
def test_computes_all_positions_above_the_break_even(above, dense):
  gate = np.zeros([2, 5, 10, 1])
  gate[0, :2, :4] = gate[1, :4, :6] = 0.5
  # 8 positions and their 15 neighbours in one image, 24 and 35 in the other, of 2 * 100.
  assert reference.dilate(gate > 0).sum() == 15 + 35
  inputs = tensors(random(2, 5, 10, CHANNELS), gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    sparse_conv.residual_block(*inputs, GROUPS, dense_above=above)
  assert spy.rows == ([2, 2] if dense else [])


@pytest.mark.parametrize('images, share, dense', [(2, 1.0, True), (2, 0.6, False), (1, 1.0, False)])
def test_default_break_even(images, share, dense):
  gate = np.zeros([images, 5, 10, 1])
  gate.reshape(images, -1)[:, :round(50 * share)] = 0.5
  inputs = tensors(random(images, 5, 10, CHANNELS), gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    sparse_conv.residual_block(*inputs, GROUPS)
  assert spy.rows == ([images] * 2 if dense else [])


@executions
def test_nothing_comes_from_outside_the_receptive_field(execution):
  mask = MASKS['one image empty']
  field = reference.dilate(reference.dilate(mask))
  assert not field.all() and not field[1].any()
  block, gate = BLOCKS[execution], gate_of(mask)
  healthy = block(*tensors(X, gate, WEIGHTS))
  np.testing.assert_array_equal(
      healthy, block(*tensors(np.where(field, X, np.nan), gate, WEIGHTS)))
  inside = np.where(reference.dilate(mask), np.nan, X)
  assert np.isnan(block(*tensors(inside, gate, WEIGHTS))).any()


@executions
def test_an_image_does_not_feel_its_company(execution):
  mask = MASKS['random'].copy()
  mask[1] = False
  block, gate = BLOCKS[execution], gate_of(mask)
  for row in range(BATCH):
    alone = block(*tensors(X[row:row + 1], gate[row:row + 1], WEIGHTS))
    others = np.where(np.arange(BATCH)[:, None, None, None] == row, X, np.nan)
    order = np.roll(np.arange(BATCH), row)
    together = block(*tensors(others[order], gate[order], WEIGHTS)).numpy()
    np.testing.assert_allclose(together[order == row], alone, 0, 1e-12)
    np.testing.assert_array_equal(together[order == 1], 0 * alone)


@pytest.mark.parametrize('dtype, tolerance', [('float16', 0.02), ('bfloat16', 0.15)])
@executions
def test_half_precision(execution, dtype, tolerance):
  gate = tf.constant(gate_of(MASKS['blob']), tf.float32)
  x, weights = tensors(X, WEIGHTS, dtype=dtype)
  result = BLOCKS[execution](x, gate, weights)
  assert result.dtype == dtype
  np.testing.assert_allclose(
      tf.cast(result, tf.float64), expected(X, gate.numpy(), WEIGHTS), 0, tolerance)
  found = gradients(BLOCKS[execution], x, gate, weights, tf.ones_like(x))
  assert [gradient.dtype for gradient in found] == [dtype, tf.float32, *6 * [dtype]]
  assert all(np.all(np.isfinite(tf.cast(gradient, tf.float32))) for gradient in found)


def test_compiles():
  weights = tensors(*WEIGHTS)
  traced = tf.function(
      lambda x, gate: BLOCKS['mask'](x, gate, sparse_conv.ResidualWeights(*weights)),
      jit_compile=True, autograph=False, input_signature=residual_blocks.signature(tf.float64))
  gate = gate_of(MASKS['one image empty'])
  np.testing.assert_allclose(traced(X, gate), expected(X, gate, WEIGHTS), 1e-9, 1e-9)


@pytest.mark.slow
def test_exports_any_size(tmp_path):
  module = tf.Module()
  module.weights = [tf.Variable(value, dtype=tf.float32) for value in WEIGHTS]
  module.serve = tf.function(
      lambda x, gate: BLOCKS['list'](x, gate, sparse_conv.ResidualWeights(*module.weights)),
      autograph=False, input_signature=residual_blocks.signature())
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  reloaded = tf.saved_model.load(str(tmp_path / 'exported'))
  for mask in MASKS.values():
    x, gate = (value.astype(np.float32)[:, 1:] for value in (X, gate_of(mask)))
    for rows in (1, BATCH):
      np.testing.assert_allclose(reloaded.serve(x[:rows], gate[:rows]), expected(
          x[:rows], gate[:rows], WEIGHTS), 0, 2e-5)
  assert reloaded.serve(x[:0], gate[:0]).shape == (0, HEIGHT - 1, WIDTH, CHANNELS)


@pytest.mark.slow
def test_trains_in_a_graph_of_unknown_sizes():
  weights = sparse_conv.ResidualWeights(*tensors(*WEIGHTS))
  upstream = random(*X.shape, seed=6)
  block = functools.partial(sparse_conv.residual_block, num_groups=GROUPS, dense_above=0.6)
  traced = tf.function(
      lambda x, gate: gradients(block, x, gate, weights, upstream),
      autograph=False, input_signature=residual_blocks.signature(tf.float64))
  for pattern in ('empty', 'random', 'full'):
    gate = gate_of(MASKS[pattern])
    dense = gradients(BLOCKS['mask'], *tensors(X, gate), weights, upstream)
    for first, second in zip(traced(X, gate), dense):
      np.testing.assert_allclose(first, second, 1e-9, 1e-9)


def test_wrong_options():
  inputs = tensors(X, gate_of(MASKS['blob']), WEIGHTS)
  with pytest.raises(ValueError, match="execution is 'tiles'; allowed are `sparse`"):
    sparse_conv.residual_block(*inputs, GROUPS, execution='tiles')
  with pytest.raises(ValueError, match='execution is None'):
    sparse_conv.conv2d(X, WEIGHTS.kernel1, MASKS['blob'], execution=None)
  with pytest.raises(ValueError, match='num_groups is 3'):
    sparse_conv.residual_block(*inputs, 3)
