"""Calibration sets by images without augmentation what gates do at a budget, when it is time."""
import types
from unittest import mock

import numpy as np
from official.modeling import optimization
import pytest
import tensorflow as tf, tf_keras

from official_ext.configs import detectors as configs
from official_ext.ops import routing
from official_ext.tasks import budget_calibration
import budget_detector
import small_detectors

COUNT = 24


class Task:
  """Reads images that differ, and remembers how it was asked."""

  def __init__(self):
    self.task_config = types.SimpleNamespace(train_data=configs.DenseDataConfig(
        is_training=True, global_batch_size=64, drop_remainder=True))
    pixels = np.random.default_rng(0).normal(size=[COUNT, 1, 1, 3])
    self.images = (pixels * np.ones([1, 64, 64, 1])).astype(np.float32)
    self.images += np.random.default_rng(1).normal(size=self.images.shape).astype(np.float32) / 4

  def build_inputs(self, params, context):
    assert context.num_input_pipelines == 1
    self.asked = params
    labels = {'unused': tf.zeros([COUNT])}
    return tf.data.Dataset.from_tensor_slices((self.images, labels)).batch(5).repeat()


@pytest.fixture(scope='module')
def model():
  return budget_detector.module().model


def _calibrate(model, task):
  budget_calibration.calibrate(model, task, tf.distribute.get_strategy())


def test_images_spend_the_wanted_share(model, monkeypatch):
  task = Task()
  monkeypatch.setattr(budget_calibration, 'MAX_IMAGES', 40)  # Five batches: all images once.
  _calibrate(model, task)
  assert (task.asked.is_training, task.asked.drop_remainder) == (False, False)
  assert task.task_config.train_data.is_training
  features = model.backbone(task.images, training=False)
  before = np.zeros([3, COUNT])
  for budget in (0.0, 0.25, 0.5, 0.75, 1.0):
    with routing.RoutingTape() as tape, routing.spending(budget):
      model.decoder(features, training=False)
    gates = np.array([np.ravel(gate) for gate in tape.routing().gates.values()])
    np.testing.assert_allclose(gates.mean(1), budget, 0, 1.5 / COUNT)
    assert np.all(gates >= before)
    before = gates


def _gate_shares(model, images, budget):
  features = model.backbone(images, training=False)
  with routing.RoutingTape() as tape, routing.spending(budget):
    model.decoder(features, training=False)
  return [np.mean(gate) for gate in tape.routing().gates.values()]


@pytest.mark.parametrize('trainable_only', [False, True])
def test_averaged_weights_are_calibrated_as_evaluation_uses_them(trainable_only, monkeypatch):
  monkeypatch.setattr(budget_calibration, 'MAX_IMAGES', 40)
  model, task = budget_detector.module().model, Task()
  optimizer = optimization.ExponentialMovingAverage(
      tf_keras.optimizers.legacy.SGD(0.1), trainable_weights_only=trainable_only)
  optimizer.shadow_copy(model)
  random = np.random.default_rng(0)
  gate = {variable.ref() for variable in model.decoder.gate.variables}
  for variable in model.trainable_variables if trainable_only else model.variables:
    value = variable.numpy()
    if variable.ref() in gate:
      value = random.normal(0, 1, value.shape)
    optimizer.get_slot(variable, 'average').assign(tf.cast(value, variable.dtype))
  ema = types.SimpleNamespace(trainable_weights_only=trainable_only)
  action = budget_calibration.BudgetCalibration(types.SimpleNamespace(
      trainer=types.SimpleNamespace(train_steps=5, validation_interval=5,
                                    optimizer_config=types.SimpleNamespace(ema=ema))),
                                                task, tf.distribute.get_strategy())
  action.trainer = types.SimpleNamespace(
      model=model, global_step=tf.Variable(5, dtype=tf.int64), optimizer=optimizer)
  raw = model.decoder.gate.get_weights()
  action({})
  for before, after in zip(raw, model.decoder.gate.get_weights()):
    np.testing.assert_allclose(after, before, 0, 1e-5)
  if not trainable_only:  # Otherwise both have the shifts of the averages.
    np.testing.assert_allclose(_gate_shares(model, task.images, 0.5), 0.5, 0, 1.5 / COUNT)
  optimizer._swap_weights()
  for budget in (0.25, 0.5, 0.75):
    np.testing.assert_allclose(
        _gate_shares(model, task.images, budget), budget, 0, 1.5 / COUNT)


def test_a_smaller_last_batch_gets_its_first_images_again():
  filled = budget_calibration._filled
  assert filled(tf.range(8)).numpy().tolist() == [*range(8)]
  assert filled(tf.constant([4, 5, 6])).numpy().tolist() == [4, 5, 6, 4, 5, 6, 4, 5]


def _shares(model, images, budget):
  with routing.RoutingTape() as tape, routing.spending(budget):
    features = model.backbone(images, training=False)
    model.head(model.decoder(features, training=False))
  record = tape.routing()
  return ((record.executed - record.minimum) / (record.maximum - record.minimum)).numpy()


@pytest.mark.parametrize('part, name, options', [
    ('head', *small_detectors.BUDGET_NETWORKS['head']),
    # Batch norms of routers normalize each batch in training, and by averages over all budgets
    # at inference.
    ('backbone', 'fcos_caddet_sample', {'backbone': {'caddet': {
        'num_layers': 3, 'channels': [4, 6, 8], 'budget_input': True, 'router_norm': 'batch'}},
        'decoder': {'caddet_projection': {'num_filters': 8}}, 'max_level': 5})])
def test_gates_behind_gates_spend_the_wanted_share(part, name, options):
  tf_keras.utils.set_random_seed(0)
  _, model = small_detectors.small_task(
      name, budget={'kind': 'drawn', 'weight': 1.0, 'part': part}, model=options)
  task = Task()
  for step, budget in enumerate((0.3, 0.7)):
    with routing.spending(budget):  # As a training does: other images, statistics of the batch.
      features = model.backbone(2 * task.images + step, training=True)
      model.head(model.decoder(features, training=True), training=True)
  before = max(abs(np.mean(_shares(model, task.images, b)) - b) for b in (0.2, 0.5, 0.8))
  _calibrate(model, task)
  after = [np.mean(_shares(model, task.images, b)) for b in (0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0)]
  # A small supernet has few different costs.
  np.testing.assert_allclose(after, [0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0], 0, 0.04)
  assert before > 0.1


def test_a_detector_without_a_budget_reads_no_images():
  _, plain = small_detectors.small_task('retinanet_dyfpn_efficientnetlite0_sample')
  task = mock.Mock()
  _calibrate(plain, task)
  assert not task.mock_calls


@pytest.mark.parametrize('interval, steps', [(20, [20, 40, 50]), (0, [50]), (None, [50])])
def test_it_happens_before_each_evaluation_and_at_the_end(interval, steps, model, monkeypatch):
  calls, trainer = [], types.SimpleNamespace(
      model=model, global_step=tf.Variable(0, dtype=tf.int64), optimizer=None)
  monkeypatch.setattr(
      budget_calibration, 'calibrate', lambda *given: calls.append(int(trainer.global_step)))
  params = types.SimpleNamespace(
      trainer=types.SimpleNamespace(train_steps=50, validation_interval=interval))
  action = budget_calibration.BudgetCalibration(params, None, None)
  action.trainer = trainer
  for step in (10, 20, 30, 40, 50):
    trainer.global_step.assign(step)
    action({})
  assert calls == steps


@pytest.mark.parametrize('follows', [False, True])
def test_every_budget_meets_every_batch(follows, monkeypatch):
  read, met = [], []

  def backbone(images, training):
    assert not training
    read.append(images)
    return images

  def layer(controls):
    return types.SimpleNamespace(controls_budget=controls, has_budget_input=True)

  model = types.SimpleNamespace(backbone=backbone, decoder=None, head=lambda features: met.append(
      (features, round(float(routing.wanted_budget()), 1))))
  monkeypatch.setattr(budget_calibration.routed, 'layers_by_part', lambda model: {
      'backbone': [layer(True)] if follows else [], 'decoder': [], 'head': [layer(True)]})
  monkeypatch.setattr(tf, 'function', lambda function, autograph: function)
  budget_calibration._control(model, tf.distribute.get_strategy(), range(5))
  assert sorted(met) == [(number, tenth / 10) for number in range(5) for tenth in range(1, 10)]
  # Features that no budget changes are computed once.
  assert read == ([number for number in range(5) for _ in range(9)] if follows else [*range(5)])
