"""The layer of deformable convolution: what it starts as, its own offsets, and its contract."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import deformable
from official_ext.ops import checks
from official_ext.ops import multiply_adds
import harness
import reference
import spies


def _features(size=(5, 7), depth=4, dtype=np.float64):
  return np.random.default_rng(0).normal(size=[2, *size, depth]).astype(dtype)


@pytest.mark.parametrize('options, factor', [
    ({}, 1), ({'modulated': True}, 0.5), ({'modulated': True, 'mask_scale': 2}, 1)])
@pytest.mark.parametrize('strides, groups', [(1, 1), (2, 1), (2, 2)])
def test_starts_as_the_plain_convolution(options, factor, strides, groups):
  x = _features()
  layer = deformable.DeformableConv2D(
      6, 3, strides=strides, groups=groups, dtype='float64', use_bias=False, **options)
  plain = convolutions.Conv2D(6, 3, strides=strides, groups=groups, symmetric_padding=True,
                              dtype='float64', use_bias=False)
  layer(x), plain(x)
  assert [v.name.split('/')[-1] for v in layer.variables] == ['kernel:0', 'kernel:0', 'bias:0']
  plain.set_weights([layer.kernel.numpy()])
  np.testing.assert_allclose(layer(x), factor * plain(x), 1e-10, 1e-12)


@pytest.mark.parametrize('modulated, sets', [(False, 1), (True, 2)])
def test_offsets_and_masks_come_from_its_convolution(modulated, sets):
  x = _features()
  layer = deformable.DeformableConv2D(
      3, 3, modulated=modulated, mask_scale=2, offset_sets=sets, dtype='float64',
      activation='relu')
  layer(x)
  spies.randomize(layer)
  raw = reference.conv2d(x, *reference.conv_variables(layer.offset))
  assert raw.shape[-1] == sets * 9 * (3 if modulated else 2)
  expected = np.zeros([2, 5, 7, 3]) + layer.bias.numpy()
  for index, (row, column) in enumerate(np.ndindex(3, 3)):
    for each in range(sets):
      first = 2 * (each * 9 + index)
      grid = np.stack(np.meshgrid(np.arange(5), np.arange(7), indexing='ij'), -1)
      channels = slice(each * 4 // sets, (each + 1) * 4 // sets)
      sampled = reference.sample_bilinear(
          x[..., channels], grid + [row - 1, column - 1] + raw[..., first:first + 2])
      if modulated:
        mask = 2 * sets * 9 + each * 9 + index
        sampled *= 2 * reference.sigmoid(raw[..., mask:mask + 1])
      expected += sampled @ layer.kernel.numpy()[row, column, channels]
  np.testing.assert_allclose(layer(x), np.maximum(expected, 0), 1e-10, 1e-12)


def test_contract():
  # The bias of the offsets starts the samples aside of pixels, where gradients are smooth.
  harness.run_layer_checks(
      deformable.DeformableConv2D, {'filters': 3, 'kernel_size': 3, 'modulated': True},
      tf.constant(_features(dtype=np.float32)), (9 * 4 + 1) * 3 + (9 * 4 + 1) * 27, 1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'mixed_bfloat16'])
def test_offsets_learn_from_zero(dtype):
  """TensorFlow's sampling kernel has no slope at pixels, and offsets would stay 0 for ever."""
  x = tf.constant(_features(dtype=np.float32))
  layer = deformable.DeformableConv2D(3, 3, dtype=dtype)
  with tf.GradientTape() as tape:
    outputs = layer(x)
    loss = tf.reduce_sum(tf.square(tf.cast(outputs, tf.float32)))
  assert outputs.dtype == layer.compute_dtype
  assert {v.dtype.name for v in layer.variables} == {layer.variable_dtype}
  gradients = tape.gradient(loss, layer.offset.trainable_variables)
  assert all(np.count_nonzero(gradient) > 0.9 * np.size(gradient) for gradient in gradients)


def test_offsets_learn_at_their_rate_and_all_else_at_its_own():
  x, gradients = tf.constant(_features()), {}
  for rate in (1.0, 0.25):
    layer = deformable.DeformableConv2D(3, 3, offset_rate=rate, dtype='float64')
    layer(x)
    spies.randomize(layer)
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(layer(x) ** 2)
    gradients[rate] = loss, tape.gradient(
        loss, [layer.kernel, x, layer.offset.kernel, layer.offset.bias])
  (loss, (kernel, dx, *offsets)), (slow_loss, (slow_kernel, slow_dx, *slow)) = gradients.values()
  np.testing.assert_allclose(slow_loss, loss, 1e-12)
  np.testing.assert_allclose(slow_kernel, kernel, 1e-10)
  np.testing.assert_allclose(slow_dx, dx, 1e-10, 1e-10)
  for found, full in zip(slow, offsets):
    assert np.any(full != 0)
    np.testing.assert_allclose(found, 0.25 * full, 1e-10, 1e-10)


@pytest.mark.parametrize('rate', [1.0, 0.01])
def test_gradient_of_an_offset_by_hand(rate):
  """On the plane 3 i + 5 j a step of the offset changes a result by 3 or by 5 times the kernel."""
  rows, columns = np.meshgrid(np.arange(6.0), np.arange(7.0), indexing='ij')
  x = (3 * rows + 5 * columns)[None, ..., None]
  layer = deformable.DeformableConv2D(1, 1, offset_rate=rate, use_bias=False, dtype='float64',
                                      kernel_initializer='ones')
  layer(x)
  layer.kernel.assign_add([[[[1.0]]]])
  layer.offset.bias.assign([0.25, 0.5])
  inside = slice(1, 5)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(x)[:, inside, inside])
  kernel, bias = tape.gradient(loss, [layer.offset.kernel, layer.offset.bias])
  seen = x[0, inside, inside, 0]
  np.testing.assert_allclose(loss, np.sum(2 * (seen + 3 * 0.25 + 5 * 0.5)), 1e-10)
  np.testing.assert_allclose(bias, rate * 2 * 16 * np.array([3, 5]), 1e-10)
  np.testing.assert_allclose(kernel[0, 0, 0], rate * 2 * np.sum(seen) * np.array([3, 5]), 1e-10)


def test_far_positions_are_exact_in_bfloat16():
  """A bfloat16 knows only every second pixel above 256."""
  x = np.zeros([1, 1, 300, 1], np.float32)
  x[0, 0, ::2] = 1
  layer = deformable.DeformableConv2D(1, 1, use_bias=False, dtype='mixed_bfloat16',
                                      kernel_initializer='ones')
  np.testing.assert_allclose(tf.cast(layer(x), tf.float32), x, atol=1e-2)


def test_empty_batch_and_unknown_sizes():
  layer = deformable.DeformableConv2D(6, 3, strides=2, modulated=True)
  layer.build([None, None, None, 4])
  traced = tf.function(layer, autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 4])])
  x = _features(dtype=np.float32)
  np.testing.assert_allclose(traced(x), layer(x), 1e-5, 1e-6)
  assert traced(x[:0]).shape == (0, 3, 4, 6)


def test_cost_is_that_of_both_convolutions():
  layer = deformable.DeformableConv2D(6, 3, strides=2, groups=2, modulated=True)
  layer.build([2, 5, 7, 4])
  graph = tf.function(layer, autograph=False).get_concrete_function(
      tf.TensorSpec([2, 5, 7, 4])).graph
  assert multiply_adds.count_graph(graph) == 2 * 3 * 4 * 9 * (4 * 6 // 2 + 4 * 27)


@pytest.mark.parametrize('options, text', [
    ({'kernel_size': 4}, 'kernel_size'), ({'strides': (1, 2)}, 'strides'),
    ({'offset_sets': 3}, 'offset_sets'), ({'offset_sets': 0}, 'offset_sets is 0'),
    ({'mask_scale': 0.0}, 'mask_scale is 0.0'),
    ({'offset_rate': 0.0}, 'offset_rate is 0.0')])
def test_wrong_options_are_named(options, text):
  with pytest.raises(checks.ArgumentError, match=text):
    deformable.DeformableConv2D(**{'filters': 2, 'kernel_size': 3, **options})(_features())
