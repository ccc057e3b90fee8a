"""Evaluations with `allow_image_summary` log pictures of what was decided."""
from matplotlib import figure
import numpy as np
from official.vision.ops import preprocess_ops
import pytest
import tensorflow as tf

from official_ext.ops import routing
from official_ext.visualization import routing_figures
import small_detectors

pytestmark = pytest.mark.slow

HEAD = {'num_filters': 16, 'tower': {'dynamic': {'num_blocks': 1}}}


def evaluate(task, model, batches):
  """Returns the logs of an evaluation, step by step as Model Garden's loop does on one replica."""
  task.build_metrics(training=False)
  state = None
  for inputs in batches:
    logs = tf.nest.map_structure(lambda value: (value,), task.validation_step(inputs, model))
    state = task.aggregate_logs(state, logs)
  return task.reduce_aggregated_logs(state)


def test_an_evaluation_draws_the_first_images(sample_records, monkeypatch):
  task, model = small_detectors.small_task(
      'fcos_dynamichead_efficientnetlite0_sample', allow_image_summary=True,
      model={'decoder': {'fpn': {'num_filters': 16}}, 'head': HEAD},
      annotation_file=f'{sample_records}/annotations/val.json')
  inputs = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', size=6, training=False)
  calls = []

  def draw_decisions(*args):
    calls.append(args)
    return {'depth': figure.Figure(figsize=(1, 2), facecolor=(0, 1, 0))}

  monkeypatch.setattr(routing_figures, 'draw_decisions', draw_decisions)
  logs = evaluate(task, model, [inputs, inputs])
  # `validation_outputs` are Model Garden's own pictures of boxes.
  assert {name for name in logs if name.startswith('image/')} == {
      *(f'image/gates/{number}/depth' for number in range(4)),
      *(f'image/validation_outputs/{number}' for number in range(6))}
  picture = logs['image/gates/3/depth']
  assert picture.shape == (1, 160, 80, 3) and (picture == [0, 255, 0]).all()
  with routing.RoutingTape() as tape:
    model(inputs[0], image_shape=inputs[1]['image_info'][:, 1], training=False)
  record = tape.routing()
  assert len(calls) == 4
  for number, (image, gates, executed, maximum) in enumerate(calls):
    expected = inputs[0][number] * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB
    np.testing.assert_allclose(image, expected, atol=1.01)  # Rounded to uint8.
    assert sorted(gates) == sorted(record.gates)
    for name, gate in gates.items():
      np.testing.assert_allclose(gate, record.gates[name][number], atol=1e-5, err_msg=name)
    assert executed == pytest.approx(float(record.executed[number]), rel=1e-3)
    assert maximum == float(record.maximum)


def test_gates_without_positions_are_not_drawn(sample_records):
  task, model = small_detectors.small_task(
      'retinanet_dyfpn_efficientnetlite0_sample', allow_image_summary=True,
      annotation_file=f'{sample_records}/annotations/val.json', sampled_evaluation_runs=1)
  inputs = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', size=2, training=False)
  logs = evaluate(task, model, [inputs])
  assert {name.rpartition('/')[0] for name in logs if 'image/' in name} == {
      'image/validation_outputs'}
