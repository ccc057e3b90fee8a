"""Spatial and channel refinement blocks against plain NumPy, and their initial outputs."""
import itertools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders.drfpn import refinement
from official_ext.ops import checks
import harness
import reference
import refinement_reference
import spies

FILTERS, COMPRESSED = 6, 3
# Coarse and fine sizes: even, odd, one pixel, and sizes that no stride of 2 relates.
SIZES = [((3, 4), (6, 8)), ((3, 4), (5, 7)), ((1, 1), (2, 1)), ((1, 3), (1, 5)), ((2, 3), (7, 8)),
         ((5, 4), (5, 6))]
CONTEXTS = ('source', 'target', 'add', 'cat')


def _features(size, seed, batch=2, depth=FILTERS, dtype=np.float64):
  return np.random.default_rng(seed).normal(size=[batch, *size, depth]).astype(dtype)


def _pair(sizes=((3, 4), (6, 8)), direction='down', **options):
  source, target = sizes if direction == 'down' else sizes[::-1]
  return _features(source, 1, **options), _features(target, 2, **options)


def _randomized(cls, pair, **options):
  layer = cls(filters=FILTERS, name='part', **{'dtype': 'float64', **options})
  layer(pair)
  spies.randomize(layer)
  return layer, refinement_reference.weights_of(layer)


def _linear(values):
  return values


def _srb_cases():
  for sizes, direction in itertools.product(SIZES, ('down', 'up')):
    yield sizes, direction, {}
  for context, direction in itertools.product(CONTEXTS, ('down', 'up')):
    yield SIZES[1], direction, {'context': context}
  for options in ({'use_offset': False}, {'use_weight': False}, {'padding': 'border'},
                  {'activation': 'linear'}):
    yield SIZES[1], 'down', options


@pytest.mark.parametrize('sizes, direction, options', list(_srb_cases()))
def test_srb_equals_numpy(sizes, direction, options):
  pair = _pair(sizes, direction)
  layer, weights = _randomized(refinement.SpatialRefinementBlock, pair, direction=direction,
                               compressed_filters=COMPRESSED, **options)
  activation = _linear if options.get('activation') == 'linear' else reference.sigmoid
  expected = refinement_reference.srb(
      weights, *pair, direction, **{**options, 'activation': activation})
  np.testing.assert_allclose(layer(pair), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('sizes, direction, context', [
    *((sizes, direction, 'source') for sizes in SIZES for direction in ('down', 'up')),
    *((sizes, direction, context) for sizes in SIZES[1::3] for direction in ('down', 'up')
      for context in CONTEXTS[1:])])
@pytest.mark.parametrize('activation', ['sigmoid', 'linear'])
def test_crb_equals_numpy(sizes, direction, context, activation):
  pair = _pair(sizes, direction)
  layer, weights = _randomized(refinement.ChannelRefinementBlock, pair, direction=direction,
                               context=context, activation=activation)
  expected = refinement_reference.crb(weights, *pair, direction, context, {
      'linear': _linear, 'sigmoid': reference.sigmoid}[activation])
  for output, in_numpy in zip(layer(pair), expected):
    np.testing.assert_allclose(output, in_numpy, 1e-10, 1e-10)


@pytest.mark.parametrize('options', [
    {}, {'channel_context': 'cat', 'context': 'add'}, {'direction': 'up', 'use_weight': False}])
def test_both_in_one_equal_numpy(options):
  pair = _pair(SIZES[1], options.get('direction', 'down'))
  layer, weights = _randomized(refinement.SpatialChannelRefinementBlock, pair,
                               compressed_filters=COMPRESSED, **options)
  np.testing.assert_allclose(
      layer(pair), refinement_reference.srb_crb(weights, *pair, **options), 1e-10, 1e-10)


# Convolutions with biases: 1x1 to compress, resampling, hidden and last of both branches.
SRB = 2 * (6 + 1) * 3 + (27 + 1) * 3 + 2 * (9 * 6 + 1) * 3 + (27 + 1) * 3 + (54 + 1) * 6
CRB = (6 + 1) * 6 + 3 * (54 + 1) * 6


@pytest.mark.parametrize('cls, options, trainable', [
    ('Spatial', {}, SRB),
    ('Spatial', {'use_offset': False}, SRB - (9 * 6 + 1) * 3 - (27 + 1) * 2),
    ('Spatial', {'use_weight': False}, SRB - (9 * 6 + 1) * 3 - (27 + 1)),
    ('Spatial', {'context': 'add', 'padding': 'border'}, SRB - 2 * 27 * 3),
    ('Spatial', {'context': 'target'}, SRB - 2 * 27 * 3 - (6 + 1) * 3 - (27 + 1) * 3),
    ('Spatial', {'context': 'source'}, SRB - 2 * 27 * 3 - (6 + 1) * 3),
    ('Channel', {'direction': 'down', 'activation': 'linear'}, CRB),
    ('Channel', {'direction': 'down', 'context': 'target'}, CRB),
    ('Channel', {'direction': 'down', 'context': 'add'}, CRB + (54 + 1) * 6),
    ('Channel', {'direction': 'down', 'context': 'cat'}, CRB + (54 + 1) * 6 + (12 + 1) * 6),
    ('SpatialChannel', {'channel_context': 'target'}, SRB + (6 + 1) * 6 + (54 + 1) * 6),
])
def test_layer_contract(cls, options, trainable):
  pair = tuple(map(tf.constant, _pair(dtype=np.float32)))
  if cls != 'Channel':
    options = {**options, 'compressed_filters': COMPRESSED}
  harness.run_layer_checks(getattr(refinement, f'{cls}RefinementBlock'),
                           {'filters': FILTERS, **options}, pair, trainable, tolerance=1e-5)


def test_number_of_weights_of_the_paper():
  with tf.Graph().as_default():
    for cls, options, direction, weights in [
        (refinement.SpatialRefinementBlock, {'compressed_filters': 64}, 'down', 809_219),
        (refinement.ChannelRefinementBlock, {}, 'up', 1_836_032)]:
      layer = cls(256, **options)
      layer(tuple(tf.constant(x) for x in _pair(direction=direction, depth=256)))
      assert sum(v.shape.num_elements() for v in layer.trainable_variables) == weights


def test_srb_starts_as_almost_plain_upsampling():
  source, target = _pair(((6, 8), (12, 16)), depth=32, dtype=np.float32)
  block = refinement.SpatialRefinementBlock(32, 8)
  outputs = block((source, target))
  upsampled = reference.resize_bilinear(source, (12, 16))
  merged = 1.5 * upsampled + target  # the weight is sigmoid(0)
  kernel = next(v for v in block.variables if 'output/kernel' in v.name).numpy()
  expected = reference.conv2d(merged, kernel)
  assert 0 < np.max(np.abs(outputs - expected)) < 0.02 * np.std(expected)


def test_srb_starts_with_a_gradient_everywhere():
  pair = tuple(map(tf.constant, _pair(((6, 8), (12, 16)), depth=32, dtype=np.float32)))
  block = refinement.SpatialRefinementBlock(32, 8)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.square(block(pair)))
  for variable, gradient in zip(
      block.trainable_variables, tape.gradient(loss, block.trainable_variables)):
    assert np.any(gradient != 0), variable.name


def test_an_offset_moves_by_a_share_of_the_grid():
  """An offset of 1 is 2 / (height + width) in [-1, 1]; the first channel is x."""
  source, target = _features((4, 6), 1), np.zeros([2, 8, 12, FILTERS])
  block, _ = _randomized(refinement.SpatialRefinementBlock, (source, target),
                         compressed_filters=COMPRESSED)
  for variable in block.variables:
    if '/offset/' in variable.name:
      variable.assign([3.0, -1.0] if 'bias' in variable.name else np.zeros(variable.shape))
  positions = block._positions(block._context_map(source, target), source, target)
  normalized = positions / (np.array([3, 5]) / 2) - 1
  grid = np.stack(np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 12), indexing='ij'), -1)
  np.testing.assert_allclose(normalized - grid, np.broadcast_to(
      [-1 * 2 / 20, 3 * 2 / 20], normalized.shape), atol=1e-12)


@pytest.mark.parametrize('cls, options, argument', [
    ('Spatial', {'direction': 'sideways'}, 'direction'), ('Spatial', {'context': 'low'}, 'context'),
    ('Spatial', {'activation': 'relu'}, 'activation'), ('Spatial', {'padding': 'same'}, 'padding'),
    ('Spatial', {'use_offset': False, 'use_weight': False}, 'use_offset'),
    ('Channel', {'context': 'both'}, 'context'), ('Channel', {'activation': None}, 'activation')])
def test_wrong_options_are_named(cls, options, argument):
  if cls == 'Spatial':
    options = {**options, 'compressed_filters': 2}
  with pytest.raises(checks.ArgumentError, match=f'^{argument} ') as caught:
    getattr(refinement, f'{cls}RefinementBlock')(4, **options)
  assert caught.value.argument == argument
