"""CARAFE against NumPy, vectors of the operator, and published weights and multiply-adds."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import carafe
from official_ext.ops import multiply_adds
import component
import harness
import reference
import spies

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 7, 'num_filters': 4, 'compressed_filters': 3,
           'kernel_size': 3}
STEP = 5 * 3 + (9 * 3 + 1) * 4 * 9
PART = component.Component(
    carafe.CARAFE, OPTIONS, CHANNELS,
    4 * (6 + 5 + 7 + 3) + 5 * (9 * 4 + 1) * 4 + 2 * STEP + 40, 40,
    r'part/((lateral|output)_[345]|coarser_[67]|upsample_[45]/(compressor|encoder))/(kernel|bias):0'
    r'|part/norm_[3-7]/(gamma|beta|moving_mean|moving_variance):0', '34567',
    wrong={'upsample': 'area', 'kernel_size': 4, 'encoder_kernel_size': 2, 'groups': 3})


def _upsampled(weights, x, size, groups):
  """A convolution, a softmax over the taps of every subpixel, and a sum for every subpixel."""
  logits = reference.conv2d(
      reference.conv2d(x, weights['compressor/kernel'], weights['compressor/bias']),
      weights['encoder/kernel'], weights['encoder/bias'])
  batch, height, width, channels = x.shape
  padded = np.pad(x, [(0, 0), *[(size // 2, size // 2)] * 2, (0, 0)])
  result = np.zeros([batch, 2 * height, 2 * width, channels])
  for row, column, channel in np.ndindex(*result.shape[1:]):
    y, x = row // 2, column // 2
    group = channel // (channels // groups)
    taps = [4 * (group * size**2 + tap) + 2 * (row % 2) + column % 2 for tap in range(size**2)]
    shares = reference.softmax(logits[:, y, x][:, taps]).reshape(-1, size, size)
    result[:, row, column, channel] = np.sum(
        shares * padded[:, y:y + size, x:x + size, channel], (1, 2))
  return result


def _weights(layer):
  return {v.name.partition('/')[2][:-2]: v.numpy() for v in layer.variables}


@pytest.mark.parametrize('size, groups', [(3, 1), (5, 1), (3, 2), (1, 4)])
def test_upsampling_equals_numpy(size, groups):
  layer = carafe.ContentAwareUpsampling(
      kernel_size=size, compressed_filters=3, groups=groups, dtype='float64', name='part')
  x = np.random.default_rng(0).normal(size=[2, 4, 3, 4])
  layer(x)
  spies.randomize(layer)
  np.testing.assert_allclose(
      layer(x), _upsampled(_weights(layer), x, size, groups), 1e-12, 1e-12)


def test_upsampling_layer():
  harness.run_layer_checks(
      carafe.ContentAwareUpsampling, {'kernel_size': 3, 'compressed_filters': 3},
      tf.random.stateless_normal([2, 4, 3, 4], [1, 2]), STEP)


def _with_logits(size, logits):
  """Returns the layer for one channel whose encoder gives these logits at every pixel."""
  layer = carafe.ContentAwareUpsampling(kernel_size=size, dtype='float64', name='part')
  layer(np.zeros([1, 2, 3, 1]))
  for variable in layer.variables:
    variable.assign(logits if 'encoder/bias' in variable.name else np.zeros(variable.shape))
  return layer


X = np.arange(1.0, 7).reshape(1, 2, 3, 1)


def test_equals_the_operator_of_mmcv():
  """Logits 0.1 q (d + 1) of tap q and subpixel d: numbers of the formula that equals mmcv's."""
  logits = [0.1 * tap * (phase + 1) for tap in range(9) for phase in range(4)]
  np.testing.assert_allclose(_with_logits(3, logits)(X)[0, ..., 0], [
      [1.727288, 2.132984, 2.881469, 3.406890, 2.044063, 2.247182],
      [2.522260, 2.876107, 3.874570, 4.267820, 2.372553, 2.421709],
      [1.279607, 1.170606, 2.134645, 1.869741, 1.514279, 1.233280],
      [1.025474, 0.866267, 1.575282, 1.285443, 0.964608, 0.729405]], atol=1e-6)


def test_equal_logits_are_a_box_blur_that_darkens_borders():
  rows = _with_logits(3, np.zeros(36))(X)[0, ..., 0]
  np.testing.assert_allclose(rows, [np.repeat([12 / 9, 21 / 9, 16 / 9], 2)] * 4)
  np.testing.assert_allclose(_with_logits(5, np.zeros(100))(X), np.full([1, 4, 6, 1], 0.84))


def test_the_center_tap_alone_is_nearest_neighbor():
  logits = np.zeros([25, 4])
  logits[12] = 50
  np.testing.assert_allclose(
      _with_logits(5, logits.ravel())(X), reference.resize_nearest(X, (4, 6)), 1e-12)


@pytest.mark.parametrize('size', [(64, 80), (75, 101)])
def test_equals_numpy(size):
  layer = PART.make(dtype='float64', norm='none', groups=2)
  inputs = {level: 4 * (x - 0.5) for level, x in PART.inputs(size, dtype=np.float64).items()}
  weights = _weights(layer)

  def conv(name, x, function=reference.conv2d):
    return function(x, weights[f'{name}/kernel'], weights[f'{name}/bias'])

  merged = {'5': conv('lateral_5', inputs['5'])}
  for level in '43':
    above = str(int(level) + 1)
    step = {name.removeprefix(f'upsample_{above}/'): value for name, value in weights.items()
            if name.startswith(f'upsample_{above}/')}
    height, width = inputs[level].shape[1:3]
    merged[level] = conv(f'lateral_{level}', inputs[level]) + _upsampled(
        step, merged[above], 3, 2)[:, :height, :width]
  expected = {level: conv(f'output_{level}', x) for level, x in merged.items()}
  expected['6'] = conv('coarser_6', expected['5'], reference.symmetric_conv2d)
  expected['7'] = conv('coarser_7', np.maximum(expected['6'], 0), reference.symmetric_conv2d)
  component.same(layer(inputs), expected, 1e-10, 1e-10)


def _doubled(way, weights, x, size):
  """Upsampling to a size, of ways other than by content."""
  kernel, bias = weights.get('conv/kernel'), weights.get('conv/bias')
  if way == 'nearest':
    return reference.resize_nearest(x, size)
  if way == 'deconv':
    return reference.transposed_conv2d(x, kernel, bias)[:, :size[0], :size[1]]
  if way == 'bilinear':
    # A pixel's center is half a pixel from its edge, and borders repeat.
    places = [(np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(size, x.shape[1:3])]
    grid = np.stack(np.meshgrid(*places, indexing='ij'), -1)
    return reference.sample_bilinear(x, np.broadcast_to(grid, [2, *grid.shape]), 'border')
  raw = reference.conv2d(x, kernel, bias)
  result = np.zeros([2, *size, 4])
  for row, column, channel in np.ndindex(*size, 4):
    result[:, row, column, channel] = raw[
        :, row // 2, column // 2, 4 * channel + 2 * (row % 2) + column % 2]
  return result


@pytest.mark.parametrize('way', carafe.UPSAMPLING[1:])
def test_other_ways_of_upsampling_equal_numpy(way):
  layer = PART.make(dtype='float64', norm='none', upsample=way)
  inputs = {level: 4 * (x - 0.5) for level, x in PART.inputs((75, 101), dtype=np.float64).items()}
  layer(inputs)
  spies.randomize(layer)
  weights, merged = _weights(layer), None
  for level in '543':
    lateral = reference.conv2d(inputs[level], weights[f'lateral_{level}/kernel'],
                               weights[f'lateral_{level}/bias'])
    above = f'upsample_{int(level) + 1}/'
    step = {name.removeprefix(above): value for name, value in weights.items()
            if name.startswith(above)}
    assert bool(step) == (level != '5' and way in ('deconv', 'pixel_shuffle'))
    merged = lateral if merged is None else lateral + _doubled(
        way, step, merged, lateral.shape[1:3])
    np.testing.assert_allclose(layer.build_pyramid(inputs, None)[level], merged, 1e-9, 1e-9)


def test_upsampling_layers_of_other_ways():
  x = tf.random.stateless_normal([2, 4, 3, 4], [1, 2])
  for cls, weights in ((carafe.TransposedUpsampling, (9 * 4 + 1) * 4),
                       (carafe.PixelShuffle, (9 * 4 + 1) * 16)):
    harness.run_layer_checks(cls, {'filters': 4}, x, weights)


def test_levels_of_unusual_sizes_are_resized():
  """If a level is not half of the finer one, the upsampled map is resized, not cut."""
  layer = PART.make(dtype='float64', norm='none')
  rng = np.random.default_rng(0)
  inputs = {level: rng.normal(size=[2, *size, CHANNELS[level]])
            for level, size in (('3', (9, 7)), ('4', (3, 4)), ('5', (2, 2)))}
  weights = _weights(layer)
  step = {name.removeprefix('upsample_4/'): value for name, value in weights.items()
          if name.startswith('upsample_4/')}
  above = layer.build_pyramid(inputs, None)
  expected = reference.conv2d(
      inputs['3'], weights['lateral_3/kernel'], weights['lateral_3/bias'])
  upsampled = _upsampled(step, above['4'].numpy(), 3, 1)
  # Widths 4 and 7 belong together, heights 3 and 9 do not.
  expected += reference.resize_bilinear(upsampled[:, :, :7], (9, 7))
  np.testing.assert_allclose(above['3'], expected, 1e-10, 1e-10)


def test_published_counts():
  """3,566,828 weights; at 800x1344 60.90 G multiply-adds of FPN and 2.196 G of upsampling."""
  sizes = {'2': (200, 336), '3': (100, 168), '4': (50, 84), '5': (25, 42)}
  pixels = {level: height * width for level, (height, width) in sizes.items()}
  specs = {level: [1, *size, 2**(int(level) + 6)] for level, size in sizes.items()}
  layer = carafe.CARAFE(
      input_specs=specs, min_level=2, max_level=6, norm='none', coarse_levels='max_pool')
  graph = tf.function(layer, autograph=False).get_concrete_function(
      {level: tf.TensorSpec(shape) for level, shape in specs.items()}).graph
  assert layer.count_params() == 3_566_828
  fpn = sum(256 * (shape[-1] + 9 * 256) * pixels[level] for level, shape in specs.items())
  upsampling = (256 * 64 + 9 * 64 * 100 + 100 * 256) * sum(pixels[level] for level in '345')
  assert multiply_adds.count_graph(graph) == fpn + upsampling
  assert (round(fpn / 1e9, 2), round(upsampling / 1e9, 3)) == (60.90, 2.196)


def test_it_starts_near_a_box_blur():
  tf_keras.utils.set_random_seed(0)
  layer = carafe.ContentAwareUpsampling()
  kernels = layer.kernels(tf.random.stateless_normal([1, 4, 4, 256], [1, 2]))
  assert layer._compressor.kernel.numpy().std() == pytest.approx(0.0791, rel=0.02)
  assert 0 < np.abs(kernels - 1 / 25).max() < 0.01


@pytest.mark.slow
def test_decoder(tmp_path):
  harness.run_decoder_checks(PART, tmp_path)
