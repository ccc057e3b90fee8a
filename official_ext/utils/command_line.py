"""What the commands share: errors people can act on, progress, plain output."""
import sys
import time
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

Item = TypeVar('Item')


class CommandError(Exception):
  """A problem that the person at the keyboard can mend; the text says how."""


def say(text: str) -> None:
  """Writes one line of a command's result to standard output."""
  sys.stdout.write(text + '\n')
  sys.stdout.flush()


def run(main: Callable[[], Any]) -> None:
  """Runs a command and ends the process: 0, or 2 after a `CommandError`.

  Args:
    main: the command; reads `sys.argv` itself.
  """
  try:
    main()
  except CommandError as error:
    sys.stderr.write(f'error: {error}\n')
    sys.exit(2)
  except KeyboardInterrupt:
    sys.stderr.write('interrupted\n')
    sys.exit(130)


def duration(seconds: float) -> str:
  """Seconds as `m:ss` or `h:mm:ss`."""
  minutes, seconds = divmod(int(round(seconds)), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


def progress(items: Iterable[Item], label: str, total: Optional[int] = None) -> Iterator[Item]:
  """Yields the items and tells on standard error how far it is and how long it takes.

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
    if now - last > (0.5 if overwrite else 10) or done == total:
      last = now
      left = duration((now - start) / done * (total - done))
      end = '\r' if overwrite and done < total else '\n'
      sys.stderr.write(f'{label}: {done}/{total}, {left} left   {end}')
      sys.stderr.flush()
