"""Tells the layout of a data set and reads its splits, as they are."""
import pathlib

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import coco
from official_ext.datasets.readers import csv_tables
from official_ext.datasets.readers import hold_out
from official_ext.datasets.readers import voc
from official_ext.utils import command_line

# In the order in which they are tried.
LAYOUTS = {layout.name: layout for layout in (voc.LAYOUT, coco.LAYOUT, csv_tables.LAYOUT)}


def detect_format(folder: pathlib.Path) -> str:
  """Tells the layout of a data set.

  Args:
    folder: the data set.

  Returns:
    A key of `LAYOUTS`.

  Raises:
    CommandError: the folder is missing or empty, or no layout matches.
  """
  if not folder.is_dir():
    raise command_line.CommandError(f'--input {folder} is not a folder.')
  if not any(folder.iterdir()):
    raise command_line.CommandError(f'--input {folder} is empty.')
  for layout in LAYOUTS.values():
    if layout.matches(folder):
      return layout.name
  *others, last = [layout.expected for layout in LAYOUTS.values()]
  raise command_line.CommandError(
      f'--input {folder} has no annotation file: expected {", ".join(others)} or {last}.')


def read(folder: pathlib.Path, layout: str, findings: findings_lib.Findings
         ) -> annotations.Splits:
  """Reads the splits `train` and `val`.

  Without a val split every fifth image or so is held out; always the same ones.

  Args:
    folder: the data set.
    layout: a key of `LAYOUTS`.
    findings: told what could not be read.

  Returns:
    The splits by name.

  Raises:
    CommandError: an annotation file is missing or cannot be understood.
  """
  splits = LAYOUTS[layout].read(folder, findings)
  if 'train' not in splits:
    raise command_line.CommandError(
        f'--input {folder} has no images to train on: name the annotation file or the list '
        'of images train, for example annotations/train.json.')
  if 'val' not in splits:
    splits['val'] = hold_out.hold_out(splits['train'])
    findings.add('all', 'noted', f'no val split: {len(splits["val"].images)} of the images '
                 'held out, the same ones every time', splits['train'].source)
  return splits
