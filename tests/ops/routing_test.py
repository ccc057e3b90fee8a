"""The routing tape: what it merges, and which calls it refuses."""
import threading

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.layers import routed
from official_ext.ops import routing


def _fields(gate=(1.0, 0.0), cost=10.0, fixed=1.0, names=('gate',)):
  gate = tf.convert_to_tensor(gate)
  return dict(
      gates=dict.fromkeys(names, gate), executed=fixed + gate * cost,
      expected=fixed + gate * cost / 2, minimum=tf.constant(fixed),
      maximum=tf.constant(fixed + cost), all_branches=tf.constant(fixed + 2 * cost))


def _record(name, **fields):
  """Records on the open tape."""
  routing.RoutingTape.current().record(name, routing.Routing(**fields))


class GateLayer(routed.RoutedLayer):
  """Records its input as its gate."""

  def call(self, inputs):
    self.record(**_fields(gate=inputs))
    return inputs


@pytest.mark.parametrize('given, used', [
    (0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (-0.1, 0.0), (7.0, 1.0), (np.inf, 1.0), (np.nan, 0.0)])
@pytest.mark.parametrize('in_graph', [False, True])
def test_a_threshold_of_gates_is_a_number_from_0_to_1(given, used, in_graph):
  def read(threshold):
    with routing.shutting_gates(threshold):
      return tf.identity(routing.gate_threshold())

  threshold = tf.function(read)(tf.constant(given)) if in_graph else read(given)
  assert threshold == np.float32(used)
  assert routing.gate_threshold() is None


def test_the_innermost_threshold_counts_in_its_thread_alone():
  others = []
  with routing.shutting_gates(0.5):
    with pytest.raises(KeyError), routing.shutting_gates(0.1):
      assert routing.gate_threshold() == np.float32(0.1)
      raise KeyError
    assert routing.gate_threshold() == 0.5
    thread = threading.Thread(target=lambda: others.append(routing.gate_threshold()))
    thread.start()
    thread.join()
  assert others == [None]


@pytest.mark.parametrize('given, used', [
    (0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (-0.1, 0.0), (-np.inf, 0.0), (7.0, 1.0), (np.inf, 1.0),
    (np.nan, 1.0), ([0.2, -1.0, np.nan], [0.2, 0.0, 1.0])])
@pytest.mark.parametrize('in_graph', [False, True])
def test_a_budget_is_a_number_from_0_to_1_or_one_for_each_image(given, used, in_graph):
  def read(budget):
    with routing.spending(0.7), routing.spending(budget):
      return tf.identity(routing.wanted_budget())

  budget = tf.function(read)(tf.constant(given)) if in_graph else read(given)
  np.testing.assert_array_equal(budget, np.float32(used))
  assert routing.wanted_budget() == 1


def test_nothing_is_recorded_without_a_tape():
  assert routing.RoutingTape.current() is None
  GateLayer(name='part')(tf.constant([1.0, 0.0]))
  with routing.RoutingTape() as tape:
    pass
  assert tape.routing() is None
  assert not tape.records()


def test_merges_layers():
  with routing.RoutingTape() as tape:
    _record('neck', **_fields(names=['3', '4']))
    _record('head', **_fields([0.0, 0.25], cost=8.0, fixed=2.0))
  merged = tape.routing()
  assert sorted(merged.gates) == ['head/gate', 'neck/3', 'neck/4']
  np.testing.assert_array_equal(merged.gates['head/gate'], [0, 0.25])
  np.testing.assert_array_equal(merged.executed, [1 + 10 + 2, 1 + 2 + 2])
  np.testing.assert_array_equal(merged.expected, [1 + 5 + 2, 1 + 2 + 1])
  assert (float(merged.minimum), float(merged.maximum), float(merged.all_branches)) == (3, 21, 39)
  np.testing.assert_array_equal(tape.records()['head'].executed, [2, 4])


def test_metrics_are_kept_by_layer():
  residual = tf.constant([0.1, 0.2])
  with routing.RoutingTape(diagnose=True) as tape:
    assert routing.RoutingTape.current().diagnose
    _record('neck', **_fields(), metrics={'residual': residual})
    _record('head', **_fields())
  merged = tape.routing()
  assert list(merged.metrics) == ['neck/residual']
  np.testing.assert_array_equal(merged.metrics['neck/residual'], residual)
  assert not tape.records()['head'].metrics
  np.testing.assert_array_equal(merged.executed, [22, 2])


def test_the_soft_cost_sums_the_layers_that_have_one():
  with routing.RoutingTape() as tape:
    _record('neck', **_fields())
  assert tape.routing().soft_cost is None
  with routing.RoutingTape() as tape:
    _record('neck', **_fields())
    _record('backbone', **_fields(), soft_cost=tf.constant([3.0, 4.0]))
  np.testing.assert_array_equal(tape.routing().soft_cost, [3, 4])


def test_a_tape_is_found_by_its_class():

  class OwnTape(routing.RoutingTape):
    """A tape of another kind."""

  with OwnTape() as own, routing.RoutingTape() as inner:
    assert routing.RoutingTape.current() is inner
    assert OwnTape.current() is own
  with routing.RoutingTape():
    assert OwnTape.current() is None


def test_the_innermost_tape_records_and_the_outer_one_records_again_after_it():
  with routing.RoutingTape() as outer:
    _record('first', **_fields())
    with routing.RoutingTape(sample_gates=True) as inner:
      assert routing.RoutingTape.current() is inner
      _record('second', **_fields())
    assert routing.RoutingTape.current() is outer
    _record('third', **_fields())
  assert list(inner.records()) == ['second']
  assert list(outer.records()) == ['first', 'third']
  assert routing.RoutingTape.current() is None


def test_closes_on_errors_and_starts_empty_again():
  tape = routing.RoutingTape()
  with pytest.raises(RuntimeError, match='stop'), tape:
    _record('part', **_fields())
    raise RuntimeError('stop')
  assert routing.RoutingTape.current() is None
  with tape:
    _record('part', **_fields())
  assert list(tape.records()) == ['part']


def test_threads_have_tapes_of_their_own():
  seen = []

  def work():
    seen.append(routing.RoutingTape.current())
    with routing.RoutingTape() as tape:
      _record('part', **_fields())
    seen.append(list(tape.records()))

  with routing.RoutingTape() as outer:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
  assert seen == [None, ['part']]
  assert not outer.records()


def test_recording_twice_is_an_error():
  with routing.RoutingTape():
    _record('part', **_fields())
    with pytest.raises(ValueError, match="'part' is recorded twice.*recompute_grad"):
      _record('part', **_fields())


def _in_cond(x):
  return tf.cond(tf.reduce_sum(x) > 0, lambda: GateLayer(name='part')(x), lambda: x)


def _in_loop(x):
  return tf.while_loop(
      lambda i, x: i < 2, lambda i, x: (i + 1, GateLayer(name='part')(x)), [0, x])[1]


def _in_map(x):
  return tf.map_fn(GateLayer(name='part'), x[:, None])


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
  step = tf.function(GateLayer(name='part'), autograph=False)
  with routing.RoutingTape(), pytest.raises(ValueError, match="opened in 'eager'"):
    step(tf.ones([2]))


@pytest.mark.parametrize('inner', [_in_loop, _in_map])
def test_eager_loops_record_twice_and_are_refused(inner):
  with routing.RoutingTape(), pytest.raises(ValueError, match='recorded twice'):
    inner(tf.ones([2]))


def test_a_tape_inside_a_function_records():
  @tf.function(autograph=False)
  def step(x):
    with routing.RoutingTape() as tape:
      GateLayer(name='part')(x)
    return tape.routing()

  for gate in ([1.0, 0.0], [0.5, 0.5, 0.5]):
    np.testing.assert_array_equal(step(tf.constant(gate)).executed, 1 + 10 * np.array(gate))


def test_vectorized_map_shows_one_row_only():
  """`check_complete` does not see this mistake, but `executed` is not as long as the batch."""
  layer = GateLayer(name='part')
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


@pytest.mark.parametrize('in_graph', [False, True])
def test_all_open_costs_exactly_the_maximum(in_graph):
  """1000 random networks of five routed layers have exact sums, which graphs reorder."""
  rng = np.random.default_rng(0)
  costs = tf.constant(rng.uniform(1, 1e11, [5, 1000]), tf.float32)
  own = tf.constant(rng.uniform(0, 1e6, [5, 1000]), tf.float32)

  def record(gates):
    with routing.RoutingTape() as tape:
      for layer in range(5):
        maximum = own[layer] + costs[layer]
        executed = own[layer] + gates[layer] * costs[layer]
        _record(f'part_{layer}', gates={}, executed=executed, expected=executed,
                minimum=own[layer], maximum=maximum, all_branches=maximum)
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


def test_only_gates_with_height_and_width_are_per_position():
  for shape, expected in (([2], False), ([2, 7], False), ([2, 4, 6, 1], True)):
    assert routing.is_per_position(tf.zeros(shape)) == expected
