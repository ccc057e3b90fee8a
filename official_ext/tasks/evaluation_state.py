"""The state of an evaluation under a routing tape, from one validation step to the next."""
import collections
from collections.abc import Iterator
import contextlib
import copy
from typing import Any

import numpy as np


class EvaluationState:
  """Everything that an evaluation has collected so far.

  Attributes:
    model_garden: the state of Model Garden's task; None before the first step.
    values: name -> one array per replica and step.
    picture_inputs: arguments of `routing_logs.pictures` from the first batch; None without.
    sampled: the state of Model Garden's task in each run with sampled gates.
  """

  def __init__(self, task: Any, num_sampled_runs: int):
    """Starts an evaluation.

    Args:
      task: a routed task, with a `coco_metric` if there are sampled runs.
      num_sampled_runs: how often every step is repeated with sampled gates.
    """
    self.model_garden: Any = None
    self.values: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    self.picture_inputs: dict[str, Any] | None = None
    self.sampled: list[Any] = [None] * num_sampled_runs
    self._task = task
    self._evaluators = [copy.copy(task.coco_metric) for _ in range(num_sampled_runs)]
    for evaluator in self._evaluators:
      evaluator.reset_states()

  def add(self, name: str, replicas: Any) -> None:
    """Adds one value per replica.

    Args:
      name: key in `values`.
      replicas: tensors `[batch, ...]`, or scalars that hold for every image.
    """
    self.values[name] += [np.atleast_1d(value.numpy()) for value in replicas]

  @contextlib.contextmanager
  def evaluator_of_run(self, run: int) -> Iterator[None]:
    """Makes the COCO evaluator of a sampled run that of the task while the context lasts.

    Model Garden's tasks aggregate into their attribute `coco_metric`, and each run needs an
    evaluator of its own.

    Args:
      run: index of the run.
    """
    previous, self._task.coco_metric = self._task.coco_metric, self._evaluators[run]
    try:
      yield
    finally:
      self._task.coco_metric = previous
