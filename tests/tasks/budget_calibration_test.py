"""Thresholds of gates are set by training images that are not augmented, when it is time."""
import types

import numpy as np
import pytest
import tensorflow as tf

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
  monkeypatch.setattr(budget_calibration, '_IMAGES', 40)  # Five batches of eight: all images once.
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


def test_decoders_without_a_budget_are_left_alone(model):
  assert budget_calibration.applies(model)
  _, plain = small_detectors.small_task('retinanet_dyfpn_efficientnetlite0_sample')
  assert not budget_calibration.applies(plain)
  assert not budget_calibration.applies(types.SimpleNamespace(decoder=None))


def test_it_happens_before_each_evaluation_and_at_the_end(model, monkeypatch):
  calls, trainer = [], types.SimpleNamespace(
      model=model, global_step=tf.Variable(0, dtype=tf.int64))
  monkeypatch.setattr(
      budget_calibration, 'calibrate', lambda *given: calls.append(int(trainer.global_step)))
  params = types.SimpleNamespace(
      trainer=types.SimpleNamespace(train_steps=50, validation_interval=20))
  action = budget_calibration.BudgetCalibration(params, None, None)
  action.trainer = trainer
  for step in (10, 20, 30, 40, 50):
    trainer.global_step.assign(step)
    action({})
  assert calls == [20, 40, 50]
  trainer.model = types.SimpleNamespace(decoder=None)
  action({})
  assert calls == [20, 40, 50]
