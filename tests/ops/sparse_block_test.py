"""Sparse residual blocks against plain NumPy, for every pattern of active positions."""
import functools
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import export_expectation
from official_ext.ops import sparse_block
from official_ext.ops import sparse_conv
import reference
import residual_blocks
from residual_blocks import BATCH, CHANNELS, GROUPS, HEIGHT, MASKS, VARIANTS, WEIGHTS, WIDTH, X
from residual_blocks import expected
from residual_blocks import random_gate
from residual_blocks import gradients
from residual_blocks import random
from residual_blocks import tensors
import spies

BLOCKS = {
    variant: functools.partial(sparse_block.residual_block, num_groups=GROUPS, **options)
    for variant, options in VARIANTS.items()}
variants = pytest.mark.parametrize('variant', VARIANTS)
patterns = pytest.mark.parametrize('pattern', MASKS)


@variants
@patterns
def test_block_equals_the_equations(pattern, variant):
  gate = random_gate(MASKS[pattern])
  result = BLOCKS[variant](*tensors(X, gate, WEIGHTS))
  np.testing.assert_allclose(result, expected(X, gate, WEIGHTS), 1e-10, 1e-10)
  np.testing.assert_array_equal(result.numpy()[~MASKS[pattern][..., 0]], 0)


@variants
@pytest.mark.parametrize('adds_input', [False, True])
def test_a_block_that_replaces_its_input_has_the_same_gradients_as_its_equation(
    variant, adds_input):
  gate, scales = random_gate(MASKS['random']), random(*X.shape, seed=9)

  def run(block):
    inputs = tensors(X, gate, WEIGHTS)
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      x, gates, weights = inputs
      result = block(x, gates, weights)
      loss = tf.reduce_sum(result * scales)
    return result, tape.gradient(loss, inputs)

  def equation(x, gates, weights):
    # A gate of 0 has no gradient where nothing is computed.
    branch = BLOCKS['mask'](x, gates, weights) - gates * x * MASKS['random']
    return tf.nn.relu(x + branch) if adds_input else branch

  found, gradients_found = run(
      functools.partial(BLOCKS[variant], adds_input=adds_input, replaces=True))
  wanted, gradients_wanted = run(equation)
  np.testing.assert_allclose(found, wanted, 1e-10, 1e-10)
  for ours, theirs in zip(tf.nest.flatten(gradients_found), tf.nest.flatten(gradients_wanted),
                          strict=True):
    np.testing.assert_allclose(ours, theirs, 1e-9, 1e-9)


SIZES = [(HEIGHT, WIDTH), (3, 4), (2, 1), (1, 1)]


def _several(share):
  """Returns maps of several sizes, and a gate for each; the first image of one is shut."""
  rng = np.random.default_rng(8)
  maps = [rng.normal(size=[BATCH, *size, CHANNELS]) for size in SIZES]
  gates = [random_gate(rng.uniform(size=[BATCH, *size, 1]) < share) for size in SIZES]
  gates[1][0] = 0
  return maps, gates


@pytest.mark.parametrize('size', ['known', 'unknown'])
@pytest.mark.parametrize('share', [0.0, 0.4, 1.0])
@variants
def test_blocks_of_several_maps_equal_the_equations(variant, share, size):
  maps, gates = _several(share)
  weights, options = sparse_block.ResidualWeights(*tensors(*WEIGHTS)), VARIANTS[variant]
  results = tf.function(
      lambda maps, gates: sparse_block.residual_blocks(maps, gates, weights, GROUPS, **options),
      autograph=False, input_signature=[[
          tf.TensorSpec(x.shape if size == 'known' else [None, None, None, x.shape[-1]], tf.float64)
          for x in values] for values in (maps, gates)])(*tensors(maps, gates))
  for x, gate, result in zip(maps, gates, results):
    np.testing.assert_allclose(result, expected(x, gate, WEIGHTS), 1e-10, 1e-10)


def test_several_maps_are_multiplied_together():
  maps, gates = _several(0.4)
  with spies.OperationSpy() as spy:
    sparse_block.residual_blocks(*tensors(maps, gates, WEIGHTS), GROUPS, break_even=1.0)
  assert spy.multiply_adds == sum(
      np.sum(sparse_block.residual_block_multiply_adds(gate, CHANNELS)) for gate in gates)
  assert not spy.rows


def test_gradients_of_several_maps():
  maps, gates = _several(0.4)

  def gradients_of(variant):
    inputs = tensors(maps, gates, WEIGHTS)
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      results = sparse_block.residual_blocks(*inputs, GROUPS, adds_input=True, **VARIANTS[variant])
      loss = tf.add_n([tf.reduce_sum(x * random(*x.shape, seed=6)) for x in results])
    return tf.nest.flatten(tape.gradient(loss, inputs))

  for listed, masked in zip(gradients_of('list'), gradients_of('mask')):
    np.testing.assert_allclose(listed, masked, 1e-9, 1e-9)


@variants
@pytest.mark.parametrize('pattern', ['one pixel', 'random', 'one image empty'])
def test_gradients_against_finite_differences(pattern, variant):
  residual_blocks.check_finite_differences(BLOCKS[variant], pattern)


# In float32 the gradients of few positions are rounding errors: two values, normalized, stay 1 and
# -1.
@pytest.mark.parametrize('dtype, tolerance, patterns', [
    (tf.float64, 1e-12, MASKS), (tf.float32, 2e-6, ['blob', 'random', 'full'])])
def test_gradients_of_both_modes_agree(dtype, tolerance, patterns):
  upstream = tf.constant(random(*X.shape, seed=6), dtype)
  for pattern in patterns:
    inputs = tensors(X, random_gate(MASKS[pattern]), WEIGHTS, dtype=dtype)
    masked, listed = (
        gradients(BLOCKS[variant], *inputs, upstream) for variant in ('mask', 'list'))
    for first, second in zip(masked, listed):
      np.testing.assert_allclose(second, first, 0, tolerance * max(1, np.abs(first).max()))
      assert (pattern == 'empty') == (not np.any(second))


@patterns
def test_multiply_adds_are_those_of_the_operations(pattern):
  gate = random_gate(MASKS[pattern])
  counted = sparse_block.residual_block_multiply_adds(tf.constant(gate), CHANNELS)
  assert counted.dtype == tf.float64
  positions = reference.dilate(MASKS[pattern]).astype(int) + MASKS[pattern]
  np.testing.assert_array_equal(counted, 9 * CHANNELS**2 * positions.sum((1, 2, 3)))
  inputs = tensors(X, gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    BLOCKS['list'](*inputs)
  assert spy.multiply_adds == np.sum(counted)
  assert not spy.rows


@pytest.mark.parametrize('break_even, is_full', [(0.40, True), (0.42, False)])
def test_computes_all_positions_above_the_break_even(break_even, is_full):
  gate = np.zeros([2, 5, 10, 1])
  gate[0, :2, :4] = gate[1, :4, :6] = 0.5
  # One image has 8 active positions, 15 with their neighbors; the other 24 and 35: 82 of 2 * 100.
  assert reference.dilate(gate > 0).sum() == 15 + 35
  inputs = tensors(random(2, 5, 10, CHANNELS), gate, WEIGHTS)
  with spies.OperationSpy() as spy:
    sparse_block.residual_block(*inputs, GROUPS, break_even=break_even)
  assert spy.rows == ([2, 2] if is_full else [])


def test_default_break_even_of_several_maps_counts_them():
  maps, gates = _several(0.4)
  with (mock.patch.object(sparse_conv, 'default_break_even', return_value=1.0) as default,
        mock.patch.object(export_expectation, 'saved_share', return_value=0.3) as saved):
    sparse_block.residual_blocks(*tensors(maps, gates, WEIGHTS), GROUPS)
  default.assert_called_once_with(
      sum(x.shape[1] * x.shape[2] for x in maps), CHANNELS, len(maps), 0.15)
  assert [x.shape for x in saved.call_args.args[0]] == [x.shape for x in maps]


@pytest.mark.parametrize('height', [5, None])
@pytest.mark.parametrize('share, default, is_full', [
    (1.0, 0.8, True), (0.6, 0.8, False), (0.0, 0.8, False), (0.0, 0.0, True)])
def test_uses_the_default_break_even(share, default, is_full, height):
  gate = np.zeros([1, 5, 10, 1])
  gate.reshape(-1)[:round(50 * share)] = 0.5
  inputs = random(1, 5, 10, CHANNELS), gate
  block = tf.function(
      lambda x, gate: sparse_block.residual_block(
          x, gate, sparse_block.ResidualWeights(*tensors(*WEIGHTS)), GROUPS),
      autograph=False, input_signature=[
          tf.TensorSpec([None, height, 10, depth], tf.float64) for depth in (CHANNELS, 1)])
  with mock.patch.object(sparse_conv, 'default_break_even', return_value=default), \
       spies.OperationSpy() as spy:
    sparse_block.residual_block(*tensors(*inputs, WEIGHTS), GROUPS)
    if is_full:
      assert spy.rows == [1, 1]
    np.testing.assert_allclose(block(*inputs), expected(*inputs, WEIGHTS), 1e-10, 1e-10)


@patterns
@variants
def test_block_adds_its_input(pattern, variant):
  gate = random_gate(MASKS[pattern])
  result = BLOCKS[variant](*tensors(X, gate, WEIGHTS), adds_input=True)
  np.testing.assert_allclose(result, np.maximum(X + expected(X, gate, WEIGHTS), 0), 1e-10, 1e-10)


@variants
def test_values_outside_the_receptive_field_are_not_used(variant):
  mask = MASKS['one image empty']
  field = reference.dilate(reference.dilate(mask))
  assert not field.all() and not field[1].any()
  block, gate = BLOCKS[variant], random_gate(mask)
  healthy = block(*tensors(X, gate, WEIGHTS))
  np.testing.assert_array_equal(
      healthy, block(*tensors(np.where(field, X, np.nan), gate, WEIGHTS)))
  inside = np.where(reference.dilate(mask), np.nan, X)
  assert np.isnan(block(*tensors(inside, gate, WEIGHTS))).any()


@variants
def test_an_image_does_not_depend_on_the_others_of_its_batch(variant):
  mask = MASKS['random'].copy()
  mask[1] = False
  block, gate = BLOCKS[variant], random_gate(mask)
  for row in range(BATCH):
    alone = block(*tensors(X[row:row + 1], gate[row:row + 1], WEIGHTS))
    others = np.where(np.arange(BATCH)[:, None, None, None] == row, X, np.nan)
    order = np.roll(np.arange(BATCH), row)
    together = block(*tensors(others[order], gate[order], WEIGHTS)).numpy()
    np.testing.assert_allclose(together[order == row], alone, 0, 1e-12)
    np.testing.assert_array_equal(together[order == 1], 0 * alone)


@pytest.mark.parametrize('dtype, tolerance', [('float16', 0.02), ('bfloat16', 0.15)])
@variants
def test_half_precision(variant, dtype, tolerance):
  gate = tf.constant(random_gate(MASKS['blob']), tf.float32)
  x, weights = tensors(X, WEIGHTS, dtype=dtype)
  result = BLOCKS[variant](x, gate, weights)
  assert result.dtype == dtype
  np.testing.assert_allclose(
      tf.cast(result, tf.float64), expected(X, gate.numpy(), WEIGHTS), 0, tolerance)
  found = gradients(BLOCKS[variant], x, gate, weights, tf.ones_like(x))
  assert [gradient.dtype for gradient in found] == [dtype, tf.float32, *6 * [dtype]]
  assert all(np.all(np.isfinite(tf.cast(gradient, tf.float32))) for gradient in found)


def test_compiles():
  weights = tensors(*WEIGHTS)
  traced = tf.function(
      lambda x, gate: BLOCKS['mask'](x, gate, sparse_block.ResidualWeights(*weights)),
      jit_compile=True, autograph=False, input_signature=residual_blocks.signature(tf.float64))
  gate = random_gate(MASKS['one image empty'])
  np.testing.assert_allclose(traced(X, gate), expected(X, gate, WEIGHTS), 1e-9, 1e-9)


def test_known_sizes_are_known_of_the_result():
  """Also a size of 1, to which an unknown one could be broadcast when maps are added."""
  weights = tensors(*WEIGHTS)
  block = tf.function(
      lambda x, gate: x + BLOCKS['list'](x, gate, sparse_block.ResidualWeights(*weights)),
      autograph=False)
  for size in ((1, 1), (1, WIDTH)):
    traced = block.get_concrete_function(*(
        tf.TensorSpec([None, *size, depth], tf.float64) for depth in (CHANNELS, 1)))
    assert traced.output_shapes.as_list() == [None, *size, CHANNELS]


@pytest.mark.slow
def test_exports_any_size(tmp_path):
  module = tf.Module()
  module.weights = [tf.Variable(value, dtype=tf.float32) for value in WEIGHTS]
  module.serve = tf.function(
      lambda x, gate: BLOCKS['list'](x, gate, sparse_block.ResidualWeights(*module.weights)),
      autograph=False, input_signature=residual_blocks.signature())
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  reloaded = tf.saved_model.load(str(tmp_path / 'exported'))
  for mask in MASKS.values():
    x, gate = (value.astype(np.float32)[:, 1:] for value in (X, random_gate(mask)))
    for rows in (1, BATCH):
      np.testing.assert_allclose(reloaded.serve(x[:rows], gate[:rows]), expected(
          x[:rows], gate[:rows], WEIGHTS), 0, 2e-5)
  assert reloaded.serve(x[:0], gate[:0]).shape == (0, HEIGHT - 1, WIDTH, CHANNELS)


@pytest.mark.slow
def test_trains_in_a_graph_of_unknown_sizes():
  weights = sparse_block.ResidualWeights(*tensors(*WEIGHTS))
  upstream = random(*X.shape, seed=6)
  block = functools.partial(sparse_block.residual_block, num_groups=GROUPS, break_even=0.6)
  traced = tf.function(
      lambda x, gate: gradients(block, x, gate, weights, upstream),
      autograph=False, input_signature=residual_blocks.signature(tf.float64))
  for pattern in ('empty', 'random', 'full'):
    gate = random_gate(MASKS[pattern])
    masked = gradients(BLOCKS['mask'], *tensors(X, gate), weights, upstream)
    for first, second in zip(traced(X, gate), masked):
      np.testing.assert_allclose(first, second, 1e-9, 1e-9)


def test_wrong_options():
  inputs = tensors(X, random_gate(MASKS['blob']), WEIGHTS)
  with pytest.raises(checks.ArgumentError, match="mode is 'tiles'; allowed are 'skip', 'mask'"):
    sparse_block.residual_block(*inputs, GROUPS, mode='tiles')
  with pytest.raises(checks.ArgumentError, match='mode is None'):
    sparse_conv.sparse_conv2d(X, WEIGHTS.kernel1, MASKS['blob'], mode=None)
  with pytest.raises(ValueError, match='num_groups is 3'):
    sparse_block.residual_block(*inputs, 3)
