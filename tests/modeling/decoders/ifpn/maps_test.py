"""Every map of the implicit pyramid against NumPy, and the masks of its dropout."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import ifpn
from official_ext.modeling.decoders.ifpn import maps
from official_ext.ops import checks
import ifpn_reference
import slow_offsets
import spies

SIZES = ((10, 13), (5, 7), (3, 4), (2, 2), (1, 1))
VARIANTS = {
    'pyramid': {}, 'separate': {'shared': False}, 'none': {'cross_scale': 'none'},
    'dense': {'cross_scale': 'dense'}, 'bifpn': {'cross_scale': 'bifpn'},
    'nasfpn': {'cross_scale': 'nasfpn'}, 'without residual blocks': {'residual': False},
    'batch norm': {'block_norm': 'batch_norm'}, 'mdeq': {'injection': 'mdeq'},
}


def make(num_filters=8, levels=5, dtype='float64', **options):
  """Returns a decoder, whose map is tested, with weights that differ from each other."""
  specs = {'3': [None, None, None, 4]}
  layer = ifpn.ImplicitFPN(specs, min_level=3, max_level=2 + levels, num_filters=num_filters,
                           name='part', dtype=dtype, **options)
  layer.build({'3': tf.TensorShape([None, None, None, 4])})
  spies.randomize(layer)
  return layer


def draw(seed, num_filters=8, sizes=SIZES, batch=2):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=[batch, *size, num_filters]) for size in sizes]


def expected(layer, options, state, basis, masks=None):
  """Returns the result of the map in NumPy."""
  weights = {v.name[len('map/'):-2]: v.numpy() for v in layer.map.variables}
  reference = ifpn_reference.Map(weights, len(state), masks)
  if options.get('injection') == 'mdeq':
    return reference.mdeq(state, basis)
  return reference.sum_injection(
      state, basis, options.get('cross_scale', 'pyramid'), options.get('residual', True),
      options.get('shared', True))


@pytest.mark.parametrize('name', VARIANTS)
def test_map_equals_numpy(name):
  """Maps of one pixel, odd sizes, masks; two groups of channels for the norm."""
  options = VARIANTS[name]
  layer = make(16, **options)
  state, basis = draw(0, 16), draw(1, 16)
  masks = [np.where(np.random.default_rng(i).uniform(size=[2, 1, 1, 16]) < 0.3, 0, 1 / 0.7)
           for i in range(5)]

  # A graph, because in eager mode TensorFlow prepares every operation anew.
  @tf.function(autograph=False)
  def run(state, basis, masks):
    return layer.map.run(layer.map.prepare(tf.float64), maps.MapInputs(state, basis, masks))

  for result, value in zip(run(state, basis, masks), expected(layer, options, state, basis, masks)):
    np.testing.assert_allclose(result, value, 1e-10, 1e-10)


@pytest.mark.parametrize('options, sizes', [({}, ((9, 7), (6, 5))), ({}, ((9, 7), (2, 3)))])
def test_levels_that_are_not_halves_are_resized(options, sizes):
  layer = make(levels=2)
  state, basis = draw(0, sizes=sizes), draw(1, sizes=sizes)
  spec = [tf.TensorSpec([None, None, None, 8], tf.float64)] * 2

  @tf.function(autograph=False, input_signature=[spec, spec])
  def unknown_sizes(state, basis):
    return layer.map(maps.MapInputs(state, basis))

  values = expected(layer, options, state, basis)
  for result, value in zip(unknown_sizes(state, basis), values):
    np.testing.assert_allclose(result, value, 1e-10, 1e-10)


@pytest.mark.parametrize('is_shared', [True, False])
def test_map_with_deformable_kernels_equals_numpy(is_shared):
  """Two levels have one of each kind of kernel."""
  options = {'deformable_kernels': True, 'shared': is_shared}
  layer = make(levels=2, **options)
  sizes = ((4, 5), (2, 3))
  state, basis = draw(0, sizes=sizes, batch=1), draw(1, sizes=sizes, batch=1)
  results = layer.map(maps.MapInputs(state, basis))
  for result, value in zip(results, expected(layer, options, state, basis)):
    np.testing.assert_allclose(result, value, 1e-10, 1e-10)


def test_deformable_kernels_start_as_the_plain_ones():
  """All offsets and masks are 0 at the start, whatever the kernels are."""
  plain, ours = make(levels=2), make(levels=2, deformable_kernels=True)
  offsets = [v for v in ours.variables if '/offset/' in v.name]
  assert sum(v.shape.num_elements() for v in offsets) == 3 * (9 * 8 + 1) * 27
  for variable in offsets:
    variable.assign(tf.zeros_like(variable))
  values = {v.name: v.numpy() for v in ours.variables}
  for variable in plain.variables:
    variable.assign(values[variable.name])
  sizes = ((4, 6), (2, 3))
  inputs = maps.MapInputs(draw(0, sizes=sizes), draw(1, sizes=sizes))
  for result, value in zip(ours.map(inputs), plain.map(inputs)):
    np.testing.assert_allclose(result, value, 1e-10, 1e-10)
  fresh = ifpn.ImplicitFPN({'3': [None, None, None, 4]}, max_level=4, num_filters=8,
                           deformable_kernels=True)
  fresh.build({'3': tf.TensorShape([None, None, None, 4])})
  assert not any(np.any(v) for v in fresh.variables if '/offset/' in v.name)


def test_offsets_of_deformable_kernels_learn_at_their_rate():
  """The map's slope by its state stays, so that the implicit gradient is the true one."""
  sizes = ((3, 4), (2, 2))
  levels = [tf.constant(x) for seed in (0, 1) for x in draw(seed, sizes=sizes, batch=1)]
  slow_offsets.check(
      lambda rate: make(levels=2, deformable_kernels=True, offset_rate=rate, dropout=0.0).map,
      lambda layer, inputs: tf.add_n([
          tf.reduce_sum(x**3) for x in layer(maps.MapInputs(inputs[:2], inputs[2:]))]),
      levels, 6)


def test_frozen_batch_norm_moves_to_what_it_sees_over_all_levels():
  layer = make(levels=2, cross_scale='none', residual=False, block_norm='batch_norm')
  sizes = ((4, 6), (2, 3))
  state, basis = draw(0, sizes=sizes), draw(1, sizes=sizes)
  norm, = [module for module in layer.map.submodules if module.name == 'norm']
  before = norm.moving_mean.numpy(), norm.moving_variance.numpy()
  weights = layer.map.watch(layer.map.prepare(tf.float64))
  layer.map.run(weights, maps.MapInputs(state, basis))
  layer.map.update(weights)
  seen = np.concatenate([(p + b).reshape(-1, 8) for p, b in zip(state, basis)])
  for variable, old, now in zip(
      (norm.moving_mean, norm.moving_variance), before, (seen.mean(0), seen.var(0))):
    np.testing.assert_allclose(variable, old * 0.99 + now * 0.01, 1e-10)


DROPOUT = {'rate': 0.25, 'num_levels': 3, 'num_filters': 64}


def test_dropout_masks():
  layer = maps.ChannelDropout(**DROPOUT, name='dropout')
  inputs = tf.zeros([200, 1, 1, 1])
  first, second = layer(inputs), layer(inputs)
  assert int(layer.steps()) == 2
  for mask in first + second:
    assert mask.shape == (200, 1, 1, 64)
    assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)}
    # Three standard deviations of a share of 12800 draws.
    assert abs(np.mean(mask == 0) - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 12800)
  drawn = [np.asarray(mask).tobytes() for mask in first + second]
  assert len(set(drawn)) == 6

  again = maps.ChannelDropout(**DROPOUT, name='dropout')
  again(inputs)
  again.set_weights([1])
  for mask, value in zip(tf.function(again, autograph=False)(inputs), second):
    np.testing.assert_array_equal(mask, value)
  other = maps.ChannelDropout(**DROPOUT, seed=1, name='dropout')(inputs)
  assert not np.array_equal(other[0], first[0])
  assert maps.ChannelDropout.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_dropout_rate_out_of_range_is_refused(rate):
  with pytest.raises(checks.ArgumentError, match=f'rate is {rate}'):
    maps.ChannelDropout(rate, 1, 8)


def test_residual_block_as_a_layer():
  """A block is also a layer that can be called by itself."""
  layer = make(levels=1, dtype='float32')
  block = [m for m in layer.map.submodules if isinstance(m, maps.ResidualBlock)][0]
  inputs = draw(0, sizes=[(4, 5)])[0].astype(np.float32)
  weights = {v.name[len('map/'):-2]: v.numpy() for v in layer.map.variables}
  value = ifpn_reference.Map(weights, 1).residual(0, inputs)
  np.testing.assert_allclose(block(inputs), value, 1e-4, 1e-5)
