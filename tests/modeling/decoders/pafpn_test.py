"""PAFPN against NumPy, DRFPN's same paths, published weights and the vectors of mmdetection."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import drfpn
from official_ext.modeling.decoders import pafpn
from official_ext.ops import multiply_adds
import component
import harness
import reference
import spies

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 7, 'num_filters': 4}
CONV = 9 * 4 * 4 + 4
PART = component.Component(
    pafpn.PAFPN, OPTIONS, CHANNELS, 4 * (6 + 5 + 7 + 3) + (3 + 4 + 2) * CONV + 40, 40,
    r'part/((lateral|output)_[345]|(strided|bottom_up_output)_[45]|coarser_[67])/(kernel|bias):0'
    r'|part/norm_[3-7]/(gamma|beta|moving_mean|moving_variance):0', '34567',
    wrong={'chain': 'both', 'path_norm': 'batch_norm', 'path_activation': 'tanh'})


def _weights(layer):
  return {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}


def _expected(layer, inputs, chain, activation='none'):
  """Laterals, top-down path, bottom-up path and coarser levels in NumPy."""
  weights = _weights(layer)

  def along_path(name, x, function=reference.conv2d):
    x = conv(name, x, function)
    if f'{name}_norm/gamma' in weights:  # Of four channels each is a group.
      x = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
      x = x * weights[f'{name}_norm/gamma'] + weights[f'{name}_norm/beta']
    return np.maximum(x, 0) if activation == 'relu' else x

  def conv(name, x, function=reference.conv2d):
    return function(x, weights[f'{name}/kernel'], weights[f'{name}/bias'])

  features, above = {}, None
  for level in '543':
    lateral = conv(f'lateral_{level}', inputs[level])
    above = lateral if above is None else lateral + reference.resize_nearest(
        above, lateral.shape[1:3])
    features[level] = conv(f'output_{level}', above)
  outputs = {'3': features['3']}
  source = features['3']
  for level in '45':
    strided = along_path(f'strided_{level}', source, reference.symmetric_conv2d)
    total = reference.resize_bilinear(strided, features[level].shape[1:3]) + features[level]
    outputs[level] = along_path(f'bottom_up_output_{level}', total)
    source = {'output': outputs[level], 'sum': total}[chain]
  outputs['6'] = conv('coarser_6', outputs['5'], reference.symmetric_conv2d)
  outputs['7'] = conv('coarser_7', np.maximum(outputs['6'], 0), reference.symmetric_conv2d)
  return outputs


@pytest.mark.parametrize('chain', pafpn.CHAINS)
@pytest.mark.parametrize('size', [(64, 80), (75, 101), (8, 8)])
def test_equals_numpy(chain, size):
  layer = PART.make(dtype='float64', norm='none', chain=chain)
  inputs = {level: 20 * (x - 0.5) for level, x in PART.inputs(size, dtype=np.float64).items()}
  component.same(layer(inputs), _expected(layer, inputs, chain), 1e-8, 1e-10)


@pytest.mark.parametrize('chain, norm, activation', [
    ('sum', 'none', 'relu'), ('output', 'group_norm', 'none'), ('output', 'group_norm', 'relu')])
def test_norms_and_activations_of_the_second_path_equal_numpy(chain, norm, activation):
  layer = PART.make(dtype='float64', norm='none', chain=chain, path_norm=norm,
                    path_activation=activation)
  inputs = {level: 20 * (x - 0.5)
            for level, x in PART.inputs((75, 101), dtype=np.float64).items()}
  layer(inputs)
  spies.randomize(layer)
  expected = _expected(layer, inputs, chain, activation)
  assert activation == 'none' or 0 < np.mean(expected['5'] == 0) < 1
  component.same(layer(inputs), expected, 1e-8, 1e-9)


def test_levels_of_unusual_sizes_are_resized():
  """A backbone's levels need not halve: the second path resizes to the size of its target."""
  layer = PART.make(dtype='float64', norm='none')
  rng = np.random.default_rng(0)
  inputs = {level: rng.normal(size=[2, *size, CHANNELS[level]])
            for level, size in (('3', (9, 7)), ('4', (3, 4)), ('5', (3, 4)))}
  component.same(layer(inputs), _expected(layer, inputs, 'output'), 1e-10, 1e-10)


def test_equals_drfpn_with_the_same_paths_and_weights():
  ours = PART.make(norm='none')
  other = drfpn.DRFPN(**OPTIONS, norm='none', top_down='fpn', bottom_up='panet', context='none',
                      name='part')
  inputs = PART.inputs((75, 101))
  other(inputs)
  values = _weights(ours)
  assert sorted(values) == sorted(_weights(other))
  for variable in other.variables:
    variable.assign(values[variable.name[len('part/'):-2]])
  component.same(ours(inputs), other(inputs))


def _vector_layer(chain):
  """Returns the layer of the vectors: one channel, kernels with a center and a top-left corner."""
  layer = pafpn.PAFPN(
      input_specs={level: [1, None, None, 1] for level in '345'}, num_filters=1, max_level=6,
      chain=chain, norm='none', coarse_levels='max_pool', dtype='float64')
  inputs = {'3': np.arange(16.0).reshape(1, 4, 4, 1),
            '4': np.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1), '5': np.full([1, 1, 1, 1], 10.0)}
  layer(inputs)
  kernels = {'lateral': (1.0, 0), 'output': (1.0, 0.5), 'strided': (1.0, 0.5), 'bottom': (2.0, 0)}
  for variable in layer.variables:
    kind = variable.name.split('/')[-2].split('_')[0]
    if 'bias' in variable.name:
      variable.assign([0.1 if kind == 'strided' else 0.0])
      continue
    value, middle = np.zeros(variable.shape), variable.shape[0] // 2
    value[0, 0], value[middle, middle] = kernels[kind][1], kernels[kind][0]
    variable.assign(value)
  return layer, inputs


@pytest.mark.parametrize('chain, coarsest', [('output', 108.6), ('sum', 64.4)])
def test_equals_the_toolboxes(chain, coarsest):
  """Numbers that mmdetection's module gives in float64 (`sum`), and the same weights in PyTorch."""
  layer, inputs = _vector_layer(chain)
  outputs = layer(inputs)
  np.testing.assert_allclose(outputs['3'][0, ..., 0], [
      [11, 12, 14, 15], [15, 21.5, 24, 26], [21, 29.5, 32, 34], [25, 36.5, 39, 41]])
  np.testing.assert_allclose(outputs['4'][0, ..., 0], [[44.2, 52.2], [68.2, 124.7]])
  np.testing.assert_allclose(outputs['5'][0, ..., 0], [[coarsest]])
  np.testing.assert_allclose(outputs['6'][0, ..., 0], [[coarsest]])


@pytest.mark.parametrize('levels, options, weights', [
    ('2345', {'coarse_levels': 'max_pool', 'max_level': 6}, 6_884_864),
    ('345', {'max_level': 7}, 6_228_992)])
def test_published_weights(levels, options, weights):
  channels = {level: 2**(int(level) + 6) for level in levels}
  layer = pafpn.PAFPN(
      input_specs={level: [None, None, None, depth] for level, depth in channels.items()},
      min_level=int(levels[0]), norm='none', **options)
  layer({level: tf_keras.Input([None, None, depth]) for level, depth in channels.items()})
  assert layer.count_params() == weights


def test_cost():
  """At 800x1344 from C2 to C5, counted by hand: 60.90 G of FPN, and 26.01 G of the second path."""
  sizes = {'2': (200, 336), '3': (100, 168), '4': (50, 84), '5': (25, 42)}
  pixels = {level: height * width for level, (height, width) in sizes.items()}
  specs = {level: [1, *size, 2**(int(level) + 6)] for level, size in sizes.items()}
  layer = pafpn.PAFPN(
      input_specs=specs, min_level=2, max_level=6, norm='none', coarse_levels='max_pool')
  graph = tf.function(layer, autograph=False).get_concrete_function(
      {level: tf.TensorSpec(shape) for level, shape in specs.items()}).graph
  fpn = sum(256 * (shape[-1] + 9 * 256) * pixels[level] for level, shape in specs.items())
  second = 2 * 9 * 256**2 * sum(pixels[level] for level in '345')
  assert multiply_adds.count_graph(graph) == fpn + second
  assert (round(fpn / 1e9, 2), round(second / 1e9, 2)) == (60.90, 26.01)


@pytest.mark.slow
def test_decoder(tmp_path):
  harness.run_decoder_checks(PART, tmp_path)
