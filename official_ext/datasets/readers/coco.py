"""COCO layout: JSON files of a split each, and images where each `file_name` says."""
import collections
from collections.abc import Sequence
import mmap
import pathlib
import posixpath
import re

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import joined_files
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
  return {split: joined_files.join([_part(data, name, split, findings) for name in parts], findings)
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
                           content['categories'], folders, licences=_licences(content))


def _licences(content: dict) -> list[str]:
  """Returns the names under the key "licenses"; what has no name is left out."""
  entries = content.get('licenses')
  return [str(entry['name']) for entry in (entries if isinstance(entries, list) else [])
          if isinstance(entry, dict) and entry.get('name')]


LAYOUT = interface.Layout('coco', 'COCO, Roboflow COCO, CVAT COCO',
                          'JSON files with images, annotations and categories', """\
annotations/instances_train2017.json   or  train/_annotations.coco.json
annotations/instances_val2017.json         train/*.jpg
train2017/*.jpg, or images/...             valid/..., test/...""", _matches, _read, rank=20)
