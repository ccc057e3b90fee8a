"""Exports that take a budget: each image gets what the model gives it at that budget."""
import json
import types

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official_ext.ops import routing
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.serving import signatures
from official_ext.tools import predict
import budget_detector
import mixed_detector

pytestmark = pytest.mark.slow

BUDGETS = (0.0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)
COMPARED = ('detection_scores', 'multiply_adds', *budget_detector.GATES)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """The module, and its SavedModel with constants for weights."""
  module = budget_detector.module()
  return types.SimpleNamespace(
      module=module, path=budget_detector.export(module, tmp_path_factory.mktemp('budget')))


def _same(actual, expected):
  for name in COMPARED:
    np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def _serve(module, images, budget):
  with routing.spending(budget):
    return module.serve(tf.constant(images))


@pytest.mark.parametrize('batch', [1, 3, 8])
def test_an_export_and_a_model_in_memory_follow_the_budget(exported, batch):
  images = mixed_detector.images(8)[-batch:]
  saved = detectors.SavedDetector(exported.path)
  in_memory = detectors.InMemoryDetector(exported.module)
  _same(saved(images), _serve(exported.module, images, 1.0))
  costs = []
  for budget in BUDGETS:
    expected = _serve(exported.module, images, budget)
    for detector in (saved, in_memory):
      assert detector.set_budget(budget)
      _same(detector(images), expected)
    costs.append(expected['multiply_adds'])
  cost = exported.module.cost
  np.testing.assert_array_equal(costs[0], np.full(batch, np.float32(cost.minimum)))
  np.testing.assert_array_equal(costs[-1], np.full(batch, np.float32(cost.maximum)))
  assert np.all(np.diff(costs, axis=0) >= 0)
  if batch == 8:
    assert max(len(np.unique(cost)) for cost in costs) > 2


def test_a_batch_of_several_budgets_gives_what_each_image_gives_alone(exported):
  images, budgets = mixed_detector.images(8), np.array([*BUDGETS[1:8], np.nan], np.float32)
  function = tf.saved_model.load(str(exported.path)).signatures[signatures.WITH_BUDGET]
  together = function(inputs=tf.constant(images), budget=tf.constant(budgets))
  assert len(np.unique(together['multiply_adds'])) > 2
  for row, budget in enumerate(budgets):
    alone = function(inputs=tf.constant(images[row:row + 1]), budget=tf.constant(budget))
    _same({name: together[name][row:row + 1] for name in COMPARED}, alone)
  _same(together, _serve(exported.module, images, budgets))
  for rows in (slice(3), slice(3, 6), slice(7, 8)):  # batches of 3 and 1
    fewer = function(inputs=tf.constant(images[rows]), budget=tf.constant(budgets[rows]))
    _same(fewer, {name: together[name][rows] for name in COMPARED})
  # NaN counts as 1.
  assert together['multiply_adds'][-1] == np.float32(exported.module.cost.maximum)
  with pytest.raises(tf.errors.InvalidArgumentError):
    function(inputs=tf.constant(images), budget=tf.constant(budgets[:3]))


def test_a_budget_leaves_the_signature_with_a_threshold_alone(exported):
  detector, images = detectors.SavedDetector(exported.path), mixed_detector.images(3)
  detector.set_budget(0.0)
  assert detector.set_gate_threshold(0.0)
  _same(detector(images), _serve(exported.module, images, 1.0))


def test_predict_takes_a_budget(exported, tmp_path):
  Image.fromarray(mixed_detector.images(1)[0]).save(tmp_path / 'one.png')
  arguments = [f'--saved_model={exported.path}', f'--images={tmp_path}/one.png', '--no-draw']
  gmac = {}
  for budget in (0, 1):
    predict.main([*arguments, f'--output_dir={tmp_path}/{budget}', f'--budget={budget}'])
    entry, = json.loads((tmp_path / f'{budget}' / 'costs.json').read_text())['images']
    gmac[budget] = entry['multiply_adds']
  cost = exported.module.cost
  np.testing.assert_allclose([gmac[0], gmac[1]], [cost.minimum, cost.maximum], rtol=1e-6)
  with pytest.raises(SystemExit):
    predict.main([*arguments, f'--output_dir={tmp_path}/2', '--budget=1', '--gate_threshold=0.5'])


def test_an_export_has_a_default_budget(exported, tmp_path):
  export_saved_model.main([
      *budget_detector.export_command(exported.module, tmp_path), '--default_budget=0.35'])
  saved, images = detectors.SavedDetector(tmp_path / 'saved'), mixed_detector.images(8)
  assert saved.description['default_budget'] == 0.35
  expected = _serve(exported.module, images, 0.35)
  assert expected['multiply_adds'].numpy().sum() < 8 * exported.module.cost.maximum
  _same(saved(images), expected)
  assert saved.set_gate_threshold(0.0)
  _same(saved(images), expected)
  assert saved.set_budget(1.0)
  _same(saved(images), _serve(exported.module, images, 1.0))
