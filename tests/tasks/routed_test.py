"""The routing tape around Model Garden's steps: budget, logs, evaluation, warnings."""
import copy

from absl import logging
import numpy as np
from official.vision.tasks import retinanet
import pytest
import tensorflow as tf, tf_keras

from official_ext.losses import budgets
from official_ext.ops import routing
from official_ext.tasks import retinanet as retinanet_task
from official_ext.tasks import step_tape
import small_detectors

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'


@pytest.fixture(scope='module')
def dyfpn(sample_records):
  """Returns a small DyFPN RetinaNet with undecided gates, a training and a validation batch."""
  task, model = small_detectors.small_task(
      DYFPN, budget={'weight': 3.0, 'target': 0.25},
      annotation_file=f'{sample_records}/annotations/val.json')
  small_detectors.set_gate_bias(model, 0.0)
  return (task, model, small_detectors.batch(task, f'{sample_records}/train-*.tfrecord'),
          small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', training=False))


def _evaluate(task, model, batches):
  """Returns the logs of an evaluation, step by step as Model Garden's loop does on one replica."""
  task.build_metrics(training=False)
  state = None
  for inputs in batches:
    logs = task.validation_step(inputs, model)
    outputs = tf.nest.map_structure(lambda value: (value,), logs)
    state = task.aggregate_logs(state, outputs)
  return task.reduce_aggregated_logs(state)


def _saturate(model, open_by_level):
  """Makes a channel gate open (True) or shut (False) for every image."""
  for level, is_open in open_by_level.items():
    for variable in model.decoder.gate.trainable_variables:
      if f'/output_{level}/' in variable.name:
        variable.assign(tf.zeros_like(variable) if 'kernel' in variable.name
                        else [0.0, 100.0 if is_open else -100.0])


def test_budget_is_added_once_to_the_total_loss_and_pulls_on_every_gate(dyfpn):
  task, model, (images, labels), _ = dyfpn
  step = budgets.Step((64, 64), tf.constant(0))
  with tf.GradientTape() as gradients, step_tape.StepTape(step) as tape:
    outputs = model(images, training=True)
    with_budget = task.build_losses(outputs, labels, aux_losses=model.losses)[0]
    without = retinanet.RetinaNetTask.build_losses(task, outputs, labels, model.losses)[0]
    budget = with_budget - without
  record = tape.routing()
  share = ((record.expected - record.minimum) / (record.maximum - record.minimum)).numpy()
  np.testing.assert_allclose(budget, 3.0 * np.mean((share - 0.25)**2), rtol=1e-5)
  variables = model.decoder.gate.trainable_variables
  assert len(variables) == 12
  for variable, gradient in zip(variables, gradients.gradient(budget, variables)):
    assert np.any(gradient.numpy() != 0), variable.name


def test_train_step_moves_the_gates_and_reports_cost(dyfpn):
  task, model, inputs, _ = dyfpn
  weights = [np.array(weight) for weight in model.decoder.gate.get_weights()]
  metrics = task.build_metrics(training=True)
  task.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.1), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  assert values['routing/gmac/minimum'] <= values['routing/gmac/executed'] <= (
      values['routing/gmac/maximum'])
  # In training the expected cost is that of the sampled gates.
  np.testing.assert_allclose(values['routing/gmac/executed'], values['routing/gmac/expected'],
                             rtol=1e-6)
  savable = values['routing/gmac/maximum'] - values['routing/gmac/minimum']
  np.testing.assert_allclose(values['routing/gmac/target'],
                             values['routing/gmac/minimum'] + 0.25 * savable, rtol=1e-5)
  by_hand = sum(values[f'routing/gate/dyfpn/{level}'] * positions * channels * 103 * 64
                for level, (positions, channels) in small_detectors.MAPS.items()) / 1e9
  np.testing.assert_allclose(values['routing/gmac/executed'] - values['routing/gmac/minimum'],
                             by_hand, rtol=1e-4)
  assert all(np.any(weight != new)
             for weight, new in zip(weights, model.decoder.gate.get_weights()))


def test_without_routed_layers_a_step_equals_model_gardens(sample_records):
  task, model = small_detectors.small_task('retinanet_fpn_efficientnetlite0_sample')
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  assert [m.name for m in task.build_metrics()] == [
      'total_loss', 'cls_loss', 'box_loss', 'model_loss']
  stock = retinanet.RetinaNetTask(task.task_config)
  weights = [np.array(weight) for weight in model.get_weights()]
  routed_logs = task.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.1),
                                task.build_metrics())
  after = [np.array(weight) for weight in model.get_weights()]
  model.set_weights(weights)
  stock_logs = stock.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.1),
                                stock.build_metrics())
  assert float(routed_logs['total_loss']) == float(stock_logs['total_loss'])
  for weight, stock_weight in zip(after, model.get_weights()):
    np.testing.assert_array_equal(weight, stock_weight)


def test_evaluation_logs_equal_a_second_pass(dyfpn):
  task, model, _, inputs = dyfpn
  _saturate(model, {'3': True, '4': False, '5': True})
  logs = _evaluate(task, model, [inputs, inputs])
  with routing.RoutingTape() as tape:
    model(inputs[0], training=False)
  for name in ('executed', 'expected'):
    costs = getattr(tape.routing(), name).numpy() / 1e9
    for statistic in ('mean', 'min', 'max', 'std'):
      np.testing.assert_allclose(logs[f'routing/gmac/{name}/{statistic}'],
                                 getattr(np, statistic)(costs), rtol=1e-6, atol=1e-9)
  assert [logs[f'routing/gate/dyfpn/{level}'] for level in '345'] == [1.0, 0.0, 1.0]
  assert 'AP' in logs


def test_gates_that_never_change_in_an_evaluation_are_warned_of_by_name(dyfpn, monkeypatch):
  task, model, _, inputs = dyfpn
  _saturate(model, {'3': True, '4': False, '5': True})
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  _evaluate(task, model, [inputs])
  assert 'Gates open for every image of this evaluation: dyfpn/3, dyfpn/5.' in lines
  assert 'Gates shut for every image of this evaluation: dyfpn/4.' in lines
  assert not any('far from' in line for line in lines)


def test_drift_between_executed_and_expected_is_warned_of(dyfpn, monkeypatch):
  task, model, _, inputs = dyfpn
  _saturate(model, dict.fromkeys('345', True))
  for variable in model.decoder.gate.trainable_variables:
    if '/output_' in variable.name and 'bias' in variable.name:
      variable.assign([0.0, 0.1])  # Argmax always opens; sampling opens 52 % of the time.
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  _evaluate(task, model, [inputs])
  assert any('far from' in line for line in lines)


def test_sampled_runs_are_reported_beside_the_deterministic_one(dyfpn):
  task, model, _, inputs = dyfpn
  _saturate(model, dict.fromkeys('345', True))
  for variable in model.decoder.gate.trainable_variables:
    if '/output_' in variable.name and 'bias' in variable.name:
      variable.assign([0.0, 0.01])
  config = task.task_config.replace(sampled_evaluation_runs=8)
  sampling = retinanet_task.RoutedRetinaNetTask(config)
  sampling._budgets.attach(model)  # As `build_model` does.
  sampling.build_metrics(training=False)
  own_evaluator = sampling.coco_metric
  logs = _evaluate(sampling, model, [inputs])
  assert type(sampling.coco_metric) is type(own_evaluator)
  assert logs['routing/gmac/executed/mean'] == pytest.approx(logs['routing/gmac/maximum'])
  # 8 runs of 4 images and 3 levels that open half of the time: 3 standard deviations.
  share = logs['routing/sampled/gmac'] / logs['routing/gmac/maximum']
  assert abs(share - 0.5) < 3 * 0.5 * 0.7 / np.sqrt(8 * 4)
  assert {'routing/sampled/AP', 'routing/sampled/AP50'} <= set(logs)


@pytest.mark.slow
def test_faster_rcnn_steps_log_routing_too(sample_records):
  task, model = small_detectors.small_task(
      'fasterrcnn_dyfpn_efficientnetlite0_sample',
      model={'max_level': 6, 'input_size': [64, 64, 3]},
      annotation_file=f'{sample_records}/annotations/val.json')
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  metrics = task.build_metrics(training=True)
  before = copy.deepcopy(model.decoder.gate.get_weights())
  task.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.01), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  assert 0 < values['routing/gmac/executed'] <= values['routing/gmac/maximum']
  assert any(np.any(a != b) for a, b in zip(before, model.decoder.gate.get_weights()))
  validation = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', training=False)
  logs = _evaluate(task, model, [validation])
  assert {'routing/gmac/executed/mean', 'routing/gate/dyfpn/2', 'AP'} <= set(logs)
