"""How long functions take on a noisy machine: called in turn, compared by medians."""
import time
from typing import Any, Callable, Dict, Mapping

import numpy as np


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int) -> Dict[str, np.ndarray]:
  """Returns the seconds of every function, `[repeats]` each, called in turn after a warm-up."""
  seconds = {name: [] for name in functions}
  for function in functions.values():
    function()
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      seconds[name].append(time.perf_counter() - start)
  return {name: np.array(values) for name, values in seconds.items()}
