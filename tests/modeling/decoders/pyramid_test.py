"""The base class of pyramids against plain NumPy."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import pyramid
from official_ext.ops import checks
import reference
import spies

CHANNELS = {'3': 6, '4': 5, '5': 7}
SPECS = {level: [None, None, None, depth] for level, depth in CHANNELS.items()}


class PlainFPN(pyramid.PyramidDecoder):
  """1x1 laterals and a top-down path, as a user would write it."""

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self._laterals = {level: self.conv(1, f'lateral_{level}') for level in self.backbone_levels}

  def build_pyramid(self, inputs, training):
    return self.top_down({level: self._laterals[level](inputs[level]) for level in inputs})


def _make(**options):
  layer = PlainFPN(**{
      'input_specs': SPECS, 'min_level': 3, 'max_level': 7, 'num_filters': 4, 'dtype': 'float64',
      'name': 'part', **options})
  layer(reference.pyramid_inputs(CHANNELS, batch=1))
  spies.randomize(layer)
  return layer


def _relu(x):
  return np.maximum(x, 0)


def _expected(layer, inputs, coarse, before_6=lambda x: x, before_7=_relu, source=None,
              pad=reference.conv2d):
  weights = {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}

  def conv(features, name, function=reference.conv2d, **options):
    return function(
        features, weights[f'{name}/kernel'], weights[f'{name}/bias'], **options)

  merged = {level: conv(x, f'lateral_{level}') for level, x in inputs.items()}
  for fine, level in (('4', '5'), ('3', '4')):
    merged[fine] = merged[fine] + reference.resize_nearest(
        merged[level], merged[fine].shape[1:3])
  outputs = {level: conv(x, f'output_{level}') for level, x in merged.items()}
  if coarse == 'conv':
    finer = outputs['5'] if source is None else source
    outputs['6'] = conv(before_6(finer), 'coarser_6', pad, stride=2)
    outputs['7'] = conv(before_7(outputs['6']), 'coarser_7', pad, stride=2)
  else:
    outputs['6'] = outputs['5'][:, ::2, ::2]
    outputs['7'] = outputs['6'][:, ::2, ::2]
  if 'norm_3/gamma' in weights:
    for level, x in outputs.items():
      gamma, beta, mean, variance = (
          weights[f'norm_{level}/{name}']
          for name in ('gamma', 'beta', 'moving_mean', 'moving_variance'))
      outputs[level] = gamma * (x - mean) / np.sqrt(variance + 0.001) + beta
  return outputs


@pytest.mark.parametrize('norm', ['none', 'batch_norm'])
@pytest.mark.parametrize('coarse', ['conv', 'max_pool'])
def test_equals_numpy_on_odd_sizes(norm, coarse):
  layer = _make(norm=norm, coarse_levels=coarse)
  inputs = reference.pyramid_inputs(CHANNELS, size=(75, 101), dtype=np.float64)
  outputs = layer(inputs)
  expected = _expected(layer, inputs, coarse)
  assert list(expected) == sorted(outputs)
  for level in expected:
    np.testing.assert_allclose(outputs[level], expected[level], 1e-10, 1e-10)


def test_activation_stands_between_coarser_levels_only():
  layer = _make(norm='none', activation='tanh')
  inputs = reference.pyramid_inputs(CHANNELS, dtype=np.float64)
  expected = _expected(layer, inputs, 'conv', before_7=np.tanh)
  for level, output in layer(inputs).items():
    np.testing.assert_allclose(output, expected[level], 1e-10, 1e-10)


def _same(x):
  return x


@pytest.mark.parametrize('size', [(64, 80), (75, 101)])
@pytest.mark.parametrize('options, before_6, before_7', [
    ({'coarse_activation': 'every', 'symmetric_padding': True}, _relu, _relu),
    ({'coarse_input': 'backbone', 'coarse_activation': 'none'}, _same, _same),
    ({'coarse_input': 'backbone', 'symmetric_padding': True}, _same, _relu)])
def test_coarser_levels_equal_numpy(options, before_6, before_7, size):
  layer = _make(norm='none', **options)
  inputs = {level: x - 0.5 for level, x in reference.pyramid_inputs(
      CHANNELS, size=size, dtype=np.float64).items()}
  expected = _expected(
      layer, inputs, 'conv', before_6, before_7,
      source=inputs['5'] if 'coarse_input' in options else None,
      pad=reference.symmetric_conv2d if 'symmetric_padding' in options else reference.conv2d)
  for level, output in layer(inputs).items():
    np.testing.assert_allclose(output, expected[level], 1e-10, 1e-10)


def test_ignores_levels_beyond_the_specs():
  layer, inputs = _make(), reference.pyramid_inputs(CHANNELS)
  extra = {**inputs, '2': np.full([2, 10, 10, 3], np.nan), '6': np.full([2, 1, 1, 7], np.nan)}
  for level, output in layer(inputs).items():
    np.testing.assert_array_equal(layer(extra)[level], output)


def test_levels_that_the_backbone_has_beyond_max_level_are_left_out():
  layer = PlainFPN(input_specs={**SPECS, '6': [None, None, None, 3]}, min_level=4, max_level=5,
                   num_filters=4)
  assert layer.backbone_levels == ['4', '5']
  assert layer.input_channels == {'4': 5, '5': 7}
  inputs = reference.pyramid_inputs({'4': 5, '5': 7})
  assert sorted(layer(inputs)) == ['4', '5'] == sorted(layer.output_specs)


def test_output_specs_are_the_sizes_that_come_out():
  sizes = {'3': [2, 11, 7, 6], '4': [2, 6, 4, 5], '5': [2, 3, 2, 7]}
  layer = _make(input_specs=sizes)
  outputs = layer({level: tf.zeros(shape) for level, shape in sizes.items()})
  assert {level: tuple(x.shape) for level, x in outputs.items()} == {
      level: tuple(shape) for level, shape in layer.output_specs.items()}
  assert tuple(layer.output_specs['7']) == (2, 1, 1, 4)


@pytest.mark.parametrize('options, message', [
    ({'min_level': 6, 'max_level': 5}, 'min_level 6 is above max_level 5'),
    ({'min_level': 2}, r'min_level is 2 and .*the backbone gives levels \[3, 4, 5\]'),
    ({'min_level': 6}, r'min_level is 6 and .*the backbone gives levels \[3, 4, 5\]'),
    ({'input_specs': {'3': SPECS['3'], '5': SPECS['5']}}, r'the backbone gives levels \[3, 5\]'),
    ({'norm': 'group'}, "norm is 'group'; allowed are 'batch_norm', 'none'"),
    ({'coarse_levels': 'mean'}, "coarse_levels is 'mean'; allowed are 'conv', 'max_pool'"),
    ({'coarse_input': 'neck'}, "coarse_input is 'neck'; allowed are 'result', 'backbone'"),
    ({'coarse_activation': 'last'}, "coarse_activation is 'last'; allowed are 'every', 'between'"),
    ({'coarse_input': 'backbone', 'coarse_levels': 'max_pool'}, 'coarse_input is `backbone`'),
])
def test_refuses_wrong_options(options, message):
  with pytest.raises(checks.ArgumentError, match=message) as caught:
    _make(**options)
  assert caught.value.argument in {'min_level', *options} - {'input_specs', 'max_level'}


def test_convolutions_have_num_filters_unless_told_otherwise():
  layer = _make()
  assert layer.conv(3, 'default').filters == 4
  assert layer.conv(3, 'other', 9).filters == 9
  assert layer.conv(3, 'custom', cls=tf_keras.layers.Conv2DTranspose).name == 'custom'


def test_batch_norm_has_the_given_momentum():
  layer = _make(norm='batch_norm', norm_momentum=0.75)
  inputs = reference.pyramid_inputs(CHANNELS, dtype=np.float64)
  before = {v.name: v.numpy() for v in layer.variables}
  layer(inputs, training=True)
  after = {v.name: v.numpy() for v in layer.variables}
  for variable in layer.trainable_variables:
    if 'norm' in variable.name:
      variable.assign(tf.ones_like(variable) if 'gamma' in variable.name
                      else tf.zeros_like(variable))
  # With mean 0, variance 1 - epsilon, scale 1 and shift 0, batch norm returns its inputs.
  for variable in layer.non_trainable_variables:
    variable.assign(tf.zeros_like(variable) if 'mean' in variable.name
                    else tf.ones_like(variable) * 0.999)
  plain = {level: x.numpy() for level, x in layer(inputs).items()}
  for level in '34567':
    mean = plain[level].mean((0, 1, 2))
    name = f'part/norm_{level}/moving_mean:0'
    np.testing.assert_allclose(after[name], 0.75 * before[name] + 0.25 * mean, 1e-6, 1e-8)


def test_initializer_draws_new_values_for_every_convolution():
  tf_keras.utils.set_random_seed(1)
  layer = PlainFPN(
      input_specs=SPECS, max_level=5, num_filters=4,
      kernel_initializer=tf_keras.initializers.RandomNormal(seed=None))
  layer(reference.pyramid_inputs(CHANNELS))
  kernels = [v.numpy() for v in layer.variables if 'output' in v.name and 'kernel' in v.name]
  assert len(kernels) == 3
  assert not np.allclose(kernels[0], kernels[1])
  assert not np.allclose(kernels[1], kernels[2])


@pytest.mark.parametrize('specs, text', [
    ({3: [None, None, None, 6]}, "input_specs has level 3; .* such as '3'"),
    ({'p3': [None, None, None, 6]}, "input_specs has level 'p3'"),
    ({'3': [None, None, None, None]}, r"input_specs\['3'\] is \[None, None, None, None\]"),
    ({'3': [None, None, 6]}, r"input_specs\['3'\] is \[None, None, 6\]; .*batch, height")])
def test_input_specs_of_other_forms_are_refused(specs, text):
  with pytest.raises(checks.ArgumentError, match=text) as caught:
    PlainFPN(input_specs=specs, min_level=3, max_level=3, num_filters=4)
  assert caught.value.argument == 'input_specs'


def test_a_level_with_other_channels_than_its_spec_is_refused():
  """Costs and gates are those of the specs, so that they would be wrong without an error."""
  layer = PlainFPN(input_specs=SPECS, min_level=3, max_level=5, num_filters=4)
  inputs = reference.pyramid_inputs({**CHANNELS, '4': 8}, batch=1)
  with pytest.raises(ValueError, match=r"inputs\['4'\] has shape \(1, .*, 8\), .* 5 channels"):
    layer(inputs)
