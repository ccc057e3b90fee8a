"""Large 3x3 convolutions of a frozen graph have fewer multiplications and the same results."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import conditional
from official_ext.ops import export_expectation
from official_ext.ops import winograd_conv
from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_shapes
from official_ext.serving.compiling import graph_values
from official_ext.serving.compiling import graph_winograd

CHANNELS, FILTERS, SIZE = 4, 6, (10, 15)
ROWS = 4 * 36 * 3 * 4  # bytes of the rows that 3 times 4 tiles are made of


@pytest.fixture
def always(monkeypatch):
  """Replaces every convolution that can be, however small its map."""
  monkeypatch.setattr(winograd_conv, '_WORTH', float('inf'))
  monkeypatch.setattr(graph_winograd, '_LEAST_SAVING', float('-inf'))


def _kernel(seed=0, shape=(3, 3, CHANNELS, FILTERS)):
  return tf.Variable(np.random.default_rng(seed).normal(size=shape), dtype=tf.float32)


def _function(run, size=SIZE):
  spec = tf.TensorSpec([None, *size, CHANNELS], name='inputs')
  return tf.function(lambda inputs: {'result': run(inputs)}, autograph=False,
                     input_signature=[spec]).get_concrete_function()


def _operations(function):
  graph = function.graph.as_graph_def()
  nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
  return [node.op for node in nodes], [
      [dim.size for dim in node.attr['value'].tensor.tensor_shape.dim]
      for node in nodes if node.op == 'Const']


def _check(run, expected_count, batches=(1, 3, 8), error=3e-6):
  """Freezes a function with and without, compares the two, and returns the changed one."""
  concrete = _function(run)
  plain, folding = frozen.freeze(concrete, winograd=False)
  assert folding.winograd == 0
  function, folding = frozen.freeze(concrete)
  assert folding.winograd == expected_count
  for batch in batches:
    inputs = tf.abs(tf.random.stateless_normal([batch, *SIZE, CHANNELS], [1, 2]))
    inputs *= tf.where(tf.range(batch) % 2 == 0, 1.0, -1.0)[:, None, None, None]
    actual, expected = function(inputs)['result'], plain(inputs)['result']
    assert actual.shape == expected.shape
    assert np.max(np.abs(actual - expected)) <= error * np.max(np.abs(expected)), batch
  return function


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
def test_equals_the_convolution_with_its_norm(always, padding):
  kernel = _kernel()

  def run(inputs):
    result = tf.nn.conv2d(inputs, kernel, 1, padding)
    return tf.nn.relu(tf.nn.bias_add(result * 1.5, tf.range(FILTERS, dtype=tf.float32)))

  operations, constants = _operations(_check(run, 1))
  assert 'Conv2D' not in operations
  assert [36, CHANNELS, FILTERS] in constants and [3, 3, CHANNELS, FILTERS] not in constants


@pytest.mark.parametrize('padding', [
    'SAME', 'VALID', [[0, 0], [0, 0], [3, 3], [0, 0]], [[0, 0], [1, 1], [4, 4], [0, 0]]])
@pytest.mark.parametrize('rate', [1, 2])
def test_large_and_dilated_kernels(always, padding, rate):
  kernel = _kernel(shape=(5, 5, CHANNELS, FILTERS))

  def run(inputs):
    return tf.nn.relu(tf.nn.conv2d(inputs, kernel, 1, padding, dilations=rate) * 1.5)

  operations, constants = _operations(_check(run, 1, error=6e-6))
  assert 'Conv2D' not in operations
  assert [64, CHANNELS, FILTERS] in constants and [5, 5, CHANNELS, FILTERS] not in constants


def test_convolutions_of_one_map_share_its_tiles_and_levels_their_kernel(always):
  first, second = _kernel(0), _kernel(1)

  def run(inputs):
    small = inputs[:, ::2, ::2]
    return tf.concat([tf.reshape(tf.nn.conv2d(x, kernel, 1, 'SAME'), [-1, 1]) for kernel, x in (
        (first, inputs), (second, inputs), (first, small))], 0)

  operations, constants = _operations(_check(run, 3))
  assert operations.count('GatherV2') == 2  # of two maps
  assert constants.count([36, CHANNELS, FILTERS]) == 2 and 'Conv2D' not in operations


def test_branches_of_conditionals_are_skipped_still(always):
  kernel = _kernel()

  def run(inputs):
    selection, = conditional.select(tf.reduce_all(inputs >= 0, [1, 2, 3])[:, None])
    return conditional.run_selected(
        lambda x: 1.5 * tf.nn.conv2d(x, kernel, 1, 'SAME'), inputs, selection,
        0.1 * tf.tile(inputs[..., :1], [1, 1, 1, FILTERS]))

  function = _check(run, 2)  # for some images, and for all
  assert not {'GatherV2', 'BatchMatMulV2'} & {node.op for node in function.graph.as_graph_def().node
                                              if 'winograd' in node.name}
  operations, constants = _operations(function)
  assert 'Conv2D' not in operations
  assert constants.count([36, CHANNELS, FILTERS]) == 1  # Both branches get it.


@pytest.mark.parametrize('options, shape, size', [
    ({'strides': 2}, (3, 3), SIZE), ({'dilations': [1, 2]}, (3, 3), SIZE), ({}, (1, 1), SIZE),
    ({}, (7, 7), SIZE), ({}, (3, 1), SIZE), ({}, (3, 5), SIZE), ({}, (3, 3), (None, SIZE[1])),
    ({'padding': [[0, 0], [0, 1], [1, 1], [0, 0]]}, (3, 3), SIZE),
    ({'padding': [[0, 0], [1, 1], [1, 0], [0, 0]]}, (3, 3), SIZE)])
def test_others_stay(always, options, shape, size):
  kernel = _kernel(shape=(*shape, CHANNELS, FILTERS))
  options = {'strides': 1, 'padding': 'SAME', **options}
  function, folding = frozen.freeze(_function(
      lambda x: tf.nn.conv2d(x, kernel, **options), size))
  assert folding.winograd == 0 and 'Conv2D' in _operations(function)[0]


def test_groups_and_kernels_that_are_computed_stay(always):
  kernel = _kernel(shape=(3, 3, CHANNELS // 2, FILTERS))
  concrete = _function(lambda x: tf.nn.conv2d(x, kernel, 1, 'SAME')
                       + tf.nn.conv2d(x, tf.reduce_mean(x) * tf.ones([3, 3, CHANNELS, FILTERS]), 1,
                                      'SAME'))
  assert frozen.freeze(concrete)[1].winograd == 0


def test_regions_of_an_image_count(always, monkeypatch):
  kernel, shapes = _kernel(), []
  saving = winograd_conv.saving
  monkeypatch.setattr(winograd_conv, 'saving',
                      lambda shape, *others: shapes.append(shape) or saving(shape, *others))

  def run(inputs):
    regions = tf.reshape(tf.stack([inputs[:, :5, :5]] * 7, 1), [-1, 5, 5, CHANNELS])
    return tf.nn.conv2d(regions, kernel, 1, 'SAME')

  _check(run, 1)
  assert shapes == [[7, 5, 5, CHANNELS]]


def test_weights_stay_below_the_limit(always, monkeypatch):
  kernels = [_kernel(0), _kernel(1)]

  def run(inputs):
    return (tf.nn.conv2d(inputs, kernels[0], 1, 'SAME')[:, :8]
            + tf.nn.conv2d(inputs[:, :8], kernels[1], 1, 'SAME'))

  concrete = _function(run)
  added = 4 * 27 * CHANNELS * FILTERS  # 36 weights in place of 9
  small, large = added + ROWS * 2 // 3, added + ROWS
  monkeypatch.setattr(graph_winograd.graph_constants, 'size', lambda graph: 0)
  for room, expected in (
      (small + large, 2), (small + large - 1, 1), (small, 1), (small - 1, 0)):
    monkeypatch.setattr(frozen, '_ADVISABLE', max(room, sum(
        4 * np.prod(kernel.shape) for kernel in kernels)))
    assert frozen.freeze(concrete)[1].winograd == expected, room


def test_weights_must_be_worth_their_bytes(monkeypatch):
  kernel = _kernel()
  monkeypatch.setattr(winograd_conv, 'saving', lambda *unused: 1e4)
  concrete = _function(lambda inputs: tf.nn.conv2d(inputs, kernel, 1, 'SAME'))
  size = 4 * 27 * CHANNELS * FILTERS + ROWS  # 36 weights in place of nine
  for least, expected in ((1e4 / size, 1), (1.01e4 / size, 0)):
    monkeypatch.setattr(graph_winograd, '_LEAST_SAVING', least)
    assert frozen.freeze(concrete)[1].winograd == expected


def test_kernels_that_a_graph_transforms_become_constants(always):
  kernel = _kernel()

  def run(inputs):
    tiles = winograd_conv.tiles(inputs, winograd_conv.Map(*SIZE, (1, 1)))
    return tf.cond(tf.reduce_sum(inputs) > 0, lambda: winograd_conv.results_of_tiles(
        tiles, export_expectation.weights_in_graph(kernel)), lambda: tf.zeros([1, FILTERS]))

  concrete = _function(run)
  function, folding = frozen.freeze(concrete)
  assert folding.winograd == 0
  inputs = tf.abs(tf.random.stateless_normal([2, *SIZE, CHANNELS], [1, 2]))
  np.testing.assert_allclose(function(inputs)['result'], concrete(inputs)['result'], rtol=1e-5,
                             atol=1e-5)
  operations, constants = _operations(function)
  assert [36, CHANNELS * FILTERS] in constants and [3, 3, CHANNELS, FILTERS] not in constants
  assert operations.count('MatMul') == 2  # of tiles and of results


def test_kernels_that_a_graph_transforms_count(always, monkeypatch):
  kernels = [_kernel(0), _kernel(1)]

  def run(inputs):
    tiles = winograd_conv.tiles(inputs, winograd_conv.Map(*SIZE, (1, 1)))
    return (tf.reduce_sum(winograd_conv.results_of_tiles(
        tiles, export_expectation.weights_in_graph(kernels[0])))
            + tf.nn.conv2d(inputs, kernels[1], 1, 'SAME'))

  concrete = _function(run)
  monkeypatch.setattr(graph_winograd.graph_constants, 'size', lambda graph: 0)
  room = 4 * (36 + 36 - 9) * CHANNELS * FILTERS + ROWS
  for limit, expected in ((room, 1), (room - 1, 0)):
    monkeypatch.setattr(frozen, '_ADVISABLE', limit)
    assert frozen.freeze(concrete)[1].winograd == expected


def test_shapes_of_a_function_need_what_it_calls_alone():
  kernel = _kernel()

  def branch(least, otherwise):
    return lambda inputs: tf.cond(tf.reduce_max(inputs) > least, lambda: otherwise(inputs),
                                  lambda: tf.zeros([1, *SIZE, FILTERS]))

  run = branch(0, branch(1, branch(2, lambda inputs: tf.nn.conv2d(inputs, kernel, 1, 'SAME'))))
  graph_def = frozen.freeze(_function(run), winograd=False)[0].graph.as_graph_def()
  graph = graph_values.Graph(graph_def, [graph_def.node[-1].name])
  shapes = graph_shapes.Shapes(graph_def, graph)
  for scope in graph.scopes():
    for node in scope.nodes.values():
      if node.op == 'Conv2D':
        assert shapes.shape(scope, node.input[0]).as_list() == [1, *SIZE, CHANNELS]
  numbers = [len(tensors.as_graph_def().library.function)
             for name, tensors in shapes._tensors.items() if name]
  # Each branch has those of the branches within it, two for each.
  assert sorted(numbers) == [0, 2, 4] and len(graph_def.library.function) >= 6
