"""The two steps of the dynamic head against plain NumPy, in float64."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.heads.dynamic_head import steps
import dynamic_head_reference
import spies

CHANNELS = 6
SIZES = {'3': (7, 10), '4': (4, 5), '5': (2, 3), '6': (1, 2), '7': (1, 1)}


def _features(levels='34567', batch=2, seed=0, channels=CHANNELS):
  rng = np.random.default_rng(seed)
  return {level: rng.normal(size=[batch, *SIZES[level], channels]) for level in levels}


def _gates(features, seed=1):
  """Returns gates of every neighbor of every level, some of them 0."""
  rng = np.random.default_rng(seed)
  levels = list(features)
  return {(path, level): np.maximum(rng.uniform(-1, 1, [*features[level].shape[:3], 1]), 0)
          for level in levels for path in dynamic_head_reference.neighbors(level, levels)}


def _made(cls, inputs, seed=0, **options):
  layer = cls(dtype='float64', name='step', **options)
  layer(*inputs)
  spies.randomize(layer, seed)
  return layer, dynamic_head_reference.named_weights(layer)


def _same(ours, expected):
  assert list(ours) == list(expected)
  for level in expected:
    np.testing.assert_allclose(ours[level], expected[level], 1e-10, 1e-10, err_msg=level)


@pytest.mark.parametrize('levels', ['34567', '35', '67', '4'])
@pytest.mark.parametrize('is_gated', [True, False])
def test_scale_step_equals_numpy(levels, is_gated):
  features = _features(levels)
  gates = _gates(features) if is_gated else None
  layer, weights = _made(steps.ScaleStep, (features, gates), is_gated=is_gated)
  _same(layer(features, gates), dynamic_head_reference.scale_step(weights, features, gates))


@pytest.mark.parametrize('is_open, multiply_adds', [(True, 9 * CHANNELS * 2 * 116), (False, 0)])
def test_scale_step_may_skip_its_messages_if_all_gates_are_shut(is_open, multiply_adds):
  features = _features('345')
  gates = {key: np.zeros_like(gate) for key, gate in _gates(features).items()}
  if is_open:  # A single position of one image.
    gates['finer', '5'][1, 0, 2] = 0.3
  layer, weights = _made(steps.ScaleStep, (features, gates))
  expected = dynamic_head_reference.scale_step(weights, features, gates)
  with spies.OperationSpy() as spy:
    _same(layer(features, gates, may_skip=True), expected)
  # Levels 3 and 5 have one neighbor, level 4 has two: 70 + 2 * 20 + 6 positions of each image.
  assert spy.multiply_adds == multiply_adds
  traced = tf.function(
      lambda features, gates: layer(features, dict(zip(_gates(_features('345')), gates)),
                                    may_skip=True),
      autograph=False, input_signature=[
          {level: tf.TensorSpec([None, None, None, CHANNELS], tf.float64) for level in features},
          [tf.TensorSpec([None, None, None, 1], tf.float64) for _ in gates]])
  _same(traced(features, list(gates.values())), expected)


def test_scale_step_starts_as_identity():
  features = _features()
  layer = steps.ScaleStep(dtype='float64')
  _same(layer(features, _gates(features)), features)
  # A step without gates has no w_s that starts at 0: it adds the messages from the start.
  fixed = steps.ScaleStep(is_gated=False, dtype='float64')
  assert not np.allclose(fixed(features)['3'], features['3'])


def test_messages_go_where_they_should():
  features, layer = _features(), None
  for path, source, target in [('coarser', '4', '5'), ('finer', '4', '3'), ('finer', '7', '6')]:
    gates = {key: np.zeros_like(gate) for key, gate in _gates(features).items()}
    gates[path, source] += 1
    layer, _ = _made(steps.ScaleStep, (features, gates))
    layer.own_weight.assign(0)
    outputs = layer(features, gates)
    assert [level for level in outputs if np.any(outputs[level] != 0)] == [target]


def _gate(kind, shape, seed=2):
  rng = np.random.default_rng(seed)
  gate = np.zeros([*shape[:3], 1])
  if kind == 'full':
    gate += rng.uniform(0.1, 1, gate.shape)
  elif kind == 'random':
    gate = np.maximum(rng.uniform(-1, 0.7, gate.shape), 0)
  elif kind == 'pixel':
    gate[:, 0, -1] = 0.3
  elif kind == 'mixed':  # the first image is shut
    gate[1, 2:4, 3:] = 0.8
  return gate


@pytest.mark.parametrize('kind', ['full', 'random', 'pixel', 'mixed', 'shut'])
@pytest.mark.parametrize('levels, mode', [
    ('3', 'mask'), ('345', 'skip'), ('67', 'skip'), ('34', 'tiles')])
@pytest.mark.parametrize('update', steps.UPDATES)
def test_depth_step_equals_numpy(kind, levels, mode, update):
  features = _features(levels)
  gates = {level: _gate(kind, x.shape) for level, x in features.items()}
  layer, weights = _made(steps.DepthStep, (features,), update=update)
  result = layer(features, gates, options=steps.RunOptions(mode))
  expected = {level: dynamic_head_reference.depth_step(weights, x, gates[level], update=update)
              for level, x in features.items()}
  _same(result.outputs, expected)
  np.testing.assert_array_equal(result.dropped, [0, 0])
  for level, x in features.items():
    shut = gates[level][..., 0] == 0
    np.testing.assert_allclose(expected[level][shut], np.maximum(x[shut], 0))


@pytest.mark.parametrize('kind', ['full', 'random', 'shut', None])
@pytest.mark.parametrize('update', steps.UPDATES)
def test_depth_step_over_all_positions_equals_numpy(kind, update):
  features = _features('34')
  gates = {level: _gate(kind, x.shape) for level, x in features.items()} if kind else None
  layer, weights = _made(steps.DepthStep, (features,), update=update)
  expected = {level: dynamic_head_reference.depth_step(
      weights, x, gates and gates[level], norm_positions='all', update=update)
              for level, x in features.items()}
  for mode in ('mask', 'skip', 'tiles'):
    options = steps.RunOptions(mode, norm_positions='all')
    _same(layer(features, gates, options=options).outputs, expected)


def test_norm_over_a_full_mask_is_the_norm_over_all_positions():
  features = _features('34')
  gates = {level: np.ones([*x.shape[:3], 1]) for level, x in features.items()}
  layer, _ = _made(steps.DepthStep, (features,))
  _same(layer(features, gates).outputs, layer(features).outputs)


@pytest.mark.parametrize('channels, groups', [(256, 32), (88, 22), (6, 6), (64, 32), (37, 1)])
def test_groups_of_the_norms(channels, groups):
  features = np.random.default_rng(0).normal(size=[1, 3, 4, channels])
  layer = steps.DepthStep(dtype='float64')
  layer.build({'3': features.shape})
  assert layer.num_groups == groups


@pytest.mark.parametrize('mode', ['mask', 'skip'])
def test_gradients_of_the_depth_step_equal_finite_differences(mode):
  """The mask is held fixed: statistics jump where a position becomes active."""
  features = _features(batch=2)['4']
  gate = _gate('random', features.shape)
  layer, weights = _made(steps.DepthStep, ({'4': features},))
  direction = np.random.default_rng(3).normal(size=features.shape)
  tensors = [tf.Variable(features), tf.Variable(gate)]
  with tf.GradientTape() as tape:
    result = layer(*({'4': value} for value in tensors), options=steps.RunOptions(mode))
    loss = tf.reduce_sum(result.outputs['4'] * direction)
  watched = [*tensors, *layer.trainable_variables]
  gradients = tape.gradient(loss, watched)

  def numpy_loss(moved):
    changed = dict(weights)
    x, m, *values = moved
    for variable, value in zip(layer.trainable_variables, values):
      changed[variable.name.split('step/')[1][:-2]] = value
    return np.sum(dynamic_head_reference.depth_step(changed, x, m) * direction)

  rng = np.random.default_rng(4)
  point = [variable.numpy() for variable in watched]
  for index, gradient in enumerate(gradients):
    step = rng.normal(size=point[index].shape)
    if index == 1:
      step *= gate > 0
      np.testing.assert_array_equal(tf.boolean_mask(gradient, gate == 0), 0)
    ends = []
    for sign in (1, -1):
      moved = list(point)
      moved[index] = point[index] + sign * 1e-6 * step
      ends.append(numpy_loss(moved))
    slope = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * step), slope, 2e-5, 1e-6, err_msg=str(index))


@pytest.mark.parametrize('policy, dtype', [('mixed_float16', tf.float16),
                                           ('mixed_bfloat16', tf.bfloat16)])
def test_mixed_precision_keeps_norms_in_float32(policy, dtype):
  features = {level: x.astype(np.float32) for level, x in _features().items()}
  gates = _gates(features)
  scale = steps.ScaleStep(dtype=policy, name='step')
  outputs = scale(features, gates)
  spies.randomize(scale)
  depth = steps.DepthStep(dtype=policy, name='step')
  refined = depth({'3': features['3']}).outputs['3']
  assert {x.dtype for x in (refined, *outputs.values())} == {dtype}
  assert {v.dtype for v in (*scale.variables, *depth.variables)} == {tf.float32}
  expected = dynamic_head_reference.scale_step(
      dynamic_head_reference.named_weights(scale), features, gates)
  for level, values in scale(features, gates).items():
    np.testing.assert_allclose(tf.cast(values, tf.float64), expected[level], 0.05, 0.05)


def test_kernels_and_scalars_are_regularized():
  features = _features()
  options = {'kernel_regularizer': {'class_name': 'L2', 'config': {'l2': 0.5}}}
  for cls, inputs, names in [
      (steps.ScaleStep, (features, _gates(features)),
       ['coarser_kernel', 'finer_kernel', 'own_weight', 'neighbor_weight']),
      (steps.DepthStep, (features,), ['kernel1', 'kernel2'])]:
    layer, weights = _made(cls, inputs, **options)
    assert sorted(float(loss) for loss in layer.losses) == pytest.approx(
        sorted(0.5 * np.sum(weights[name]**2) for name in names))
    again = cls.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
