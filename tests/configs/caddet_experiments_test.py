"""CADDet's experiments are complete, strict, and as the paper has them."""
import numpy as np
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.losses import budget_checks
from official_ext.utils import experiment

COCO = ['fcos_caddet_coco', 'retinanet_caddet_coco']
BASELINES = [f'{detector}_fpnlite_{backbone}_coco' for detector in ('fcos', 'retinanet')
             for backbone in ('mobilenet', 'mobilenetv2')]
EPOCH = 118287 // 16


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
  budget_checks.check(sample.task.budget)
