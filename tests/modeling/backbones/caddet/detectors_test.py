"""Detectors with CADDet are built from configs, counted, and trained for a step."""
from official.core import task_factory
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling import network_cost
import small_detectors

MODEL = {
    'max_level': 6,
    'backbone': {'type': 'caddet', 'caddet': {'num_layers': 2, 'channels': [8, 16, 32]}},
    'decoder': {'type': 'caddet_projection', 'caddet_projection': {'num_filters': 16}},
}


def build(name):
  config = small_detectors.small_experiment(name, init_checkpoint=None, model=MODEL)
  task = task_factory.get_task(config.task)
  return task, task.build_model()


@pytest.mark.parametrize('name', [
    'fcos', pytest.param('atss', marks=pytest.mark.slow),
    pytest.param('retinanet', marks=pytest.mark.slow)])
def test_detectors_run_on_the_supernet(name):
  _, model = build(f'{name}_fpn_efficientnetlite0_sample')
  cost, own = network_cost.whole_network_cost(model, (64, 64)), model.backbone.costs(64, 64)
  assert cost.maximum_by_part['backbone'] == own.total
  assert cost.maximum - cost.static == own.total - own.stem
  assert cost.all_branches == cost.maximum > cost.minimum


def test_a_misspelt_backbone_is_refused():
  with pytest.raises(ValueError, match="backbone.type is 'cadet'.*Did you mean 'caddet'"):
    small_detectors.small_experiment('fcos_fpn_efficientnetlite0_sample',
                               model={'backbone': {'type': 'cadet'}})


@pytest.mark.slow
def test_a_training_step_of_fcos():
  task, model = build('fcos_fpn_efficientnetlite0_sample')
  random = np.random.default_rng(0)
  labels = {'boxes': tf.constant([[[4.0, 4, 40, 40]], [[10, 20, 60, 62]]]),
            'classes': tf.constant([[1], [2]])}
  inputs = tf.constant(random.normal(size=[2, 64, 64, 3]), tf.float32), labels
  optimizer = tf_keras.optimizers.SGD(0.01)
  optimizer.build(model.trainable_variables)
  step = tf.function(lambda: task.train_step(inputs, model, optimizer), autograph=False)
  before = {v.name: v.numpy() for v in model.backbone.trainable_variables}
  losses = [float(step()['loss']) for _ in range(3)]
  assert np.all(np.isfinite(losses)) and losses[-1] < losses[0]
  # Coarse levels without a box have tiny gradients: float32 does not show every single step.
  still = [v.name for v in model.backbone.trainable_variables
           if 'pointwise_kernel' in v.name and '/router/' not in v.name
           and np.array_equal(v, before[v.name])]
  assert not still
