"""Times functions on a noisy machine: calls them in turn and compares them by medians."""
from collections.abc import Callable, Hashable, Mapping
import time
from typing import Any, TypeVar

import numpy as np

Name = TypeVar('Name', bound=Hashable)


def interleaved(functions: Mapping[Name, Callable[[], Any]], repeats: int, calls: int = 1
                ) -> dict[Name, np.ndarray]:
  """Times functions, one after the other in every repeat, after one call of each as a warm-up.

  Args:
    functions: name -> function, which returns when its work is done.
    repeats: number of times.
    calls: a time is the shortest of so many calls in a row. Above 1 for functions that take less
      than a turn of the processor's scheduler.

  Returns:
    Name -> seconds, float64 `[repeats]`.
  """
  seconds: dict[Name, list] = {name: [] for name in functions}
  for function in functions.values():
    function()
  for _ in range(repeats):
    for name, function in functions.items():
      seconds[name].append(min(_seconds(function) for _ in range(calls)))
  return {name: np.array(values) for name, values in seconds.items()}


def median_ratio(seconds: Mapping[Name, np.ndarray], name: Name, base: Name) -> float:
  """Returns how many times longer `name` takes than `base`, the median over the repeats."""
  return float(np.median(seconds[name] / seconds[base]))


def _seconds(function: Callable[[], Any]) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start
