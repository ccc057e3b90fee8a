"""COCO layout: JSON files of a split each, and images where each `file_name` says."""
import collections
from collections.abc import Sequence
import dataclasses
import mmap
import pathlib
import posixpath
import re

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import json_files
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder
from official_ext.utils import command_line

_KEYS = ('images', 'annotations', 'categories')
# The COCO download has captions and key points in the same folder as the boxes.
_OTHER_TASKS = re.compile(r'(captions|image_info|panoptic|stuff|person_keypoints)_')


def load_annotations(path: pathlib.Path, findings: findings_lib.Findings | None = None, *,
                     optional: Sequence[str] = ()
                     ) -> dict[str, list[annotations.Entry]]:
  """Reads a COCO annotation file and checks that it has lists of images, annotations, categories.

  Args:
    path: the JSON file.
    findings: told if the encoding is a guess.
    optional: of these lists, any that is missing is taken for empty.

  Returns:
    The content of the file.

  Raises:
    CommandError: the file is not JSON, or not a detection file.
  """
  content = json_files.load(path, findings)
  for key in _KEYS:
    entries = content.get(key) if isinstance(content, dict) else None
    if entries is None and isinstance(content, dict) and key in optional:
      entries = content[key] = []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
      raise command_line.CommandError(
          f'{path} is not a COCO detection file: it needs a list of objects under "{key}".')
  return content


def _is_coco(path: pathlib.Path) -> bool:
  """Whether a JSON file has the key "images" and one more, at any place, in UTF-8 or UTF-16."""
  if not path.stat().st_size:
    return False
  with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
    return any(content.find(f'"{_KEYS[0]}"'.encode(code)) >= 0 and
               any(content.find(f'"{key}"'.encode(code)) >= 0 for key in _KEYS[1:])
               for code in ('utf-8', 'utf-16-le', 'utf-16-be'))


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the annotation files, without those of other tasks if there are files of boxes."""
  found = [name for name in data.with_suffix('.json')
           if name.count('/') < 4 and _is_coco(data.path(name))]
  boxes = [name for name in found if not _OTHER_TASKS.match(posixpath.basename(name))]
  return boxes or found


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the split of each annotation file."""
  names = split_names.with_unread(_matches(data), data.with_suffix('.json'))
  if not names:
    raise command_line.CommandError(f'--input {data.root} has no annotations/*.json.')
  by_split = collections.defaultdict(list)
  for name in names:
    by_split[split_names.of_path(name)].append(name)
  return {split: _joined([_part(data, name, split, findings) for name in parts], findings)
          for split, parts in split_names.choose(by_split, 'annotation file', findings).items()}


def _part(data: data_folder.DataFolder, name: str, split: str, findings: findings_lib.Findings
          ) -> annotations.Split:
  """Reads one annotation file of a split."""
  path = data.path(name)
  content = load_annotations(path, findings)
  base = path.parent.parent if path.parent.name.lower() == 'annotations' else path.parent
  own, said = path.stem.replace('instances_', ''), split_names.of_path(name)
  folders = [*split_names.usual_folders(data, base, split, own, said), path.parent]
  return annotations.Split(split, data.shown(name), content['images'], content['annotations'],
                           content['categories'], folders)


def _joined(parts: Sequence[annotations.Split], findings: findings_lib.Findings
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
      annotations=[entry for part in parts for entry in part.annotations])


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
  folders = [[folder for folder in part.folders if folder.is_dir()] for part in parts]
  if any(other != folders[0] for other in folders):
    return 'their images lie in different folders'
  return ''


LAYOUT = interface.Layout('coco', 'COCO, Roboflow COCO, CVAT COCO',
                          'JSON files with images, annotations and categories', """\
annotations/instances_train2017.json   or  train/_annotations.coco.json
annotations/instances_val2017.json         train/*.jpg
train2017/*.jpg, or images/...             valid/..., test/...""", _matches, _read, rank=20)
