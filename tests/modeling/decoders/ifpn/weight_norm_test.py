"""Weight-normalized convolutions against NumPy: padding, scale, shapes, cost."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders.ifpn import weight_norm
from official_ext.ops import multiply_adds
import harness
import ifpn_reference
import spies


def _inputs(size, channels, dtype=np.float64, batch=2):
  return np.random.default_rng(0).normal(size=[batch, *size, channels]).astype(dtype)


@pytest.mark.parametrize('size', [(6, 8), (5, 7), (1, 1), (1, 4)])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel_size', [1, 3])
def test_convolution_equals_numpy(size, stride, kernel_size):
  """Even sizes tell symmetric padding from Keras's."""
  layer = weight_norm.WeightNormConv2D(5, kernel_size, stride, dtype='float64')
  inputs = _inputs(size, 4)
  layer(inputs)
  spies.randomize(layer)
  kernel = layer.kernel.numpy()
  kernel = kernel / np.sqrt((kernel**2).sum((0, 1, 2))) * layer.scale.numpy()
  expected = ifpn_reference.conv(inputs, kernel, stride) + layer.bias.numpy()
  np.testing.assert_allclose(layer(inputs), expected, 1e-10, 1e-10)
  cost, size_out = layer.multiply_adds(tf.constant(size))
  assert tuple(size_out) == expected.shape[1:3]
  graph = tf.function(layer, autograph=False).get_concrete_function(
      tf.TensorSpec([1, *size, 4], tf.float64)).graph
  assert float(cost) == multiply_adds.count_graph(graph)


def test_depthwise_equals_numpy():
  layer = weight_norm.WeightNormConv2D(4, 3, depthwise=True, use_bias=False, dtype='float64')
  inputs = _inputs((5, 6), 4)
  layer(inputs)
  spies.randomize(layer)
  kernel = layer.kernel.numpy()[..., 0]
  kernel = kernel / np.sqrt((kernel**2).sum((0, 1))) * layer.scale.numpy()
  expected = np.concatenate([
      ifpn_reference.conv(inputs[..., [c]], kernel[:, :, [c], None]) for c in range(4)], -1)
  np.testing.assert_allclose(layer(inputs), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('depthwise', [False, True])
def test_starts_as_it_was_drawn(depthwise):
  layers = [weight_norm.WeightNormConv2D(64, depthwise=depthwise, use_bias=False)
            for _ in range(2)]
  for layer in layers:
    layer(tf.zeros([1, 3, 3, 64]))
    np.testing.assert_allclose(layer.prepare(tf.float32).kernel, layer.kernel, 1e-5, 1e-8)
    np.testing.assert_allclose(np.std(layer.kernel), 0.01, rtol=0.15)
  assert not np.array_equal(layers[0].kernel, layers[1].kernel)


@pytest.mark.parametrize('options, trainable', [
    ({'filters': 3, 'use_bias': True}, 9 * 4 * 3 + 6),
    ({'filters': 4, 'depthwise': True, 'kernel_size': 3, 'use_bias': False}, 9 * 4 + 4)])
def test_layer_checks(options, trainable):
  harness.run_layer_checks(weight_norm.WeightNormConv2D, options,
                           _inputs((4, 5), 4, np.float32), trainable)


@pytest.mark.parametrize('options', [
    {'filters': 3}, {'filters': 4, 'strides': 2}, {'filters': 4, 'depthwise': True}])
def test_empty_batch_has_the_right_shape(options):
  layer = weight_norm.WeightNormConv2D(**options)
  size = 2 if options.get('strides') else 4
  inputs = tf.zeros([0, 4, 4, 4])
  unknown = tf.function(layer, autograph=False,
                        input_signature=[tf.TensorSpec([None, None, None, 4])])
  assert layer(inputs).shape == (0, size, size, options['filters'])
  assert unknown(inputs).shape == (0, size, size, options['filters'])


def test_low_precision_gets_a_kernel_normalized_in_high():
  layer = weight_norm.WeightNormConv2D(4)
  layer(tf.zeros([1, 3, 3, 4]))
  prepared = layer.prepare(tf.bfloat16)
  assert {prepared.kernel.dtype, prepared.bias.dtype} == {tf.bfloat16}
  exact = layer.prepare(tf.float32).kernel
  np.testing.assert_array_equal(prepared.kernel, tf.cast(exact, tf.bfloat16))
