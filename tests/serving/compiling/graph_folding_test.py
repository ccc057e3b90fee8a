"""Folding norms in a frozen graph changes neither results nor what conditionals skip."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.layers import convolutions
from official_ext.serving.compiling import frozen

CHANNELS, FILTERS = 4, 6
# Kind of network -> the numbers of norms that are folded, and that are kept.
FOLDED_AND_KEPT = {
    'chain': (2, 0), 'written_out': (1, 0), 'reshaped': (1, 0), 'shared_kernel': (2, 0),
    'branch': (1, 0), 'loop': (1, 0), 'sum': (0, 1), 'used_twice': (0, 1), 'before': (0, 1)}


def _randomize(layers):
  """Gives norms statistics and weights as trained ones have."""
  random = np.random.default_rng(0)
  for layer in layers:
    for variable in layer.variables:
      low = 0.5 if 'variance' in variable.name or 'gamma' in variable.name else -1.0
      variable.assign(random.uniform(low, 1.5, variable.shape))


def _norm(fused: bool = True):
  return tf_keras.layers.BatchNormalization(fused=fused, epsilon=0.01)


def _conv(**options):
  return tf_keras.layers.Conv2D(FILTERS, 3, padding='same', **options)


class _Network:
  """Has layers, some of which `run` applies."""

  def __init__(self, kind: str):
    self.norms = [_norm() for _ in range(3)]
    self.convs = [_conv() for _ in range(2)]
    self.depthwise = tf_keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)
    self.plain_norm = _norm(fused=False)
    self.reshaping = convolutions.Conv2D(FILTERS, 3)
    self.run = getattr(self, f'_{kind}')
    self.folded, self.kept = FOLDED_AND_KEPT[kind]

  def _chain(self, x):
    x = tf.nn.relu(self.norms[0](self.convs[0](x)))
    return self.norms[1](self.depthwise(x))

  def _written_out(self, x):
    return self.plain_norm(self.convs[0](x))

  def _reshaped(self, x):
    x = tf.repeat(x, tf.shape(x)[0] // 2, axis=0)  # The size of the batch is unknown.
    return self.norms[0](self.reshaping(x))

  def _shared_kernel(self, x):
    return self.norms[0](self.convs[0](x)) - tf.nn.relu(self.norms[1](self.convs[0](2.0 * x)))

  def _branch(self, x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: self.norms[0](self.convs[0](x)),
                   lambda: tf.zeros([*x.shape[:3], FILTERS]))

  def _loop(self, x):
    images = tf.map_fn(lambda image: self.norms[0](self.convs[0](image[None]))[0], x,
                       fn_output_signature=tf.TensorSpec([*x.shape[1:3], FILTERS]))
    return images

  def _sum(self, x):
    return self.norms[0](self.convs[0](x) + self.convs[1](x))

  def _used_twice(self, x):
    x = self.convs[0](x)
    return x + self.norms[0](x)

  def _before(self, x):
    return self.convs[0](self.norms[0](x))


@pytest.mark.parametrize('kind', FOLDED_AND_KEPT)
def test_results_stay_and_norms_go(kind):
  network = _Network(kind)
  function = tf.function(
      lambda inputs: {'result': network.run(inputs), 'sum': tf.reduce_sum(inputs)}, autograph=False,
      input_signature=[tf.TensorSpec([2, 8, 9, CHANNELS], name='inputs')])
  function.get_concrete_function()  # makes the variables
  _randomize([*network.norms, *network.convs, network.depthwise, network.plain_norm,
              network.reshaping])
  new, folding = frozen.freeze(function.get_concrete_function())
  assert (folding.folded, folding.kept) == (network.folded, network.kept)
  for sign in (1, -1):
    inputs = sign * tf.random.stateless_uniform([2, 8, 9, CHANNELS], [1, 2])
    expected, actual = function(inputs), new(inputs)
    assert set(actual) == set(expected)
    for name, value in expected.items():
      np.testing.assert_allclose(actual[name], value, rtol=3e-5, atol=3e-5)
  assert np.std(expected['result']) > 0 or kind == 'branch'
  assert not new.variables


@pytest.mark.parametrize('in_branch', [False, True])
def test_summed_convolutions_become_three(in_branch):
  lateral = dyfpn.InceptionLateral(
      FILTERS, dyfpn.ALL_BRANCHES, ['glorot_uniform'] * 7, name='lateral')

  def run(inputs):
    if not in_branch:
      return {'result': lateral(inputs)}
    return {'result': tf.cond(tf.reduce_any(inputs > 0), lambda: lateral(inputs),
                              lambda: tf.zeros([tf.shape(inputs)[0], 16, 17, FILTERS]))}

  function = tf.function(run, autograph=False, input_signature=[
      tf.TensorSpec([None, 16, 17, CHANNELS], name='inputs')])
  function.get_concrete_function()
  _randomize([lateral])
  new, folding = frozen.freeze(function.get_concrete_function())
  assert folding.merged == 4
  for batch in (1, 3):
    inputs = tf.random.stateless_normal([batch, 16, 17, CHANNELS], [1, 2])
    expected = function(inputs)['result']
    np.testing.assert_allclose(
        new(inputs)['result'], expected, atol=1e-5 * np.max(np.abs(expected)))


@pytest.mark.parametrize('megabytes, expected', [(299, True), (301, False)])
def test_constants_are_advised_for_few_weights(megabytes, expected):
  module = tf.Module()
  module.weights = tf.Variable(tf.zeros([megabytes, 250, 1000]))  # a million bytes each
  assert frozen.is_advisable(module) == expected
