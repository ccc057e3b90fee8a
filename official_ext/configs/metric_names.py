"""The names of what evaluation measures, so that a wrong one is refused before a training."""
from collections.abc import Sequence
import difflib
import importlib.util
from typing import Any

from official_ext.ops import checks

_COCO = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'ARmax1', 'ARmax10')
_COCO_BY_SIZE = ('ARs', 'ARm', 'ARl')
_LOSSES = ('total_loss', 'cls_loss', 'box_loss', 'model_loss', 'validation_loss')
_WAYMO = 'waymo_open_dataset'


def of_detector(task: Any) -> list[str]:
  """Returns the names of the metrics of a detection task, without costs and single classes.

  Args:
    task: config of the task.
  """
  is_two_stage = hasattr(task.model, 'roi_generator')
  # The two-stage task gives its evaluator the default number of detections, and has no losses.
  most = 100 if is_two_stage else task.max_num_eval_detections
  names = [*_COCO, f'ARmax{most}', *_COCO_BY_SIZE] if task.use_coco_metrics else []
  if is_two_stage and task.model.include_mask:
    names += [f'mask_{name}' for name in names]
  return names + list(_LOSSES[-1:] if is_two_stage else _LOSSES)


def check_detector(task: Any, metric: str) -> None:
  """Checks that evaluation can measure what a detection task asks for.

  Args:
    task: config of the task.
    metric: `trainer.best_checkpoint_eval_metric`; empty if no best checkpoint is kept.

  Raises:
    FieldError: a package is missing, or there is no such metric.
  """
  if task.use_wod_metrics:
    if importlib.util.find_spec(_WAYMO) is None:
      raise checks.FieldError(
          f'task.use_wod_metrics is true, which needs the Python package {_WAYMO}, and it is not '
          'installed: set it to false; task.use_coco_metrics evaluates too.')
    return
  names = of_detector(task)
  # Costs have a `/` in their names, and so have metrics of single classes.
  if (metric and metric not in names and '/' not in metric
      and not getattr(task, 'use_approx_instance_metrics', False)):
    raise checks.FieldError(
        f'trainer.best_checkpoint_eval_metric is {metric!r}, which evaluation does not give'
        f'{_hint(metric, names)}; it gives {", ".join(names)}, and costs such as '
        'routing/gmac/executed.')


def _hint(metric: str, names: Sequence[str]) -> str:
  lower = {name.lower(): name for name in names}
  close = difflib.get_close_matches(metric.lower(), lower, n=1)
  return f' (did you mean {lower[close[0]]}?)' if close else ''
