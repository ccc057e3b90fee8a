"""The FPN with deformable convolutions against NumPy, its start, and its published weights."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import deformable_fpn
from official_ext.modeling.decoders import drfpn
from official_ext.ops import multiply_adds
import component
import harness
import reference

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 7, 'num_filters': 4}
CONV, OFFSET = 9 * 4 * 4 + 4, (9 * 4 + 1) * 18
PART = component.Component(
    deformable_fpn.DeformableFPN, OPTIONS, CHANNELS,
    4 * (6 + 5 + 7 + 3) + 5 * CONV + 3 * OFFSET + 40, 40,
    r'part/(lateral_[345]|output_[345](/offset)?|coarser_[67])/(kernel|bias):0'
    # Samples of maps so small are mostly outside, where offsets have no gradient.
    r'|part/norm_[3-7]/(gamma|beta|moving_mean|moving_variance):0', '34567', idle='offset',
    wrong={'where': 'top_down'})


def _deformable(x, weights, name, modulated):
  """A sum over taps of samples, each at its own position from the offset convolution."""
  kernel, bias = weights[f'{name}/kernel'], weights[f'{name}/bias']
  raw = reference.conv2d(x, weights[f'{name}/offset/kernel'], weights[f'{name}/offset/bias'])
  size = kernel.shape[0]
  grid = np.stack(np.meshgrid(*map(np.arange, x.shape[1:3]), indexing='ij'), -1)
  result = np.zeros([*x.shape[:3], kernel.shape[-1]]) + bias
  for tap, (row, column) in enumerate(np.ndindex(size, size)):
    sampled = reference.sample_bilinear(
        x, grid + [row - size // 2, column - size // 2] + raw[..., 2 * tap:2 * tap + 2])
    if modulated:
      sampled *= 2 * reference.sigmoid(raw[..., 2 * size**2 + tap, None])
    result += sampled @ kernel[row, column]
  return result


@pytest.mark.parametrize('where', deformable_fpn.PLACES)
@pytest.mark.parametrize('modulated', [False, True])
def test_equals_numpy(where, modulated):
  layer = PART.make(dtype='float64', norm='none', where=where, modulated=modulated,
                    coarse_levels='max_pool')
  inputs = PART.inputs((75, 101), dtype=np.float64)
  weights = {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}
  merged = {}
  for level in '543':
    name = f'lateral_{level}'
    merged[level] = (_deformable(inputs[level], weights, name, modulated)
                     if where == 'lateral_output' else reference.conv2d(
                         inputs[level], weights[f'{name}/kernel'], weights[f'{name}/bias']))
    if level != '5':
      merged[level] += reference.resize_nearest(
          merged[str(int(level) + 1)], merged[level].shape[1:3])
  expected = {level: _deformable(x, weights, f'output_{level}', modulated)
              for level, x in merged.items()}
  expected['6'] = expected['5'][:, ::2, ::2]
  expected['7'] = expected['6'][:, ::2, ::2]
  component.same(layer(inputs), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('options', [{}, {'modulated': True, 'where': 'lateral_output'}])
def test_starts_as_the_fpn(options):
  ours = deformable_fpn.DeformableFPN(**OPTIONS, **options, norm='none', name='part')
  fpn = drfpn.DRFPN(**OPTIONS, norm='none', top_down='fpn', bottom_up='none', context='none',
                    name='part')
  inputs = PART.inputs((75, 101))
  ours(inputs), fpn(inputs)
  values = {v.name: v for v in ours.variables}
  for variable in fpn.variables:
    variable.assign(values[variable.name])
  component.same(ours(inputs), fpn(inputs), 1e-5, 1e-5)


@pytest.mark.parametrize('modulated, weights', [(False, 3_510_344), (True, 3_344_384 + 248_940)])
def test_published_weights(modulated, weights):
  channels = {level: 2**(int(level) + 6) for level in '2345'}
  layer = deformable_fpn.DeformableFPN(
      input_specs={level: [None, None, None, depth] for level, depth in channels.items()},
      min_level=2, max_level=6, norm='none', coarse_levels='max_pool', modulated=modulated)
  layer({level: tf_keras.Input([None, None, depth]) for level, depth in channels.items()})
  assert layer.count_params() == weights


def test_cost():
  """The FPN at 800x1280, and 3.53 G of the convolutions that compute offsets."""
  pixels = {level: 800 * 1280 // 4**int(level) for level in '2345'}
  specs = {level: [1, 800 >> int(level), 1280 >> int(level), 2**(int(level) + 6)]
           for level in '2345'}
  layer = deformable_fpn.DeformableFPN(
      input_specs=specs, min_level=2, max_level=6, norm='none', coarse_levels='max_pool')
  graph = tf.function(layer, autograph=False).get_concrete_function(
      {level: tf.TensorSpec(shape) for level, shape in specs.items()}).graph
  fpn = sum(256 * (shape[-1] + 9 * 256) * pixels[level] for level, shape in specs.items())
  offsets = 9 * 256 * 18 * sum(pixels.values())
  assert multiply_adds.count_graph(graph) == fpn + offsets
  assert round(offsets / 1e9, 2) == 3.53


@pytest.mark.slow
@pytest.mark.parametrize('check', [
    harness.check_config, harness.check_saving, harness.check_weights,
    harness.check_training_step, harness.check_wrong_input], ids=lambda check: check.__name__)
def test_decoder(check, tmp_path):
  check(PART, tmp_path)
