"""Spatial gates against NumPy: the activation, the initial bias, and the gates themselves."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.heads.dynamic_head import spatial_gates
import dynamic_head_reference
import harness
import spies

FEATURES = np.random.default_rng(1).normal(size=[3, 5, 7, 6])


@pytest.mark.parametrize('tau', [0.0, 0.5, 1.0, 1.5, 2.0])
def test_activation_equals_eq_3(tau):
  logits = np.linspace(-9, 9, 1001)
  expected = dynamic_head_reference.activate(logits, tau=tau)
  ours = spatial_gates.restricted_tanh(tf.constant(logits), tau).numpy()
  np.testing.assert_allclose(ours, expected, 1e-12, 1e-15)
  single = spatial_gates.restricted_tanh(tf.constant(logits, tf.float32), tau).numpy()
  np.testing.assert_allclose(single, expected, 1e-5, 1e-30)
  assert single.max() <= 1


def test_activation_by_hand():
  """Values that Figure 3c of the paper shows for several tau."""
  def at(logit, tau):
    return float(spatial_gates.restricted_tanh(tf.constant(logit, tf.float64), tau))

  assert at(1.5, 1.5) == pytest.approx(np.tanh(1.5) / (1 + np.tanh(1.5)))
  assert at(1.0, 0.0) == pytest.approx(0.76159415595)
  assert at(0.0, 1.5) == 0


@pytest.mark.parametrize('tau, slope', [(1.5, 0.0949), (0.0, 1.0)])
def test_activation_has_gradient_on_one_side_of_zero(tau, slope):
  logits = tf.constant([-3.0, -1e-6, 0.0, 1e-6])
  with tf.GradientTape() as tape:
    tape.watch(logits)
    gates = spatial_gates.restricted_tanh(logits, tau)
  np.testing.assert_array_equal(gates[:3], 0)
  assert 0 < float(gates[3]) < 2e-6
  np.testing.assert_allclose(tape.gradient(gates, logits), [0, 0, 0, slope], atol=2e-4)


@pytest.mark.parametrize('tau', [0.0, 1.5, 2.0])
def test_slope_at_the_start_does_not_depend_on_tau(tau):
  logit = tf.constant(spatial_gates.initial_bias('tanh', tau), tf.float64)
  with tf.GradientTape() as tape:
    tape.watch(logit)
    gate = spatial_gates.restricted_tanh(logit, tau)
  np.testing.assert_allclose(tape.gradient(gate, logit), 0.020, atol=3e-4)


@pytest.mark.parametrize('activation, tau, bias, start', [
    ('tanh', 1.5, 3.822, 0.99), ('tanh', 0.0, 2.647, 0.99), ('sigmoid', 1.5, 4.595, 0.99),
    ('softmax', 1.5, 0.0, 1 / 3)])
def test_gate_starts_open(activation, tau, bias, start):
  gate = spatial_gates.SpatialGate(3, activation, tau)
  np.testing.assert_allclose(gate(np.zeros([1, 2, 3, 6], np.float32)), start, 1e-6)
  np.testing.assert_allclose(gate.conv.bias, bias, atol=5e-4)
  assert 0.008 < np.std(gate.conv.kernel) < 0.012


@pytest.mark.parametrize('options', [
    {}, {'tau': 0.0}, {'activation': 'sigmoid'}, {'activation': 'softmax'}, {'coarse': True},
    {'activation': 'softmax', 'coarse': True}])
@pytest.mark.parametrize('paths', [None, [0, 2]])
@pytest.mark.parametrize('threshold', [0.0, 0.3])
def test_gate_equals_numpy(options, paths, threshold):
  gate = spatial_gates.SpatialGate(3, dtype='float64', name='gate', **options)
  gate(FEATURES)
  spies.randomize(gate)
  decided = gate(FEATURES, paths, threshold).numpy()
  expected = dynamic_head_reference.gate(
      dynamic_head_reference.named_weights(gate), FEATURES, paths or [0, 1, 2], threshold=threshold,
      **options)
  np.testing.assert_allclose(decided, expected, 1e-10, 1e-12)
  assert np.any(decided > 0)
  assert np.any(decided == 0) or not threshold


def test_gate_is_float32_under_mixed_precision():
  gate = spatial_gates.SpatialGate(name='gate', dtype='mixed_float16')
  features = FEATURES.astype(np.float16)
  gate(features)
  spies.randomize(gate)
  decided = gate(features)
  assert decided.dtype == tf.float32
  expected = dynamic_head_reference.gate(
      dynamic_head_reference.named_weights(gate), features.astype(np.float64), [0])
  np.testing.assert_allclose(decided, expected, 1e-4, 1e-6)


@pytest.mark.parametrize('options, trainable', [
    ({'tau': 1.0}, 55), ({'num_paths': 3, 'activation': 'softmax', 'coarse': True}, 165),
    ({'activation': 'sigmoid', 'kernel_regularizer': {
        'class_name': 'L2', 'config': {'l2': 0.25}}}, 55)])
def test_gate_passes_the_layer_checks(options, trainable):
  harness.run_layer_checks(
      spatial_gates.SpatialGate, options, FEATURES.astype(np.float32), trainable)


@pytest.mark.parametrize('options, message', [
    ({'activation': 'relu'}, "activation is 'relu'; allowed are 'tanh', 'sigmoid', 'softmax'"),
    ({'tau': -0.5}, 'tau is -0.5')])
def test_gate_refuses_wrong_options(options, message):
  with pytest.raises(ValueError, match=message):
    spatial_gates.SpatialGate(**options)


def test_a_gate_at_the_threshold_is_shut():
  gate = spatial_gates.SpatialGate(dtype='float64')
  gates = gate(FEATURES).numpy()
  threshold = np.median(gates)
  decided = gate(FEATURES, threshold=threshold).numpy()
  np.testing.assert_array_equal(decided, np.where(gates > threshold, gates, 0))
  assert np.any(gates == threshold)
