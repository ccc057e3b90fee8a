"""The interface of a layout reader: what a person writes to add a layout in one file."""
from collections.abc import Callable, Sequence
import dataclasses

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.sources import data_folder


@dataclasses.dataclass(frozen=True)
class Layout:
  """A way in which a data set lies in its folder.

  To add a layout, write a file in this folder that defines `LAYOUT`; nothing else is edited, the
  folder is scanned. `voc.py` is an example.

  Attributes:
    name: the value of `--format`.
    title: who writes it, in a few words.
    told_by: the files that tell the layout, in a few words.
    tree: the same as a small tree, as `--help` shows it.
    matches: called with the data set; returns the files that tell the layout, none if it is
      another one.
    read: called with the data set and `Findings`; returns the splits as they are, and raises
      `CommandError` if an annotation file is missing or cannot be understood.
    rank: where several layouts match, the one of the lowest rank is taken.
    has_images: whether the files that tell the layout hold the images as well.
  """
  name: str
  title: str
  told_by: str
  tree: str
  matches: Callable[[data_folder.DataFolder], Sequence[str]]
  read: Callable[[data_folder.DataFolder, findings_lib.Findings], annotations.Splits]
  rank: int
  has_images: bool = False
