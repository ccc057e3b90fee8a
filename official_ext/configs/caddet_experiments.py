"""Experiments of CADDet: `<detector>_caddet_<dataset>`, its pre-training and its baselines.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 4: 12 epochs of COCO in batches of 16 images, both
losses from the second epoch on, batch norm trained.

Differs, in addition to what experiments.py and dense_experiments.py list:

* `task.init_checkpoint` is null, for the supernet because no pre-trained one is public
  (`caddet_imagenet` trains one), and also for the MobileNet baselines of Table 4, whose accuracy
  in the paper only pre-trained backbones reach.  `tools.convert_backbone` makes one.
* The paper's FCOS is that of mmdetection 2.1: no center sampling, IoU loss, center-ness from the
  class tower, exponential distances.  The YAML files set these options; without a YAML file FCOS
  has the tricks that dense_experiments.py names.  mmdetection divides the focal loss by the
  number of locations with a box plus that of the images, ours by the former alone.
* ReLU precedes the convolution that makes C7; the YAML files leave it out, as section 3.4 does.
"""
import functools
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import image_classification

from official_ext.configs import classifiers
from official_ext.configs import experiments

_BATCH_SIZE = 16
_EPOCH = experiments.COCO_IMAGES // _BATCH_SIZE
_DETECTORS = ('fcos', 'retinanet')
# Experiment's name -> Model Garden's name, and the width of FPNLite that gives the cost of Table 4.
_BASELINES = {'mobilenet': ('MobileNetV1', 96), 'mobilenetv2': ('MobileNetV2', 256)}
_NORM = {'norm_momentum': 0.9, 'norm_epsilon': 1e-5}


def _budget(ratio: float = 0.05, start_step: int = 0, **options: Any) -> dict[str, Any]:
  """Returns options of the global budget (section 3.2) and of path similarity (section 3.3)."""
  return {'weight': 1.0, 'kind': 'scale_aware', 'ratio': ratio, 'start_step': start_step,
          'path_similarity': {'weight': 1.0}, **options}


def _coco(detector: str, backbone: dict[str, Any], decoder: str, num_filters: int,
          **task: Any) -> cfg.ExperimentConfig:
  """Returns a detector with this backbone and decoder (section 3.4) and the paper's schedule."""
  experiment = exp_factory.get_exp_config(f'{detector}_fpn_resnet50_coco')
  experiment.override(experiments.coco_schedule(batch_size=_BATCH_SIZE))
  experiment.override({'task': {
      'init_checkpoint': None,
      'train_data': {'global_batch_size': _BATCH_SIZE},
      'model': {
          'min_level': 3, 'max_level': 7, 'backbone': backbone,
          'decoder': {'type': decoder, decoder: {'num_filters': num_filters}},
          'norm_activation': {**_NORM, 'use_sync_bn': True}},
      **task}})
  return experiment


def _caddet_coco(detector: str) -> cfg.ExperimentConfig:
  return _coco(detector, {'type': 'caddet'}, 'caddet_projection', 256,
               budget=_budget(start_step=_EPOCH))


def _baseline(detector: str, backbone: str) -> cfg.ExperimentConfig:
  model_id, num_filters = _BASELINES[backbone]
  return _coco(detector, {'type': 'mobilenet', 'mobilenet': {'model_id': model_id}}, 'fpn_lite',
               num_filters)


# --- Pre-training -------------------------------------------------------------------------


def _pretraining(task: dict[str, Any], steps: int, epoch: int, learning_rate: float
                 ) -> cfg.ExperimentConfig:
  """Returns image classification with SGD and cosine decay.

  Args:
    task: overrides of the task.
    steps: number of training steps.
    epoch: number of steps after which to write a checkpoint, summaries, and evaluate.
    learning_rate: at the first step.
  """
  experiment = cfg.ExperimentConfig(
      task=classifiers.ClassificationTaskConfig(), restrictions=[
          'task.train_data.is_training != None', 'task.validation_data.is_training != None'])
  experiment.override({
      'task': {'losses': {'l2_weight_decay': 1e-4}},
      'trainer': {
          'train_steps': steps, 'steps_per_loop': epoch, 'summary_interval': epoch,
          'checkpoint_interval': epoch, 'validation_interval': epoch, 'validation_steps': -1,
          'optimizer_config': {
              'optimizer': {'type': 'sgd', 'sgd': {'momentum': 0.9}},
              'learning_rate': {'type': 'cosine', 'cosine': {
                  'initial_learning_rate': learning_rate, 'decay_steps': steps}}}}})
  experiment.override({'task': task})
  return experiment


def _imagenet() -> cfg.ExperimentConfig:
  """Pre-trains the supernet without routers.

  120 epochs in batches of 256 with a learning rate of 0.2 (section 4.1); the paper does not print
  the decay.
  """
  batch_size = 256
  epoch = image_classification.IMAGENET_TRAIN_EXAMPLES // batch_size
  path = image_classification.IMAGENET_INPUT_PATH_BASE
  return _pretraining({
      'model': {'num_classes': 1001, 'input_size': [224, 224, 3],
                'backbone': {'type': 'caddet', 'caddet': {'routers': False}},
                'norm_activation': {**_NORM, 'use_sync_bn': True}},
      'train_data': {'input_path': f'{path}/train*', 'global_batch_size': batch_size},
      'validation_data': {'input_path': f'{path}/valid*', 'global_batch_size': batch_size,
                          'drop_remainder': False},
  }, 120 * epoch, epoch, 0.2)


# --- The composed sample: minutes on a CPU ------------------------------------------------

_SMALL = {'num_layers': 6, 'channels': [24, 32, 48, 64]}
_SMALL_NORM = {**_NORM, 'use_sync_bn': False, 'activation': 'relu'}
_CROPS = 'runs/sample/crops'


def _sample(steps: int = 1500) -> cfg.ExperimentConfig:
  """FCOS with a small supernet from random weights; scale bounds fit images of 256 pixels."""
  experiment = exp_factory.get_exp_config('fcos_fpn_efficientnetlite0_sample')
  experiment.override(experiments.sample_override('fpn', steps))
  experiment.override({'task': {
      'init_checkpoint': None,
      'model': {
          'backbone': {'type': 'caddet', 'caddet': _SMALL},
          'decoder': {'type': 'caddet_projection', 'caddet_projection': {'num_filters': 64}},
          'min_level': 3, 'max_level': 7, 'norm_activation': _SMALL_NORM},
      # The paper's weight of 1 changes little in so few steps.
      'budget': _budget(0.1, start_step=steps // 10, weight=20.0,
                        scale_bounds=[24.0, 48.0, 96.0])}})
  return experiment


def _crops(steps: int = 400) -> cfg.ExperimentConfig:
  """Pre-trains the sample's supernet on the objects that tools/make_crops.py cuts out."""
  data = {'global_batch_size': 32, 'shuffle_buffer_size': 2000, 'aug_rand_hflip': False,
          'crop_area_range': [0.5, 1.0]}
  experiment = _pretraining({
      'model': {'num_classes': experiments.SAMPLE_CLASSES - 1, 'input_size': [64, 64, 3],
                'backbone': {'type': 'caddet', 'caddet': {**_SMALL, 'routers': False}},
                'norm_activation': _SMALL_NORM},
      'train_data': {**data, 'input_path': f'{_CROPS}/train-*.tfrecord'},
      'validation_data': {'input_path': f'{_CROPS}/val-*.tfrecord', 'global_batch_size': 32,
                          'drop_remainder': False},
  }, steps, steps // 4, 0.05)
  experiment.override({'runtime': {'mixed_precision_dtype': 'float32',
                                   'distribution_strategy': 'one_device', 'enable_xla': False}})
  return experiment


for _detector in _DETECTORS:
  exp_factory.register_config_factory(f'{_detector}_caddet_coco')(
      functools.partial(_caddet_coco, _detector))
  for _backbone in _BASELINES:
    exp_factory.register_config_factory(f'{_detector}_fpnlite_{_backbone}_coco')(
        functools.partial(_baseline, _detector, _backbone))
for _name, _build in {'caddet_imagenet': _imagenet, 'fcos_caddet_sample': _sample,
                      'caddet_crops': _crops}.items():
  exp_factory.register_config_factory(_name)(_build)
