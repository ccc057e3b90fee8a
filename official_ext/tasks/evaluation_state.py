"""What an evaluation under a routing tape has seen so far, beside Model Garden's own state."""
import collections
import copy
from typing import Any

import numpy as np


class EvaluationState:
  """What an evaluation has seen so far."""

  def __init__(self, task: Any):
    """Starts with nothing, and one evaluator for each run under sampled gates.

    Args:
      task: a routed task.
    """
    self.theirs = self.pictured = None
    self.values = collections.defaultdict(list)
    runs = task.task_config.sampled_evaluation_runs if hasattr(task, 'coco_metric') else 0
    self.sampled = [None] * runs
    self._task = task
    self._evaluators = [copy.copy(task.coco_metric) for _ in range(runs)]
    for evaluator in self._evaluators:
      evaluator.reset_states()

  def add(self, name: str, replicas: Any) -> None:
    """Adds one value per replica: `[batch]`, or a scalar that is the same for every image."""
    self.values[name] += [np.atleast_1d(value.numpy()) for value in replicas]

  def evaluator_of_run(self, run: int) -> '_SwappedEvaluator':
    """Returns a context in which the task evaluates one run under sampled gates."""
    return _SwappedEvaluator(self._task, self._evaluators[run])


class _SwappedEvaluator:
  """Puts an evaluator of its own in the place of the task's while the context lasts."""

  def __init__(self, task: Any, evaluator: Any):
    self._task, self._evaluator = task, evaluator

  def __enter__(self) -> None:
    self._kept, self._task.coco_metric = self._task.coco_metric, self._evaluator

  def __exit__(self, *unused) -> None:
    self._task.coco_metric = self._kept
