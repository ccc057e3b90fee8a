"""Budgets in tasks: errors that name the field, and losses in a training step."""
import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras

import small_detectors

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'


@pytest.mark.parametrize('budget, field', [
    ({'kind': 'dynamic'}, 'kind'), ({'ratio': 1.5}, 'ratio'), ({'start_step': -1}, 'start_step'),
    ({'scale_bounds': [64.0, 64.0]}, 'scale_bounds'), ({'target': 1.5}, 'target'),
    ({'path_similarity': {'minimum': 0.9, 'maximum': 0.8}}, 'path_similarity.minimum'),
    ({'reduction': 'median'}, 'reduction'), ({'distance': 'cubed'}, 'distance')])
def test_options_out_of_range_name_the_field(budget, field):
  config = small_detectors.small_experiment(DYFPN, budget=budget).task
  with pytest.raises(ValueError, match=f'Change task.budget.{field}.$'):
    task_factory.get_task(config)


@pytest.mark.parametrize('name, budget, fields', [
    (DYFPN, {'weight': 1.0, 'kind': 'fixed'}, 'task.budget.kind or task.model.backbone.type'),
    ('retinanet_fpn_efficientnetlite0_sample', {'path_similarity': {'weight': 1.0}},
     'task.budget.path_similarity.weight or task.model')])
def test_a_model_that_does_not_fit_the_budget_names_the_fields(name, budget, fields):
  config = small_detectors.small_experiment(name, budget=budget).task
  with pytest.raises(ValueError, match=f'Change {fields}.$'):
    task_factory.get_task(config).build_model()


def test_two_stage_detectors_have_no_boxes_for_a_budget():
  for budget in ({'weight': 1.0, 'kind': 'scale_aware'}, {'path_similarity': {'weight': 1.0}}):
    with pytest.raises(ValueError, match='task.budget.kind is .*Two-stage detectors allow only'):
      small_detectors.small_task('fasterrcnn_dyfpn_efficientnetlite0_sample', budget=budget)


@pytest.mark.slow
def test_retinanet_trains_with_path_similarity_and_knows_the_loss_of_an_image(sample_records):
  task, model = small_detectors.small_task(
      DYFPN, budget={'weight': 1.0, 'target': 0.25, 'path_similarity': {'weight': 1.0}})
  images, labels = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  metrics = task.build_metrics(training=True)
  task.train_step((images, labels), model, tf_keras.optimizers.legacy.SGD(0.01), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  losses = [values[f'routing/loss/{name}'] for name in ('budget', 'path_similarity')]
  assert min(losses) > 0
  np.testing.assert_allclose(values['total_loss'], values['model_loss'] + sum(losses), rtol=1e-5)
  outputs = model(images, training=True)
  together = task.image_losses(outputs, labels)
  for i in range(len(images)):
    one = tf.nest.map_structure(lambda x, row=i: x[row:row + 1], (outputs, labels))
    np.testing.assert_allclose(together[i], task.build_losses(*one)[3], rtol=1e-5)
