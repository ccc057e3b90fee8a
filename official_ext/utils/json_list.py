"""Writes a JSON list item by item, so that a long one need not be in memory."""
from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import pathlib
from typing import Any


@contextlib.contextmanager
def writer(path: pathlib.Path) -> Iterator[Callable[[Iterable[Any]], None]]:
  """Opens a file for a list; the list ends with the context.

  Args:
    path: the file to write.

  Yields:
    A function that appends items, plain JSON types, to the list.
  """
  with open(path, 'w', encoding='utf-8') as file:
    separator = ''

    def append(items: Iterable[Any]) -> None:
      nonlocal separator
      for item in items:
        file.write(f'{separator}\n{json.dumps(item)}')
        separator = ','

    file.write('[')
    yield append
    file.write('\n]\n')
