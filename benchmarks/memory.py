"""Peak memory of a step, measured in a process of its own: what several benchmarks print."""
from collections.abc import Callable, Sequence
import pathlib
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
  # The peak so far may be that of building the graph.  `ru_maxrss` of `getrusage` would be no
  # less than what the process held that started this one.
  pathlib.Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
  before = _status('VmRSS')
  for _ in range(calls):
    step()
  return _status('VmHWM') - before


def _status(field: str) -> float:
  """Returns a field of this process's memory in MB: `VmRSS`, held now, or `VmHWM`, the peak."""
  lines = pathlib.Path('/proc/self/status').read_text(encoding='ascii').splitlines()
  line, = (line for line in lines if line.startswith(f'{field}:'))
  return int(line.split()[1]) / 2**10


def of_process(file: str, arguments: Sequence[str]) -> float:
  """Returns the number that a benchmark prints last, run in a process of its own.

  Args:
    file: the benchmark.
    arguments: of its command line.
  """
  output = subprocess.run([sys.executable, file, *arguments], check=True, capture_output=True,
                          text=True).stdout
  return float(output.split()[-1])
