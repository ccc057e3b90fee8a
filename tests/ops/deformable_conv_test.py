"""Deformable convolution against NumPy, printed vectors, and torchvision's numbers and gradients.

`scripts/make_deformable_fixture.py` made deformable_conv.npz.
"""
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import deformable_conv
from official_ext.ops import multiply_adds
import reference

FIXTURE = np.load(pathlib.Path(__file__).with_name('deformable_conv.npz'))
X = np.arange(1.0, 17).reshape(1, 4, 4, 1)
KERNEL = np.arange(1.0, 10).reshape(3, 3, 1, 1)


def _case(name):
  return {key.partition('/')[2]: FIXTURE[key] for key in FIXTURE.files
          if key.startswith(f'{name}/')}


def in_numpy(features, kernel, offsets, masks=None, stride=1, dilation=1):
  """One tap, set of channels and group at a time; samples by the distances to all pixels."""
  rows, columns, depth, filters = kernel.shape
  taps, channels = rows * columns, features.shape[3]
  sets, groups = offsets.shape[3] // (2 * taps), channels // depth
  result = np.zeros([*offsets.shape[:3], filters])
  grid = np.stack(np.meshgrid(*(stride * np.arange(n) for n in offsets.shape[1:3]), indexing='ij'),
                  -1)
  for tap, (row, column) in enumerate(np.ndindex(rows, columns)):
    sampled = np.zeros([*offsets.shape[:3], channels])
    for channel in range(channels):
      index = channel // (channels // sets) * taps + tap
      positions = (grid + [dilation * (row - rows // 2), dilation * (column - columns // 2)]
                   + offsets[..., 2 * index:2 * index + 2])
      sampled[..., channel:channel + 1] = reference.sample_bilinear(
          features[..., channel:channel + 1], positions)
      if masks is not None:
        sampled[..., channel] *= masks[..., index]
    for output in range(filters):
      first = output // (filters // groups) * depth
      result[..., output] += sampled[..., first:first + depth] @ kernel[row, column, :, output]
  return result


@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize('name', ['plain', 'strided', 'grouped'])
def test_equals_numpy_and_torchvision(name, dtype, tolerance):
  case = _case(name)
  stride, dilation = case['options'].tolist()
  names = [key for key in ('features', 'kernel', 'offsets', 'masks') if key in case]
  inputs = [tf.constant(case[key].astype(dtype)) for key in names]
  expected = in_numpy(*(case[key] for key in names), stride=stride, dilation=dilation)
  np.testing.assert_allclose(expected, case['result'], 1e-10, 1e-10)
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    outputs = deformable_conv.deformable_conv2d(*inputs, stride=stride, dilation=dilation)
    loss = tf.reduce_sum(outputs * case['upstream'].astype(dtype))
  scale = np.abs(case['result']).max()
  np.testing.assert_allclose(outputs, case['result'], 0, tolerance * scale)
  for key, gradient in zip(names, tape.gradient(loss, inputs)):
    wanted = case[f'gradient_{key}']
    np.testing.assert_allclose(gradient, wanted, 0, tolerance * np.abs(wanted).max(), err_msg=key)


def _offsets(**at):
  """Zeros but for `row_column_tap=(dy, dx)`."""
  offsets = np.zeros([1, 4, 4, 18])
  for place, shift in at.items():
    row, column, tap = (int(digit) for digit in place.strip('p').split('_'))
    offsets[0, row, column, 2 * tap:2 * tap + 2] = shift
  return offsets


PLAIN = [[111, 178, 217, 145], [231, 348, 393, 252], [363, 528, 573, 360], [197, 274, 295, 175]]
SHIFTED = [[148.875, 240, 294.5, 225.125], [260.25, 402.75, 471.75, 350.25],
           [246.375, 370.75, 425.75, 309.125], [117.375, 168.125, 190.125, 131.625]]


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
@pytest.mark.parametrize('shift, expected', [((0, 0), PLAIN), ((0.5, -0.25), SHIFTED)])
def test_equal_offsets_shift_the_map(shift, expected, dtype):
  offsets = np.tile(np.array(shift, np.float64), [1, 4, 4, 9])
  outputs = deformable_conv.deformable_conv2d(
      tf.cast(X, dtype), tf.cast(KERNEL, dtype), tf.cast(offsets, dtype))
  np.testing.assert_allclose(outputs[0, ..., 0], expected, 1e-6)


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_single_taps_move_and_learn(dtype):
  """Numbers and gradients that torchvision gives in float64, positions on pixels included."""
  offsets = tf.cast(_offsets(p1_2_4=(1.5, -2.75), p1_2_0=(-0.5, 0), p3_3_0=(0, 10)), dtype)
  masks = np.full([1, 4, 4, 9], 0.5)
  masks[0, 1, 2, 4] = 1
  masks = tf.cast(masks, dtype)
  features, kernel = tf.cast(X, dtype), tf.cast(KERNEL, dtype)
  expected = np.array(PLAIN, np.float64)
  expected[1, 2], expected[3, 3] = 370.75, 164
  np.testing.assert_allclose(
      deformable_conv.deformable_conv2d(features, kernel, offsets)[0, ..., 0], expected, 1e-6)
  expected /= 2
  expected[1, 2] = 192.25
  with tf.GradientTape() as tape:
    tape.watch([offsets, masks])
    outputs = deformable_conv.deformable_conv2d(features, kernel, offsets, masks)[0, ..., 0]
    chosen = outputs[1, 2]
  np.testing.assert_allclose(outputs, expected, 1e-6)
  of_offsets, of_masks = tape.gradient(chosen, [offsets, masks])
  np.testing.assert_allclose(of_offsets[0, 1, 2, 8:10], [5, 55], 1e-5)
  np.testing.assert_allclose(of_offsets[0, 1, 2, :2], [1, 0.25], 1e-5)
  np.testing.assert_allclose(of_masks[0, 1, 2], [1, 6, 12, 24, 13.75, 48, 70, 88, 108], 1e-5)


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_offsets_of_zero_have_the_slope_to_the_next_pixel(dtype):
  offsets = tf.zeros([1, 4, 4, 18], dtype)
  with tf.GradientTape() as tape:
    tape.watch(offsets)
    chosen = deformable_conv.deformable_conv2d(
        tf.cast(X, dtype), tf.cast(KERNEL, dtype), offsets)[0, 3, 3, 0]
  np.testing.assert_allclose(
      tf.reshape(tape.gradient(chosen, offsets)[0, 3, 3], [9, 2]),
      [(4, 1), (8, -24), (0, 0), (-60, 4), (-80, -80), *[(0, 0)] * 4], 1e-5, 1e-4)


def test_any_size_in_one_trace_and_offsets_that_are_no_numbers():
  traced = tf.function(
      lambda x, offsets: deformable_conv.deformable_conv2d(x, tf.constant(KERNEL), offsets),
      autograph=False, input_signature=[tf.TensorSpec([None, None, None, 1], tf.float64),
                                        tf.TensorSpec([None, None, None, 18], tf.float64)])
  rng = np.random.default_rng(0)
  for size in ((4, 4), (1, 7)):
    x, offsets = rng.normal(size=[2, *size, 1]), rng.normal(0, 2, [2, *size, 18])
    np.testing.assert_allclose(traced(x, offsets), in_numpy(x, KERNEL, offsets), 1e-9, 1e-9)
  for value in (np.nan, np.inf, -1e30):
    np.testing.assert_array_equal(traced(x, np.full_like(offsets, value)), np.zeros([2, 1, 7, 1]))


@pytest.mark.parametrize('dtype, tolerance', [(tf.float16, 0.01), (tf.bfloat16, 0.05)])
def test_half_precision_stays_near(dtype, tolerance):
  case = _case('plain')
  outputs = deformable_conv.deformable_conv2d(
      tf.cast(case['features'], dtype), tf.cast(case['kernel'], dtype),
      tf.cast(case['offsets'], tf.float32))
  assert outputs.dtype == dtype
  np.testing.assert_allclose(tf.cast(outputs, tf.float64), case['result'], 0,
                             tolerance * np.abs(case['result']).max())


def test_cost_is_that_of_the_plain_convolution():
  graph = tf.function(deformable_conv.deformable_conv2d, autograph=False).get_concrete_function(
      tf.TensorSpec([2, 6, 7, 4]), tf.TensorSpec([3, 3, 2, 10]), tf.TensorSpec([2, 3, 4, 18]),
      stride=2).graph
  assert multiply_adds.count_graph(graph) == 2 * 3 * 4 * 9 * 2 * 10


@pytest.mark.parametrize('offsets, masks, text', [
    (17, None, 'offsets has 17 channels; allowed are 18'), (54, None, 'divides the 4 channels'),
    (36, 9, 'masks has 9 channels; .* must have 18')])
def test_wrong_channels_are_named(offsets, masks, text):
  with pytest.raises(ValueError, match=text):
    deformable_conv.deformable_conv2d(
        tf.zeros([1, 2, 2, 4]), tf.zeros([3, 3, 4, 1]), tf.zeros([1, 2, 2, offsets]),
        masks and tf.zeros([1, 2, 2, masks]))
