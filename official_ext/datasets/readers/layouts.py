"""Tells the layout of a data set and reads its splits, as they are."""
import collections
import importlib
import pathlib
import pkgutil
import posixpath
from typing import NamedTuple

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import hold_out
from official_ext.datasets.readers import interface
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names
from official_ext.utils import command_line


def _find_layouts() -> dict[str, interface.Layout]:
  """Returns the layouts that the files of this folder define, by name, in the order of rank."""
  package = __name__.rpartition('.')[0]
  names = [module.name for module in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)])]
  modules = (importlib.import_module(f'{package}.{name}') for name in names
             if name != __name__.rpartition('.')[2])
  layouts = [module.LAYOUT for module in modules if hasattr(module, 'LAYOUT')]
  return {layout.name: layout for layout in sorted(layouts, key=lambda layout: layout.rank)}


# The most specific first: where several match, the first is taken.
LAYOUTS = _find_layouts()


class Choice(NamedTuple):
  """A layout that was chosen: a key of `LAYOUTS`, and why, in a sentence."""
  layout: str
  reason: str


def choose(data: data_folder.DataFolder) -> Choice:
  """Tells the layout of a data set.

  Args:
    data: the data set.

  Returns:
    The first layout of `LAYOUTS` that matches, and the files that tell it.

  Raises:
    CommandError: no layout matches.
  """
  matching = {name: files for name, layout in LAYOUTS.items() if (files := layout.matches(data))}
  if not matching:
    raise command_line.CommandError(_unknown(data))
  if not data.images:  # COCO files beside records, for example
    matching = dict(sorted(matching.items(), key=lambda match: not LAYOUTS[match[0]].has_images))
  (name, files), *others = matching.items()
  more = f' and {len(files) - 2} more' if len(files) > 2 else ''
  reason = f'told by {", ".join(files[:2])}{more}'
  if others:
    also = ', '.join(f'--format={other} ({files[0]})' for other, files in others)
    reason += f'; it could also be read with {also}'
  return Choice(name, reason)


def _unknown(data: data_folder.DataFolder) -> str:
  """Says what was looked for and what is there."""
  suffixes = collections.Counter(posixpath.splitext(name)[1].lower() or 'without suffix'
                                 for name in data.files)
  seen = ', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common(6))
  looked = '; '.join(f'{layout.name}: {layout.told_by}' for layout in LAYOUTS.values())
  why = ''
  for name, suffix in (('coco', '.json'), ('csv', '.csv')):
    if data.with_suffix(suffix):
      try:
        LAYOUTS[name].read(data, findings_lib.Findings())
      except command_line.CommandError as error:
        why += f'{error} '
  if data.outside:
    seen += f'; links that lead out of it are not followed: {", ".join(data.outside[:3])}'
  return (f'{why}--input {data.root} has no annotation file of a known layout. Saw {seen}, such as '
          f'{", ".join(data.files[:3])}. Looked for {looked}. --help shows the layouts; '
          '--format=NAME tries one and says what is wrong.')


def read(data: data_folder.DataFolder, layout: str, findings: findings_lib.Findings
         ) -> annotations.Splits:
  """Reads the splits `train` and `val`, and finds their image files.

  Without a val split every fifth image or so is held out; always the same ones.

  Args:
    data: the data set.
    layout: a key of `LAYOUTS`.
    findings: told what could not be read.

  Returns:
    The splits by name.

  Raises:
    CommandError: an annotation file is missing or cannot be understood.
  """
  for link in data.outside:
    findings.add('all', 'noted', 'link leads out of the data folder: not followed; --follow_links '
                 'follows it', link)
  splits = LAYOUTS[layout].read(data, findings)
  if 'train' not in splits:
    raise command_line.CommandError(
        f'--input {data.root} has no images to train on: name the annotation file or the list '
        'of images train, for example annotations/train.json.')
  if 'val' not in splits:
    splits['val'] = hold_out.hold_out(splits['train'])
    findings.add('all', 'noted', f'no val split: {len(splits["val"].images)} of the images '
                 'held out, the same ones every time', splits['train'].source)
  file_names.find_images(data, splits.values())
  return splits
