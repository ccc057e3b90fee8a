"""A small CADDet in its tasks: pre-training, loading that, and training with both losses."""
import dataclasses
import re

from absl import logging
import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.configs import options
from official_ext.losses import budgets
from official_ext.losses import path_similarity
from official_ext.losses import scale_budget
from official_ext.ops import routing
from official_ext.tasks import initialization
from official_ext.utils import experiment
import small_detectors

SMALL = {'num_layers': 2, 'channels': [4, 6, 8]}
BOXES = [[[4, 4, 20, 30], [10, 0, 60, 64]], [[8, 8, 16, 16], [-1, -1, -1, -1]]]
CLASSES = [[1, 3], [2, -1]]


def small_task(annotation_file=None, allow_image_summary=False, **budget):
  config = small_detectors.small_experiment('fcos_caddet_sample', model={
      'backbone': {'caddet': SMALL}, 'max_level': 5,
      'decoder': {'caddet_projection': {'num_filters': 8}},
      'head': {'num_filters': 8, 'tower': {'plain': {'num_convs': 1}}}}, budget=budget,
                                      annotation_file=annotation_file,
                                      allow_image_summary=allow_image_summary)
  task = task_factory.get_task(config.task)
  return task, task.build_model()


def batch(seed=0):
  images = np.random.default_rng(seed).normal(0, 1, [2, 64, 64, 3])
  labels = {'boxes': tf.constant(BOXES, tf.float32), 'classes': tf.constant(CLASSES),
            'image_info': tf.tile([[[64.0, 64], [64, 64], [1, 1], [0, 0]]], [2, 1, 1])}
  return tf.constant(images, tf.float32), labels


def logged(task, model, inputs, optimizer):
  metrics = task.build_metrics(training=True)
  task.train_step(inputs, model, optimizer, metrics)
  return {metric.name: float(metric.result()) for metric in metrics}


@pytest.mark.slow
def test_both_losses_enter_the_total_after_the_start():
  tf_keras.utils.set_random_seed(0)
  task, model = small_task(kind='scale_aware', weight=3.0, start_step=1, scale_bounds=[12.0, 32.0])
  inputs, optimizer = batch(), tf_keras.optimizers.legacy.SGD(0.0)
  off, on = (logged(task, model, inputs, optimizer) for _ in range(2))
  assert off['routing/loss/budget'] == off['routing/loss/path_similarity'] == 0
  np.testing.assert_allclose(off['total_loss'], off['model_loss'], rtol=1e-6)
  with routing.RoutingTape() as tape:
    model(inputs[0], training=True)
  record, total = tape.routing(), model.backbone.costs(64, 64).total
  # The first image has objects of 30 and of 64 pixels, the second one of 8 pixels.
  presence = tf.constant([[0.0, 1, 1], [1, 0, 0]])
  target = 0.1 * np.array([2, 1])
  budget = 3 * np.mean((record.soft_cost / total - target)**2)
  similarity = path_similarity.loss(tf.stack(list(record.gates.values()), 1), presence)
  np.testing.assert_allclose(on['routing/loss/budget'], budget, rtol=1e-4)
  np.testing.assert_allclose(on['routing/loss/path_similarity'], similarity, rtol=1e-4)
  np.testing.assert_allclose(on['total_loss'], on['model_loss'] + budget + similarity, rtol=1e-4)
  np.testing.assert_allclose(on['routing/gmac/target'], np.mean(target) * total / 1e9, rtol=1e-5)
  assert len(record.gates) == len(model.backbone.gate_names)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_losses_and_its_history(tmp_path):
  options = {'kind': 'loss_aware', 'start_step': 1}
  task, model = small_task(**options)
  optimizer = tf_keras.optimizers.legacy.SGD(0.01)
  assert logged(task, model, batch(0), optimizer)['routing/loss/budget'] == 0
  path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / 'ckpt'))
  whole = logged(task, model, batch(1), optimizer)
  task, model = small_task(**options)
  optimizer = tf_keras.optimizers.legacy.SGD(0.01)
  tf.train.Checkpoint(model=model, optimizer=optimizer).read(path)
  assert np.sum(model.loss_history >= 0) == 2
  resumed = logged(task, model, batch(1), optimizer)
  assert resumed['routing/loss/budget'] > 0
  for name, value in whole.items():
    np.testing.assert_allclose(resumed[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_budget_pulls_every_router_to_its_target_from_both_sides():
  _, model = small_task()
  biases = [v for v in model.backbone.trainable_variables if '/router/output/bias' in v.name]
  with tf.GradientTape(persistent=True) as gradients, routing.RoutingTape() as tape:
    model.backbone(batch()[0], training=True)
    losses = []
    for ratio in (0.05, 1.0):
      budget = budgets.BudgetLosses(options.BudgetConfig(weight=1.0, kind='fixed', ratio=ratio))
      budget.attach(model)
      terms = budget.terms(tape.records(), budgets.Step((64, 64)), None, None)
      losses.append(terms.losses['budget'])
  for loss, sign in zip(losses, (1, -1)):
    pulls = [sign * gradient.numpy() for gradient in gradients.gradient(loss, biases)]
    assert all(np.any(pull != 0) for pull in pulls)
    # The routers of early nodes change what later nodes cost, up or down, so only the sum and the
    # last router have a sign that is known.
    assert sum(np.sum(pull) for pull in pulls) > 0
    assert np.all(pulls[-1] > 0)


@pytest.mark.slow
def test_pretraining_gives_a_backbone_that_the_detector_starts_from(tmp_path, monkeypatch):
  params = experiment.resolve('caddet_crops', lock=False)
  params.override({'task': {'model': {
      'num_classes': 3, 'input_size': [32, 32, 3], 'backbone': {'caddet': SMALL}}}})
  pretraining = task_factory.get_task(params.task)
  classifier = pretraining.build_model()
  images = batch()[0][:, :32, :32]
  features = classifier.backbone(images)
  averages = np.concatenate([np.mean(features[level], axis=(1, 2)) for level in '345'], -1)
  (dense,) = [layer for layer in classifier.layers if isinstance(layer, tf_keras.layers.Dense)]
  np.testing.assert_allclose(
      classifier(images), averages @ dense.kernel.numpy() + dense.bias.numpy(), atol=1e-4)
  before = [variable.numpy() for variable in classifier.trainable_variables]
  pretraining.train_step((images, tf.constant([0, 2])), classifier,
                         tf_keras.optimizers.legacy.SGD(0.1), pretraining.build_metrics())
  assert all(np.any(old != new) for old, new in zip(before, classifier.trainable_variables))
  path = tf.train.Checkpoint(model=classifier, **classifier.checkpoint_items).save(
      str(tmp_path / 'ckpt'))
  task, model = small_task()
  task = type(task)(dataclasses.replace(
      task.task_config, init_checkpoint=path, init_checkpoint_modules='backbone'))
  lines = []
  monkeypatch.setattr(logging, 'info', lambda text, *args: lines.append(text % args))
  routers = [v for v in model.backbone.variables if '/router/' in v.name]
  initial = [variable.numpy() for variable in routers]
  task.initialize(model)
  count, num_loaded = len(model.backbone.variables), len(classifier.backbone.variables)
  assert re.match(
      f'backbone: {num_loaded} of {count} variables loaded from .*; the {len(routers)} of its '
      'routers, budgets and offsets keep their initial values', lines[0])
  for old, new in zip(initial, routers):
    np.testing.assert_array_equal(old, new)
  others = [v for v in model.backbone.variables if '/router/' not in v.name]
  for loaded, saved in zip(others, classifier.backbone.variables):
    np.testing.assert_array_equal(loaded, saved)


def test_a_checkpoint_with_half_a_backbone_is_refused(tmp_path):
  task, model = small_task()
  router = next(layer for layer in model.backbone.submodules if layer.name == 'router')
  holder = tf.Module()
  path = tf.train.Checkpoint(backbone=holder, router=router).save(str(tmp_path / 'ckpt'))
  with pytest.raises(initialization.InitializationError, match='variables are not in it'):
    initialization.load(model.checkpoint_items, path, 'backbone')
  del task


def test_the_scales_of_the_batch_are_those_that_other_tests_expect():
  presence = scale_budget.scales_present(tf.constant(BOXES, tf.float32), [12.0, 32.0])
  np.testing.assert_array_equal(presence, [[0, 1, 1], [1, 0, 0]])


@pytest.mark.slow
def test_evaluation_draws_routes_and_scales(sample_records):
  task, model = small_task(f'{sample_records}/annotations/val.json', allow_image_summary=True,
                           scale_bounds=[12.0, 32.0])
  task.build_metrics(training=False)
  inputs = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', 6, training=False)
  logs = task.validation_step(inputs, model)
  state = task.aggregate_logs(None, tf.nest.map_structure(lambda value: (value,), logs))
  results = task.reduce_aggregated_logs(state)
  pictures = {name for name in results if name.startswith(('image/gates/', 'image/routes/'))}
  assert pictures == {f'image/gates/{number}/route' for number in range(4)} | {
      'image/routes/cost_by_scales', 'image/routes/similarity_by_scales'}
  assert all(results[name].dtype == np.uint8 and results[name].shape[0] == 1 for name in pictures)
  costs = [results[f'routing/gmac/executed/{name}'] for name in ('min', 'mean', 'max')]
  assert 0 < costs[0] <= costs[1] <= costs[2] <= results['routing/gmac/maximum']
