"""The protocol of routed layers: what they offer to tasks, and what they record."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import routing


def _fields(gate):
  cost = tf.cast(gate, tf.float64)
  one = tf.constant(1.0, tf.float64)
  return {'gates': {'gate': gate}, 'executed': cost, 'expected': cost, 'minimum': 0 * one,
          'maximum': one, 'all_branches': one}


class GateLayer(routed.SkippingLayer):
  """Records its input as its gate, and may skip."""

  def call(self, inputs):
    self.record(**_fields(inputs))
    return inputs


class Solver(routed.RoutedLayer):
  """Records, but never skips."""

  def call(self, inputs):
    self.record(**_fields(inputs), metrics={'steps': inputs}, soft_cost=inputs)
    return inputs


def test_a_layer_records_in_float32_and_only_under_a_tape():
  layer, gate = Solver(name='solver'), tf.constant([1.0, 0.0])
  layer(gate)
  with routing.RoutingTape() as tape:
    layer(gate)
  record = tape.records()['solver']
  costs = (record.executed, record.expected, record.minimum, record.maximum, record.all_branches)
  assert {cost.dtype for cost in (*costs, record.soft_cost)} == {tf.float32}
  np.testing.assert_array_equal(record.metrics['steps'], gate)


def test_the_base_class_offers_nothing_by_default():
  layer = Solver(name='solver')
  assert layer.is_routed and not layer.samples_gates and not layer.has_soft_cost
  assert (layer.gate_names, layer.metric_names, dict(layer.metric_limits)) == ([], [], {})
  assert layer.router_variables == []
  assert not layer.has_gate_threshold and not layer.has_budget_input
  with pytest.raises(NotImplementedError, match='solver has no soft cost'):
    layer.total_cost(8, 8)


def test_only_skipping_layers_change_their_inference_mode():
  first, second = GateLayer(name='first'), GateLayer(name='second')
  model = tf_keras.Sequential([first, tf_keras.layers.Dense(2), second, Solver(name='solver')])
  assert {layer.name for layer in routed.routed_layers(model)} == {'first', 'second', 'solver'}
  assert first.skips(training=None) and not first.skips(training=True)
  routed.set_inference(model, 'mask')
  assert (first.inference, second.inference) == ('mask', 'mask')
  assert not first.skips(training=False)
  assert first.get_config()['inference'] == 'mask'
  with pytest.raises(ValueError, match="inference is 'fast'.*'skip', 'mask'"):
    routed.set_inference(model, 'fast')
  with pytest.raises(ValueError, match="inference is 'fast'"):
    GateLayer(inference='fast')


def test_the_inference_mode_is_restored_after_errors_too():
  first, second = GateLayer(name='first'), GateLayer(name='second', inference='mask')
  model = tf_keras.Sequential([first, second])
  with pytest.raises(KeyError), routed.inference_as(model, 'mask'):
    assert (first.inference, second.inference) == ('mask', 'mask')
    raise KeyError
  assert (first.inference, second.inference) == ('skip', 'mask')


def test_check_complete_names_the_layers_that_recorded_nothing():
  model = tf_keras.Sequential([GateLayer(name='first'), GateLayer(name='second')])
  gate = tf.constant([1.0, 0.0])
  traced = tf.function(model, autograph=False)
  traced(gate)
  with routing.RoutingTape() as tape:
    traced(gate)
  with pytest.raises(ValueError, match='(?=.*first)(?=.*second).*recorded nothing'):
    routed.check_complete(tape, model)
  with routing.RoutingTape() as tape:
    model.layers[0](gate)
  with pytest.raises(ValueError, match=r"\['second'\] recorded nothing"):
    routed.check_complete(tape, model)
  with routing.RoutingTape() as tape:
    model(gate)
  routed.check_complete(tape, model)
