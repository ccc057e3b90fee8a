"""Experiments and YAML files of the dynamic head: options, and the rows of the paper."""
import re

from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.configs import components
from official_ext.utils import experiment
from official_ext.modeling import network_cost
from official_ext.modeling.layers import routed
import experiment_files
from experiment_files import comment
from experiment_files import resolve
from experiment_files import yaml_name

YAMLS = [path for path in experiment_files.ALL if path.name.startswith('dynamichead_')]
COCO = [f'{detector}_dynamichead_resnet{depth}_coco'
        for detector in ('fcos', 'atss') for depth in (50, 101)]
SAMPLE = [f'{detector}_dynamichead_efficientnetlite0_sample' for detector in ('fcos', 'atss')]

BLOCK, FIXED = 1_193_733, 1_186_817
# Weights of two gates and w_s, and of one gate.
SCALE_GATES, DEPTH_GATE = 2 * 2_305 + 1, 2_305
PARAMETERS = {
    'fixed_d8': 8 * FIXED, 'fixed_d4': 4 * FIXED, 'd2': 2 * BLOCK, 'd4': 4 * BLOCK, 'd6': 6 * BLOCK,
    'scale': 8 * (FIXED + SCALE_GATES), 'depth': 8 * (FIXED + DEPTH_GATE)}
BUDGETS = {'low': 0.1, 'coarse_low': 0.1, 'd2': 0.1, 'd4': 0.1, 'd6': 0.1, 'lambda04': 0.4,
           'lambda08': 0.8, 'table4': 0.1}


def _row(path):
  return re.fullmatch(r'dynamichead_(?:(.+)_)?resnet\d+_90k', path.stem)[1] or 'table4'


def _parameters(head):
  """Counts the weights of one tower, in a graph, where variables take no memory."""
  with tf.Graph().as_default():
    tower = components.build_tower(
        head.tower.type, head.tower.get().as_dict(), head.num_filters, 'tower')
    tower.build({level: [None, None, None, head.num_filters] for level in '34567'})
    return sum(v.shape.num_elements() for v in tower.trainable_variables)


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


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_says_what_it_is(path):
  text = comment(path)
  assert re.match(r'Dynamic head \(arxiv.org/abs/2012.03519\), ', text)
  assert 'Published, COCO val' in text and 'cost' in text
  experiment_files.check_command(path)


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_builds_the_towers_of_its_row(path):
  params, row = resolve(path), _row(path)
  model = params.task.model
  assert model.backbone.resnet.model_id == int(re.search(r'resnet(\d+)', path.stem)[1])
  assert params.task.budget.weight == BUDGETS.get(row, 0.0)
  assert _parameters(model.head) == PARAMETERS.get(row, 8 * BLOCK)
  options = model.head.tower.dynamic
  assert options.coarse == row.startswith('coarse')
  assert options.tau == {'tau05': 0.5, 'tau10': 1.0, 'tau20': 2.0, 'restricted_tanh': 0.0}.get(
      row, 1.5)
  assert options.activation == ('softmax' if row == 'softmax' else 'tanh')


def test_every_published_row_has_a_file():
  rows = ' '.join(comment(path).split('Published')[0] for path in YAMLS)
  for row in ('row FCOS-D8;', 'row FCOS-D8@L, fine', 'row FCOS-D8@H, fine', 'row FCOS-D8@L, coarse',
              'row FCOS-D8@H, coarse', 'row softmax', 'row restricted tanh', 'row tau 0.5',
              'row tau 1.0', 'row tau 1.5', 'row tau 2.0', 'row of scale alone',
              'row of depth alone', 'row of scale and depth', 'row of neither', 'row FCOS R101',
              'row ATSS R101', 'row RetinaNet R50', 'lambda 0.4', 'lambda 0.8'):
    assert row in rows, row


@pytest.mark.slow
def test_counts_of_the_whole_detector():
  """FCOS R50 with D8 at 800 x 1344 and 80 classes: multiply-adds that run."""
  params = experiment.resolve('fcos_dynamichead_resnet50_coco')
  params.task.model.num_classes = 81
  model = task_factory.get_task(params.task).build_model()
  towers = routed.routed_layers(model)
  assert sorted(tower.name for tower in towers) == ['box_tower', 'class_tower']
  assert all(len(tower.gate_names) == 8 * (5 + 4 + 4) for tower in towers)
  cost = network_cost.whole_network_cost(model, (800, 1344))
  assert cost.maximum / 1e9 == pytest.approx(534.7, rel=0.01)
  assert cost.minimum / 1e9 == pytest.approx(111.9, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize('experiment_name, published', [
    ('fcos_dynamichead_resnet101_coco', 65.56), ('retinanet_dynamichead_resnet50_coco', 48.17)])
def test_parameters_of_the_whole_detector(experiment_name, published):
  """Detectors with D8; the paper does not count the weights of batch norm."""
  params = experiment.resolve(experiment_name)
  params.task.model.num_classes = 81
  model = task_factory.get_task(params.task).build_model()
  norms = [layer for layer in model.submodules
           if isinstance(layer, tf_keras.layers.BatchNormalization)]
  count, norm_count = (sum(v.shape.num_elements() for v in variables) for variables in (
      model.variables, {v.ref(): v for layer in norms for v in layer.variables}.values()))
  assert (count - norm_count) / 1e6 == pytest.approx(published, rel=0.01)
