"""Finds options of an experiment that have no effect on its training or evaluation.

People change the number of steps and forget what counts the same steps, or give a budget an option
of another kind.
"""
from collections.abc import Iterator
from typing import Any

from official_ext.configs import options

_OPTIMIZER = 'trainer.optimizer_config'
# Schedule -> its rate from the last of `decay_steps` on.
_LAST_RATE = {'cosine': 'alpha', 'polynomial': 'end_learning_rate'}
# Some schedules end a warm-up before the training does.
_TAIL = 0.05
# Option of a budget -> the kinds that read it, where another one is easily taken for such.
_READ_BY = {'target': ('share', 'drawn'), 'draw_range': ('drawn',), 'full_every': ('drawn',),
            'shrink_steps': ('drawn',)}


def find(params: Any, mode: str = 'train_and_eval') -> list[str]:
  """Returns a sentence on each option that has no effect, or less than it says.

  Args:
    params: a resolved experiment.
    mode: Model Garden's `--mode`.
  """
  return [*(_of_training(params) if 'train' in mode else ()),
          *(_of_evaluation(params.task) if 'eval' in mode else ())]


def _of_training(params: Any) -> list[str]:
  """Returns what is doubtful about a training."""
  train_steps = params.trainer.train_steps
  budgets = {'task.budget': getattr(params.task, 'budget', None),
             **{f'task.budgets[{number}]': budget
                for number, budget in enumerate(getattr(params.task, 'budgets', None) or ())}}
  return [*_of_rate(params.trainer.optimizer_config, train_steps),
          *(sentence for field, budget in budgets.items() if budget
            for sentence in (*_of_budget(budget, field, train_steps), *_unread(budget, field)))]


def _of_evaluation(task: Any) -> Iterator[str]:
  """Yields what is doubtful about evaluation: Model Garden looks for results of another COCO."""
  if (getattr(task, 'per_category_metrics', False)
      and not getattr(task, 'use_approx_instance_metrics', False)):
    yield ('task.per_category_metrics is true, but pycocotools gives no results of single classes: '
           'python -m official_ext.tools.predict writes detections in the format of COCO, with '
           'which you can count them.')


def _of_rate(config: Any, train_steps: int) -> Iterator[str]:
  """Yields what is doubtful about the learning rate."""
  schedule = config.learning_rate
  rate = schedule.get() if schedule.type in _LAST_RATE else None
  if rate and getattr(rate, _LAST_RATE[schedule.type]) == 0 and not getattr(rate, 'cycle', False):
    end = rate.decay_steps + (getattr(rate, 'offset', 0) or 0)
    if end < (1 - _TAIL) * train_steps:
      yield (f'{_OPTIMIZER}.learning_rate.{schedule.type}.decay_steps is {rate.decay_steps}, so '
             f'that the learning rate is 0 from step {end} on, and trainer.train_steps is '
             f'{train_steps}: give both the same number.')
  warmup = config.warmup
  steps = getattr(warmup.get(), 'warmup_steps', 0) if warmup and warmup.type else 0
  if steps and steps > train_steps:
    yield (f'{_OPTIMIZER}.warmup.{warmup.type}.warmup_steps is {steps}, so that the learning rate '
           f'is still rising when training ends: trainer.train_steps is {train_steps}.')


def _of_budget(budget: Any, field: str, train_steps: int) -> Iterator[str]:
  """Yields what is doubtful about a budget."""
  ends = f'training ends before: trainer.train_steps is {train_steps}.'
  for name, weight, start in (
      ('', budget.weight or budget.path_similarity.weight, budget.start_step),
      ('information.', budget.information.weight,
       max(budget.start_step, budget.information.start_step))):
    if weight and start and start >= train_steps:
      yield f'{field}.{name}start_step is {start}, and {ends}'
  if budget.kind == 'drawn' and budget.shrink_steps > train_steps:
    yield (f'{field}.shrink_steps is {budget.shrink_steps}, until which budgets are nearer to 1 '
           f'than draw_range says, and {ends}')


def _unread(budget: Any, field: str) -> Iterator[str]:
  """Yields which options were changed that the kind of a budget does not read."""
  default = options.BudgetConfig()
  for name, kinds in _READ_BY.items():
    value = getattr(budget, name)
    if budget.weight and budget.kind not in kinds and value != getattr(default, name):
      yield (f'{field}.{name} is {value}, which the kind {budget.kind!r} does not read: it is for '
             f'{", ".join(kinds)}.')
