"""Functions whose variables became constants can be saved, whatever gradients they had."""
import types

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import reassembly
from official_ext.ops import sampling
from official_ext.serving.compiling import frozen
from official_ext.utils import command_line


def all_nodes(function):
  """Returns the nodes of a function's graph and of all functions in it."""
  graph = function.graph.as_graph_def()
  return [*graph.node, *(node for each in graph.library.function for node in each.node_def)]


def test_a_function_with_custom_gradients_can_be_saved(tmp_path):
  kernels = tf.Variable(tf.random.stateless_normal([1, 3, 4, 4, 9], [1, 2]))
  positions = tf.Variable(tf.random.stateless_uniform([1, 2, 2, 2], [3, 4], 0, 3))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, 3, 4, 5], name='images')])
  def network(images):
    upsampled = reassembly.reassemble(2 * images, tf.convert_to_tensor(kernels), 2)
    return {'output': sampling.sample_bilinear(
        upsampled, tf.convert_to_tensor(positions), one_sided=True)}

  images = tf.random.stateless_normal([1, 3, 4, 5], [5, 6])
  function, _ = frozen.freeze(network.get_concrete_function())
  tf.saved_model.save(tf.Module(), str(tmp_path), signatures={'serving_default': function})
  loaded = tf.saved_model.load(str(tmp_path)).signatures['serving_default']
  np.testing.assert_allclose(
      loaded(images=images)['output'], network(images)['output'], 1e-5, 1e-6)


def test_branches_of_conditionals_are_fused_as_the_rest_is():
  """A conditional that is not lowered runs its branches as they are, without oneDNN."""
  kernel = tf.Variable(tf.random.stateless_normal([3, 3, 8, 8], [1, 2]))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, 8, 8, 8], name='images')])
  def network(images):
    return {'output': tf.cond(
        tf.reduce_sum(images) > 0, lambda: tf.nn.conv2d(images, kernel, 1, 'SAME'),
        lambda: images)}

  concrete = network.get_concrete_function()
  function, _ = frozen.freeze(concrete)
  nodes = [node for node in all_nodes(function) if node.op in ('If', 'StatelessIf')]
  assert nodes and all(node.attr['_lower_using_switch_merge'].b for node in nodes)
  images = tf.random.stateless_normal([1, 8, 8, 8], [3, 4])
  for values in (images + 1, images - 1):
    np.testing.assert_allclose(
        function(values)['output'], network(values)['output'], 1e-5, 1e-5)


def test_equal_constants_of_a_graph_and_of_its_branches_are_one():
  @tf.function(autograph=False, input_signature=[tf.TensorSpec([2], name='values')])
  def network(values):
    def branch():
      return (values + tf.constant([5.0, 6])) * tf.constant([5.0, 6]), tf.constant([5.0, 6])

    first, second = tf.cond(tf.reduce_sum(values) > 0, branch, lambda: (values, values))
    with tf.control_dependencies([tf.constant(1.0)]):
      other = values + tf.constant([5.0, 6]) - tf.constant([5, 7.0])
    return {'first': first, 'other': other, 'returned': tf.constant([5.0, 6]), 'second': second}

  concrete = network.get_concrete_function()
  function, _ = frozen.freeze(concrete)

  def count(of):
    return sum(node.op == 'Const' and list(tf.make_ndarray(node.attr['value'].tensor).flat)
               == [5, 6] for node in all_nodes(of))

  # One for the branch, one for the graph, and the one that waits for another operation.
  assert (count(concrete), count(function)) == (5, 3)
  for sign in (1.0, -1.0):
    values = sign * tf.constant([1.0, 2])
    actual, expected = function(values), concrete(values)
    assert set(actual) == set(expected)
    for name, value in expected.items():
      np.testing.assert_array_equal(actual[name], value)


def test_a_constant_that_a_graph_returns_keeps_its_name():
  with tf.Graph().as_default() as graph:
    for name in ('first', 'returned', 'last'):
      tf.constant([5.0, 6], name=name)
  graph_def = graph.as_graph_def()
  frozen._share_constants(graph_def, ['returned:0'])
  assert [node.name for node in graph_def.node] == ['first', 'returned']


@pytest.mark.parametrize('place', ['graph', 'branch'])
def test_a_network_that_changes_variables_keeps_them(place):
  counter, weight = tf.Variable(0, trainable=False), tf.Variable(3.0)

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([2], name='values')])
  def network(values):
    def draw():
      with tf.control_dependencies([counter.assign_add(1)]):
        return weight * values

    return {'output': draw() if place == 'graph' else tf.cond(
        tf.reduce_sum(values) > 0, draw, lambda: values)}

  concrete = network.get_concrete_function()
  module = types.SimpleNamespace(model=types.SimpleNamespace(variables=[counter, weight]))
  assert frozen.freeze_as_told(concrete, module, None, False) == (None, {})
  for freeze_it, fourier in ((True, False), (None, True)):
    with pytest.raises(command_line.CommandError, match='changes variables at every call'):
      frozen.freeze_as_told(concrete, module, freeze_it, fourier)


@pytest.mark.parametrize('functions, room, expected', [
    (1, 1.0, True), (2, 1.0, True), (3, 1.0, False), (2, 0.0, False)])
def test_convolutions_in_branches_have_kernels_of_their_own(
    monkeypatch, functions, room, expected):
  kernel = tf.Variable(tf.random.stateless_normal([3, 3, 8, 8], [1, 2]))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, 8, 8, 8], name='images')])
  def network(images):
    def some(count):
      if not count:
        return images
      return tf.cond(tf.reduce_sum(images) > count, lambda: tf.nn.conv2d(
          count * images, kernel, 1, 'SAME'), lambda: some(count - 1))

    return {'output': some(functions)}

  # The constant outside, and a copy in every function.
  monkeypatch.setattr(frozen, '_ADVISABLE', 4 * 3 * 3 * 8 * 8 * (1 + room * functions) + 1000)
  function, _ = frozen.freeze(network.get_concrete_function())
  bodies = [each.node_def for each in function.graph.as_graph_def().library.function]
  found = [conv.input[1].split(':')[0] in {node.name for node in body if node.op == 'Const'}
           for body in bodies for conv in body if conv.op == 'Conv2D']
  assert found == [expected] * functions
  for shift in range(functions + 1):
    images = tf.ones([1, 8, 8, 8]) * (shift + 0.5) / 512
    np.testing.assert_allclose(
        function(images)['output'], network(images)['output'], 1e-5, 1e-5)


def test_the_largest_weights_stay_variables(monkeypatch, tmp_path):
  large, small = (tf.Variable(tf.random.stateless_normal([size, size, 8, 8], [size, 2]))
                  for size in (5, 3))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 8, 8, 8], name='images')])
  def network(images):
    def branch(kernel):
      return lambda: 2 * tf.nn.conv2d(images, kernel, 1, 'SAME')

    return {'output': tf.cond(tf.reduce_sum(images) > 0, branch(large), branch(small))}

  concrete = network.get_concrete_function()
  weights = 4 * 8 * 8 * (25 + 9)
  for limit, shapes in ((weights, []), (weights - 1, [[5, 5, 8, 8]]), (1, [[5, 5, 8, 8],
                                                                           [3, 3, 8, 8]])):
    monkeypatch.setattr(frozen, '_ADVISABLE', limit)
    function, folding = frozen.freeze(concrete, largest_stay=True)
    assert [variable.shape.as_list() for variable in function.variables_of_graph] == shapes
    assert folding.folded == 2
    module = tf.Module()
    module.variables_of_graph = function.variables_of_graph
    tf.saved_model.save(module, f'{tmp_path}/{limit}', signatures={'serve': function})
    loaded = tf.saved_model.load(f'{tmp_path}/{limit}').signatures['serve']
    for sign in (1.0, -1.0):
      images = sign * tf.abs(tf.random.stateless_normal([2, 8, 8, 8], [3, 4]))
      np.testing.assert_allclose(
          loaded(images=images)['output'], network(images)['output'], 1e-5, 1e-5)
