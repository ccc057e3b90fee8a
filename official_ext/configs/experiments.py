"""Experiments of the necks: `<detector>_<decoder>_<backbone>_<dataset>`.

Each starts from an experiment of Model Garden and overrides what its paper, or the small sample,
does otherwise.  It runs by its name alone in a folder that has its data.
"""
from collections.abc import Callable
import functools
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory

from official_ext import environment
from official_ext.configs import detectors
from official_ext.modeling.backbones import imported

# Folder into which the commands of docs/ write the composed sample.
SAMPLE = 'runs/sample/records'
SAMPLE_CLASSES = 11

_DECODERS = ('fpn', 'inception_fpn', 'dyfpn', 'drfpn', 'pafpn', 'bifpn', 'carafe',
             'deformable_fpn')
# Differs: Model Garden's suppression is `v2`, which takes seconds per image on a CPU;
# `modeling/detection_generators.py` says in what the two differ.
_BATCHED_NMS = {'task': {'model': {'detection_generator': {'nms_version': 'batched'}}}}


def from_stock(name: str, task: Any, *overrides: dict[str, Any]) -> cfg.ExperimentConfig:
  """Returns one of Model Garden's experiments with our task and with overrides.

  Args:
    name: name of Model Garden's experiment.
    task: config of our task, which takes the options of Model Garden's task.
    *overrides: options of the experiment, applied one after the other.
  """
  experiment = cfg.ExperimentConfig(task=task, restrictions=[
      'task.train_data.is_training != None', 'task.validation_data.is_training != None'])
  experiment.override(exp_factory.get_exp_config(name).as_dict())
  for override in (_BATCHED_NMS, *overrides):
    experiment.override(override)
  return experiment


def schedule(steps: int, learning_rate: dict[str, Any], warmup_steps: int,
              warmup_learning_rate: float, interval: int, validation_interval: int,
              **optimizer: Any) -> dict[str, Any]:
  """Returns options of the trainer: SGD with momentum 0.9 and linear warm-up.

  Args:
    steps: number of training steps.
    learning_rate: options of Model Garden's learning rate, `type` and fields of that type.
    warmup_steps: number of steps of the warm-up.
    warmup_learning_rate: learning rate of the first step.
    interval: steps from one loop, summary and checkpoint to the next.
    validation_interval: steps from one evaluation to the next.
    **optimizer: further options of SGD.
  """
  return {
      'train_steps': steps,
      'validation_steps': -1,
      'validation_interval': validation_interval,
      'steps_per_loop': interval,
      'summary_interval': interval,
      'checkpoint_interval': interval,
      'optimizer_config': {
          'optimizer': {'type': 'sgd', 'sgd': {'momentum': 0.9, **optimizer}},
          'learning_rate': learning_rate,
          'warmup': {
              'type': 'linear',
              'linear': {'warmup_steps': warmup_steps,
                         'warmup_learning_rate': warmup_learning_rate},
          },
      },
  }


# --- The papers' setting: COCO, ResNet, 12 epochs ("1x") of batch 8, of 24 for DRFPN ------
#
# Differs: this is not DyFPN's and DRFPN's setting in the following, as Model Garden has it so:
# - The YAML files of the papers' rows set `task.resize` and `task.frozen_stages` as the papers do.
#   Without them images are resized into one static size, 832x1344, or 896x1408 for RetinaNet
#   (multiples of the largest stride), in training and in evaluation.  The papers resize the short
#   side to 800 and the long side to at most 1333 in either orientation, and pad per batch.  On 101
#   images of COCO a landscape image has 1.08 times the pixels that it has in the papers, an
#   upright image 0.64 times; for RetinaNet 1.25 and 0.74 times.
# - Heads, their losses and candidates are Model Garden's, `task.model.head_style: garden`; the
#   YAML files of the papers' rows have `paper`.  Under `garden`:
#   - Heads have batch norm after every hidden layer, with statistics of the one or two images of
#     a replica, instead of no norm.
#   - Box losses are Huber losses, divided by the number of coordinates of positive anchors or
#     boxes, in the region proposal network of each level alone, instead of smooth L1 or L1,
#     divided by the number of all sampled ones.  RetinaNet's is 50 times one with delta 0.1.
#     The score loss of the region proposal network is divided by twice the sampled anchors.
#   - RetinaNet's focal loss has gamma 1.5 instead of 2.  Anchors with an overlap between 0.4 and
#     0.5 are background instead of ignored.  The best 5000 anchors of all levels are candidates
#     of a class, instead of the best 1000 of each level.
#   - The losses of the three stages of a cascade are averaged instead of weighted by 1, 1/2 and
#     1/4, and it has one mask head instead of three whose masks are averaged.
# - Under `paper` still: the second and third stage of a cascade train on all boxes that the first
#   has sampled, without a sample and ground truth of their own.  RetinaNet's losses are divided by
#   the positive anchors of the batch, for i-FPN and the dynamic head too, not by a moving average.
#   Centers of anchors lie half a stride further to the right and down than in mmdetection.
# - The backbone starts from Model Garden's ImageNet checkpoint, not from torchvision's.  Its
#   batch norms are frozen altogether (the papers train their scale and offset).
# - There are 91 classes, as COCO numbers them, instead of 80.  Training computes in bfloat16.
# - The experiments with `fpn` use Model Garden's FPN, with batch norm, and with a convolution for
#   level 6.
#
# `pafpn`, `bifpn`, `carafe` and `deformable_fpn`, which the papers compare with, have the schedule
# of DyFPN.

COCO_IMAGES = 118287

# DRFPN trains on three GPUs with eight images each, at a learning rate in proportion.
_BATCH_SIZES = {'drfpn': 24}
_LEARNING_RATES = {'drfpn': 0.03}


def coco_schedule(epochs: int = 12, batch_size: int = 8,
                  learning_rate: float = 0.01) -> dict[str, Any]:
  """Returns options of the "1x" schedule (12 epochs), or of one in the same proportions.

  Args:
    epochs: number of epochs; the learning rate falls to a tenth after 2/3 of them and again
      after 11/12.
    batch_size: number of images per step.
    learning_rate: learning rate after the warm-up.
  """
  epoch = COCO_IMAGES // batch_size
  boundaries = [epochs * 2 // 3 * epoch, epochs * 11 // 12 * epoch]
  values = [learning_rate, learning_rate / 10, learning_rate / 100]
  return {'trainer': schedule(
      epochs * epoch,
      {'type': 'stepwise', 'stepwise': {'boundaries': boundaries, 'values': values}},
      warmup_steps=500, warmup_learning_rate=1e-5, interval=epoch, validation_interval=epoch)}


def paper_schedule(decoder: str) -> dict[str, Any]:
  """Returns options of the "1x" schedule in the paper of a decoder."""
  return coco_schedule(batch_size=_BATCH_SIZES.get(decoder, 8),
                       learning_rate=_LEARNING_RATES.get(decoder, 0.01))


# One or two images per replica are too few for batch statistics; the papers freeze these norms too.
FROZEN_NORM = {'task': {'model': {'backbone': {
    name: {'bn_trainable': False} for name in ('resnet', 'imported', *imported.NAMED)}}}}


def coco_data(decoder: str) -> dict[str, Any]:
  """Returns options of the task: COCO's files, batch sizes, augmentation and weight decay.

  Args:
    decoder: type of the decoder, which decides the batch size of training.
  """
  parser = {'aug_rand_hflip': True, 'aug_scale_min': 1.0, 'aug_scale_max': 1.0}
  return {
      'train_data': {'input_path': 'coco/train-*.tfrecord', 'parser': parser,
                     'global_batch_size': _BATCH_SIZES.get(decoder, 8)},
      'validation_data': {'input_path': 'coco/val-*.tfrecord', 'global_batch_size': 8,
                          'drop_remainder': False},
      'losses': {'l2_weight_decay': 1e-4},
  }


def paper_decoder(decoder: str) -> dict[str, Any]:
  """Returns options of a decoder without norm, as papers have it.

  Model Garden's FPN has a norm, and BiFPN has one in its paper too.  BiFPN gets the width of the
  other necks.
  """
  own = {'fpn': {}, 'bifpn': {'num_filters': 256}}
  return {'type': decoder, decoder: own.get(decoder, {'norm': 'none'})}


def _budget(decoder: str, weight: float = 0.2, target: float = 0.5) -> dict[str, Any]:
  # DyFPN's Table 6, row I, prints a weight of 0.1.  The authors' code sums over the two images of
  # a GPU; this budget takes their mean.
  return {'budget': {'weight': weight, 'target': target}} if decoder == 'dyfpn' else {}


def _retinanet_coco(decoder: str) -> cfg.ExperimentConfig:
  task = {**coco_data(decoder), **_budget(decoder),
          'model': {'input_size': [896, 1408, 3], 'decoder': paper_decoder(decoder)}}
  return from_stock('retinanet_resnetfpn_coco', detectors.RetinaNetTaskConfig(),
                     {'task': task}, FROZEN_NORM, paper_schedule(decoder))


def _two_stage_model(decoder: str) -> dict[str, Any]:
  options = paper_decoder(decoder)
  if decoder not in ('fpn', 'bifpn'):
    options[decoder]['coarse_levels'] = 'max_pool'
  return {
      'input_size': [832, 1344, 3],
      'decoder': options,
      'detection_head': {'num_convs': 0, 'num_fcs': 2, 'fc_dims': 1024},
      'roi_generator': {'test_pre_nms_top_k': 2000},
      'norm_activation': {'use_sync_bn': False},
  }


def _rcnn_coco(decoder: str, stock: str = 'fasterrcnn_resnetfpn_coco',
               **model: Any) -> cfg.ExperimentConfig:
  task = {**coco_data(decoder), **_budget(decoder),
          'model': {**_two_stage_model(decoder), **model}}
  return from_stock(stock, detectors.MaskRCNNTaskConfig(), {'task': task}, FROZEN_NORM,
                     paper_schedule(decoder))


def _cascadercnn_coco(decoder: str) -> cfg.ExperimentConfig:
  head = {**_two_stage_model(decoder)['detection_head'],
          'class_agnostic_bbox_pred': True, 'cascade_class_ensemble': True}
  return _rcnn_coco(decoder, detection_head=head,
                    roi_sampler={'cascade_iou_thresholds': [0.6, 0.7]})


# --- The composed sample: a few minutes on a CPU ---------------------------------------


# At the learning rate of the sample offsets otherwise leave the map.
SLOW_OFFSETS = {'offset_rate': 0.01}
_DEFORMABLE = ('imported', *(name for name in imported.NAMED
                             if name.endswith(imported.DEFORMABLE_SUFFIX)))


def sample_override(decoder: str, steps: int = 500) -> dict[str, Any]:
  """Returns options of a short run on 256-pixel images, from the package's EfficientNet-Lite0.

  Args:
    decoder: type of the decoder.
    steps: number of training steps.
  """
  data = {'global_batch_size': 8, 'dtype': 'float32', 'shuffle_buffer_size': 256}
  parser = {'aug_rand_hflip': False, 'aug_scale_min': 0.8, 'aug_scale_max': 1.2}
  options: dict[str, Any] = {'num_filters': 64}
  if decoder in ('inception_fpn', 'dyfpn'):
    options['branch_init_scale'] = 0.01
  if decoder in ('deformable_fpn', 'ifpn'):
    options.update(SLOW_OFFSETS)
  if decoder == 'ifpn':
    # The basis from this backbone starts with standard deviations of 3 to 6.  Beside it the
    # pyramid, of 0.3, would not count.  The basis from ResNet has standard deviations near 1.
    options['normalize_basis'] = True
  return {
      'runtime': {'mixed_precision_dtype': 'float32', 'distribution_strategy': 'one_device',
                  'enable_xla': False},
      'trainer': schedule(
          steps, {'type': 'cosine', 'cosine': {'initial_learning_rate': 0.03,
                                               'decay_steps': steps}},
          warmup_steps=50, warmup_learning_rate=0.001, interval=50, validation_interval=steps,
          global_clipnorm=10.0),
      'task': {
          'init_checkpoint': str(environment.data_path('efficientnet_lite0_imagenet')),
          'init_checkpoint_modules': 'backbone',
          'annotation_file': f'{SAMPLE}/annotations/val.json',
          'model': {
              'num_classes': SAMPLE_CLASSES,
              'input_size': [256, 256, 3],
              'backbone': {'type': 'efficientnet',
                           'efficientnet': {'model_id': 'b0', 'se_ratio': 0.0},
                           **dict.fromkeys(_DEFORMABLE, SLOW_OFFSETS)},
              'decoder': {'type': decoder, decoder: options},
              'norm_activation': {'activation': 'relu6', 'norm_momentum': 0.9,
                                  'norm_epsilon': 0.001, 'use_sync_bn': False},
          },
          'train_data': {**data, 'input_path': f'{SAMPLE}/train-*.tfrecord', 'parser': parser},
          'validation_data': {**data, 'input_path': f'{SAMPLE}/val-*.tfrecord',
                              'drop_remainder': False},
          **_budget(decoder, weight=1.0, target=0.45),
      },
  }


def _retinanet_sample(decoder: str) -> cfg.ExperimentConfig:
  model = {
      'min_level': 3,
      'max_level': 6,
      'anchor': {'anchor_size': 3},
      'head': {'num_convs': 2, 'num_filters': 64, 'tower': {'plain': SLOW_OFFSETS}},
      'detection_generator': {'pre_nms_top_k': 1000},
  }
  return from_stock('retinanet_resnetfpn_coco', detectors.RetinaNetTaskConfig(),
                     sample_override(decoder),
                     {'task': {'model': model, 'losses': {'l2_weight_decay': 4e-5}}})


def _fasterrcnn_sample(decoder: str) -> cfg.ExperimentConfig:
  model = {
      'min_level': 2,
      'max_level': 6,
      'anchor': {'anchor_size': 4},
      'rpn_head': {'num_filters': 64},
      'detection_head': {'num_convs': 0, 'num_fcs': 2, 'fc_dims': 256},
      'roi_generator': {'pre_nms_top_k': 500, 'num_proposals': 200, 'test_pre_nms_top_k': 500,
                        'test_num_proposals': 200},
      'roi_sampler': {'num_sampled_rois': 64},
      'detection_generator': {'pre_nms_top_k': 1000},
  }
  return from_stock('fasterrcnn_resnetfpn_coco', detectors.MaskRCNNTaskConfig(),
                     sample_override(decoder),
                     {'task': {'model': model, 'losses': {'l2_weight_decay': 4e-5}}})


_FAMILIES: dict[str, Callable[[str], cfg.ExperimentConfig]] = {
    'retinanet_{}_resnet50_coco': _retinanet_coco,
    'fasterrcnn_{}_resnet50_coco': _rcnn_coco,
    'maskrcnn_{}_resnet50_coco': functools.partial(_rcnn_coco, stock='maskrcnn_resnetfpn_coco'),
    'cascadercnn_{}_resnet50_coco': _cascadercnn_coco,
    'retinanet_{}_efficientnetlite0_sample': _retinanet_sample,
    'fasterrcnn_{}_efficientnetlite0_sample': _fasterrcnn_sample,
}

for _family, _build in _FAMILIES.items():
  for _decoder in _DECODERS:
    exp_factory.register_config_factory(_family.format(_decoder))(
        functools.partial(_build, _decoder))


# --- i-FPN: 90k steps of 16 images, otherwise as above ----------------------------------
#
# Differs: besides the differences above, the solver is Anderson's with 5 evaluations.
# `configs/*/ifpn_resnet50_90k.yaml` has the paper's solver, Broyden with 15 steps.


def schedule_90k() -> dict[str, Any]:
  """Returns options of 90k steps of 16 images; the rate falls to a tenth at 60k and at 80k."""
  return {
      'trainer': schedule(
          90_000,
          {'type': 'stepwise',
           'stepwise': {'boundaries': [60_000, 80_000], 'values': [0.01, 0.001, 0.0001]}},
          warmup_steps=1000, warmup_learning_rate=1e-5, interval=7500, validation_interval=7500),
      'task': {'train_data': {'global_batch_size': 16}}}


def _implicit_coco(build: Callable[[str], cfg.ExperimentConfig]) -> cfg.ExperimentConfig:
  experiment = build('ifpn')
  experiment.override(schedule_90k())
  return experiment


for _name, _build in {
    'retinanet_ifpn_resnet50_coco': functools.partial(_implicit_coco, _retinanet_coco),
    'fasterrcnn_ifpn_resnet50_coco': functools.partial(_implicit_coco, _rcnn_coco),
    'retinanet_ifpn_efficientnetlite0_sample': functools.partial(_retinanet_sample, 'ifpn'),
    'fasterrcnn_ifpn_efficientnetlite0_sample': functools.partial(_fasterrcnn_sample, 'ifpn'),
}.items():
  exp_factory.register_config_factory(_name)(_build)
