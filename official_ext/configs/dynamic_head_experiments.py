"""Experiments of the dynamic head: `<detector>_dynamichead_<backbone>_<dataset>`.

Each is the experiment of the plain head with other towers and a budget; dense_experiments.py
says what the setting is.  COCO's is D8 with the reference's middle budget, lambda 0.1.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519.
"""
import functools

from official.core import config_definitions as cfg
from official.core import exp_factory

from official_ext.configs import experiments


def _experiment(plain: str, num_blocks: int, budget: float) -> cfg.ExperimentConfig:
  """Returns an experiment with dynamic towers in the place of plain ones."""
  experiment = exp_factory.get_exp_config(plain)
  experiment.override({'task': {
      'model': {'head': {'tower': {'type': 'dynamic', 'dynamic': {'num_blocks': num_blocks}}}},
      # The loss of eqs. 4 and 5 is the share of the cost itself.
      'budget': {'weight': budget, 'target': 0.0, 'distance': 'absolute'}}})
  return experiment


def _retinanet() -> cfg.ExperimentConfig:
  experiment = _experiment('retinanet_fpn_resnet50_coco', 8, 0.1)
  experiment.override(experiments.schedule_90k())
  return experiment


exp_factory.register_config_factory('retinanet_dynamichead_resnet50_coco')(_retinanet)
for _detector in ('fcos', 'atss'):
  for _backbone, _blocks in (('resnet50_coco', 8), ('resnet101_coco', 8),
                             ('efficientnetlite0_sample', 2)):
    exp_factory.register_config_factory(f'{_detector}_dynamichead_{_backbone}')(
        functools.partial(_experiment, f'{_detector}_fpn_{_backbone}', _blocks, 0.1))
