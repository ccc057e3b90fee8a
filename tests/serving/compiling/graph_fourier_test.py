"""Laterals of a frozen graph run in the Fourier domain with the same results, and are skipped."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import dyfpn
from official_ext.ops import conditional
from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_fourier

CHANNELS, FILTERS, SIZE = 4, 6, (16, 37)


@pytest.fixture
def always(monkeypatch):
  """Moves every sum to the Fourier domain, however small its map."""
  monkeypatch.setattr(graph_fourier, '_WORTH', float('inf'))


def _lateral(branches=dyfpn.ALL_BRANCHES):
  lateral = dyfpn.InceptionLateral(
      FILTERS, branches, ['glorot_uniform'] * len(branches), name='lateral')
  lateral.build([None, *SIZE, CHANNELS])
  random = np.random.default_rng(0)
  for variable in lateral.variables:
    variable.assign(random.normal(size=variable.shape))
  return lateral


def _function(run, batch=None, size=SIZE):
  function = tf.function(lambda inputs: {'result': run(inputs)}, autograph=False, input_signature=[
      tf.TensorSpec([batch, *size, CHANNELS], name='inputs')])
  return function.get_concrete_function()


def _nodes(function):
  """Returns the nodes of the graph, and those of its functions."""
  graph = function.graph.as_graph_def()
  return list(graph.node), [node for each in graph.library.function for node in each.node_def]


def _count(nodes, *operations):
  return sum(node.op in operations for node in nodes)


def _assert_equal(function, reference, batches):
  for batch in batches:
    # Every second image is below 0.
    inputs = tf.abs(tf.random.stateless_normal([batch, *SIZE, CHANNELS], [1, 2]))
    inputs *= tf.where(tf.range(batch) % 2 == 0, 1.0, -1.0)[:, None, None, None]
    actual, expected = function(inputs)['result'], reference(inputs)['result']
    assert np.max(np.abs(actual - expected)) <= 3e-6 * np.max(np.abs(expected)), batch


@pytest.mark.parametrize('branches', [dyfpn.ALL_BRANCHES, ['1x1', '3x3', '5x5', '3x3d2']])
def test_equals_the_folded_lateral(always, branches):
  lateral = _lateral(branches)
  concrete = _function(lateral)
  folded, _ = frozen.freeze(concrete)
  function, folding = frozen.freeze(concrete, fourier=True)
  assert folding.fourier == 1
  _assert_equal(function, folded, (1, 3, 8))
  nodes, _ = _nodes(function)
  assert not _count(nodes, 'Conv2D') and _count(nodes, 'BatchMatMulV2') == 4


def test_branches_of_conditionals_share_their_weights_and_are_skipped(always):
  lateral = _lateral()

  def run(inputs):
    selected = tf.reduce_all(inputs >= 0, [1, 2, 3])
    selection, = conditional.select(selected[:, None])
    return conditional.run_selected(lateral, inputs, selection, 0.1 * tf.tile(
        inputs[..., :1], [1, 1, 1, FILTERS]))

  concrete = _function(run)
  folded, _ = frozen.freeze(concrete)
  function, folding = frozen.freeze(concrete, fourier=True)
  assert folding.fourier == 1
  _assert_equal(function, folded, (1, 3, 8))
  nodes, in_branches = _nodes(function)
  # One for some images and one for all; nothing of either runs outside.
  assert _count(in_branches, 'BatchMatMulV2') == 8 and not _count(in_branches, 'Conv2D')
  assert not _count(nodes, 'BatchMatMulV2', 'MatMul')
  # The weights are there once, and the kernels no more.
  shapes = [_shape(node) for node in (*nodes, *in_branches) if node.op == 'Const']
  assert [shape[:-2] for shape in shapes if shape[-2:] == [CHANNELS, FILTERS]] == [[1440]]


def _shape(node):
  return [dim.size for dim in node.attr['value'].tensor.tensor_shape.dim]


def test_weights_stay_below_the_limit(always, monkeypatch):
  first, second = _lateral(), _lateral()
  concrete = _function(lambda inputs: first(inputs) + tf.concat([second(inputs[:, ::2])] * 2, 1))
  weights = sum(4 * np.prod(variable.shape) for variable in (*first.variables, *second.variables))
  tilings = [graph_fourier.best_tiling([1, height, SIZE[1], CHANNELS], 75, (6, 6), FILTERS)
             for height in (16, 8)]
  sizes = [4 * tiling.products * CHANNELS * FILTERS for tiling, _ in tilings]
  # The sum that saves most is moved first.
  _, first_size = max((saving, size) for (_, saving), size in zip(tilings, sizes))
  for room, expected in ((sum(sizes), sizes), (max(sizes), [first_size]), (min(sizes) - 1, [])):
    monkeypatch.setattr(frozen, '_ADVISABLE', weights + room)
    function, folding = frozen.freeze(concrete, fourier=True)
    assert folding.fourier == len(expected)
    shapes = [_shape(node) for node in _nodes(function)[0] if node.op == 'Const']
    assert sorted(4 * np.prod(shape) for shape in shapes
                  if len(shape) == 3 and shape[1:] == [CHANNELS, FILTERS]) == sorted(expected)


def test_maps_of_unknown_size_are_convolved(always):
  lateral = _lateral()
  concrete = _function(lateral, size=(None, 37))
  assert frozen.freeze(concrete, fourier=True)[1].fourier == 0


def test_small_maps_are_convolved():
  lateral = _lateral()
  concrete = _function(lateral)
  function, folding = frozen.freeze(concrete, fourier=True)
  assert folding.fourier == 0 and _count(_nodes(function)[0], 'Conv2D') == 3


@pytest.mark.parametrize('shape, filters, tile', [
    ((1, 64, 64, 40), 64, 28), ((1, 64, 64, 512), 256, 28), ((1, 16, 16, 320), 64, None),
    ((8, 16, 16, 320), 64, 28), ((1, 8, 8, 2048), 256, None)])
def test_large_maps_and_batches_are_worth_it(shape, filters, tile):
  best = graph_fourier.best_tiling(shape, 75, (6, 6), filters)
  if tile is None:
    assert best is None
  else:
    tiling, saving = best
    assert (tiling.rows.tile, tiling.columns.tile) == (tile, tile) and saving > 0
