"""Towers and heads of one-stage detectors against plain NumPy, and the layer checks."""
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.heads import dense_head
from official_ext.modeling.heads import plain_tower
from official_ext.ops import checks
from official_ext.ops import multiply_adds
import component
import harness
import reference
import slow_offsets
import spies

CHANNELS = {'3': 6, '4': 6}
FILTERS = 68  # 32 does not divide it: 17 groups of 4 channels
SMALL = {'num_filters': 4, 'tower_options': {'num_convs': 1}, 'min_level': 3, 'max_level': 4}


def group_norm(x, gamma, beta, groups):
  batch, height, width, channels = x.shape
  grouped = x.reshape([batch, height, width, groups, channels // groups])
  mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
  variance = grouped.var(axis=(1, 2, 4), keepdims=True)
  return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta


def named_values(layer):
  """Returns values of variables by their names in the innermost layer, as `conv_0/kernel:0`."""
  return {'/'.join(variable.name.split('/')[-2:]): variable.numpy()
          for variable in layer.variables}


def tower_in_numpy(tower, x):
  values = named_values(tower)
  number = sum('conv' in name for name in values) // 2
  for index in range(number):
    kernel, bias = values[f'conv_{index}/kernel:0'], values[f'conv_{index}/bias:0']
    if index == number - 1 and 'offset/kernel:0' in values:
      raw = reference.conv2d(x, values['offset/kernel:0'], values['offset/bias:0'])
      x = reference.deformable_conv2d(x, kernel, raw) + bias
    else:
      x = reference.conv2d(x, kernel, bias)
    if f'norm_{index}/gamma:0' in values:
      groups = max(n for n in range(1, 33) if x.shape[-1] % n == 0)
      x = group_norm(x, values[f'norm_{index}/gamma:0'], values[f'norm_{index}/beta:0'], groups)
    x = np.maximum(x, 0)
  return x


@pytest.mark.parametrize('norm, deformable', [
    ('group_norm', False), ('none', False), ('group_norm', True)])
def test_tower_equals_numpy(norm, deformable):
  tower = plain_tower.PlainTower(FILTERS, num_convs=2, norm=norm, deformable=deformable,
                                dtype='float64', name='tower')
  inputs = reference.pyramid_inputs(CHANNELS, dtype=np.float64)
  tower(inputs)
  spies.randomize(tower)
  for level, output in tower(inputs).items():
    np.testing.assert_allclose(output, tower_in_numpy(tower, inputs[level]), 1e-10, 1e-10)


def test_tower_contract(tmp_path):
  part = component.Component(
      plain_tower.PlainTower, {'num_filters': 4, 'num_convs': 2}, CHANNELS,
      trainable=(9 * 6 + 1) * 4 + (9 * 4 + 1) * 4 + 2 * 8, non_trainable=0,
      names=r'part/(conv|norm)_[01]/(kernel|bias|gamma|beta):0', output_levels='34')
  for check in (harness.check_config, harness.check_saving, harness.check_sizes,
                harness.check_weights, harness.check_precision):
    check(part, tmp_path)
  harness.run_layer_checks(part.cls, part.options, part.inputs(), part.trainable, 1e-5)


def test_deformable_tower_has_its_published_weights_and_starts_at_offsets_of_zero():
  """Of 256 channels 62,235 weights more, and 62,208 multiply-adds for a position."""
  tower = plain_tower.PlainTower(256, num_convs=1, norm='none', deformable=True)
  with tf.Graph().as_default() as graph:
    tower({'3': tf.zeros([1, 1, 1, 256])})
  assert multiply_adds.count_graph(graph) == 9 * 256 * 256 + 62_208
  assert tower.count_params() == (9 * 256 + 1) * 256 + 62_235
  small = plain_tower.PlainTower(4, num_convs=1, norm='none', deformable=True)
  plain = plain_tower.PlainTower(4, num_convs=1, norm='none')
  inputs = reference.pyramid_inputs(CHANNELS)
  small(inputs), plain(inputs)
  plain.set_weights(small.get_weights()[:2])
  for level, output in plain(inputs).items():
    np.testing.assert_allclose(small(inputs)[level], output / 2, 1e-4, 1e-7)


def test_offsets_of_a_tower_learn_at_their_rate():
  x = tf.random.stateless_normal([1, 5, 6, 4], [1, 2])

  def make(rate):
    tower = plain_tower.PlainTower(4, num_convs=2, deformable=True, offset_rate=rate)
    tower({'3': x})
    return tower

  slow_offsets.check(
      make, lambda tower, inputs: tf.reduce_sum(tower({'3': inputs[0]})['3'] ** 2), [x], 2)


def test_tower_starts_as_published():
  tower = plain_tower.PlainTower(64, num_convs=1)
  tower({'3': tf.zeros([1, 4, 4, 64])})
  values = named_values(tower)
  assert np.std(values['conv_0/kernel:0']) == pytest.approx(0.01, rel=0.02)
  assert not np.any(values['conv_0/bias:0'])
  assert np.all(values['norm_0/gamma:0'] == 1) and not np.any(values['norm_0/beta:0'])


def head_in_numpy(head, x, name, tower='box'):
  """Returns the result of the tower and the predictor `name`."""
  tower = head._class_tower if tower == 'class' else head._box_tower
  values, x = named_values(head), tower_in_numpy(tower, x)
  if f'{name}/depthwise_kernel:0' in values:
    return reference.separable_conv2d(x, *(
        values[f'{name}/{part}:0'] for part in ('depthwise_kernel', 'pointwise_kernel', 'bias')))
  return reference.conv2d(x, values[f'{name}/kernel:0'], values[f'{name}/bias:0'])


@pytest.mark.parametrize('coding, activation, tower, separable', [
    ('distances', 'relu', 'box', False), ('distances', 'exp', 'class', False),
    ('deltas', 'relu', 'class', True)])
def test_dense_head_equals_numpy(coding, activation, tower, separable):
  head = dense_head.DenseHead(3, coding, activation, tower, use_separable_conv=separable,
                              dtype='float64', name='head', **SMALL)
  inputs = reference.pyramid_inputs(CHANNELS, dtype=np.float64)
  head(inputs)
  spies.randomize(head)
  classes, boxes, attributes = head(inputs)
  for index, (level, x) in enumerate(inputs.items()):
    np.testing.assert_allclose(classes[level], head_in_numpy(head, x, 'classes', 'class'), 1e-10)
    np.testing.assert_allclose(
        attributes['centerness'][level], head_in_numpy(head, x, 'centerness', tower), 1e-10)
    expected = head_in_numpy(head, x, 'boxes') * head.scales.numpy()[index]
    if activation == 'exp':
      expected = np.exp(expected)
    elif coding == 'distances':
      expected = np.maximum(expected, 0) * 2**int(level)
      assert np.any(expected == 0) and np.any(expected > 0)
    np.testing.assert_allclose(boxes[level], expected, 1e-10, 1e-10)


@pytest.mark.parametrize('tower', ['box', 'class'])
def test_autoassign_head_equals_numpy(tower):
  head = dense_head.AutoAssignHead(
      3, centerness_tower=tower, dtype='float64', name='head', **SMALL)
  inputs = reference.pyramid_inputs(CHANNELS, dtype=np.float64)
  head(inputs)
  spies.randomize(head)
  classes, boxes, attributes = head(inputs)
  assert set(attributes) == {'objectness'}
  for index, (level, x) in enumerate(inputs.items()):
    np.testing.assert_allclose(classes[level], head_in_numpy(head, x, 'classes', 'class'), 1e-10)
    np.testing.assert_allclose(
        attributes['objectness'][level], head_in_numpy(head, x, 'objectness', tower), 1e-10)
    expected = np.maximum(head_in_numpy(head, x, 'boxes') * head.scales.numpy()[index], 0)
    np.testing.assert_allclose(boxes[level], expected * 2**int(level), 1e-10)
  for found, name in zip(head.center_prior(), ('center_offsets', 'center_spreads')):
    np.testing.assert_array_equal(found, named_values(head)[f'head/{name}:0'])


def test_autoassign_head_starts_as_published():
  head = dense_head.AutoAssignHead(3, name='head', **SMALL)
  classes, boxes, attributes = head({level: tf.zeros([1, 3, 3, 6]) for level in CHANNELS})
  for level in CHANNELS:
    np.testing.assert_allclose(tf.sigmoid(classes[level]), 0.02, rtol=1e-5)
    np.testing.assert_allclose(tf.sigmoid(attributes['objectness'][level]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(boxes[level], 4 * 2**int(level))  # squares of 8 strides
  offsets, spreads = head.center_prior()
  np.testing.assert_array_equal(offsets, np.zeros([3, 2]))
  np.testing.assert_array_equal(spreads, np.ones([3, 2]))


@pytest.mark.parametrize('separable', [False, True])
def test_anchor_head_equals_numpy(separable):
  head = dense_head.AnchorHead(3, num_anchors=2, use_separable_conv=separable, dtype='float64',
                               name='head', **SMALL)
  inputs = reference.pyramid_inputs(CHANNELS, dtype=np.float64)
  head(inputs)
  spies.randomize(head)
  classes, boxes, attributes = head(inputs)
  assert attributes == {}
  for level, x in inputs.items():
    assert (classes[level].shape[-1], boxes[level].shape[-1]) == (6, 8)
    np.testing.assert_allclose(classes[level], head_in_numpy(head, x, 'classes', 'class'), 1e-10)
    np.testing.assert_allclose(boxes[level], head_in_numpy(head, x, 'boxes'), 1e-10, 1e-10)


@pytest.mark.parametrize('cls, predictors, extra', [
    (dense_head.DenseHead, 3 + 4 + 1, 2), (dense_head.AnchorHead, 9 * (3 + 4), 0)])
def test_head_contract(cls, predictors, extra):
  tower = (9 * 6 + 1) * 4 + 8
  harness.run_layer_checks(cls, {'num_classes': 3, **SMALL}, reference.pyramid_inputs(CHANNELS),
                           2 * tower + (9 * 4 + 1) * predictors + extra, 1e-5)


def test_predictors_start_as_published():
  options = {**SMALL, 'num_filters': 64, 'name': 'head'}
  for separable, kernels in [
      (False, {'classes/kernel:0': 0.01, 'boxes/kernel:0': 0.01}),
      (True, {'classes/depthwise_kernel:0': (9 * 64)**-0.5, 'boxes/pointwise_kernel:0': 1 / 8})]:
    head = dense_head.AnchorHead(20, use_separable_conv=separable, **options)
    head({level: tf.zeros([1, 3, 3, 6]) for level in CHANNELS})
    values = named_values(head)
    for name, deviation in kernels.items():
      assert np.std(values[name]) == pytest.approx(deviation, rel=0.1), name


@pytest.mark.parametrize('policy', ['mixed_float16', 'mixed_bfloat16'])
def test_predictions_are_float32_under_mixed_precision(policy):
  head = dense_head.DenseHead(3, dtype=policy, name='head', **SMALL)
  exact = dense_head.DenseHead(3, dtype='float32', name='head', **SMALL)
  inputs = reference.pyramid_inputs(CHANNELS)
  for layer in (head, exact):
    layer(inputs)
    spies.randomize(layer)
  for output, expected in zip(tf.nest.flatten(head(inputs)), tf.nest.flatten(exact(inputs))):
    assert output.dtype == tf.float32
    np.testing.assert_allclose(output, expected, rtol=0.1, atol=0.5)
  assert {variable.dtype for variable in head.variables} == {tf.float32}


def test_every_class_starts_at_its_prior_probability():
  head = dense_head.DenseHead(3, prior_probability=0.02, name='head', **SMALL)
  classes, _, _ = head({level: tf.zeros([1, 3, 3, 6]) for level in CHANNELS})
  for logits in classes.values():
    np.testing.assert_allclose(tf.sigmoid(logits), 0.02, rtol=1e-5)


def test_wrong_options_and_levels_are_named():
  with pytest.raises(checks.ArgumentError, match="box_coding is 'offsets'.*'distances', 'deltas'"):
    dense_head.DenseHead(3, 'offsets')
  with pytest.raises(ValueError, match="tower.type is 'plian'.*Did you mean 'plain'"):
    dense_head.DenseHead(3, tower='plian')
  with pytest.raises(checks.ArgumentError, match="norm is 'batch_norm'.*'group_norm', 'none'"):
    plain_tower.PlainTower(norm='batch_norm')
  with pytest.raises(checks.ArgumentError, match='deformable is true, but num_convs is 0'):
    plain_tower.PlainTower(num_convs=0, deformable=True)
  head = dense_head.DenseHead(3, name='head', **SMALL)
  with pytest.raises(ValueError, match='head needs levels 3, 4; 4 is missing: change min_level'):
    head({'3': tf.zeros([1, 3, 3, 6])})


@pytest.mark.slow
@pytest.mark.parametrize('code, known', [
    ('from official_ext.modeling.heads import dense_head\n'
     'dense_head.DenseHead(3, tower="dynamic")', 'none'),
    ('from official_ext.configs import detectors\n'
     'config = detectors.DenseDetectorConfig()\n'
     'config.head.tower.as_dict()\n'
     'config.override({"head": {"tower": {"type": "dynamic"}}})', 'plain')])
def test_a_module_imported_alone_says_how_to_get_towers(code, known):
  """Another process is needed, because all towers are registered in this one."""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert f"tower.type is 'dynamic'; known are {known}. `import official_ext.registry_imports`" in (
      done.stderr.splitlines()[-1])
