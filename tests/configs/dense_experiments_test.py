"""Experiments of dense detectors are complete, strict, and as published."""
import re

import numpy as np
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.configs import detectors
from official_ext.utils import command_line
from official_ext.utils import experiment

FAMILY = ('fcos', 'atss', 'autoassign', 'freeanchor')
# Box loss, its weight, alpha, overlap of suppression, and offset of the locations.
NUMBERS = {'fcos': ('giou', 1.0, 0.25, 0.6, 0.5), 'atss': ('giou', 2.0, 0.25, 0.6, 0.5),
           'autoassign': ('giou', 5.0, 0.25, 0.6, 0.0),
           'freeanchor': ('smooth_l1', 0.75, 0.5, 0.5, 0.5)}
COCO = [f'{name}_{rest}_coco' for name in FAMILY
        for rest in ('fpn_resnet50', 'fpn_resnet101', 'ifpn_resnet50')]
DRFPN = [f'{name}_drfpn_resnet50_coco' for name in FAMILY]
SAMPLE = [f'{name}_{decoder}_efficientnetlite0_sample' for name in FAMILY
          for decoder in (
              'fpn', 'inception_fpn', 'dyfpn', 'drfpn', 'ifpn', 'pafpn', 'bifpn', 'carafe',
              'deformable_fpn')]


@pytest.mark.parametrize('name', COCO + DRFPN + SAMPLE)
def test_experiment_is_what_its_name_says(name):
  params = experiment.resolve(name)
  task = params.task
  assert isinstance(task, detectors.DenseTaskConfig)
  detector = name.partition('_')[0]
  assert task.model.assigner == detector
  assert task.model.decoder.type == re.search(r'_(\w*fpn|carafe)_', name)[1]
  losses, detections = task.losses, task.model.detection_generator.as_dict()
  assert (losses.box_loss, losses.box_loss_weight, losses.focal_loss_alpha,
          detections.pop('nms_iou_threshold'), task.model.location_offset) == NUMBERS[detector]
  assert losses.focal_loss_gamma == 2.0
  anchor = task.model.anchor.as_dict()
  assert anchor == ({'anchor_size': 3.0 if name in SAMPLE else 4.0, 'num_scales': 3,
                     'aspect_ratios': [0.5, 1.0, 2.0]} if detector == 'freeanchor' else
                    {'anchor_size': 8.0, 'num_scales': 1, 'aspect_ratios': [1.0]})
  assert task.model.head.tower.as_dict() == {'type': 'plain', 'plain': {
      'num_convs': 2 if name in SAMPLE else 4, 'deformable': False,
      'offset_rate': 0.01 if name in SAMPLE else 1.0,
      'norm': 'none' if detector == 'freeanchor' and name not in SAMPLE else 'group_norm'}}
  assert detections == {
      'nms_version': 'batched', 'apply_nms': True,
      'pre_nms_top_k': 1000, 'pre_nms_score_threshold': 0.05,
      'max_num_detections': 100}
  assert not task.validation_data.drop_remainder


@pytest.mark.parametrize('name', COCO)
def test_schedule_of_the_paper(name):
  params = experiment.resolve(name)
  task = params.task
  assert task.train_data.global_batch_size == 16
  assert params.trainer.train_steps == 90_000
  assert task.losses.l2_weight_decay == 1e-4
  assert list(task.model.input_size) == [800, 1344, 3]
  for data in (task.train_data, task.validation_data):
    assert not data.parser.pad
  assert task.train_data.parser.aug_rand_hflip
  parser = task.train_data.parser
  assert (parser.aug_scale_min, parser.aug_scale_max) == (1.0, 1.0)
  assert not task.model.backbone.resnet.bn_trainable
  optimizer = params.trainer.optimizer_config.optimizer.sgd
  assert (optimizer.momentum, optimizer.global_clipnorm) == (0.9, None)
  rate = optimization.OptimizerFactory(params.trainer.optimizer_config).build_learning_rate()
  warmup = {0: 0.01 / 3, 250: 0.02 / 3, 500: 0.01} if 'freeanchor' in name else {0: 1e-5}
  steps = {**warmup, 1000: 0.01, 60_000: 0.01, 60_001: 1e-3, 80_000: 1e-3, 80_001: 1e-4}
  np.testing.assert_allclose([float(rate(tf.constant(step))) for step in steps],
                             list(steps.values()), rtol=1e-5)
  assert (task.init_checkpoint is None) == ('101' in name)


@pytest.mark.parametrize('name', DRFPN)
def test_drfpn_has_the_schedule_and_the_decoder_of_its_paper(name):
  params = experiment.resolve(name)
  assert params.task.train_data.global_batch_size == 24
  assert params.trainer.train_steps == 12 * (118287 // 24)
  assert params.trainer.optimizer_config.learning_rate.stepwise.values[0] == 0.03
  assert params.task.model.decoder.drfpn.norm == 'none'


@pytest.mark.parametrize('field', [
    'model.detection_generator.pre_nms_top_k_sharding_block', 'model.anchor.num_octaves',
    'losses.huber_loss_delta', 'train_data.parser.match_threshold'])
def test_an_option_that_would_do_nothing_is_unknown(field):
  with pytest.raises(command_line.CommandError, match=field.rpartition('.')[2]):
    experiment.resolve(SAMPLE[0], params_override=f'task.{field}=1')
