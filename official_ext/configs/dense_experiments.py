"""Experiments of FCOS and ATSS: `<assigner>_<decoder>_<backbone>_<dataset>`.

These detectors are the baselines of the dynamic head's paper, https://arxiv.org/abs/2012.03519,
and have its setting: 90k steps of 16 images, a short side of 800 pixels, no augmentation but
flips.  So do those with `ifpn`.  Those with `drfpn` have its paper's schedule, 12 epochs of
batch 24.

Differs: as the docstring of experiments.py says; and images are 800x1344 pixels, not padded to a
multiple of the largest stride.

FCOS has the tricks of its authors' later code: center sampling, GIoU loss, distances in strides,
center-ness from the box tower.  DRFPN's and CADDet's papers used FCOS of mmdetection 2.1, which
has none of them by default; the YAML files of these papers set its options.
"""
import functools

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import retinanet

from official_ext.configs import detectors
from official_ext.configs import experiments

# ATSS weights the box loss by 2; its code has the learning rate of FCOS.
_BOX_LOSS_WEIGHTS = {'fcos': 1.0, 'atss': 2.0}


def _experiment(assigner: str, *overrides) -> cfg.ExperimentConfig:
  """Returns an experiment of FCOS or ATSS with the assigner's own options and overrides."""
  experiment = cfg.ExperimentConfig(task=detectors.DenseTaskConfig(), restrictions=[
      'task.train_data.is_training != None', 'task.validation_data.is_training != None'])
  own = {'model': {'assigner': assigner},
         'losses': {'box_loss_weight': _BOX_LOSS_WEIGHTS[assigner]}}
  for override in ({'task': own}, *overrides):
    experiment.override(override)
  return experiment


def _coco(assigner: str, depth: int, decoder: str = 'fpn') -> cfg.ExperimentConfig:
  """Returns an experiment with a ResNet of this depth and this decoder on COCO."""
  stock = retinanet.retinanet_resnetfpn_coco().task
  task = experiments.coco_data(decoder)
  task['train_data']['parser']['pad'] = False
  own = {
      'model': {'num_classes': stock.model.num_classes, 'input_size': [800, 1344, 3],
                'backbone': {'type': 'resnet', 'resnet': {'model_id': depth}},
                'decoder': experiments.paper_decoder(decoder),
                'norm_activation': {'use_sync_bn': False}},
      # No checkpoint of ResNet-101 is public; tools.convert_backbone makes one.
      'init_checkpoint': stock.init_checkpoint if depth == 50 else None,
      'init_checkpoint_modules': 'backbone',
      'annotation_file': stock.annotation_file,
      'validation_data': {'parser': {'pad': False}},
  }
  schedule = (experiments.paper_schedule(decoder) if decoder == 'drfpn' else
              experiments.schedule_90k())
  return _experiment(
      assigner, {'runtime': {'mixed_precision_dtype': 'bfloat16'}, 'task': task}, {'task': own},
      experiments.FROZEN_NORM, schedule)


def _sample(assigner: str, decoder: str) -> cfg.ExperimentConfig:
  """Returns an experiment with a small network on the sample data."""
  model = {
      'min_level': 3,
      'max_level': 6,
      'head': {'num_filters': 64, 'tower': {'type': 'plain', 'plain': {'num_convs': 2}}},
  }
  return _experiment(assigner, experiments.sample_override(decoder),
                     {'task': {'model': model, 'losses': {'l2_weight_decay': 4e-5}}})


for _assigner in _BOX_LOSS_WEIGHTS:
  for _depth in (50, 101):
    exp_factory.register_config_factory(f'{_assigner}_fpn_resnet{_depth}_coco')(
        functools.partial(_coco, _assigner, _depth))
  for _decoder in ('ifpn', 'drfpn'):
    exp_factory.register_config_factory(f'{_assigner}_{_decoder}_resnet50_coco')(
        functools.partial(_coco, _assigner, 50, _decoder))
  for _decoder in ('fpn', 'inception_fpn', 'dyfpn', 'drfpn', 'ifpn', 'pafpn', 'bifpn', 'carafe',
                   'deformable_fpn'):
    exp_factory.register_config_factory(f'{_assigner}_{_decoder}_efficientnetlite0_sample')(
        functools.partial(_sample, _assigner, _decoder))
