"""Counts the multiply-adds of a routed detector whose parts would always run."""
from typing import Any

from official.core import task_factory

from official_ext.configs import options
from official_ext.modeling import network_cost
from official_ext.serving import export_modules


def count_twins(module: export_modules.DetectionModule) -> dict[str, int]:
  """Counts the twins of a detector: the same detector with other parts, which always run.

  A detector with a dynamic head has two twins: one with the same head without gates, and one
  with a plain head of four convolutions.  The twin of CADDet runs every path.  Any other detector
  has two: one with an inception FPN of the decoder's branches, and one with an FPN.

  Args:
    module: the export module of the detector.

  Returns:
    Name of a twin -> multiply-adds of the whole network for one image.
  """
  model_config = module.params.task.model
  if model_config.backbone.type == 'caddet':
    return {'every path': module.cost.maximum}
  tower = (model_config.as_dict().get('head') or {}).get('tower') or {}
  if tower.get('type') == 'dynamic':
    fixed = {step: 'fixed' for step in ('scale_step', 'depth_step')
             if tower['dynamic'][step] == 'gated'}
    towers = {'fixed head': {'dynamic': {**fixed, 'activation': 'tanh'}},
              'plain head': {'type': 'plain'}}
    return {name: _cost(module, {'head': {'tower': tower}}) for name, tower in towers.items()}
  neck = model_config.decoder.as_dict()[model_config.decoder.type]
  shared = {key: neck[key] for key in ('num_filters', 'norm', 'coarse_levels')
            if key in neck}
  branches = {'inception FPN': neck.get('branches', ['1x1']), 'FPN': ['1x1']}
  return {name: _cost(module, {'decoder': {
      'type': 'inception_fpn', 'inception_fpn': {**shared, 'branches': kinds}}})
          for name, kinds in branches.items()}


def _cost(module: export_modules.DetectionModule, override: dict[str, Any]) -> int:
  """Returns the multiply-adds of the detector after an override of its model's options."""
  task_config = module.params.task.replace(budget=options.BudgetConfig(), budgets=[])
  task_config.model.override(override)
  model = task_factory.get_task(task_config).build_model()
  return network_cost.whole_network_cost(model, module.padded_size).maximum
