"""EfficientDet's experiments: scales, schedule, averaged weights, and the published counts."""
from unittest import mock

import numpy as np
from official.core import task_factory
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.configs import efficientdet_experiments
from official_ext.modeling import dense_detector
from official_ext.modeling import network_cost
from official_ext.modeling.heads import dense_head
from official_ext.modeling.heads import dynamic_head
from official_ext.utils import experiment

SCALES = [f'd{number}' for number in range(8)]
# EfficientDet's Table 1 and the code's hparams: backbone, side of images, channels, cells, convs.
PUBLISHED = {
    'd0': ('b0', 512, 64, 3, 3), 'd1': ('b1', 640, 88, 4, 3), 'd2': ('b2', 768, 112, 5, 3),
    'd3': ('b3', 896, 160, 6, 4), 'd4': ('b4', 1024, 224, 7, 4), 'd5': ('b5', 1280, 288, 7, 4),
    'd6': ('b6', 1280, 384, 8, 5), 'd7': ('b6', 1536, 384, 8, 5)}


@pytest.mark.parametrize('name', SCALES)
def test_scale_is_that_of_the_paper(name):
  assert set(efficientdet_experiments.SCALES) == set(PUBLISHED)
  task = experiment.resolve(f'efficientdet_{name}_coco').task
  backbone, side, channels, cells, convs = PUBLISHED[name]
  model = task.model
  assert model.backbone.get().network == f'efficientnet_{backbone}'
  assert list(model.input_size) == [side, side, 3] and not side % 2**model.max_level
  decoder, head, tower = model.decoder.get(), model.head, model.head.tower.get()
  assert (decoder.num_filters, decoder.num_repeats) == (channels, cells)
  assert decoder.fusion == ('sum' if name in ('d6', 'd7') else 'fast_normalized')
  assert (head.num_filters, tower.num_convs, head.use_separable_conv) == (channels, convs, True)
  anchor = model.anchor
  assert (anchor.num_scales, sorted(anchor.aspect_ratios)) == (3, [0.5, 1.0, 2.0])
  assert anchor.anchor_size == (5.0 if name == 'd7' else 4.0)
  norms = [(options.use_sync_bn, options.norm_momentum, options.norm_epsilon, options.activation)
           for options in (tower, model.norm_activation)]
  assert norms == [(True, 0.99, 1e-3, 'swish')] * 2


def test_recipe_is_that_of_the_paper():
  params = experiment.resolve('efficientdet_d1_coco')
  task, trainer = params.task, params.trainer
  losses = task.losses
  assert (losses.focal_loss_alpha, losses.focal_loss_gamma) == (0.25, 1.5)
  assert (losses.huber_loss_delta, losses.box_loss_weight) == (0.1, 50)
  assert losses.l2_weight_decay == 4e-5
  parser = task.train_data.parser
  assert (parser.match_threshold, parser.unmatched_threshold) == (0.5, 0.5)
  assert parser.aug_rand_hflip and (parser.aug_scale_min, parser.aug_scale_max) == (0.1, 2.0)
  assert task.train_data.global_batch_size == 128
  assert trainer.train_steps == 300 * 120_000 // 128 == trainer.validation_interval * 75
  ema = trainer.optimizer_config.ema
  assert (ema.average_decay, ema.trainable_weights_only) == (0.9998, False)
  sgd = trainer.optimizer_config.optimizer.sgd
  assert (sgd.momentum, sgd.global_clipnorm) == (0.9, 10.0)
  rate = optimization.OptimizerFactory(trainer.optimizer_config).build_learning_rate()
  half = (281_250 - 937) // 2
  for step, expected in {0: 0.016, 937: 0.16, half: 0.08, 281_249: 0.0}.items():
    assert float(rate(tf.constant(step))) == pytest.approx(expected, abs=2e-5), step


def test_dynamic_head_changes_the_towers_and_the_budget_alone():
  plain, dynamic = (experiment.resolve(f'efficientdet_{name}_coco').as_dict()
                    for name in ('d1', 'd1_dynamichead'))
  tower = dynamic['task']['model']['head']['tower']
  assert (tower['type'], tower['dynamic']['num_blocks']) == ('dynamic', 10)
  budget = dynamic['task']['budget']
  assert (budget['weight'], budget['target'], budget['distance']) == (0.1, 0.0, 'absolute')
  plain['task']['model']['head']['tower'], plain['task']['budget'] = tower, budget
  assert dynamic == plain


def test_sample_is_the_sample_of_bifpn_with_another_head():
  ours, other = (experiment.resolve(f'{name}_bifpn_efficientnetlite0_sample')
                 for name in ('efficientdet', 'retinanet'))
  norm, tower = ours.task.model.norm_activation, ours.task.model.head.tower.get()
  assert (tower.norm_momentum, tower.use_sync_bn) == (norm.norm_momentum, norm.use_sync_bn)
  rates = [params.trainer.optimizer_config.learning_rate.cosine for params in (ours, other)]
  assert (rates[0].initial_learning_rate, rates[1].initial_learning_rate) == (0.16, 0.03)
  rates[1].initial_learning_rate = 0.16
  other.task.model.head = ours.task.model.head
  assert ours.as_dict() == other.as_dict()


def _parameters(layer):
  return sum(np.prod(variable.shape) for variable in layer.trainable_variables)


def _unused(backbone):
  """The last convolution of EfficientNet and its norm, which only a classifier runs."""
  last = backbone.output_specs['5'][-1], backbone.output['6'].shape[-1]
  return last[0] * last[1] + 2 * last[1], last[0] * last[1]


@pytest.mark.slow
def test_counts_of_efficientdet_d1():
  """Printed: 6.6 M weights and 6.1 G multiply-adds; by the authors' code 6,625,898 and 6.003 G."""
  params = experiment.resolve('efficientdet_d1_coco')
  params.task.model.num_classes = 90
  model = task_factory.get_task(params.task).build_model()
  weights, macs = _unused(model.backbone)
  parts = [_parameters(getattr(model, part)) for part in ('backbone', 'decoder', 'head')]
  assert [parts[0] - weights, *parts[1:]] == [6_101_024, 390_972, 101_394 + 32_508]
  cost = network_cost.whole_network_cost(model, params.task.model.input_size[:2]).static_by_part
  locations = sum(side**2 for side in (80, 40, 20, 10, 5))
  convolutions = 6 * (9 * 88 + 88**2) + 2 * 9 * 88 + 88 * 9 * (90 + 4)
  assert cost['head'] == locations * convolutions
  backbone = cost['backbone'] - 20**2 * macs
  assert (backbone / 1e9, cost['decoder'] / 1e9) == pytest.approx((4.468, 0.451), abs=5e-4)
  assert (backbone + cost['decoder'] + cost['head']) / 1e9 == pytest.approx(6.003, abs=5e-4)


def test_weights_with_the_dynamic_head():
  """Printed: 9.4 M, of which backbone and decoder have those of D1; 80 classes."""
  model = experiment.resolve('efficientdet_d1_dynamichead_coco').task.model
  with mock.patch.object(dynamic_head.DynamicTower, 'call',
                         lambda self, inputs, training=None: dict(inputs)):
    head = dense_head.AnchorHead(80, **dense_detector.head_options(model))
    head({level: tf.zeros([1, 2, 2, 88]) for level in '34567'})
  assert 6_101_024 + 390_972 + _parameters(head) == 9_445_604
