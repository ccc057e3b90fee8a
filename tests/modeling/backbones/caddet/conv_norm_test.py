"""Convolutions with their norms against NumPy, as trained and as exported."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.backbones.caddet import conv_norm
import reference
import spies

FEATURES = np.random.default_rng(0).normal(size=[3, 5, 8, 4])


def make(cls, strides, relu=True, **options):
  layer = cls(6, strides, relu, norm_options={'epsilon': 0.01}, **{'dtype': 'float64', **options})
  layer.build([None, None, None, 4])
  layer.built = True
  spies.randomize(layer)
  return layer


def expected(layer, strides, relu=True):
  """Returns what inference returns: one product per pixel, then the norm by moving averages."""
  weights = {v.name.split('/')[-1][:-2]: v.numpy() for v in layer.variables}
  features = FEATURES[:, ::strides, ::strides]
  if 'depthwise_kernel' in weights:
    features = np.concatenate([
        reference.symmetric_conv2d(FEATURES[..., c:c + 1],
                                   weights['depthwise_kernel'][:, :, c:c + 1], 0.0, strides)
        for c in range(4)], -1)
  values = np.einsum('bhwc,cf->bhwf', features, weights['pointwise_kernel'])
  values = (values - weights['moving_mean']) / np.sqrt(weights['moving_variance'] + 0.01)
  values = values * weights['gamma'] + weights['beta']
  return np.maximum(values, 0) if relu else values


CASES = [(cls, strides) for cls in (conv_norm.PointwiseConvNorm, conv_norm.SeparableConvNorm)
         for strides in (1, 2)]


@pytest.mark.parametrize('cls, strides', CASES)
@pytest.mark.parametrize('relu', [True, False])
def test_inference_equals_numpy_folded_or_not(cls, strides, relu):
  layer = make(cls, strides, relu)
  answer = expected(layer, strides, relu)
  np.testing.assert_allclose(layer(FEATURES), answer, 1e-10, 1e-10)
  before = {v.name: v.numpy() for v in layer.variables}
  layer.fold_norm()
  np.testing.assert_allclose(layer(FEATURES), answer, 1e-10, 1e-10)
  # After folding, training does not use the statistics of the batch.
  np.testing.assert_allclose(layer(FEATURES, training=True), answer, 1e-10, 1e-10)
  assert any(not np.array_equal(before[v.name], v) for v in layer.variables)
  # The variables describe the same function to code that does not know of the folding.
  np.testing.assert_allclose(expected(layer, strides, relu), answer, 1e-10, 1e-10)
  layer.fold_norm()
  np.testing.assert_allclose(layer(FEATURES), answer, 1e-10, 1e-10)


@pytest.mark.parametrize('cls, strides', CASES)
def test_a_folded_graph_reads_kernel_and_shift_alone(cls, strides):
  layer = make(cls, strides)

  def reads():
    graph = tf.function(layer, autograph=False).get_concrete_function(
        tf.TensorSpec(FEATURES.shape, tf.float64)).graph
    return sum(op.type == 'ReadVariableOp' for op in graph.get_operations())

  assert reads() == 5 + (cls is conv_norm.SeparableConvNorm)
  layer.fold_norm()
  assert reads() == 2 + (cls is conv_norm.SeparableConvNorm)


def test_kernels_are_folded_in_the_precision_of_their_variables():
  layer = make(conv_norm.PointwiseConvNorm, 1, dtype='mixed_bfloat16')
  kernel = layer.prepare(tf.bfloat16).kernel
  scale = layer._norm.frozen()[0].numpy()
  exact = layer.variables[0].numpy() * scale
  np.testing.assert_array_equal(kernel, tf.cast(exact, tf.bfloat16))


def test_all_norms_of_a_model_are_folded():
  layers = [make(conv_norm.PointwiseConvNorm, 1), make(conv_norm.SeparableConvNorm, 2)]
  model = tf_keras.Sequential([tf_keras.Input([5, 8, 4], dtype=tf.float64), layers[1]])
  other = tf.Module()
  other.layers = [layers[0], model]
  conv_norm.fold_norms(other)
  assert [layer._norm.is_folded for layer in layers] == [True, True]
