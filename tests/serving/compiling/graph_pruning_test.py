"""Pruning removes nodes that nothing needs, and keeps effects and what branches use."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_pruning
from official_ext.serving.compiling import graph_shapes
from official_ext.serving.compiling import graph_values


def _graph_def(build, outputs):
  """Returns the graph of a function without arguments, and names of the nodes of its results."""
  with tf.Graph().as_default() as graph:
    build()
  graph_def = graph.as_graph_def()
  return graph_def, outputs


def test_removes_all_but_results_effects_and_inputs():

  def build():
    given = tf.compat.v1.placeholder(tf.float32, [2], name='given')
    tf.add(given, 1.0, name='unused')
    shown = tf.multiply(given, 2.0, name='shown')
    printed = tf.print(shown, name='print')
    waited = tf.constant(4.0, name='waited')
    with tf.control_dependencies([waited]):
      tf.constant(3.0, name='result')
    assert printed is not None

  graph_def, outputs = _graph_def(build, ['result'])
  graph_pruning.prune(graph_def, outputs)
  names = {node.name for node in graph_def.node}
  assert {'given', 'shown', 'waited', 'result'} <= names and 'unused' not in names
  assert any(node.op == 'PrintV2' for node in graph_def.node)


@pytest.mark.parametrize('nested', [False, True])
def test_empties_constants_that_branches_get_and_do_not_use(nested):
  used, idle = (tf.Variable(np.full([7, size], 2.0, np.float32)) for size in (3, 5))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([2, 7], name='values')])
  def network(values):
    def product(matrix):  # Not by tf.matmul, which gets constants of its own in branches.
      return tf.reduce_sum(values[..., None] * matrix, 1)

    def branch():
      _ = product(idle)
      return product(used)

    def other():
      return tf.zeros([2, 3])

    condition = tf.reduce_sum(values) > 0
    run = (lambda: tf.cond(tf.reduce_max(values) > 0, branch, other)) if nested else branch
    return {'result': tf.cond(condition, run, other)}

  function, _ = frozen.freeze(network.get_concrete_function())
  values = tf.ones([2, 7])
  np.testing.assert_array_equal(function(values)['result'], network(values)['result'])
  nodes = function.graph.as_graph_def().node
  shapes = [[dim.size for dim in node.attr['value'].tensor.tensor_shape.dim] for node in nodes
            if node.op == 'Const']
  assert [7, 3] in shapes and [7, 5] not in shapes


def test_functions_have_the_shapes_that_all_calls_agree_on():

  @tf.function(autograph=False, input_signature=[tf.TensorSpec(None)])
  def square(x):
    return tf.multiply(x, x)

  def build():
    for index, shape in enumerate(([None, 4, 6], [2, 4, 5])):
      tf.identity(square(tf.compat.v1.placeholder(tf.float32, shape)), name=f'result_{index}')

  graph_def, outputs = _graph_def(build, ['result_0', 'result_1'])
  graph = graph_values.Graph(graph_def, outputs)
  shapes = graph_shapes.Shapes(graph_def, graph)
  scope, = (each for each in graph.scopes() if any(
      node.op == 'Mul' for node in each.nodes.values()))
  node, = (node for node in scope.nodes.values() if node.op == 'Mul')
  assert shapes.shape(scope, node.input[0]).as_list() == [None, 4, None]
