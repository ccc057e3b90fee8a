"""What the commands share: errors people can act on, progress, plain output."""
import errno
import os
import signal
import sys
import time
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

# A command's own lines are what people read; errors of TensorFlow stay.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

Item = TypeVar('Item')

# What a person can mend, by what to do about it.
_DISK_ADVICE = {
    errno.ENOSPC: 'free some space or choose a folder on another disk',
    errno.EDQUOT: 'free some of your quota or choose a folder on another disk',
    errno.EACCES: 'choose a file or folder that you may use',
    errno.EPERM: 'choose a file or folder that you may use',
    errno.EROFS: 'choose a folder that can be written',
}


class CommandError(Exception):
  """A problem that the person at the keyboard can mend; the text says how."""


def say(text: str) -> None:
  """Writes one line of a command's result to standard output."""
  sys.stdout.write(text + '\n')
  sys.stdout.flush()


def run(main: Callable[[], Any]) -> None:
  """Runs a command and ends the process if it fails.

  The exit status is 2 and one line goes to standard error after a `CommandError`,
  and after the operating system's refusal of a file (disk full, no permission).
  Any other exception is a defect of the program and keeps its traceback.

  Args:
    main: the command; reads `sys.argv` itself.
  """
  # `kill` would otherwise end the process at once and leave temporary files behind.
  previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    main()
  except CommandError as error:
    _fail(str(error), 2)
  except BrokenPipeError:
    # The reader, such as `head`, has seen enough; the flush at exit must not fail as well.
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
  """Says why in one line, over an unfinished line of `progress`, and exits."""
  clear = '\r\033[K' if sys.stderr.isatty() else ''
  sys.stderr.write(f'{clear}error: {" ".join(text.split())}\n')
  sys.exit(status)


def duration(seconds: float) -> str:
  """Seconds as `m:ss` or `h:mm:ss`."""
  minutes, seconds = divmod(int(round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


def progress(items: Iterable[Item], label: str, total: Optional[int] = None) -> Iterator[Item]:
  """Yields the items and tells on standard error how far it is and how long it takes.

  On a terminal one line is kept up to date; elsewhere a line follows every ten seconds.

  Args:
    items: what to go through.
    label: what is being done, e.g. `converting images`.
    total: number of items; `len(items)` if not given.

  Yields:
    The items, unchanged.
  """
  total = len(items) if total is None else total
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
