"""CADDet's experiments and YAML files are complete, strict, and have the paper's values."""
import re

import numpy as np
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.losses import budgets
from official_ext.utils import experiment
import experiment_files
from experiment_files import comment
from experiment_files import resolve
from experiment_files import yaml_name

YAMLS = [path for path in experiment_files.ALL if path.name.startswith(('caddet_', 'fpnlite_'))]
COCO = ['fcos_caddet_coco', 'retinanet_caddet_coco']
BASELINES = [f'{detector}_fpnlite_{backbone}_coco' for detector in ('fcos', 'retinanet')
             for backbone in ('mobilenet', 'mobilenetv2')]
EPOCH = 118287 // 16

# Row of an ablation -> (kind, ratio, range of the path similarity).
ROWS = {
    'fixed01': ('fixed', 0.1, None), 'fixed02': ('fixed', 0.2, None),
    'loss_aware005': ('loss_aware', 0.05, None), 'loss_aware01': ('loss_aware', 0.1, None),
    'scale_aware005': ('scale_aware', 0.05, None), 'scale_aware01': ('scale_aware', 0.1, None),
    'similarity040_095': ('scale_aware', 0.05, (0.4, 0.95)),
    'similarity060_095': ('scale_aware', 0.05, (0.6, 0.95)),
    'similarity080_095': ('scale_aware', 0.05, (0.8, 0.95)),
    'similarity060_090': ('scale_aware', 0.05, (0.6, 0.9)),
    'similarity060_100': ('scale_aware', 0.05, (0.6, 1.0)),
    'ratio01': ('scale_aware', 0.1, (0.6, 0.95)),
    'fpnlite005': ('scale_aware', 0.05, (0.6, 0.95)),
    'fpnlite01': ('scale_aware', 0.1, (0.6, 0.95)),
}


def rates(params, steps):
  rate = optimization.OptimizerFactory(params.trainer.optimizer_config).build_learning_rate()
  return [float(rate(tf.constant(step))) for step in steps]


@pytest.mark.parametrize('name', COCO + BASELINES)
def test_coco_is_trained_as_in_the_paper(name):
  params = experiment.resolve(name)
  task, model = params.task, params.task.model
  assert task.train_data.global_batch_size == 16 and params.trainer.train_steps == 12 * EPOCH
  np.testing.assert_allclose(
      rates(params, [500, 8 * EPOCH, 8 * EPOCH + 1, 11 * EPOCH + 1]), [0.01, 0.01, 1e-3, 1e-4],
      rtol=1e-5)
  assert task.losses.l2_weight_decay == 1e-4 and task.init_checkpoint is None
  assert (model.min_level, model.max_level) == (3, 7)
  norm = model.norm_activation
  assert (norm.norm_momentum, norm.norm_epsilon, norm.use_sync_bn) == (0.9, 1e-5, True)


@pytest.mark.parametrize('name', COCO)
def test_both_losses_begin_with_the_second_epoch(name):
  task = experiment.resolve(name).task
  assert (task.model.backbone.type, task.model.decoder.type) == ('caddet', 'caddet_projection')
  backbone = task.model.backbone.caddet
  assert (backbone.num_layers, backbone.channels) == (16, [64, 128, 256, 512]) and backbone.routers
  budget = task.budget
  assert (budget.weight, budget.kind, budget.ratio, budget.start_step) == (
      1.0, 'scale_aware', 0.05, EPOCH)
  assert budget.scale_bounds == [64, 150, 360]
  similarity = budget.path_similarity
  assert (similarity.weight, similarity.minimum, similarity.maximum) == (1.0, 0.6, 0.95)


@pytest.mark.parametrize('name', BASELINES)
def test_baselines_are_not_routed(name):
  task = experiment.resolve(name).task
  assert task.model.backbone.type == 'mobilenet' and task.model.decoder.type == 'fpn_lite'
  assert (task.model.backbone.mobilenet.model_id, task.model.decoder.fpn_lite.num_filters) == (
      ('MobileNetV2', 256) if 'v2' in name else ('MobileNetV1', 96))
  assert not task.budget.weight and not task.budget.path_similarity.weight


def test_pretraining_is_the_papers():
  params = experiment.resolve('caddet_imagenet')
  assert params.task.train_data.global_batch_size == 256
  assert params.trainer.train_steps == 120 * (1281167 // 256)
  np.testing.assert_allclose(
      rates(params, [0, params.trainer.train_steps // 2, params.trainer.train_steps]),
      [0.2, 0.1, 0], atol=1e-6)
  assert not params.task.model.backbone.caddet.routers


def test_the_sample_is_pretrained_on_crops_with_the_same_supernet():
  crops, sample = (experiment.resolve(name) for name in ('caddet_crops', 'fcos_caddet_sample'))
  detector, pretrained = (
      params.task.model.backbone.caddet.as_dict() for params in (sample, crops))
  assert detector == {**pretrained, 'routers': True} and not pretrained['routers']
  assert sample.task.budget.start_step == sample.trainer.train_steps // 10
  budgets.check(sample.task.budget)


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_says_what_it_is(path):
  text = comment(path)
  assert re.match(r'CADDet \(arxiv.org/abs/2012.04265\), Table \d, row ', text)
  assert 'Published, COCO val: AP ' in text and 'cost' in text
  experiment_files.check_command(path)


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_is_its_row(path):
  task, row = resolve(path).task, path.stem.removesuffix('_1x').removeprefix('caddet_')
  if row not in ROWS:  # Rows of Table 4 are experiments without overrides.
    name = re.search(r'Experiment: (\w+)\.', comment(path))[1]
    assert task.as_dict() == experiment.resolve(name).task.as_dict()
    return
  kind, ratio, limits = ROWS[row]
  budget, similarity = task.budget, task.budget.path_similarity
  assert (budget.weight, budget.kind, budget.ratio, budget.start_step) == (
      1.0, kind, ratio, EPOCH)
  assert limits == ((similarity.minimum, similarity.maximum) if similarity.weight else None)
  assert list(task.model.input_size) == [600, 1000, 3]
  decoder = task.model.decoder
  assert decoder.type == ('fpn_lite' if row.startswith('fpnlite') else 'caddet_projection')
  assert decoder.get().num_filters == (128 if row.startswith('fpnlite') else 256)
  budgets.check(budget)


def test_every_published_row_has_a_file():
  assert {path.stem.removesuffix('_1x').removeprefix('caddet_') for path in YAMLS
          } - {'caddet', 'fpnlite_mobilenet', 'fpnlite_mobilenetv2'} == set(ROWS)
  rows = ' '.join(comment(path).split('Published')[0] for path in YAMLS)
  for row in ('Table 1, row Fixed, ratio 0.1', 'Table 1, row Fixed, ratio 0.2',
              'Table 1, row Loss-aware, ratio 0.05', 'Table 1, row Loss-aware, ratio 0.1',
              'Table 1, row Proposed, ratio 0.05', 'Table 1, row Proposed, ratio 0.1',
              'row of the global budget alone', 'Min 0.4, Max 0.95', 'Min 0.6, Max 0.95',
              'Min 0.8, Max 0.95', 'Min 0.6, Max 0.9.', 'Min 0.6, Max 1.0',
              'Table 3, row CADDet, ratio 0.05', 'Table 3, row CADDet, ratio 0.1',
              'Table 3, row CADDet + FPNLite, ratio 0.05',
              'Table 3, row CADDet + FPNLite, ratio 0.1', 'Table 4, row CADDet, FCOS',
              'Table 4, row CADDet, RetinaNet', 'row MobileNet + FPNLite, FCOS',
              'row MobileNet + FPNLite, RetinaNet', 'row MobileNetV2 + FPNLite, FCOS',
              'row MobileNetV2 + FPNLite, RetinaNet'):
    assert row in rows, row
