"""The interface of a layout reader, and helpers that several readers use."""
from collections.abc import Callable, Iterable
import dataclasses
import pathlib

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib


@dataclasses.dataclass(frozen=True)
class Layout:
  """A way in which a data set lies in its folder.

  To add a layout, define one in a file of its own and list it in `layouts.LAYOUTS`.

  Attributes:
    name: the value of `--format`.
    expected: the files that tell the layout, for messages.
    matches: called with the folder; returns whether the folder has this layout.
    read: called with the folder and `Findings`; returns the splits as they are, and raises
      `CommandError` if an annotation file is missing or cannot be understood.
  """
  name: str
  expected: str
  matches: Callable[[pathlib.Path], bool]
  read: Callable[[pathlib.Path, findings_lib.Findings], annotations.Splits]


def number_categories(names: Iterable[str]) -> list[annotations.Entry]:
  """Returns COCO category entries for class names: the sorted names, numbered from 1."""
  return [dict(id=number, name=name) for number, name in enumerate(sorted(names), 1)]
