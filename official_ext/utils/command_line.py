"""Errors that people can act on, progress, and plain output, for all commands."""
from collections.abc import Callable, Iterable, Iterator, Sequence
import errno
import logging
import operator
import os
import signal
import sys
import time
from typing import Any, TypeVar

from official_ext.ops import checks

# TensorFlow's log shows only errors beside a command's own lines.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

Item = TypeVar('Item')

_NAMED = 3

# Errors of the operating system that people can solve, and how.
_DISK_ADVICE = {
    errno.ENOSPC: 'free some space or choose a folder on another disk',
    errno.EDQUOT: 'free some of your quota or choose a folder on another disk',
    errno.EACCES: 'choose a file or folder that you may use',
    errno.EPERM: 'choose a file or folder that you may use',
    errno.EROFS: 'choose a folder that can be written',
    errno.ENOTDIR: 'choose a path that leads through folders only',
    errno.ENAMETOOLONG: 'choose a shorter name',
}


class CommandError(Exception):
  """A problem that the user of a command can solve; the message says how."""


def say(text: str) -> None:
  """Writes one line of a command's result to standard output."""
  sys.stdout.write(text + '\n')
  sys.stdout.flush()


def say_names(what: str, names: Sequence[Any], separator: str = ', ') -> None:
  """Says how many names there are, and the first of them; nothing if there is none.

  Args:
    what: what is named, the beginning of the line.
    names: the names.
    separator: what stands between them.
  """
  if names:
    shown = separator.join([*map(str, names[:_NAMED]), *(['...'] if len(names) > _NAMED else [])])
    say(f'{what}: {len(names)} ({shown})')


def run(main: Callable[[], Any]) -> None:
  """Runs a command and ends the process if it fails.

  After a `CommandError` or a `FieldError`, and if the operating system refuses a file (disk full,
  no permission), one line goes to standard error and the exit status is 2.  Any other exception is
  a defect of the program and keeps its traceback.

  Args:
    main: the command; it reads `sys.argv` itself.
  """
  # By default SIGTERM ends the process at once and leaves temporary files behind.
  previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    main()
  except (CommandError, checks.FieldError) as error:
    _fail(str(error), 2)
  except BrokenPipeError:
    # A reader such as `head` has closed the pipe; the flush at exit must not fail as well.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except OSError as error:
    if error.errno not in _DISK_ADVICE:
      raise
    where = f'{error.filename}: ' if error.filename else ''
    _fail(f'{where}{error.strerror}: {_DISK_ADVICE[error.errno]}', 2)
  except KeyboardInterrupt:
    _fail('interrupted', 128 + signal.SIGINT)
  finally:
    signal.signal(signal.SIGTERM, previous)


def _fail(text: str, status: int) -> None:
  """Writes an error in one line, over an unfinished line of `progress`, and exits."""
  clear = '\r\033[K' if sys.stderr.isatty() else ''
  sys.stderr.write(f'{clear}error: {" ".join(text.split())}\n')
  # Objects that were half restored say so, one line for each variable, when the process ends.
  logging.getLogger('tensorflow').setLevel(logging.ERROR)
  sys.exit(status)


def duration(seconds: float) -> str:
  """Returns seconds as text, `m:ss` or `h:mm:ss`."""
  minutes, seconds = divmod(int(round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
  """Yields items, and writes progress and the time left to standard error.

  A terminal shows one line that is rewritten; any other output gets a line every ten seconds.

  Args:
    items: the items to yield.
    label: name of the work, such as `converting images`.
    total: number of items; None: `len(items)`.

  Yields:
    The items, unchanged.
  """
  if total is None:
    total = operator.length_hint(items)
  start = last = time.monotonic()
  overwrite = sys.stderr.isatty()
  for done, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if done == total:
      sys.stderr.write(f'{label}: {done}/{total}, took {duration(now - start)}   \n')
      sys.stderr.flush()
    elif now - last > (0.5 if overwrite else 10):
      last = now
      left = duration((now - start) / done * max(total - done, 0))
      sys.stderr.write(f'{label}: {done}/{total}, {left} left   ' + ('\r' if overwrite else '\n'))
      sys.stderr.flush()
