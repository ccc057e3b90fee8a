"""A small mistake, which a test must notice."""
from typing import NamedTuple


class Mutation(NamedTuple):
  """A mistake in one place.

  Attributes:
    path: path of the file, below `official_ext/`.
    old: a text that occurs once in the file.
    new: the mistake, which replaces `old`.
    tests: path of the test file that must fail, below `tests/`.
  """
  path: str
  old: str
  new: str
  tests: str


def in_file(path: str, tests: str, *pairs: tuple[str, str]) -> tuple[Mutation, ...]:
  """Returns the mutations of one file: pairs of `old` and `new`; paths are without their ends."""
  return tuple(Mutation(f'{path}.py', old, new, f'{tests}_test.py') for old, new in pairs)
