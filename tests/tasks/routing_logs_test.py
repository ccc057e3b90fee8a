"""Metrics of routed layers reach the logs of training and evaluation, and warn once."""
from absl import logging
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.ops import routing
from official_ext.tasks import routing_logs
import small_detectors

NAMES = ['residual', 'evaluations', 'basis_std/3', 'basis_std/4']
IFPN = 'retinanet_ifpn_efficientnetlite0_sample'


def test_a_metric_above_its_limit_is_warned_of_once_by_name(monkeypatch):
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  metric = routing_logs.RoutingKerasMean('routing/metric/ifpn/residual', (0.3, 'not reached'))
  for loop in ([0.1, 0.2], [0.5, 0.3], [0.6, 0.6], [0.9, 0.9]):
    for value in loop:
      metric.update_state([value, value])
    metric.reset_state()
    metric.reset_state()
  # The moving averages are 0.15, 0.275 and 0.44: the third is above the limit.
  assert lines == ['routing/metric/ifpn/residual is 0.438, above 0.3: not reached.']
  metric = routing_logs.RoutingKerasMean('other', (0.3, 'not reached'))
  metric.update_state(np.nan)
  metric.reset_state()
  assert lines[1].startswith('other is nan')
  metric = routing_logs.RoutingKerasMean('free')
  metric.update_state(9.0)
  metric.reset_state()
  assert len(lines) == 2


def test_a_limit_is_looked_at_under_a_strategy_of_replicas(monkeypatch):
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  strategy = tf.distribute.MirroredStrategy(['/cpu:0'])
  with strategy.scope():
    metric = routing_logs.RoutingKerasMean('residual', (0.3, 'not reached'))
  metric.reset_state()
  for value in (0.2, 0.8):
    strategy.run(metric.update_state, ([value, value],))
    metric.reset_state()
  assert lines == ['residual is 0.5, above 0.3: not reached.']


@pytest.mark.slow
@pytest.mark.parametrize('diagnose', [False, True])
def test_training_and_evaluation_log_the_metrics_of_the_implicit_pyramid(
    sample_records, diagnose, monkeypatch):
  task, model = small_detectors.small_task(
      IFPN, diagnose_routing=diagnose, model={'max_level': 4, 'decoder': {'ifpn': {
          'num_filters': 16,
          'solver': {**small_detectors.SHORT_SOLVER, 'inference_evaluations': 3}}}},
      annotation_file=f'{sample_records}/annotations/val.json')
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  metrics = task.build_metrics(training=True)
  before = [weight.copy() for weight in model.decoder.get_weights()]
  task.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.01), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  assert {f'routing/metric/ifpn/{name}' for name in NAMES} <= set(values)
  assert values['routing/metric/ifpn/evaluations'] == 2
  # The gradient takes one more evaluation, which the cost does not count.
  assert values['routing/gmac/executed'] == values['routing/gmac/maximum'] > 0
  assert any(np.any(a != b) for a, b in zip(before, model.decoder.get_weights()))

  task.build_metrics(training=False)
  validation = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', training=False)
  lines = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
  monkeypatch.setitem(task._limits, 'metric/ifpn/residual', (0.0, 'not reached'))
  logs = task.validation_step(validation, model)
  state = task.aggregate_logs(None, tf.nest.map_structure(lambda value: (value,), logs))
  logs = task.reduce_aggregated_logs(state)
  with routing.RoutingTape() as tape:
    model(validation[0], training=False)
  np.testing.assert_allclose(logs['routing/metric/ifpn/residual'],
                             np.mean(tape.routing().metrics['ifpn/residual']), rtol=1e-4)
  assert logs['routing/metric/ifpn/evaluations'] == 3
  assert ('routing/metric/ifpn/spectral_radius' in logs) == diagnose
  assert any('ifpn/residual' in line and 'not reached' in line for line in lines)
  assert 'AP' in logs
