"""What an export holds of each network that takes a budget: the model, at every budget."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.ops import routing
from official_ext.serving import detection
from official_ext.serving import frozen
from official_ext.serving import signatures
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

BUDGETS = (0.0, 0.3, 0.6, 1.0)


def _made(name):
  tf_keras.utils.set_random_seed(1)
  experiment, model_options = small_detectors.BUDGET_NETWORKS[name]
  options = {'budget': {'kind': 'drawn', 'weight': 0.1}, 'model': model_options}
  _, model = small_detectors.small_task(experiment, **options)
  config = small_detectors.small_experiment(experiment, **options)
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=[64, 64])
  features = module.preprocess(tf.constant(mixed_detector.images(8)))[0]
  with routing.spending(0.5):  # The averages of gates.
    model(features, training=True)
  return module


@pytest.mark.parametrize('name', small_detectors.BUDGET_NETWORKS)
def test_the_function_of_an_export_equals_the_model_at_every_budget(name):
  module = _made(name)
  function = frozen.freeze(signatures.network_function(module, 'image_tensor'))[0]
  exported = signatures.signatures(function)[signatures.WITH_BUDGET]

  def serve(images, budget):
    with routing.spending(budget):
      return module.serve(tf.constant(images))

  def same(actual, expected):
    for key in ('detection_scores', 'multiply_adds'):
      np.testing.assert_allclose(actual[key], expected[key], 1e-4, 1e-5, err_msg=key)

  images, costs = mixed_detector.images(8)[:3], []
  for budget in BUDGETS:
    found = exported(inputs=tf.constant(images), budget=tf.constant(budget))
    same(found, serve(images, budget))
    costs.append(np.mean(found['multiply_adds']))
  budgets = np.array([0.6, 0.0, 1.0], np.float32)
  together = exported(inputs=tf.constant(images), budget=tf.constant(budgets))
  for row, budget in enumerate(budgets):
    same({key: value[row:row + 1] for key, value in together.items()},
         serve(images[row:row + 1], budget))
  np.testing.assert_allclose(
      [costs[0], costs[-1]], [module.cost.minimum, module.cost.maximum], 1e-6)
  assert costs[0] < min(costs[1:-1]) and max(costs[1:-1]) < costs[-1]
