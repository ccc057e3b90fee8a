"""Experiments of dense detectors: `<assigner>_<decoder>_<backbone>_<dataset>`.

The assigners are FCOS, ATSS, AutoAssign and FreeAnchor.

These detectors are the baselines of the dynamic head's paper, https://arxiv.org/abs/2012.03519,
and have its setting: 90k steps of 16 images, a short side of 800 pixels, no augmentation but
flips.  So do those with `ifpn`.  Those with `drfpn` have its paper's schedule, 12 epochs of
batch 24.

Differs: as the docstring of experiments.py says; and images are 800x1344 pixels, not padded to a
multiple of the largest stride.

FCOS has the tricks of its authors' later code: center sampling, GIoU loss, distances in strides,
center-ness from the box tower.  DRFPN's and CADDet's papers used FCOS of mmdetection 2.1, which
has none of them by default; the YAML files of these papers set its options.

AutoAssign and FreeAnchor have the numbers of their authors' code.  On COCO, FreeAnchor's towers
have no norm, and its warm-up has 500 steps from a third of the learning rate; the sample's have
group norm and the anchors of RetinaNet's sample.  Differs: FreeAnchor's authors give biases twice
the learning rate.
"""
import functools
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import retinanet

from official_ext.configs import detectors
from official_ext.configs import experiments

# Assigner -> its own options of the task.  ATSS weights the box loss by 2; its code has FCOS's
# learning rate.
_ASSIGNERS: dict[str, dict[str, Any]] = {
    'fcos': {'losses': {'box_loss_weight': 1.0}},
    'atss': {'losses': {'box_loss_weight': 2.0}},
    'autoassign': {'model': {'location_offset': 0.0}, 'losses': {'box_loss_weight': 5.0}},
    'freeanchor': {
        'model': {'anchor': {'anchor_size': 4.0, 'num_scales': 3, 'aspect_ratios': [0.5, 1.0, 2.0]},
                  'detection_generator': {'nms_iou_threshold': 0.5}},
        'losses': {'focal_loss_alpha': 0.5, 'box_loss': 'smooth_l1', 'box_loss_weight': 0.75}},
}
# Options by assigner: of the COCO experiments, of their schedule of 90k steps, of the sample.
_COCO: dict[str, dict[str, Any]] = {'freeanchor': {'task': {'model': {
    'head': {'tower': {'plain': {'norm': 'none'}}}}}}}
_WARMUPS: dict[str, dict[str, Any]] = {'freeanchor': {'trainer': {'optimizer_config': {'warmup': {
    'linear': {'warmup_steps': 500, 'warmup_learning_rate': 0.01 / 3}}}}}}
_SAMPLE: dict[str, dict[str, Any]] = {'freeanchor': {'task': {'model': {
    'anchor': {'anchor_size': 3.0}}}}}


def _experiment(assigner: str, *overrides) -> cfg.ExperimentConfig:
  """Returns an experiment with the assigner's own options and overrides."""
  experiment = cfg.ExperimentConfig(task=detectors.DenseTaskConfig(), restrictions=[
      'task.train_data.is_training != None', 'task.validation_data.is_training != None'])
  for override in ({'task': {'model': {'assigner': assigner}}}, {'task': _ASSIGNERS[assigner]},
                   *overrides):
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
      experiments.FROZEN_NORM, schedule, _COCO.get(assigner, {}),
      {} if decoder == 'drfpn' else _WARMUPS.get(assigner, {}))


def _sample(assigner: str, decoder: str) -> cfg.ExperimentConfig:
  """Returns an experiment with a small network on the sample data."""
  model = {
      'min_level': 3,
      'max_level': 6,
      'head': {'num_filters': 64, 'tower': {
          'type': 'plain', 'plain': {'num_convs': 2, **experiments.SLOW_OFFSETS}}},
  }
  return _experiment(assigner, experiments.sample_override(decoder),
                     {'task': {'model': model, 'losses': {'l2_weight_decay': 4e-5}}},
                     _SAMPLE.get(assigner, {}))


for _assigner in _ASSIGNERS:
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
