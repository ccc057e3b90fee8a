"""Describes the machine on which times are measured."""
from collections.abc import Mapping
import os
import pathlib
import platform
import re
from typing import Any

_PROCESSORS = pathlib.Path('/proc/cpuinfo')


def describe() -> dict[str, Any]:
  """Returns the `processor`, the number of `cores` that this process may use, and the `system`."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return {'processor': _processor(), 'cores': cores,
          'system': f'{platform.system()} {platform.machine()}'}


def _processor() -> str:
  """Returns the name of the processor, or of its kind."""
  try:
    text = _PROCESSORS.read_text(encoding='utf-8')
  except OSError:
    text = ''
  found = re.search(r'^model name\s*:\s*(\S.*)$', text, re.MULTILINE)
  return found.group(1) if found else platform.processor() or platform.machine()


def text(machine: Mapping[str, Any]) -> str:
  """Returns what `describe` has returned, perhaps on another machine, in words."""
  cores = machine['cores']
  return f'{machine["processor"]}, {cores} core{"" if cores == 1 else "s"}, {machine["system"]}'
