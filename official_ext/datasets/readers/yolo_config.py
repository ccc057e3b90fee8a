"""What tells the splits and the class names of a YOLO data set: data.yaml or obj.data."""
from collections.abc import Iterable
import dataclasses
import posixpath
import re
from typing import Any

import yaml

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import image_lists
from official_ext.datasets.readers import split_builder
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names
from official_ext.utils import command_line

_SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test'}


@dataclasses.dataclass
class Config:
  """The configuration of a data set.

  Attributes:
    source: the file that says it, or the data folder (empty).
    names: of the classes, from number 0; empty if nothing names them.
    splits: split -> its images, relative to the data folder.
    keypoint_values: numbers behind the box in a line of key points; 0 if there are none.
  """
  source: str
  names: dict[int, str]
  splits: dict[str | None, list[str]]
  keypoint_values: int = 0

  def categories(self, builders: Iterable[split_builder.SplitBuilder]
                 ) -> tuple[list[annotations.Entry], dict[int, int]]:
    """Returns the COCO categories, with the numbers of the data set, and number -> id."""
    names = self.names or {number: str(number) for builder in builders
                           for number in sorted(builder.labels)}
    return [dict(id=number, name=name) for number, name in names.items()], {
        number: number for number in names}


def find(data: data_folder.DataFolder) -> str | None:
  """Returns the file that names the splits or the classes, the one that says most."""
  for name in data.with_suffix('.yaml', '.yml'):
    if re.search(r'^["\']?(names|nc)["\']?\s*:', data.head(name, 100_000), re.MULTILINE):
      return name
  for name in data.with_suffix('.data'):
    if re.search(r'^\s*names\s*=', data.head(name), re.MULTILINE):
      return name
  lists = [name for name in data.files
           if re.fullmatch(r'.*(^|/)(classes\.txt|labels\.txt|[^/]*\.names)', name.lower())]
  return lists[0] if lists else None


def _mapping(data: data_folder.DataFolder, name: str, findings: findings_lib.Findings
             ) -> dict[str, Any]:
  """Returns the keys of a YAML file or of lines `key = value`, with text as values."""
  text = data.text(name, findings)
  if name.lower().endswith('.data'):
    pairs = (line.split('=', 1) for line in text.splitlines() if '=' in line)
    return {key.strip(): value.strip() for key, value in pairs}
  try:
    # The base loader leaves all values text: a class may be called `no`, `on` or `1`.
    content = yaml.load(text, Loader=yaml.BaseLoader)
  except (yaml.YAMLError, RecursionError) as error:
    raise command_line.CommandError(f'{data.path(name)} is not YAML: {error}.') from error
  if not isinstance(content, dict):
    raise command_line.CommandError(f'{data.path(name)} has no keys such as names, train, val.')
  return content


def _names(data: data_folder.DataFolder, source: str, given: Any,
           findings: findings_lib.Findings) -> dict[int, str]:
  """Returns the names of the classes by their numbers, which begin at 0."""
  if isinstance(given, str):
    file = _closest(given, data.files)
    if file is None:
      raise command_line.CommandError(
          f'{data.path(source)}: names is {given!r}, but there is no such file.')
    given = [line.strip() for line in data.text(file, findings).splitlines()]
    while given and not given[-1]:
      given.pop()
  values = list(given.values() if isinstance(given, dict) else given or ())
  # Aliases can make nested values of any size, which must not be written out.
  if not all(isinstance(value, str) for value in values):
    raise command_line.CommandError(
        f'{data.path(source)}: names must be a list of texts, or numbers with a text each.')
  if isinstance(given, dict):
    try:
      return {int(number): given[number].strip() for number in sorted(given, key=int)}
    except (TypeError, ValueError) as error:
      raise command_line.CommandError(
          f'{data.path(source)}: the keys of names must be whole numbers ({error}).') from error
  return {number: name.strip() for number, name in enumerate(values)}


def _closest(path: str, candidates: Iterable[str]) -> str | None:
  """Returns the candidate that shares most of the last parts of a path, at least the last."""
  parts = [part for part in path.strip().replace('\\', '/').split('/') if part not in ('', '.')]
  keys = [file_names.key(part) for part in parts if part != '..']
  by_key = {'/'.join(map(file_names.key, name.split('/'))): name for name in candidates}
  for start in range(len(keys)):
    ending = '/'.join(keys[start:])
    found = [name for key, name in by_key.items() if f'/{key}'.endswith(f'/{ending}')]
    if found:
      return min(found, key=len)
  return None


def _images(data: data_folder.DataFolder, source: str, given: Any,
            findings: findings_lib.Findings) -> list[str]:
  """Returns the images of a split, which are given as folders or lists of images."""
  images: dict[str, None] = {}
  folders = {folder for name in data.images for folder in _above(name)}
  finder = file_names.ImageFinder(data)
  for place in given if isinstance(given, list) else [given]:
    if not isinstance(place, str):
      raise command_line.CommandError(
          f'{data.path(source)}: train, val and test must be a folder, a list of images, or '
          'several of them.')
    text = place.rstrip('/\\')
    listing = _closest(text, data.files) if text.lower().endswith('.txt') else None
    if listing:
      for line in filter(str.strip, data.text(listing, findings).splitlines()):
        try:
          images[finder.find(line.strip(), [data.path(posixpath.dirname(listing))]).name] = None
        except findings_lib.UnusableError as error:
          findings.add('all', 'dropped', error.reason, line.strip(), f'in {listing}')
      continue
    folder = _closest(text, folders)
    if folder is None and text.strip('./\\'):
      findings.add('all', 'dropped', f'{source} names a folder or list that is not there', text)
    else:
      prefix = f'{folder}/' if folder else ''
      images.update(dict.fromkeys(name for name in data.images if name.startswith(prefix)))
  return list(images)


def _above(name: str) -> list[str]:
  parts = name.split('/')[:-1]
  return ['/'.join(parts[:end]) for end in range(1, len(parts) + 1)]


def read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> Config:
  """Reads the configuration of a data set.

  Args:
    data: the data set.
    findings: told about folders and images that are not there.

  Returns:
    The configuration; without one, the folders of the images say the splits.

  Raises:
    CommandError: the configuration cannot be understood.
  """
  source = find(data)
  config: dict[str, Any] = {}
  if source and source.lower().endswith(('.yaml', '.yml', '.data')):
    config = _mapping(data, source, findings)
    names = _names(data, source, config.get('names'), findings)
  else:
    names = _names(data, source, source, findings) if source else {}
  splits: dict[str | None, list[str]] = {}
  for key, split in _SPLITS.items():
    if config.get(key):
      splits[split] = _images(data, source or '', config[key], findings)
  splits = {split: images for split, images in splits.items() if images}
  if splits.get('val') == splits.get('train') and 'val' in splits:
    findings.add('all', 'noted', 'train and val are the same images: val is not read', source or '')
    del splits['val']
  if not splits:
    by_split = (image_lists.by_lists(data, data.images, findings) or
                image_lists.by_folder(data.images, {}))
    splits = {split: listed.files for split, listed in by_split.items()}
  shape = config.get('kpt_shape')
  values = (int(shape[0]) * int(shape[1]) if isinstance(shape, list) and len(shape) == 2 and
            all(isinstance(size, str) and size.isdecimal() for size in shape) else 0)
  return Config(source or '', names, splits, values)
