"""Residual blocks in tiles against plain NumPy, compiled by XLA and not."""
import functools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import sparse_block
from official_ext.ops import tiled_conv
import reference
import residual_blocks
from residual_blocks import CHANNELS, GROUPS, HEIGHT, MASKS, WEIGHTS, WIDTH, X
from residual_blocks import expected
from residual_blocks import random_gate
from residual_blocks import gradients
from residual_blocks import random
from residual_blocks import tensors
import spies


def _block(x, gate, weights, **options):
  return tiled_conv.tiled_residual_block(x, gate, weights, GROUPS, **{'capacity': 1.0, **options})


def _value(*inputs, **options):
  return _block(*inputs, **options).value


def _traced(function, compiled=True):
  return tf.function(function, autograph=False, jit_compile=compiled,
                     input_signature=residual_blocks.signature(tf.float64))


def _active_tiles(mask, size):
  """Returns which tiles have a position of the first convolution: `[batch, rows, columns]`."""
  field = reference.dilate(mask)[..., 0]
  rows, columns = -(-HEIGHT // size), -(-WIDTH // size)
  return np.array([[[
      image[row * size:(row + 1) * size, column * size:(column + 1) * size].any()
      for column in range(columns)] for row in range(rows)] for image in field])


@pytest.mark.parametrize('compiled, size', [
    (False, 1), (False, 3), (False, 8), (True, 2)])
def test_equals_the_equations(size, compiled):
  weights = sparse_block.ResidualWeights(*tensors(*WEIGHTS))
  traced = _traced(lambda x, gate: _block(x, gate, weights, tile_size=size), compiled)
  for mask in MASKS.values():
    gate = random_gate(mask)
    result = traced(X, gate)
    np.testing.assert_allclose(result.value, expected(X, gate, WEIGHTS), 1e-9, 1e-9)
    np.testing.assert_array_equal(result.dropped, [0, 0, 0])
    np.testing.assert_array_equal(result.value.numpy()[~mask[..., 0]], 0)
  assert traced(X[:0], gate[:0]).value.shape == (0, HEIGHT, WIDTH, CHANNELS)


@pytest.mark.parametrize('pattern', ['corners', 'random', 'one image empty'])
def test_capacity(pattern):
  mask = MASKS[pattern]
  inputs = tensors(X, random_gate(mask), WEIGHTS)
  needed = _active_tiles(mask, 2).sum((1, 2))
  assert needed.max() > 1
  for room in range(1, 13):
    result = _block(*inputs, capacity=room / 12, tile_size=2)
    np.testing.assert_array_equal(result.dropped, np.maximum(needed - room, 0))
    exact = needed <= room
    np.testing.assert_allclose(
        result.value[exact], expected(X, random_gate(mask), WEIGHTS)[exact], 1e-9, 1e-9)
    assert np.all(np.isfinite(result.value))


def test_drops_the_least_active_tiles():
  gate = np.zeros([1, HEIGHT, WIDTH, 1])
  gate[0, 1, 1] = gate[0, 4, 4:6] = 0.5
  inputs = tensors(X[:1], gate, WEIGHTS)
  # The first convolution needs 9 positions of the first tile of 3x3, and 9 and 3 of two others.
  np.testing.assert_array_equal(
      _active_tiles(gate > 0, 3)[0], [[True, False, False], [False, True, True]])
  result = _block(*inputs, capacity=2 / 6, tile_size=3)
  assert result.dropped == 1
  assert np.all(result.value[0, 1, 1] != 0) and np.all(result.value[0, 4, 4:6] != 0)


def test_multiply_adds_follow_the_capacity():
  inputs = tensors(X, random_gate(MASKS['one pixel']), WEIGHTS)
  with spies.OperationSpy() as spy:
    _block(*inputs, capacity=0.5, tile_size=2)
  assert spy.rows == [3 * 6, 3 * 6]
  assert spy.multiply_adds == 2 * 3 * 6 * 4 * 9 * CHANNELS**2


@pytest.mark.parametrize('pattern', ['one pixel', 'random', 'one image empty'])
def test_gradients_against_finite_differences(pattern):
  residual_blocks.check_finite_differences(_value, pattern)


def test_compiled_gradients_equal_those_of_the_mode_mask():
  weights, upstream = sparse_block.ResidualWeights(*tensors(*WEIGHTS)), random(*X.shape, seed=6)
  traced = _traced(lambda x, gate: gradients(_value, x, gate, weights, upstream))
  masked = functools.partial(sparse_block.residual_block, num_groups=GROUPS, mode='mask')
  for pattern in ('empty', 'random', 'full'):
    gate = random_gate(MASKS[pattern])
    for first, second in zip(
        traced(X, gate), gradients(masked, *tensors(X, gate), weights, upstream)):
      np.testing.assert_allclose(first, second, 1e-9, 1e-9)


def test_values_outside_the_receptive_field_and_of_other_images_are_not_used():
  mask = MASKS['one image empty']
  field, gate = reference.dilate(reference.dilate(mask)), random_gate(mask)
  # The last image has more active tiles than the capacity; it must not use those of the others.
  healthy = _block(*tensors(X, gate, WEIGHTS), capacity=0.5, tile_size=2)
  poisoned = _block(
      *tensors(np.where(field, X, np.nan), gate, WEIGHTS), capacity=0.5, tile_size=2)
  np.testing.assert_array_equal(healthy.value, poisoned.value)
  alone = _block(*tensors(X[2:], gate[2:], WEIGHTS), capacity=0.5, tile_size=2)
  np.testing.assert_allclose(healthy.value[2:], alone.value, 0, 1e-12)
  assert healthy.dropped[2] == alone.dropped[0] > 0


@pytest.mark.parametrize('dtype, tolerance', [('float16', 0.02), ('bfloat16', 0.15)])
def test_half_precision(dtype, tolerance):
  gate = tf.constant(random_gate(MASKS['blob']), tf.float32)
  result = _value(*tensors(X, dtype=dtype), gate, *tensors(WEIGHTS, dtype=dtype))
  assert result.dtype == dtype
  np.testing.assert_allclose(
      tf.cast(result, tf.float64), expected(X, gate.numpy(), WEIGHTS), 0, tolerance)


@pytest.mark.slow
def test_exports_any_size(tmp_path):
  module = tf.Module()
  module.weights = [tf.Variable(value) for value in WEIGHTS]
  module.serve = _traced(
      lambda x, gate: _block(x, gate, sparse_block.ResidualWeights(*module.weights))._asdict(),
      compiled=False)
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  reloaded = tf.saved_model.load(str(tmp_path / 'exported'))
  x, gate = X[:2, 1:], random_gate(MASKS['random'])[:2, 1:]
  result = reloaded.serve(x, gate)
  np.testing.assert_allclose(result['value'], expected(x, gate, WEIGHTS), 1e-9, 1e-9)
  np.testing.assert_array_equal(result['dropped'], [0, 0])


@pytest.mark.parametrize('options, message', [
    ({'capacity': 0.0}, 'capacity is 0.0'), ({'capacity': 1.5}, 'capacity is 1.5'),
    ({'tile_size': 0}, 'tile_size is 0')])
def test_wrong_options(options, message):
  with pytest.raises(checks.ArgumentError, match=message):
    _block(X, random_gate(MASKS['blob']), WEIGHTS, **options)
