"""What counts in float64 counts the same in int64, without an operation of float64."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.serving.compiling import frozen
from official_ext.serving.engines import whole_numbers


def _concrete(function, *specs):
  return tf.function(function, specs, autograph=False).get_concrete_function()


def _kinds(function):
  """Returns the types of all attributes and arguments of a graph."""
  graph = function.graph.as_graph_def()
  nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
  arguments = [argument for f in graph.library.function for argument in (
      *f.signature.input_arg, *f.signature.output_arg)]
  return {argument.type for argument in arguments} | {
      kind for node in nodes for value in node.attr.values()
      for kind in (value.type, *value.list.type)}


def _cost(gates, gate_threshold):
  """Counts as routed layers do: a conditional, sums of several terms, products."""
  is_open = tf.cast(gates > gate_threshold, tf.float64)
  large = tf.constant([2.0**40 + 1, 3.0], tf.float64)

  def work():
    return tf.add_n([tf.reduce_sum(is_open * large, 1), is_open[:, 0], is_open[:, 1] * 5.0])

  executed = tf.cond(gate_threshold < 0.9, work, lambda: tf.zeros(tf.shape(gates)[:1], tf.float64))
  total = tf.add_n([executed, executed,
                    tf.fill(tf.shape(executed), tf.constant(7.0, tf.float64))])
  # Differences of large numbers show every unit; float32 alone would lose them.
  alone = tf.raw_ops.AddN(inputs=[executed])
  rest = tf.cast(alone - 2.0**40 * is_open[:, 0], tf.float32)
  return {'multiply_adds': tf.cast(total, tf.float32), 'rest': rest}


def test_sums_are_the_same_and_nothing_is_float64():
  function = _concrete(_cost, tf.TensorSpec([None, 2]), tf.TensorSpec([]))
  assert tf.float64.as_datatype_enum in _kinds(function)
  counted = frozen.rewrite(function, whole_numbers.count)
  assert tf.float64.as_datatype_enum not in _kinds(counted)
  assert 'AddN' not in {node.op for f in counted.graph.as_graph_def().library.function
                        for node in f.node_def}
  gates = tf.constant([[0.5, 0.7], [0.0, 0.3], [0.8, 0.0]])
  for threshold, rest in ((0.0, [1 + 3 + 1 + 5, 3 + 5, 1 + 1]), (0.6, [3 + 5, 0, 1 + 1]),
                          (1.0, [0, 0, 0])):
    expected = function(gates, tf.constant(threshold))
    found = counted(gates, tf.constant(threshold))
    np.testing.assert_array_equal(found['multiply_adds'], expected['multiply_adds'])
    if threshold < 0.9:
      np.testing.assert_array_equal(found['rest'], np.float32(rest))


def test_a_fraction_is_refused():
  function = _concrete(
      lambda gates: {'cost': tf.cast(gates, tf.float64) * 0.5}, tf.TensorSpec([None]))
  with pytest.raises(ValueError, match='a constant of float64 with a fraction'):
    frozen.rewrite(function, whole_numbers.count)
