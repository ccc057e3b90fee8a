"""The routing tape, its guards, and the budget."""
import threading

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.ops import routing


def _record(gate=(1.0, 0.0), cost=10.0, fixed=1.0, names=('',)):
  gate = tf.convert_to_tensor(gate)
  return dict(
      gates=dict.fromkeys(names, gate), executed=fixed + gate * cost,
      expected=fixed + gate * cost / 2, minimum=tf.constant(fixed),
      maximum=tf.constant(fixed + cost), dense=tf.constant(fixed + 2 * cost))


class Part(tf_keras.layers.Layer):
  """Routes without doing anything."""
  is_routed = True
  inference = 'skip'

  def call(self, inputs):
    routing.record_on_tape(self.name, **_record(gate=inputs))
    return inputs


def test_nothing_is_recorded_without_a_tape():
  assert routing.RoutingTape.current() is None
  routing.record_on_tape('part', **_record())
  with routing.RoutingTape() as tape:
    pass
  assert tape.routing() is None
  assert not tape.records()


def test_merges_layers():
  with routing.RoutingTape() as tape:
    routing.record_on_tape('neck', **_record(names=['3', '4']))
    routing.record_on_tape('head', **_record([0.0, 0.25], cost=8.0, fixed=2.0))
  merged = tape.routing()
  assert sorted(merged.gates) == ['head', 'neck/3', 'neck/4']
  np.testing.assert_array_equal(merged.gates['head'], [0, 0.25])
  np.testing.assert_array_equal(merged.executed, [1 + 10 + 2, 1 + 2 + 2])
  np.testing.assert_array_equal(merged.expected, [1 + 5 + 2, 1 + 2 + 1])
  assert (float(merged.minimum), float(merged.maximum), float(merged.dense)) == (3, 21, 39)
  np.testing.assert_array_equal(tape.records()['head'].executed, [2, 4])


def test_measures_are_kept_by_layer():
  residual = tf.constant([0.1, 0.2])
  with routing.RoutingTape(diagnose=True) as tape:
    assert routing.RoutingTape.current().diagnose
    routing.record_on_tape('neck', **_record(), measures={'residual': residual})
    routing.record_on_tape('head', **_record())
  merged = tape.routing()
  assert list(merged.measures) == ['neck/residual']
  np.testing.assert_array_equal(merged.measures['neck/residual'], residual)
  assert not tape.records()['head'].measures
  np.testing.assert_array_equal(merged.executed, [22, 2])


def test_the_innermost_tape_records_and_the_outer_one_goes_on():
  with routing.RoutingTape() as outer:
    routing.record_on_tape('first', **_record())
    with routing.RoutingTape(sample_gates=True) as inner:
      assert routing.RoutingTape.current() is inner
      routing.record_on_tape('second', **_record())
    assert routing.RoutingTape.current() is outer
    routing.record_on_tape('third', **_record())
  assert list(inner.records()) == ['second']
  assert list(outer.records()) == ['first', 'third']
  assert routing.RoutingTape.current() is None


def test_closes_on_errors_and_starts_empty_again():
  tape = routing.RoutingTape()
  with pytest.raises(RuntimeError, match='stop'), tape:
    routing.record_on_tape('part', **_record())
    raise RuntimeError('stop')
  assert routing.RoutingTape.current() is None
  with tape:
    routing.record_on_tape('part', **_record())
  assert list(tape.records()) == ['part']


def test_threads_have_tapes_of_their_own():
  seen = []

  def work():
    seen.append(routing.RoutingTape.current())
    routing.record_on_tape('part', **_record())
    with routing.RoutingTape() as tape:
      routing.record_on_tape('part', **_record())
    seen.append(list(tape.records()))

  with routing.RoutingTape() as outer:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
  assert seen == [None, ['part']]
  assert not outer.records()


def test_recording_twice_is_an_error():
  with routing.RoutingTape():
    routing.record_on_tape('part', **_record())
    routing.record_on_tape('part/2', **_record())
    with pytest.raises(ValueError, match="'part' is recorded twice.*recompute_grad"):
      routing.record_on_tape('part', **_record())


def _in_cond(x):
  return tf.cond(tf.reduce_sum(x) > 0, lambda: Part(name='part')(x), lambda: x)


def _in_loop(x):
  return tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, Part(name='part')(x)), [0, x])[1]


def _in_map(x):
  return tf.map_fn(Part(name='part'), x[:, None])


@pytest.mark.parametrize('inner', [_in_cond, _in_loop, _in_map])
def test_inner_graphs_are_refused(inner):
  @tf.function(autograph=False)
  def step(x):
    with routing.RoutingTape():
      return inner(x)

  with pytest.raises(ValueError, match="'part' records in graph .* the tape was opened in"):
    step(tf.ones([2]))
  assert routing.RoutingTape.current() is None


def test_a_function_traced_under_an_eager_tape_is_refused():
  step = tf.function(Part(name='part'), autograph=False)
  with routing.RoutingTape(), pytest.raises(ValueError, match="opened in 'eager'"):
    step(tf.ones([2]))


@pytest.mark.parametrize('inner', [_in_loop, _in_map])
def test_eager_loops_record_twice_and_are_refused(inner):
  with routing.RoutingTape(), pytest.raises(ValueError, match='recorded twice'):
    inner(tf.ones([2]))


def test_a_tape_inside_a_function_works():
  @tf.function(autograph=False)
  def step(x):
    with routing.RoutingTape() as tape:
      Part(name='part')(x)
    return tape.routing()

  for gate in ([1.0, 0.0], [0.5, 0.5, 0.5]):
    np.testing.assert_array_equal(step(tf.constant(gate)).executed, 1 + 10 * np.array(gate))


def test_check_complete_names_what_recorded_nothing():
  model = tf_keras.Sequential([Part(name='first'), Part(name='second')])
  gate = tf.constant([1.0, 0.0])
  traced = tf.function(model, autograph=False)
  traced(gate)
  with routing.RoutingTape() as tape:
    traced(gate)
  with pytest.raises(ValueError, match='(?=.*first)(?=.*second).*recorded nothing'):
    tape.check_complete(model)
  with routing.RoutingTape() as tape:
    model.layers[0](gate)
  with pytest.raises(ValueError, match=r"\['second'\] recorded nothing"):
    tape.check_complete(model)
  with routing.RoutingTape() as tape:
    model(gate)
  tape.check_complete(model)


def test_check_complete_takes_parts_for_their_layer_but_not_longer_names():
  with routing.RoutingTape() as tape:
    routing.record_on_tape('head/3', **_record())
    routing.record_on_tape('neck_2', **_record())
  tape.check_complete(Part(name='head'))
  with pytest.raises(ValueError, match='neck'):
    tape.check_complete(Part(name='neck'))


def test_vectorized_map_shows_one_row_only():
  """What `check_complete` cannot see: `executed` is not as long as the batch."""
  layer = Part(name='part')
  lengths = []

  @tf.function(autograph=False)
  def step(x):
    with routing.RoutingTape() as tape:
      y = tf.vectorized_map(layer, x[:, None])
    lengths.append(tape.routing().executed.shape[0])
    return y

  step(tf.ones([3]))
  assert lengths[0] != 3
  with routing.RoutingTape(), pytest.raises(ValueError, match='opened in .eager'):
    tf.vectorized_map(layer, tf.ones([3, 1]))


def test_routed_layers_and_their_inference():
  model = tf_keras.Sequential([Part(name='first'), tf_keras.layers.Dense(2), Part(name='second')])
  assert {layer.name for layer in routing.routed_layers(model)} == {'first', 'second'}
  routing.set_inference(model, 'mask')
  assert [layer.inference for layer in routing.routed_layers(model)] == ['mask', 'mask']
  with pytest.raises(ValueError, match="inference is 'fast'.*`skip`.*`mask`"):
    routing.set_inference(model, 'fast')


@pytest.mark.parametrize('in_graph', [False, True])
def test_all_open_costs_exactly_the_maximum(in_graph):
  """1000 random networks of five routed layers; TensorFlow reorders sums in graphs."""
  rng = np.random.default_rng(0)
  costs = tf.constant(rng.uniform(1, 1e11, [5, 1000]), tf.float32)
  own = tf.constant(rng.uniform(0, 1e6, [5, 1000]), tf.float32)

  def record(gates):
    with routing.RoutingTape() as tape:
      for layer in range(5):
        maximum = own[layer] + costs[layer]
        executed = own[layer] + gates[layer] * costs[layer]
        routing.record_on_tape(f'part_{layer}', gates={}, executed=executed, expected=executed,
                               minimum=own[layer], maximum=maximum, dense=maximum)
    return tape.routing()

  run = tf.function(record, autograph=False) if in_graph else record
  merged = run(tf.ones([5, 1000]))
  assert merged.executed.dtype == tf.float32
  np.testing.assert_array_equal(merged.executed, merged.maximum)
  merged = run(tf.zeros([5, 1000]))
  np.testing.assert_array_equal(merged.executed, merged.minimum)
  merged = run(tf.constant(rng.integers(0, 2, [5, 1000]), tf.float32))
  assert np.all(merged.minimum <= merged.executed)
  assert np.all(merged.executed <= merged.maximum)


def _routing(expected, minimum=2.0, maximum=12.0):
  expected = tf.convert_to_tensor(expected)
  return routing.Routing({}, expected, expected, tf.constant(minimum), tf.constant(maximum),
                         tf.constant(maximum))


def test_budget_by_hand():
  record = _routing([2.0, 7.0, 12.0])  # shares 0, 0.5, 1
  squares = [0.3**2, 0.2**2, 0.7**2]
  mean = routing.budget_loss(record, 0.3)
  assert mean.dtype == tf.float32
  assert mean.shape == ()
  np.testing.assert_allclose(mean, np.mean(squares), 1e-6)
  np.testing.assert_allclose(routing.budget_loss(record, 0.3, 'sum'), np.sum(squares), 1e-6)


def test_budget_is_zero_at_its_target_and_pulls_from_both_sides():
  cost = tf.Variable([5.0, 3.0, 9.0])
  with tf.GradientTape() as tape:
    loss = routing.budget_loss(_routing(cost), 0.3, 'sum')
  gradient = tape.gradient(loss, cost)
  # d/dc ((c - 2) / 10 - 0.3)**2 = 2 (share - target) / 10
  np.testing.assert_allclose(gradient, [0, 2 * (0.1 - 0.3) / 10, 2 * (0.7 - 0.3) / 10], 1e-5, 1e-7)
  np.testing.assert_allclose(routing.budget_loss(_routing([5.0]), 0.3), 0, atol=1e-12)


def test_absolute_budget_by_hand():
  cost = tf.Variable([2.0, 7.0, 12.0])  # shares 0, 0.5, 1
  with tf.GradientTape() as tape:
    loss = routing.budget_loss(_routing(cost), 0.0, distance='absolute')
  np.testing.assert_allclose(loss, 0.5, 1e-6)
  # The share of an image that is shut has no gradient: there is nothing left to pull.
  np.testing.assert_allclose(tape.gradient(loss, cost), [0, 1 / 30, 1 / 30], 1e-6)
  np.testing.assert_allclose(
      routing.budget_loss(_routing(cost), 0.6, 'sum', 'absolute'), 0.6 + 0.1 + 0.4, 1e-6)


def test_budget_of_a_network_that_cannot_save_is_finite():
  assert float(routing.budget_loss(_routing([2.0], 2.0, 2.0), 0.5)) == 0.25


@pytest.mark.parametrize('options, message', [
    ((1.5, 'mean'), 'budget target is 1.5.*task.budget.target'),
    ((-0.1, 'mean'), 'between 0'),
    ((0.5, 'max'), "reduction is 'max'.*task.budget.reduction"),
    ((0.5, 'mean', 'cubed'), "distance is 'cubed'.*task.budget.distance")])
def test_budget_refuses_wrong_options(options, message):
  with pytest.raises(ValueError, match=message):
    routing.budget_loss(_routing([5.0]), *options)
