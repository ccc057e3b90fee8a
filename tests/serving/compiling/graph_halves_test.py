"""Exports compute large maps whole where they merge or transform convolutions, else in halves."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.layers import convolutions
from official_ext.ops import conditional
from official_ext.ops import halved_conv
from official_ext.ops import winograd_conv
from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_fourier
from official_ext.serving.compiling import graph_halves
from official_ext.serving.compiling import graph_winograd
import reference

CHANNELS, FILTERS, SIZE = 4, 6, (11, 9)
BRANCHES = ((1, 1), (3, 1), (3, 2), (5, 1), (5, 2))  # sides and dilation rates of kernels
NUM_RATES = 2


@pytest.fixture(autouse=True)
def every_map_is_large(monkeypatch):
  if not convolutions.dilation_has_gradient(tf.float32):
    pytest.skip('TensorFlow runs without oneDNN here.')
  monkeypatch.setattr(halved_conv, '_MANY_BYTES', 0)


def _layers():
  layers = [convolutions.Conv2D(FILTERS, side, dilation_rate=rate, bias_initializer='ones')
            for side, rate in BRANCHES]
  for index, layer in enumerate(layers):
    layer.build([None, *SIZE, CHANNELS])
    layer.kernel.assign(np.random.default_rng(index).normal(size=layer.kernel.shape))
  return layers


def _expected(layers, x):
  return sum(reference.conv2d(x.astype(np.float64), layer.kernel.numpy(), layer.bias.numpy(),
                              stride=1, dilation=layer.dilation_rate[0]) for layer in layers)


def _function(run, batch=None):
  spec = tf.TensorSpec([batch, *SIZE, CHANNELS], name='inputs')
  return tf.function(lambda inputs: {'result': run(inputs)}, autograph=False,
                     input_signature=[spec]).get_concrete_function()


def _nodes(function):
  graph = function.graph.as_graph_def()
  return [*graph.node, *(node for each in graph.library.function for node in each.node_def)]


def _convolutions(function):
  return [node for node in _nodes(function) if node.op == 'Conv2D']


def _paddings(function):
  return [node.attr['padding'].s for node in _convolutions(function)]


def _check(function, layers, error=3e-6):
  for batch in (0, 1, 3):
    x = np.random.default_rng(batch).normal(size=[batch, *SIZE, CHANNELS]).astype(np.float32)
    actual, expected = function(tf.constant(x))['result'], _expected(layers, x)
    assert actual.shape == expected.shape
    if batch:
      assert np.max(np.abs(actual - expected)) <= error * np.max(np.abs(expected)), batch


def test_halves_are_merged_as_wholes_and_cut_again():
  layers = _layers()
  traced = _function(lambda x: tf.add_n([layer(x) for layer in layers]))
  assert _paddings(traced).count(b'EXPLICIT') == 4  # all but 1x1
  function, folding = frozen.freeze(traced, winograd=False)
  assert folding.merged == len(BRANCHES) - NUM_RATES
  assert _paddings(function) == [b'EXPLICIT'] * NUM_RATES
  _check(function, layers)


def test_wholes_get_fewer_multiplications(monkeypatch):
  monkeypatch.setattr(winograd_conv, '_WORTH', float('inf'))
  monkeypatch.setattr(graph_winograd, '_LEAST_SAVING', float('-inf'))
  layers = _layers()
  function, folding = frozen.freeze(_function(lambda x: tf.add_n([layer(x) for layer in layers])))
  assert folding.winograd == NUM_RATES
  assert not _convolutions(function)
  assert not any(halved_conv.SCOPE in node.name and node.op == 'ConcatV2'
                 for node in _nodes(function))
  _check(function, layers, 1e-5)


def test_wholes_move_to_the_fourier_domain(monkeypatch):
  monkeypatch.setattr(graph_fourier, '_WORTH', float('inf'))
  layers = _layers()
  function, folding = frozen.freeze(
      _function(lambda x: tf.add_n([layer(x) for layer in layers])), fourier=True)
  assert folding.fourier == 1
  assert not _convolutions(function)
  _check(function, layers, 1e-5)


def test_branches_of_conditionals_have_halves_still():
  layers = _layers()[3:]

  def run(x):
    selection, = conditional.select(tf.fill([tf.shape(x)[0], 1], True))
    return conditional.run_selected(
        lambda maps: tf.add_n([layer(maps) for layer in layers]), x, selection,
        tf.zeros([*tf.unstack(tf.shape(x)[:3]), FILTERS]))

  function, _ = frozen.freeze(_function(run), winograd=False)
  assert set(_paddings(function)) == {b'EXPLICIT'}
  assert len(_paddings(function)) >= NUM_RATES
  _check(function, layers)


def test_a_fixed_batch_stays_whole():
  layers = _layers()
  function, _ = frozen.freeze(
      _function(lambda x: tf.add_n([layer(x) for layer in layers]), 3), winograd=False)
  assert _paddings(function) == [b'SAME'] * NUM_RATES


def test_nothing_of_joined_halves_is_left():
  layer = _layers()[3]
  function = _function(layer)
  graph_def = function.graph.as_graph_def()
  outputs = [tensor.op.name for tensor in function.outputs]
  assert graph_halves.join(graph_def, outputs) == 1
  assert not [node.name for node in graph_def.node if node.op in ('Pad', 'ConcatV2')]
