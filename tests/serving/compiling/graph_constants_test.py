"""Branches of a frozen graph have weights of their own, as many as its size allows."""
import numpy as np
import tensorflow as tf

from official_ext.ops import conditional
from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_constants

CHANNELS, FILTERS = 4, 6
DRAWN = np.random.default_rng(0)
KERNEL = tf.Variable(DRAWN.normal(size=[3, 3, CHANNELS, CHANNELS]), dtype=tf.float32)
DEPTHWISE = tf.Variable(DRAWN.normal(size=[3, 3, CHANNELS, 1]), dtype=tf.float32)
MATRIX = tf.Variable(DRAWN.normal(size=[CHANNELS, FILTERS]), dtype=tf.float32)
WEIGHTS = KERNEL, DEPTHWISE, MATRIX
BYTES = sum(4 * int(np.prod(weights.shape)) for weights in WEIGHTS)


def _branch(inputs):
  hidden = tf.nn.conv2d(inputs, KERNEL, 1, 'SAME')
  hidden = tf.nn.depthwise_conv2d(hidden, DEPTHWISE, [1, 1, 1, 1], 'SAME')
  rows = tf.matmul(tf.reshape(hidden, [-1, CHANNELS]), MATRIX)
  return tf.reshape(rows, [-1, *inputs.shape[1:3], FILTERS])


def _network(inputs, times=1):
  """Runs the branch for images above 0; several times: in conditionals of their own."""
  selection, = conditional.select(tf.reduce_all(inputs >= 0, [1, 2, 3])[:, None])
  result = tf.zeros([tf.shape(inputs)[0], *inputs.shape[1:3], FILTERS])
  for _ in range(times):
    result = conditional.run_selected(_branch, inputs, selection, result)
  return {'result': result}


def _function(times=1):
  spec = tf.TensorSpec([None, 5, 7, CHANNELS], name='inputs')
  return tf.function(lambda inputs: _network(inputs, times), autograph=False,
                     input_signature=[spec]).get_concrete_function()


def _own_weights(function):
  """Returns the operations in functions whose weights are a constant there, and all of them."""
  own, every = [], []
  for body in function.graph.as_graph_def().library.function:
    constants = {node.name for node in body.node_def if node.op == 'Const'}
    for node in body.node_def:
      if node.op in ('Conv2D', 'DepthwiseConv2dNative', 'MatMul'):
        every.append(node.op)
        own += [node.op] * (node.input[1].split(':')[0] in constants)
  return sorted(own), sorted(every)


def _inputs(signs):
  inputs = tf.abs(tf.random.stateless_normal([len(signs), 5, 7, CHANNELS], [1, 2]))
  return inputs * tf.constant(signs, tf.float32)[:, None, None, None]


def test_branches_for_all_images_and_for_some_have_their_own_and_compute_the_same():
  function = _function()
  export, _ = frozen.freeze(function)
  own, every = _own_weights(export)
  assert own == every == sorted(['Conv2D', 'DepthwiseConv2dNative', 'MatMul'] * 2)
  for signs in ([1], [-1], [1, 1], [1, -1, 1]):
    expected = function(_inputs(signs))['result']
    np.testing.assert_allclose(export(_inputs(signs))['result'], expected, atol=1e-4)
    assert np.any(expected) == (max(signs) > 0)


def test_nothing_outside_keeps_weights_that_all_branches_have():
  export, _ = frozen.freeze(_function())
  shapes = [tf.make_ndarray(node.attr['value'].tensor).shape
            for node in export.graph.as_graph_def().node if node.op == 'Const']
  assert not {tuple(weights.shape) for weights in WEIGHTS} & set(shapes)


def test_what_weights_were_computed_of_is_given_up():
  # As a norm that is folded when the network runs: the branch alone needs the product.
  scale = tf.Variable(tf.range(1.0, FILTERS + 1))

  def network(inputs):
    weights = MATRIX * scale
    return {'result': tf.cond(
        tf.reduce_sum(inputs) > 0, lambda: tf.matmul(inputs, weights),
        lambda: tf.zeros([2, FILTERS])) + scale}

  function = tf.function(network, autograph=False, input_signature=[
      tf.TensorSpec([2, CHANNELS], name='inputs')]).get_concrete_function()

  def change(graph_def, outputs):
    graph_constants.move_into_functions(graph_def, outputs, 1e6)
    return graph_def

  export = frozen.rewrite(function, change)
  assert _own_weights(export) == (['MatMul'], ['MatMul'])
  for sign in (1.0, -1.0):
    inputs = sign * tf.abs(tf.random.stateless_normal([2, CHANNELS], [1, 2]))
    np.testing.assert_allclose(export(inputs)['result'], function(inputs)['result'], 1e-5, 1e-6)
  sizes = [tf.make_ndarray(node.attr['value'].tensor).size
           for node in export.graph.as_graph_def().node if node.op == 'Const']
  assert FILTERS in sizes and CHANNELS * FILTERS not in sizes


def test_weights_that_more_functions_use_stay_outside():
  own, every = _own_weights(frozen.freeze(_function(times=2))[0])
  assert not own and len(every) == 12


def test_copies_stay_below_the_limit():
  # Each weight is there once, and twice more while it is moved.
  for room, expected in ((2 * BYTES, 6), (2 * BYTES - 1, 4), (0, 0)):
    assert len(_own_weights(_moved(room))[0]) == expected, room


def _moved(room):
  """Returns the network with copies of weights of so many bytes at most."""

  def change(graph_def, outputs):
    bodies = [graph_def.node, *(body.node_def for body in graph_def.library.function)]
    size = sum(node.attr['value'].tensor.ByteSize()
               for nodes in bodies for node in nodes if node.op == 'Const')
    graph_constants.move_into_functions(graph_def, outputs, size + room)
    return graph_def

  return frozen.rewrite(_function(), change)
