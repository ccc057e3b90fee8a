"""The dynamic head's experiments are complete, strict, and as the paper has them."""
from unittest import mock

from official.core import task_factory
import pytest
import tf_keras

from official_ext import registry_imports
from official_ext.utils import experiment
from official_ext.modeling import network_cost
from official_ext.modeling.heads import dynamic_head
from official_ext.modeling.layers import routed

DETECTORS = ('fcos', 'atss', 'autoassign', 'freeanchor')
COCO = [f'{detector}_dynamichead_resnet{depth}_coco'
        for detector in DETECTORS for depth in (50, 101)]
SAMPLE = [f'{detector}_dynamichead_efficientnetlite0_sample' for detector in DETECTORS]


@pytest.mark.parametrize('name', COCO + SAMPLE)
def test_experiment_has_dynamic_towers_and_a_budget(name):
  params = experiment.resolve(name)
  plain = experiment.resolve(name.replace('dynamichead', 'fpn'))
  head = params.task.model.head
  assert head.tower.type == 'dynamic'
  assert head.tower.dynamic.num_blocks == (2 if 'sample' in name else 8)
  budget = params.task.budget
  assert (budget.weight, budget.target, budget.distance) == (0.1, 0.0, 'absolute')
  # Nothing else differs from the detector with plain towers.
  expected = plain.as_dict()
  expected['task']['model']['head'] = head.as_dict()
  expected['task']['budget'] = budget.as_dict()
  assert params.as_dict() == expected


def test_retinanet_has_dynamic_towers_and_the_papers_schedule():
  params = experiment.resolve('retinanet_dynamichead_resnet50_coco')
  assert params.task.model.head.tower.type == 'dynamic'
  assert params.task.model.head.tower.dynamic.num_blocks == 8
  assert params.trainer.train_steps == 90_000
  assert params.task.train_data.global_batch_size == 16


def _build(name, num_blocks=8):
  """Builds a detector of 80 classes.  Its towers make their weights, and are not traced."""
  params = experiment.resolve(name)
  params.task.model.num_classes = 81
  params.task.model.head.tower.dynamic.num_blocks = num_blocks
  with mock.patch.object(dynamic_head.DynamicTower, 'call',
                         lambda self, inputs, training=None: dict(inputs)):
    return task_factory.get_task(params.task).build_model()


@pytest.mark.slow
def test_counts_of_the_whole_detector():
  """FCOS R50 with D2 at 800 x 1344 and 80 classes: multiply-adds that run.

  `scripts/cost_tables.py` counts D8, which takes four times as long.
  """
  model = _build('fcos_dynamichead_resnet50_coco', num_blocks=2)
  towers = routed.routed_layers(model)
  assert sorted(tower.name for tower in towers) == ['box_tower', 'class_tower']
  assert all(len(tower.gate_names) == 2 * (5 + 4 + 4) for tower in towers)
  cost = network_cost.whole_network_cost(model, (800, 1344))
  # FCOS with four convolutions, table 1.
  assert cost.maximum / 1e9 == pytest.approx(216.7, rel=0.01)
  # The backbone, FPN and predictors; a quarter of D8's gates and of its resizing that always runs.
  assert cost.minimum / 1e9 == pytest.approx(109.0 + 2.9 / 4, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize('experiment_name, published', [
    ('fcos_dynamichead_resnet101_coco', 65.56), ('freeanchor_dynamichead_resnet50_coco', 48.17),
    ('retinanet_dynamichead_resnet50_coco', 48.17)])
def test_parameters_of_the_whole_detector(experiment_name, published):
  """Detectors with D8; the paper does not count the weights of batch norm."""
  model = _build(experiment_name)
  norms = [layer for layer in model.submodules
           if isinstance(layer, tf_keras.layers.BatchNormalization)]
  count, norm_count = (sum(v.shape.num_elements() for v in variables) for variables in (
      model.variables, {v.ref(): v for layer in norms for v in layer.variables}.values()))
  assert (count - norm_count) / 1e6 == pytest.approx(published, rel=0.01)
