"""SavedModels of the networks that take a budget: the model, at every budget, in every batch.

tests/serving/budget_signature_test.py has the same for DyFPN with block B.
"""
import types

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.ops import routing
from official_ext.serving import detection
from official_ext.serving import export_checks
from official_ext.serving.compiling import frozen
from official_ext.serving import signatures
from official_ext.tasks import budget_calibration
import budget_detector
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

NETWORKS = {
    **small_detectors.BUDGET_NETWORKS,
    'head that replaces': small_detectors.budget_head(depth_update='replace'),
}
BLOCK_A = {'dyfpn': {'num_filters': 8, 'block': 'A', 'gate': {'budget_input': True}}}
BUDGETS = np.array([0.0, 0.3, 0.8, 0.15, 0.6, 0.45, 0.9, 0.25, 0.7, 1.0], np.float32)
SIZES = (1, 3, 8)


def _made(name):
  if name == 'block A':
    module = budget_detector.module(decoder=BLOCK_A)
    mixed_detector.spread_scores(module.model, gain=20.0)
    return module
  tf_keras.utils.set_random_seed(1)
  experiment, model_options = NETWORKS[name]
  options = {'budget': {'kind': 'drawn', 'weight': 0.1}, 'model': model_options}
  _, model = small_detectors.small_task(experiment, **options)
  config = small_detectors.small_experiment(experiment, **options)
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=[64, 64])
  features = module.preprocess(tf.constant(mixed_detector.images(8)))[0]
  with routing.spending(0.5):  # The averages of gates.
    model(features, training=True)
  if budget_calibration.can_calibrate(model):  # As at the end of a training.
    budget_calibration.calibrate_by(model, lambda: iter([features]), 1)
  mixed_detector.spread_scores(model)
  return module


@pytest.fixture(scope='module', params=[*NETWORKS, 'block A'])
def network(request, tmp_path_factory):
  """A module, its SavedModel as it is loaded again, and what the module gives for each image.

  Each of ten images has another budget.
  """
  module = _made(request.param)
  path = str(tmp_path_factory.mktemp('network'))
  written, _ = frozen.freeze(signatures.network_function(module, 'image_tensor'))
  tf.saved_model.save(tf.Module(), path, signatures=signatures.signatures(written))
  saved, images = tf.saved_model.load(path), mixed_detector.images(len(BUDGETS))
  alone = [_serve(module, images[row:row + 1], budget) for row, budget in enumerate(BUDGETS)]
  return types.SimpleNamespace(
      name=request.param, module=module, saved=saved, images=images,
      function=saved.signatures[signatures.WITH_BUDGET],
      alone={key: np.concatenate([one[key] for one in alone]) for key in alone[0]})


def _serve(module, images, budgets):
  with routing.spending(budgets):
    return module.serve(tf.constant(images))


def _same(actual, expected):
  assert set(actual) == set(expected)
  np.testing.assert_allclose(actual['multiply_adds'], expected['multiply_adds'], 1e-6)
  np.testing.assert_allclose(actual['detection_scores'], expected['detection_scores'], 1e-4, 1e-5)
  comparison = export_checks.Comparison()  # boxes, whose order may differ, and gates
  comparison.add(expected, actual)
  comparison.check()


def test_budgets_decide_what_the_model_spends(network):
  costs, cost = network.alone['multiply_adds'], network.module.cost
  np.testing.assert_allclose([costs[0], costs[-1]], [cost.minimum, cost.maximum], 1e-6)
  assert len(set(costs)) > 3
  # DyFPN chooses one of seven paths for a whole level, so that its few costs jump.
  assert np.corrcoef(costs, BUDGETS)[0, 1] > (0.6 if network.name == 'block A' else 0.9)
  assert network.alone['detection_scores'].std() > 1e-3


@pytest.mark.parametrize('size', SIZES)
def test_a_saved_model_equals_the_model_at_ten_budgets(network, size):
  starts = {*range(0, len(BUDGETS) - size, size), len(BUDGETS) - size}
  for rows in (slice(start, start + size) for start in sorted(starts)):
    images, budgets = network.images[rows], BUDGETS[rows]
    found = network.function(inputs=tf.constant(images), budget=tf.constant(budgets))
    _same(found, {key: value[rows] for key, value in network.alone.items()})
    if size > 1:  # In memory, a batch of several budgets is the same as well.
      _same(_serve(network.module, images, budgets), found)


def test_one_budget_is_for_all_images(network):
  found = network.function(inputs=tf.constant(network.images[:3]), budget=tf.constant(BUDGETS[1]))
  _same({key: value[1:2] for key, value in found.items()},
        {key: value[1:2] for key, value in network.alone.items()})
  _same(found, _serve(network.module, network.images[:3], BUDGETS[1]))
