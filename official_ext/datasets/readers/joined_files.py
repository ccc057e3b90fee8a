"""Joins annotation files that are parts of one split, where nothing in them can be confused."""
import collections
from collections.abc import Sequence
import dataclasses

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values
from official_ext.utils import command_line


def join(parts: Sequence[annotations.Split], findings: findings_lib.Findings
         ) -> annotations.Split:
  """Returns the split that several annotation files are parts of.

  Args:
    parts: one for each file.
    findings: told if there are several.

  Raises:
    CommandError: the files may be versions of the same labels, or ids mean different things in
      them.
  """
  first, *others = parts
  if not others:
    return first
  reason = _what_confuses(parts)
  sources = ', '.join(part.source for part in parts)
  if reason:
    raise command_line.CommandError(
        f'there are several annotation files for {first.name}: {sources}. They are read as one '
        f'only if nothing in them can be confused, but {reason}: keep one, or write one file of '
        'them.')
  findings.add('all', 'noted', f'several annotation files for {first.name} that share no image: '
               'read as one', sources)
  return dataclasses.replace(
      first, source=sources, images=[image for part in parts for image in part.images],
      annotations=[entry for part in parts for entry in part.annotations],
      licences=[name for part in parts for name in part.licences])


def _what_confuses(parts: Sequence[annotations.Split]) -> str:
  """Returns why annotation files cannot be read as parts of one split; empty if they can."""
  for kind, field in (('the image', 'file_name'), ('the image id', 'id')):
    counts = collections.Counter(
        value for part in parts
        for value in dict.fromkeys(normal_values.normal_id(image.get(field))
                                   for image in part.images) if value is not None)
    value, count = max(counts.items(), key=lambda item: item[1], default=('', 0))
    if count > 1:
      return f'{count} of them have {kind} {value}'
  categories = [{(normal_values.normal_id(category.get('id')), str(category.get('name')))
                 for category in part.categories} for part in parts]
  if any(other != categories[0] for other in categories):
    return 'their categories differ'
  folders = [[folder for entry in part.folders for folder in annotations.of_one_rank(entry)
              if folder.is_dir()] for part in parts]
  if any(other != folders[0] for other in folders):
    return 'their images lie in different folders'
  return ''
