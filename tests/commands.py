"""Runs commands of the package in processes that import TensorFlow together, once."""
import json
import pathlib
import subprocess
import sys
from typing import Any

_SERVER = pathlib.Path(__file__).resolve().parent / 'processes' / 'forks.py'


class Commands:
  """Starts a process that has imported the commands; each of them runs in a fork of it."""

  def __init__(self, *modules: str, **options: Any):
    """Starts the process.

    Args:
      *modules: what it imports before the first command.
      **options: of `subprocess.Popen`, such as `env` and `cwd`.
    """
    self._process = subprocess.Popen(
        [sys.executable, _SERVER, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, **options)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.communicate(timeout=60)

  def run(self, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m` with the arguments, and waits for its end."""
    self._process.stdin.write(json.dumps([*map(str, arguments)]) + '\n')
    self._process.stdin.flush()
    return subprocess.CompletedProcess(arguments, *json.loads(self._process.stdout.readline()))
