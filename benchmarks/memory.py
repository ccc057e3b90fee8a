"""Peak memory of a step, measured in a process of its own: what several benchmarks print."""
from collections.abc import Callable, Sequence
import pathlib
import resource
import subprocess
import sys
from typing import Any

import tensorflow as tf


def added_by(step: Callable[[], Any], calls: int = 2) -> float:
  """Returns the MB that a step adds at its peak: on the GPU if there is one, else to this process.

  Args:
    step: a function whose graph is built already.
    calls: how often it is called.
  """
  if tf.config.list_physical_devices('GPU'):
    tf.config.experimental.reset_memory_stats('GPU:0')
    before = tf.config.experimental.get_memory_info('GPU:0')['current']
    for _ in range(calls):
      step()
    return (tf.config.experimental.get_memory_info('GPU:0')['peak'] - before) / 2**20
  # The resident memory now; building the graph may have had a higher peak.
  pages = int(pathlib.Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
  for _ in range(calls):
    step()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return (peak - pages * resource.getpagesize()) / 2**20


def of_process(file: str, arguments: Sequence[str]) -> float:
  """Returns the number that a benchmark prints last, run in a process of its own.

  Args:
    file: the benchmark.
    arguments: of its command line.
  """
  output = subprocess.run([sys.executable, file, *arguments], check=True, capture_output=True,
                          text=True).stdout
  return float(output.split()[-1])
