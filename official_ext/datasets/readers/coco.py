"""COCO layout: annotations/*.json, and images where each `file_name` says."""
import collections
from collections.abc import Sequence
import json
import pathlib

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.utils import command_line


def load_annotations(path: pathlib.Path, *, optional: Sequence[str] = ()
                     ) -> dict[str, list[annotations.Entry]]:
  """Reads a COCO annotation file and checks that it has lists of images, annotations, categories.

  Args:
    path: the JSON file.
    optional: of these lists, any that is missing is taken for empty.

  Returns:
    The content of the file.

  Raises:
    CommandError: the file is not JSON, or not a detection file.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8-sig'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(f'{path} is not a JSON file: {error}.') from error
  for key in ('images', 'annotations', 'categories'):
    entries = content.get(key) if isinstance(content, dict) else None
    if entries is None and isinstance(content, dict) and key in optional:
      entries = content[key] = []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
      raise command_line.CommandError(
          f'{path} is not a COCO detection file: it needs a list of objects under "{key}".')
  return content


def _json_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the annotation files of a folder, `instances*.json` only if there are any."""
  found = sorted(folder.glob('annotations/*.json')) or sorted(folder.glob('*.json'))
  # The COCO download has captions and key points in the same folder as the boxes.
  instances = [path for path in found if path.name.startswith('instances')]
  return instances or found


def _split_name(path: pathlib.Path) -> str | None:
  """Returns the name of a split that the name of an annotation file contains, or None."""
  stem = path.stem.lower()
  return next((name for name in ('train', 'val', 'test') if name in stem), None)


def _annotation_files(folder: pathlib.Path, findings: findings_lib.Findings
                      ) -> dict[str, pathlib.Path]:
  """Returns the annotation file of each split; notes the files that belong to none."""
  paths = _json_files(folder)
  if not paths:
    raise command_line.CommandError(f'--input {folder} has no annotations/*.json.')
  by_split = collections.defaultdict(list)
  for path in paths:
    by_split[_split_name(path)].append(path)
  if len(paths) == 1 and None in by_split:
    by_split['train'] = by_split.pop(None)
  files = {}
  for name, candidates in by_split.items():
    if name not in ('train', 'val'):
      for path in candidates:
        findings.add('all', 'noted', 'annotation file is neither train nor val: not read',
                     str(path))
    elif len(candidates) > 1:
      names = ', '.join(path.name for path in candidates)
      raise command_line.CommandError(
          f'{candidates[0].parent} has several files for {name}: {names}; keep one.')
    else:
      files[name] = candidates[0]
  return files


def _read(folder: pathlib.Path, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the split of each annotation file."""
  splits = {}
  for name, path in _annotation_files(folder, findings).items():
    content = load_annotations(path)
    subset = path.stem.replace('instances_', '')
    folders = [folder / 'images' / name, folder / 'images' / subset, folder / name,
               folder / subset, folder / 'images', folder, path.parent]
    splits[name] = annotations.Split(name, str(path), content['images'], content['annotations'],
                                     content['categories'], folders)
  return splits


LAYOUT = interface.Layout('coco', 'annotations/*.json (COCO)',
                          lambda folder: bool(_json_files(folder)), _read)
