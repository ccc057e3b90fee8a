"""Context modules against plain NumPy, and the layer checks."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders.drfpn import context_modules
import harness
import refinement_reference
import spies

PPM = (context_modules.PyramidPooling, {'filters': 3}, refinement_reference.ppm)
NON_LOCAL = (context_modules.NonLocal, {'filters': 3}, refinement_reference.non_local)
ASPP = (context_modules.DenseASPP, {'filters': 3, 'bottleneck': 4}, refinement_reference.dense_aspp)
ALL = pytest.mark.parametrize(
    'cls, options, in_numpy', [PPM, NON_LOCAL, ASPP], ids=['ppm', 'non_local', 'dense_aspp'])


def _features(size=(7, 9), batch=2, depth=5, dtype=np.float64):
  return np.random.default_rng(1).normal(size=[batch, *size, depth]).astype(dtype)


@ALL
@pytest.mark.parametrize('size', [(7, 9), (25, 13), (6, 6), (1, 1), (3, 1)])
def test_equals_numpy(cls, options, in_numpy, size):
  layer = cls(**options, dtype='float64', name='part')
  x = _features(size)
  layer(x)
  spies.randomize(layer)
  expected = in_numpy(refinement_reference.weights_of(layer), x)
  np.testing.assert_allclose(layer(x), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('cls, options, trainable', [
    (*PPM[:2], 4 * (5 + 1) * 3), (*NON_LOCAL[:2], 3 * (5 + 1) * 3 + (3 + 1) * 5),
    (*ASPP[:2], sum((5 + 3 * i + 1) * 4 for i in range(5)) + 5 * (9 * 4 + 1) * 3)])
def test_layer_contract(cls, options, trainable):
  harness.run_layer_checks(
      cls, options, tf.constant(_features(dtype=np.float32)), trainable, tolerance=1e-5)


@ALL
@pytest.mark.parametrize('policy, tolerance', [('mixed_float16', 0.02), ('mixed_bfloat16', 0.1)])
def test_low_precision_stays_near(cls, options, in_numpy, policy, tolerance):
  layer = cls(**options, dtype=policy, name='part')
  x = _features()
  layer(x)
  spies.randomize(layer)
  outputs = layer(x)
  assert outputs.dtype.name == policy.removeprefix('mixed_')
  expected = in_numpy(refinement_reference.weights_of(layer), x)
  np.testing.assert_allclose(tf.cast(outputs, tf.float64), expected, tolerance, tolerance)


@ALL
def test_any_size_and_an_empty_batch_in_one_trace(cls, options, in_numpy):
  layer = cls(**options, name='part')
  layer.build([None, None, None, 5])
  traced = tf.function(layer, autograph=False, input_signature=[
      tf.TensorSpec([None, None, None, 5])])
  for size, batch in [((7, 9), 2), ((2, 3), 1), ((5, 4), 0)]:
    x = _features(size, batch, dtype=np.float32)
    outputs = traced(x)
    expected = in_numpy(refinement_reference.weights_of(layer), x) if batch else outputs
    assert outputs.shape[:3] == (batch, *size)
    np.testing.assert_allclose(outputs, expected, 1e-4, 1e-4)


def test_non_local_starts_as_almost_the_identity():
  tf_keras.utils.set_random_seed(0)
  x = _features(depth=32, dtype=np.float32)
  layer = context_modules.NonLocal(16)
  assert 0 < np.max(np.abs(layer(x) - x)) < 0.02


@pytest.mark.parametrize('size, bins', [((7, 9), 3), ((2, 5), 6), ((12, 6), 6), ((4, 4), 1)])
def test_adaptive_average_pool_covers_every_pixel(size, bins):
  x = _features(size)
  np.testing.assert_allclose(context_modules.adaptive_average_pool(tf.constant(x), bins),
                             refinement_reference.adaptive_average_pool(x, bins), 1e-12)
