"""The steps of a long job: commands of the package, one after the other, each with its time."""
import atexit
import contextlib
import multiprocessing
import os
import pathlib
import re
import runpy
import shlex
import sys
import time
from typing import Any

from official_ext.utils import command_line

_PACKAGE = 'official_ext'
# As commands of the package and argparse say why they end; threads may log after it.
_ERROR = re.compile(r'^(\S+: )?error: ')
_LOGGED = re.compile(r'^[IWEF]\d{4} ')


def reason(errors: str) -> str:
  """Returns the line of a command's standard error that says why it failed.

  Args:
    errors: the standard error; may be empty.
  """
  lines = errors.strip().splitlines() or ['no message']
  named = [line for line in lines if _ERROR.match(line)]
  said = [line for line in lines if not _LOGGED.match(line)]
  return (named or said or lines)[-1]


class Steps:
  """Runs commands one after the other and keeps the time of each.

  Attributes:
    seconds: name of a finished step -> its time.
  """

  def __init__(self, total: int):
    """Initializes the steps.

    Args:
      total: how many there will be.
    """
    self.seconds: dict[str, float] = {}
    self._started, self._total = 0, total
    # Commands are forks of a process that has imported TensorFlow once, which takes as long as a
    # short command. Other systems than Linux cannot fork it safely.
    self._context: Any = multiprocessing.get_context(
        'forkserver' if sys.platform == 'linux' else 'spawn')
    if sys.platform == 'linux':
      multiprocessing.set_forkserver_preload([f'{_PACKAGE}.registry_imports'])

  def run(self, name: str, module: str, log: pathlib.Path | None = None, **options) -> None:
    """Runs `python -m official_ext.<module> --option=value ...`.

    Args:
      name: name of the step in the report.
      module: module of the command, below `official_ext`.
      log: file that gets the command's standard error; None: it is shown.
      **options: flags of the command; True gives a flag without a value, a list of lists a flag
        that is given several times, with several values each.

    Raises:
      CommandError: the command failed.
    """
    module = f'{_PACKAGE}.{module}'
    arguments = [argument for key, value in options.items() for argument in _flags(key, value)]
    self._started += 1
    command_line.say(f'\n[{self._started}/{self._total}] {name}: '
                     f'{shlex.join(["python", "-m", module, *arguments])}')
    start = time.monotonic()
    if log:
      log.parent.mkdir(parents=True, exist_ok=True)
    status = self._status(module, arguments, log)
    if status:
      end = f'{log} says: {reason(log.read_text())}. It' if log else 'It'
      raise command_line.CommandError(f'the step {name!r} ended with status {status}. {end} can '
                                      'be repeated alone by the command above.')
    self.seconds[name] = round(time.monotonic() - start, 1)

  def _status(self, module: str, arguments: list[str], log: pathlib.Path | None) -> int | None:
    """Runs a command to its end and returns its exit status."""
    process = self._context.Process(target=run_module, args=(module, arguments, log))
    process.start()
    try:
      process.join()
    except BaseException:
      process.terminate()
      process.join()
      raise
    return process.exitcode


def run_module(module: str, arguments: list[str], log: pathlib.Path | None) -> None:
  """Runs a module as `python -m` does, in a process of its own.

  Args:
    module: its full name.
    arguments: of the command.
    log: file that gets the standard error; None: it is that of the process.
  """
  with contextlib.ExitStack() as stack:
    if log:
      errors = stack.enter_context(open(log, 'w', encoding='utf-8'))
      os.dup2(errors.fileno(), sys.stderr.fileno())
    sys.argv = [module, *arguments]
    try:
      runpy.run_module(module, run_name='__main__', alter_sys=True)
    finally:
      # Before Python 3.13 such a process ends without them, and temporary folders would stay.
      atexit._run_exitfuncs()


def _flags(key: str, value: Any) -> list[str]:
  """Returns the arguments of a command that give an option a value."""
  if isinstance(value, list):
    return [argument for values in value for argument in (f'--{key}', *map(str, values))]
  return [f'--{key}' if value is True else f'--{key}={value}']
