"""Experiments of the dynamic head: `<detector>_dynamichead_<backbone>_<dataset>`.

Each experiment is that of the plain head, see dense_experiments.py, with other towers and a
budget.  Those on COCO have D8 and lambda 0.1, the middle budget of the reference's code.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519.
"""
import functools

from official.core import config_definitions as cfg
from official.core import exp_factory

from official_ext.configs import experiments


def _experiment(plain: str, num_blocks: int, budget: float) -> cfg.ExperimentConfig:
  """Returns an experiment with dynamic towers instead of plain ones.

  Args:
    plain: name of the experiment with plain towers.
    num_blocks: blocks of each tower.
    budget: weight of the budget loss, lambda.
  """
  experiment = exp_factory.get_exp_config(plain)
  experiment.override({'task': {
      'model': {'head': {'tower': {'type': 'dynamic', 'dynamic': {'num_blocks': num_blocks}}}},
      # The loss of eqs. 4 and 5 is the cost itself, as a share.
      'budget': {'weight': budget, 'target': 0.0, 'distance': 'absolute'}}})
  return experiment


def _retinanet() -> cfg.ExperimentConfig:
  """Returns RetinaNet's experiment, with the paper's schedule."""
  experiment = _experiment('retinanet_fpn_resnet50_coco', 8, 0.1)
  experiment.override(experiments.schedule_90k())
  return experiment


exp_factory.register_config_factory('retinanet_dynamichead_resnet50_coco')(_retinanet)
for _detector in ('fcos', 'atss', 'autoassign', 'freeanchor'):
  for _backbone, _blocks in (('resnet50_coco', 8), ('resnet101_coco', 8),
                             ('efficientnetlite0_sample', 2)):
    exp_factory.register_config_factory(f'{_detector}_dynamichead_{_backbone}')(
        functools.partial(_experiment, f'{_detector}_fpn_{_backbone}', _blocks, 0.1))
