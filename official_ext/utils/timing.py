"""Times functions on a noisy machine: calls them in turn and compares them by medians."""
from collections.abc import Callable, Hashable, Mapping
import time
from typing import Any, TypeVar

import numpy as np

from official_ext.utils import command_line

Name = TypeVar('Name', bound=Hashable)


def interleaved(functions: Mapping[Name, Callable[[], Any]], repeats: int, calls: int = 1,
                clock: Callable[[], float] | None = None, label: str | None = None
                ) -> dict[Name, np.ndarray]:
  """Times functions, one after the other in every repeat, after one call of each as a warm-up.

  Args:
    functions: name -> function, which returns when its work is done.
    repeats: number of times.
    calls: a time is the shortest of so many calls in a row. Above 1 for functions that take less
      than a turn of the processor's scheduler.
    clock: returns seconds.  None: `time.perf_counter`; `time.process_time` counts those that this
      process computes, on all of its threads together, not those that other processes take.
    label: names the repeats where progress is shown; None: none is shown.

  Returns:
    Name -> seconds, float64 `[repeats]`.
  """
  clock = clock or time.perf_counter
  seconds: dict[Name, list] = {name: [] for name in functions}
  for function in functions.values():
    function()
  rounds = command_line.progress(range(repeats), label) if label else range(repeats)
  for _ in rounds:
    for name, function in functions.items():
      seconds[name].append(min(_seconds(function, clock) for _ in range(calls)))
  return {name: np.array(values) for name, values in seconds.items()}


def median_ratio(seconds: Mapping[Name, np.ndarray], name: Name, base: Name) -> float:
  """Returns how many times longer `name` takes than `base`, the median over the repeats."""
  return float(np.median(seconds[name] / seconds[base]))


def summaries(seconds: Mapping[Name, np.ndarray]) -> dict[Name, dict[str, float]]:
  """Returns name -> `median` and the quartiles `low` and `high`, in milliseconds.

  Args:
    seconds: name -> seconds.
  """
  return {name: dict(zip(('low', 'median', 'high'), (
      float(value) for value in 1e3 * np.percentile(values, [25, 50, 75]))))
          for name, values in seconds.items()}


def _seconds(function: Callable[[], Any], clock: Callable[[], float]) -> float:
  start = clock()
  function()
  return clock() - start
