"""Gates against NumPy, and the statistics of their random choices."""
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.losses import budgets
from official_ext.modeling.decoders.dyfpn import gates
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.ops import checks
from official_ext.ops import routing
import harness
import reference
import spies

CHANNELS = {'3': 8, '4': 12, '5': 20}
FEATURES = reference.pyramid_inputs(CHANNELS, batch=3)
POOLED = {level: x.mean((1, 2), dtype=np.float64) for level, x in FEATURES.items()}


def _values(layer):
  layer(FEATURES)
  spies.randomize(layer)
  return {v.name.split('gate/')[-1][:-2]: v.numpy().astype(np.float64) for v in layer.variables}


def _dense(x, weights, name):
  return x @ weights[f'{name}/kernel'] + weights[f'{name}/bias']


def test_channel_gate_equals_numpy():
  gate = gates.ChannelGate(CHANNELS, 7, name='gate')
  weights = _values(gate)
  for variable in gate.variables:
    if 'hidden' in variable.name and 'bias' in variable.name:
      variable.assign_sub(tf.fill(variable.shape, 0.75))  # now some hidden units are shut
  for level in CHANNELS:
    weights[f'hidden_{level}/bias'] -= 0.75
  expected = [
      _dense(np.maximum(_dense(POOLED[level], weights, f'hidden_{level}'), 0), weights,
             f'output_{level}') for level in CHANNELS]
  np.testing.assert_allclose(gate(FEATURES), np.stack(expected, 1), 1e-5, 1e-6)
  assert gate.multiply_adds() == 8 * 2 + 2 * 7 + 12 * 3 + 3 * 7 + 20 * 5 + 5 * 7


def _torch_gru(x, state, weights):
  """PyTorch's GRU: two biases, and the reset gate multiplies the hidden product."""
  (update_x, reset_x, new_x), (update_h, reset_h, new_h) = (
      np.split(values @ weights[f'cell/{name}'] + bias, 3, -1) for values, name, bias in (
          (x, 'kernel', weights['cell/bias'][0]),
          (state, 'recurrent_kernel', weights['cell/bias'][1])))
  update, reset = reference.sigmoid(update_x + update_h), reference.sigmoid(reset_x + reset_h)
  new = np.tanh(new_x + reset * new_h)
  return (1 - update) * new + update * state


@pytest.mark.parametrize('direction', ['upward', 'downward'])
def test_recurrent_gate_equals_numpy(direction):
  gate = gates.RecurrentGate(CHANNELS, 2, direction, name='gate')
  weights = _values(gate)
  state, logits = np.zeros([3, 16]), {}
  for level in sorted(CHANNELS, reverse=direction == 'downward'):
    state = _torch_gru(_dense(POOLED[level], weights, f'embed_{level}'), state, weights)
    logits[level] = _dense(state, weights, 'output')
  expected = np.stack([logits[level] for level in CHANNELS], 1)
  np.testing.assert_allclose(gate(FEATURES), expected, 1e-5, 1e-6)
  np.testing.assert_array_equal(gate(FEATURES), gate(FEATURES))  # no state is carried over
  assert gate.multiply_adds() == 16 * (8 + 12 + 20) + 3 * (2 * 16 * 48 + 16 * 2)


@pytest.mark.parametrize('paths, probability, expected', [
    (7, None, [1 / 7] * 7), (2, None, [0.5, 0.5]), (2, 1 / 7, [6 / 7, 1 / 7])])
def test_random_signal_has_its_probabilities(paths, probability, expected):
  signal = gates.RandomSignal(CHANNELS, paths, probability)
  logits = signal(FEATURES)
  assert logits.shape == (3, 3, paths)
  np.testing.assert_allclose(tf.nn.softmax(logits), np.broadcast_to(expected, logits.shape), 1e-6)
  assert signal.multiply_adds() == 0
  assert not signal.variables


@pytest.mark.parametrize('cls, options, trainable', [
    (gates.ChannelGate, {'initial_bias': [0.1, 2.0]},
     9 * 2 + 3 * 2 + 13 * 3 + 4 * 2 + 21 * 5 + 6 * 2),
    (gates.RecurrentGate, {'direction': 'downward'},
     16 * (9 + 13 + 21) + 3 * 16 * (16 + 16 + 2) + 17 * 2),
])
def test_layer_contract(cls, options, trainable):
  harness.run_layer_checks(
      cls, {'channels': CHANNELS, 'num_paths': 2, 'name': 'gate', **options},
      {level: tf.constant(x) for level, x in FEATURES.items()}, trainable)


def test_gates_start_within_the_bounds_of_their_fan_in():
  tf_keras.utils.set_random_seed(1)
  channels = {'3': 64, '4': 100}
  inputs = reference.pyramid_inputs(channels)
  channel, recurrent = gates.ChannelGate(channels, 7), gates.RecurrentGate(channels, 2)
  channel(inputs)
  recurrent(inputs)
  bounds = {'hidden_3': 1 / 8, 'hidden_4': 1 / 10, 'output_3': 1 / 4, 'output_4': 1 / 5,
            'embed_3': 1 / 8, 'embed_4': 1 / 10, 'cell': 1 / 4, 'output': 1 / 4}
  for variable in (*channel.variables, *recurrent.variables):
    bound = bounds[variable.name.split('/')[-2]]
    assert np.max(np.abs(variable)) <= bound
    if variable.shape.num_elements() > 40:
      assert np.max(np.abs(variable)) > 0.8 * bound
      np.testing.assert_allclose(np.std(variable), bound / 3**0.5, 0.25)
  started = gates.ChannelGate(channels, 2, initial_bias=[0.1, 2.0])
  started(inputs)
  biases = [v for v in started.variables if 'output' in v.name and 'bias' in v.name]
  assert len(biases) == 2
  for bias in biases:
    np.testing.assert_allclose(bias, [0.1, 2.0])


@pytest.mark.parametrize('policy', ['mixed_bfloat16', 'mixed_float16', 'float64'])
def test_gates_are_float32_under_any_policy(policy):
  before = tf_keras.mixed_precision.global_policy()
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    dtype = tf_keras.mixed_precision.Policy(policy).compute_dtype
    inputs = {level: tf.cast(x, dtype) for level, x in FEATURES.items()}
    for kind in ('channel', 'recurrent', 'random'):
      gate, selection = gates.build_gate(kind, CHANNELS, 2), gumbel_selection.GumbelSelection()
      logits = gate(inputs)
      chosen = selection(logits, training=True)
      assert {x.dtype for x in (logits, *chosen, *gate.variables)} == {tf.float32}
  finally:
    tf_keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize('options, message', [
    ({'type': 'spatial'}, "^type is 'spatial'; allowed are 'channel', 'recurrent', 'random'"),
    ({'type': 'recurrent', 'direction': 'sideways'}, "^direction is 'sideways'"),
    ({'type': 'random', 'random_probability': 1.0}, '^random_probability is 1.0'),
    ({'type': 'channel', 'initial_bias': [1.0]}, '^initial_bias has 1 values for 2 paths'),
    ({'type': 'channel', 'random_probability': 0.5},
     "^random_probability is 0.5, and type 'channel', which learns when a path opens"),
    ({'type': 'random', 'initial_bias': [0.1, 2.0]},
     "^initial_bias is \\[0.1, 2.0\\], and type 'random', which has no bias"),
])
def test_build_gate_refuses_wrong_options(options, message):
  with pytest.raises(checks.ArgumentError, match=message) as caught:
    gates.build_gate(channels=CHANNELS, num_paths=2, **options)
  assert caught.value.argument in options


def test_random_signal_refuses_a_wrong_probability():
  with pytest.raises(checks.ArgumentError, match='^probability is 0.0'):
    gates.RandomSignal(CHANNELS, 2, probability=0.0)


@pytest.mark.parametrize('options, message', [
    ({'temperature': 0.0}, '^temperature is 0.0'),
    ({'evaluation': 'sampled'}, "^evaluation is 'sampled'; allowed are 'argmax', 'random'")])
def test_selection_refuses_wrong_options(options, message):
  with pytest.raises(checks.ArgumentError, match=message) as caught:
    gumbel_selection.GumbelSelection(**options)
  assert caught.value.argument in options


def _selection(**options):
  layer = gumbel_selection.GumbelSelection(**{'name': 'selection', **options})
  layer.build(None)
  layer.built = True
  return layer


def _noise(layer, shape, step=0):
  """Returns the noise that the layer draws at a step, and resets the counter to the step."""
  counter, = layer.variables
  counter.assign(step)
  noise = layer._gumbel(tf.constant(shape))
  assert int(counter) == step + 1
  counter.assign(step)
  return noise.numpy()


@pytest.mark.parametrize('paths', [2, 7])
@pytest.mark.parametrize('temperature', [1.0, 0.5, 3.0])
def test_choice_and_gradient_equal_numpy(paths, temperature):
  layer = _selection(temperature=temperature)
  rng = np.random.default_rng(0)
  logits = tf.constant(rng.normal(size=[5, 4, paths]), tf.float32)
  weights = rng.normal(size=[5, 4, paths])
  noise = _noise(layer, logits.shape, step=3)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    gate, expected, probability = layer(logits, training=True)
    loss = tf.reduce_sum(tf.cast(weights, tf.float32) * gate)
  noisy = (logits.numpy().astype(np.float64) + noise) / temperature
  np.testing.assert_array_equal(gate, np.eye(paths)[noisy.argmax(-1)])
  np.testing.assert_allclose(probability, reference.softmax(logits.numpy()), 1e-5)
  np.testing.assert_array_equal(gate, expected)
  soft = reference.softmax(noisy)
  by_hand = soft * (weights - np.sum(weights * soft, -1, keepdims=True)) / temperature
  np.testing.assert_allclose(tape.gradient(loss, logits), by_hand, 1e-4, 1e-6)


def test_noise_is_gumbel():
  noise = np.sort(_noise(_selection(), [100000]))
  assert np.all(np.isfinite(noise))
  distance = np.abs(np.exp(-np.exp(-noise)) - (np.arange(100000) + 0.5) / 100000).max()
  assert distance < 1.63 / 100000**0.5  # Kolmogorov-Smirnov, 1 %


@pytest.mark.parametrize('temperature', [1.0, 0.5])
@pytest.mark.parametrize('logits', [[0.1, 2.0], [0.0, 0.0], [0.5, -1.0, 0.0, 2.0, 1.0, -2.0, 0.3]])
def test_frequencies_are_the_softmax(logits, temperature):
  draws = 10000
  layer = _selection(temperature=temperature)
  gate = layer(tf.tile(tf.constant(logits)[None], [draws, 1]), training=True).gate
  probability = reference.softmax(np.array(logits))
  sigma = np.sqrt(probability * (1 - probability) / draws)
  assert np.all(np.abs(np.mean(gate, 0) - probability) < 3 * sigma)


def test_noise_differs_by_layer_seed_step_and_replica_and_repeats():
  shape = [1000]
  context = mock.Mock(replica_id_in_sync_group=1)
  noises = [_noise(_selection(), shape), _noise(_selection(name='other'), shape),
            _noise(_selection(seed=1), shape), _noise(_selection(), shape, step=1)]
  with mock.patch.object(tf.distribute, 'get_replica_context', return_value=context):
    noises.append(_noise(_selection(), shape))
  correlation = np.corrcoef(noises) - np.eye(len(noises))
  assert np.max(np.abs(correlation)) < 0.12
  np.testing.assert_array_equal(_noise(_selection(), shape), noises[0])


@pytest.mark.parametrize('in_graph', [False, True])
def test_restoring_the_counter_repeats_the_noise(in_graph, tmp_path):
  logits = tf.zeros([50, 7])

  def make():
    layer = _selection()

    def call():
      return layer(logits, training=True).gate

    return layer, tf.function(call, autograph=False) if in_graph else call

  layer, draw = make()
  draws = [draw().numpy() for _ in range(2)]
  checkpoint = tf.train.Checkpoint(layer=layer).save(str(tmp_path / 'ckpt'))
  draws += [draw().numpy() for _ in range(3)]
  assert all(not np.array_equal(draws[i], draws[j]) for i in range(5) for j in range(i))
  resumed, draw = make()
  tf.train.Checkpoint(layer=resumed).restore(checkpoint).assert_consumed()
  for expected in draws[2:]:
    np.testing.assert_array_equal(draw(), expected)


def test_inference_takes_the_largest_logit_without_noise():
  layer = _selection()
  logits = tf.constant(np.random.default_rng(0).normal(size=[50, 3, 7]), tf.float32)
  for training in (False, None):
    gate, expected, _ = layer(logits, training=training)
    np.testing.assert_array_equal(gate, np.eye(7)[np.argmax(logits, -1)])
    np.testing.assert_allclose(expected, reference.softmax(logits.numpy()), 1e-5)
  assert int(layer.variables[0]) == 0


def test_gates_drawn_at_inference():
  """Either the tape or the option asks for draws; a budget then sees the probabilities."""
  logits = tf.tile([[0.1, 2.0]], [2000, 1])
  by_tape, by_option = _selection(), _selection(always_draws=True)
  with routing.RoutingTape(sample_gates=True):
    first = by_tape(logits, training=False)
  second = by_option(logits, training=False)
  third = by_option(logits, training=False)
  np.testing.assert_array_equal(first.gate, second.gate)
  assert not np.array_equal(second.gate, third.gate)
  probability = reference.softmax(np.array([0.1, 2.0]))
  np.testing.assert_allclose(np.mean(first.gate, 0), probability, atol=0.03)
  np.testing.assert_allclose(first.expected, np.broadcast_to(probability, [2000, 2]), 1e-5)
  with routing.RoutingTape():
    np.testing.assert_array_equal(by_tape(logits, training=False).gate[:, 1], 1)


def test_random_evaluation_ignores_the_logits_but_training_does_not():
  layer = _selection(evaluation='random')
  logits = tf.tile([[-30.0, 30.0]], [2000, 1])
  gate, expected, _ = layer(logits, training=False)
  assert abs(np.mean(gate[:, 1]) - 0.5) < 0.04
  np.testing.assert_array_equal(expected, np.full([2000, 2], 0.5))
  np.testing.assert_array_equal(layer(logits, training=True).gate[:, 1], 1)


@pytest.mark.parametrize('target', [0.3, 0.7])
def test_a_budget_is_met_after_200_steps(target):
  """Ten gates of equal cost are trained with the budget as their only loss."""
  tf_keras.utils.set_random_seed(0)
  levels = {f'{level}': 4 for level in range(10)}
  inputs = reference.pyramid_inputs(levels, size=(4, 4), batch=16)
  gate, selection = gates.ChannelGate(levels, 2, initial_bias=[0.1, 2.0]), _selection()
  gate(inputs)
  optimizer = tf_keras.optimizers.Adam(0.1)

  @tf.function(autograph=False)
  def step():
    with tf.GradientTape() as tape:
      chosen = selection(gate(inputs), training=True)
      record = routing.Routing(
          {}, *[tf.reduce_sum(x[..., 1], 1) for x in chosen[:2]], tf.constant(0.0),
          tf.constant(10.0), tf.constant(10.0))
      loss = budgets.budget_loss(record, target)
    variables = gate.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    return tf.reduce_mean(record.executed) / 10

  shares = [float(step()) for _ in range(200)]
  assert shares[0] > 0.8
  assert abs(np.mean(shares[-10:]) / target - 1) < 0.05


def test_a_gate_of_few_channels_looks_at_them():
  """A quarter of three channels is no hidden unit: the gate would be alike for all images."""
  gate = gates.ChannelGate({'3': 3}, 2, name='gate')
  features = {'3': tf.random.stateless_uniform([2, 4, 4, 3], [1, 2])}
  gate(features)
  spies.randomize(gate)
  hidden = [variable for variable in gate.variables if 'hidden_3/kernel' in variable.name]
  hidden[0].assign(tf.abs(hidden[0]))  # so that the only unit is not shut
  first, second = gate(features)
  assert np.all(np.abs(first - second) > 1e-4)
  assert gate.multiply_adds() == 3 * 1 + 1 * 2
