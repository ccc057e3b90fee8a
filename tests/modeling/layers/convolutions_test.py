"""Convolutions, also of empty batches, and the helpers that build them."""
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import halved_conv
import harness
import reference


def _features(batch=2, size=(7, 9), depth=3, dtype=np.float64):
  return np.random.default_rng(1).normal(size=[batch, *size, depth]).astype(dtype)


@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize('dilation, stride', [(1, 1), (2, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize('native', [False, True])
def test_conv_equals_numpy(kernel, dilation, stride, native, monkeypatch):
  monkeypatch.setattr(convolutions, 'dilation_has_gradient', lambda dtype: native)
  layer = convolutions.Conv2D(4, kernel, dilation_rate=dilation, strides=stride, dtype='float64',
                        bias_initializer='ones')
  x = _features()
  outputs = layer(x)
  expected = reference.conv2d(
      x, layer.kernel.numpy(), layer.bias.numpy(), stride=stride, dilation=dilation)
  np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)


@pytest.mark.parametrize('kernel', [2, (3, 4)])
def test_symmetric_padding_refuses_even_kernels(kernel):
  """Half a kernel of zeros on every side is one row or column less than the map needs."""
  with pytest.raises(ValueError, match=r'kernel_size is .*odd numbers'):
    convolutions.Conv2D(4, kernel, symmetric_padding=True)
  layer = convolutions.Conv2D(4, kernel)
  assert layer(_features(dtype=np.float32)).shape == (2, 7, 9, 4)


@pytest.mark.parametrize('cls', [convolutions.Conv2D, convolutions.SeparableConv2D])
def test_convs_refuse_channels_before_positions(cls):
  with pytest.raises(ValueError, match="data_format is 'channels_first'; allowed .*channels_last"):
    cls(4, 3, data_format='channels_first')


@pytest.mark.parametrize('kernel, dilation, height', [(3, 1, 7), (3, 2, 8), (5, 1, 8), (5, 3, 7)])
def test_conv_of_a_single_large_map_equals_numpy(kernel, dilation, height, monkeypatch):
  if not convolutions.dilation_has_gradient(tf.float32):
    pytest.skip('TensorFlow runs without oneDNN here.')
  monkeypatch.setattr(halved_conv, '_MANY_BYTES', 0)
  halved, convolve = [], halved_conv.convolve
  monkeypatch.setattr(halved_conv, 'convolve',
                      lambda x, *args: (halved.append(x), convolve(x, *args))[1])
  layer = convolutions.Conv2D(4, kernel, dilation_rate=dilation)
  for batch in (0, 1, 2):
    x = _features(batch, (height, 9), dtype=np.float32)
    outputs = tf.function(layer, input_signature=[
        tf.TensorSpec([None, height, 9, 3])])(x)
    expected = reference.conv2d(
        x, layer.kernel.numpy(), layer.bias.numpy(), stride=1, dilation=dilation)
    np.testing.assert_allclose(outputs, expected, 1e-5, 1e-5)
  assert halved
  halved.clear()
  layer(_features(2, dtype=np.float32))
  assert not halved, 'a batch that is known to be larger stays whole'


@pytest.mark.parametrize('filters', [3, 4])
def test_separable_conv_equals_numpy(filters):
  layer = convolutions.SeparableConv2D(filters, 3, dtype='float64', bias_initializer='ones')
  traced = tf.function(layer, input_signature=[tf.TensorSpec([None, 7, 9, 3], tf.float64)])
  for batch in (2, 0):
    x = _features(batch)
    layer(x)
    expected = reference.separable_conv2d(
        x, layer.depthwise_kernel.numpy(), layer.pointwise_kernel.numpy(), layer.bias.numpy())
    for outputs in (layer(x), traced(x)):
      assert outputs.shape == (batch, 7, 9, filters)
      np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)


@pytest.mark.parametrize('options', [
    {'strides': 2}, {'dilation_rate': 2}, {'activation': 'relu'}, {'use_bias': False},
    {'padding': 'valid'}], ids=lambda options: next(iter(options)))
def test_separable_conv_does_what_its_options_say(options):
  layer = convolutions.SeparableConv2D(3, 3, dtype='float64', bias_initializer='ones', **options)
  traced = tf.function(layer, input_signature=[tf.TensorSpec([None, 7, 9, 3], tf.float64)])
  for batch in (2, 0):
    x = _features(batch)
    layer(x)
    expected = reference.separable_conv2d(
        x, layer.depthwise_kernel.numpy(), layer.pointwise_kernel.numpy(),
        float(options.get('use_bias', True)), options.get('strides', 1),
        options.get('dilation_rate', 1))
    if 'activation' in options:
      expected = np.maximum(expected, 0)
    for outputs in (layer(x), traced(x)):
      np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)
    assert layer.compute_output_shape(x.shape) == expected.shape


def test_separable_conv_gives_both_kernels_the_initializer_and_the_regularizer():
  layer = convolutions.SeparableConv2D(
      3, 3, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.5),
      kernel_regularizer={'class_name': 'L2', 'config': {'l2': 0.25}})
  layer = convolutions.SeparableConv2D.from_config(layer.get_config())
  layer.build([None, None, None, 400])
  kernels = [layer.depthwise_kernel.numpy(), layer.pointwise_kernel.numpy()]
  for kernel, loss in zip(kernels, layer.losses, strict=True):
    assert np.std(kernel) == pytest.approx(0.5, rel=0.1)
    assert float(loss) == pytest.approx(0.25 * np.sum(kernel**2), rel=1e-5)
  assert not np.array_equal(kernels[0].ravel()[:1200], kernels[1].ravel()), 'they have own copies'


@pytest.mark.parametrize('traced', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_a_dilated_conv_can_be_trained(traced, dtype):
  layer = convolutions.Conv2D(4, 3, dilation_rate=2, dtype=dtype)
  x = tf.constant(_features(dtype=dtype))

  def gradient():
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(layer(x))
    return tape.gradient(loss, layer.trainable_variables)

  kernel, bias = (tf.function(gradient, autograph=False) if traced else gradient)()
  # Every pixel contributes to the center of the kernel.
  np.testing.assert_allclose(kernel[1, 1, :, 0], np.sum(x, axis=(0, 1, 2)), 1e-4)
  np.testing.assert_allclose(bias, [2 * 7 * 9] * 4)


@pytest.mark.slow
def test_a_dilated_conv_can_be_trained_without_onednn():
  """Another process is needed, because TensorFlow chooses its kernels when it is imported."""
  code = ('import official_ext, tensorflow as tf\n'
          'from official_ext.modeling.layers import convolutions\n'
          'layer, x = convolutions.Conv2D(4, 3, dilation_rate=2), tf.ones([1, 5, 5, 2])\n'
          'with tf.GradientTape() as tape: loss = tf.reduce_sum(layer(x))\n'
          'print(float(tape.gradient(loss, layer.kernel)[1, 1, 0, 0]))')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False,
                        env={**os.environ, 'TF_ENABLE_ONEDNN_OPTS': '0'})
  assert done.stdout.strip() == '25.0', done.stderr[-2000:]


@pytest.mark.parametrize('traced', [False, True])
def test_both_ways_to_dilate_have_the_same_gradients(traced, monkeypatch):
  if not convolutions.dilation_has_gradient(tf.float32):
    pytest.skip('TensorFlow has one way only here: a CPU without oneDNN')
  layer = convolutions.Conv2D(4, 3, dilation_rate=2)
  x = tf.constant(_features(dtype=np.float32))
  layer.build(x.shape)

  def gradients():
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(tf.square(layer(x)))
    return tape.gradient(loss, [x, layer.kernel])

  found = []
  for native in (False, True):
    monkeypatch.setattr(convolutions, 'dilation_has_gradient', lambda dtype, native=native: native)
    call = tf.function(gradients, autograph=False) if traced else gradients
    found.append(call())
  for one, other in zip(*found):
    np.testing.assert_allclose(one, other, 1e-4, 1e-4)


@pytest.mark.parametrize('filters', [3, 4])
@pytest.mark.parametrize('dilation, stride', [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize('traced', [False, True])
def test_conv_of_an_empty_batch_has_the_right_shape(filters, dilation, stride, traced):
  layer = convolutions.Conv2D(filters, 3, dilation_rate=dilation, strides=stride, activation='relu')
  layer.build([None, None, None, 3])
  call = tf.function(layer, autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 3])]) if traced else layer
  expected = (7, 9) if stride == 1 else (4, 5)
  assert call(_features(0, dtype=np.float32)).shape == (0, *expected, filters)
  assert call(_features(2, dtype=np.float32)).shape == (2, *expected, filters)


@pytest.mark.parametrize('symmetric', [False, True])
@pytest.mark.parametrize('stride', [1, 2])
def test_a_known_size_does_not_bring_the_wrong_shape_back(symmetric, stride):
  """TensorFlow's graph optimizer drops a reshape to the shape that it infers."""
  layer = convolutions.Conv2D(4, 1, symmetric, strides=stride, activation='relu')
  traced = tf.function(lambda x: tf.concat([layer(x), layer(x)], -1), autograph=False,
                       input_signature=[tf.TensorSpec([None, 2, 2, 3])])
  size = 2 // stride
  for batch in (0, 2):
    assert traced(tf.zeros([batch, 2, 2, 3])).shape == (batch, size, size, 8)


@pytest.mark.parametrize('size', [(7, 9), (8, 6), (1, 2)])
@pytest.mark.parametrize('kernel, stride', [(3, 1), (3, 2), (1, 2), (5, 3)])
def test_symmetric_conv_is_centered_on_every_strided_pixel(size, kernel, stride):
  layer = convolutions.Conv2D(
      4, kernel, symmetric_padding=True, strides=stride, dtype='float64', bias_initializer='ones')
  x = _features(size=size)
  outputs = layer(x)
  expected = reference.symmetric_conv2d(x, layer.kernel.numpy(), layer.bias.numpy(), stride)
  np.testing.assert_allclose(outputs, expected, 1e-10, 1e-10)
  empty = tf.function(layer, autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.float64)])(x[:0])
  assert empty.shape == (0, *expected.shape[1:])


def test_symmetric_conv_keeps_the_layer_contract():
  harness.run_layer_checks(
      convolutions.Conv2D,
      {'filters': 4, 'kernel_size': 3, 'strides': 2, 'symmetric_padding': True},
      tf.constant(_features(size=(8, 6), dtype=np.float32)), trainable=3 * 3 * 3 * 4 + 4)


def test_conv_keeps_its_static_shape():
  layer = convolutions.Conv2D(4, 3, strides=2)
  assert layer(tf_keras.Input([9, 11, 3])).shape.as_list() == [None, 5, 6, 4]


def test_conv_keeps_the_layer_contract():
  harness.run_layer_checks(
      convolutions.Conv2D, {'filters': 4, 'kernel_size': 3, 'dilation_rate': 2}, tf.constant(
          _features(dtype=np.float32)), trainable=3 * 3 * 3 * 4 + 4)


def test_copied_initializers_draw_different_values():
  first = tf_keras.initializers.GlorotUniform()
  second = convolutions.copy_initializer(first)
  assert second is not first
  assert second.get_config() == first.get_config()
  assert not np.allclose(first([3, 3]), second([3, 3]))


def test_conv_block_gives_its_options_to_each_convolution():
  block = convolutions.ConvBlock(
      kernel_initializer=tf_keras.initializers.RandomNormal(seed=None),
      kernel_regularizer='l1', bias_regularizer='l2', dtype='mixed_bfloat16')
  first = block.conv(3, 'first', 4, strides=2)
  other = block.conv(2, 'other', 5, cls=tf_keras.layers.Conv2DTranspose, kernel_regularizer=None)
  assert (first.name, first.filters, first.kernel_size) == ('first', 4, (3, 3))
  assert (first.strides, first.dtype_policy.name) == ((2, 2), 'mixed_bfloat16')
  assert isinstance(first, convolutions.Conv2D)
  assert isinstance(first.kernel_regularizer, tf_keras.regularizers.L1)
  assert isinstance(first.bias_regularizer, tf_keras.regularizers.L2)
  assert isinstance(other, tf_keras.layers.Conv2DTranspose)
  assert other.kernel_regularizer is None, 'an option of the call takes precedence'
  assert first.kernel_initializer is not other.kernel_initializer


def test_build_in_scope_names_variables_after_their_layer():
  layers = [tf_keras.layers.Dense(2, name='first'), tf_keras.layers.Dense(3, name='second')]
  with tf.name_scope('outer'):
    convolutions.build_in_scope(layers, [[None, 4], [None, 5]])
  kernels = [layer.kernel for layer in layers]
  assert [kernel.name for kernel in kernels] == ['outer/first/kernel:0', 'outer/second/kernel:0']
  for layer, kernel in zip(layers, kernels):
    layer(tf.zeros([1, kernel.shape[0]]))
    assert layer.kernel is kernel
