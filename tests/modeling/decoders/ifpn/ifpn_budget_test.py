"""An implicit pyramid that runs as many evaluations as the budget of a call says."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import ifpn
from official_ext.ops import routing
from official_ext.tasks import initialization
import component
import ifpn_reference
import reference
import spies

CHANNELS = {'3': 6, '4': 5}
MOST = {'training_evaluations': 5, 'inference_evaluations': 5, 'backward_evaluations': 1}
BUDGETS = np.array([0.0, 0.1, 0.13, 0.5, 0.87, 0.88, 1.0, np.nan], np.float32)
# Between 1 and 5, to the nearest: 1, 1.4, 1.52, 3, 4.48, 4.52, 5.
EVALUATIONS = [1, 1, 2, 3, 4, 5, 5, 5]


def _make(dtype='float64', **solver):
  layer = ifpn.ImplicitFPN(
      {level: [None, None, None, depth] for level, depth in CHANNELS.items()}, min_level=3,
      max_level=5, num_filters=8, dropout=0.0, name='part', dtype=dtype,
      solver={**MOST, 'budget_input': True, **solver})
  layer(_inputs(1))
  return layer


def _inputs(batch=8):
  return reference.pyramid_inputs(CHANNELS, (16, 16), batch, dtype=np.float64)


def _run(layer, inputs, budget, **options):
  with routing.RoutingTape() as tape, routing.spending(budget):
    outputs = layer(inputs, **options)
  return outputs, tape.records()['part']


def test_each_image_runs_the_evaluations_of_its_budget_as_numpy_does():
  layer, inputs = _make(solver='unroll', gradient='unroll'), _inputs()
  spies.randomize(layer)
  outputs, record = _run(layer, inputs, BUDGETS)
  np.testing.assert_array_equal(record.metrics['evaluations'], EVALUATIONS)
  weights = {v.name.split('map/')[1][:-2]: v.numpy() for v in layer.map.variables}
  network = ifpn_reference.Map(weights, 3)
  basis = [x.numpy() for x in layer.basis(inputs).values()]
  state = [np.zeros_like(x) for x in basis]
  for count in range(1, 6):
    state = network.sum_injection(state, basis, 'pyramid')
    rows = [row for row, number in enumerate(EVALUATIONS) if number == count]
    component.same({level: tf.gather(x, rows) for level, x in outputs.items()},
                   {level: x[rows] for level, x in zip('345', state)}, 1e-9)
  one = float(record.maximum) / 5
  np.testing.assert_allclose(record.executed, one * np.array(EVALUATIONS), 1e-6)
  np.testing.assert_allclose(record.minimum, one, 1e-6)


@pytest.mark.parametrize('solver', ['anderson', 'broyden'])
def test_an_image_gets_what_a_solver_of_so_many_evaluations_gives(solver):
  layer, inputs = _make(solver=solver, least_evaluations=2), _inputs(3)
  outputs, record = _run(layer, inputs, np.array([0.0, 0.6, 1.0], np.float32))
  np.testing.assert_array_equal(record.metrics['evaluations'], [2, 4, 5])
  for row, count in enumerate((2, 4, 5)):
    fixed = _make(solver=solver, budget_input=False, inference_evaluations=count)
    fixed.set_weights(layer.get_weights())
    alone = fixed({level: x[row:row + 1] for level, x in inputs.items()})
    component.same({level: x[row:row + 1] for level, x in outputs.items()}, alone, 1e-5)


def test_a_tolerance_stops_images_before_their_budget():
  layer, inputs = _make(tolerance=0.5), _inputs(3)
  _, record = _run(layer, inputs, np.array([0.0, 0.5, 1.0], np.float32))
  steps = record.metrics['evaluations'].numpy()
  assert steps[0] == 1 and steps[1] <= 3 and steps[2] < 5


@pytest.mark.parametrize('gradient', ['implicit', 'phantom', 'jacobian_free', 'unroll'])
def test_training_runs_the_budget_and_every_weight_learns(gradient):
  solver = {'solver': 'unroll'} if gradient == 'unroll' else {}
  layer, inputs = _make('float32', gradient=gradient, phantom_steps=2, **solver), _inputs(2)
  spies.randomize(layer)

  @tf.function(autograph=False)
  def step(budget):
    with tf.GradientTape() as tape:
      outputs, record = _run(layer, inputs, budget, training=True)
      loss = tf.add_n([tf.reduce_sum(x**3) for x in outputs.values()])
    costs = record.executed, record.minimum, record.maximum
    return record.metrics['evaluations'], costs, tape.gradient(loss, layer.trainable_variables)

  more = {'phantom': 2, 'unroll': 0}.get(gradient, 1)
  for budget, count in ((0.0, 1), (0.55, 3), (1.0, 5)):
    evaluations, (executed, minimum, maximum), gradients = step(tf.constant(budget))
    np.testing.assert_array_equal(evaluations, [count] * 2)
    np.testing.assert_allclose(executed / maximum, (count + more) / (5 + more), 1e-6)
    np.testing.assert_allclose(minimum / maximum, (1 + more) / (5 + more), 1e-6)
    for variable, value in zip(layer.trainable_variables, gradients):
      assert np.all(np.isfinite(value)), variable.name
      assert np.any(value != 0) or count == 1, variable.name


def test_without_a_budget_it_is_the_layer_without_the_option(tmp_path):
  plain, layer = _make(budget_input=False), _make()
  assert layer.has_budget_input and not plain.has_budget_input
  saved = tf.train.Checkpoint(decoder=plain).save(str(tmp_path / 'plain'))
  initialization.load({'decoder': layer}, saved, 'decoder')
  component.same(layer(_inputs(2)), plain(_inputs(2)), 1e-6)


def test_warm_up_heeds_no_budget():
  layer = _make('float32', warmup_unroll_steps=1, warmup_evaluations=2)
  counts = [_run(layer, _inputs(1), 0.5, training=True)[1].metrics['evaluations'][0]
            for _ in range(2)]
  assert counts == [2, 3]
