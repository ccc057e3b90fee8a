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
from official_ext.datasets.readers import yolo_paths
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names
from official_ext.utils import command_line

_KEY = re.compile(r'^["\']?(\w+)["\']?\s*:', re.MULTILINE)  # at the top of a YAML file
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
  return next(iter(_candidates(data)), None)


def _candidates(data: data_folder.DataFolder) -> list[str]:
  """Returns the files that say as much as any: YAML files, or those of darknet, or class lists.

  Of YAML files those that name both the classes and a split say most: that of a model names only
  `nc`.  Of several that say as much, one in fewer folders is that of the data set.
  """
  ranks: dict[str, tuple[int, int]] = {}
  for name in data.with_suffix('.yaml', '.yml'):
    keys = set(_KEY.findall(data.head(name, 100_000)))
    if keys & {'names', 'nc'}:
      ranks[name] = (-('names' in keys) - bool(keys & {*_SPLITS}), name.count('/'))
  if not ranks:
    ranks = {name: (0, name.count('/')) for name in data.with_suffix('.data')
             if re.search(r'^\s*names\s*=', data.head(name), re.MULTILINE)}
  if ranks:
    return [name for name, rank in ranks.items() if rank == min(ranks.values())]
  return [name for name in data.files
          if re.fullmatch(r'.*(^|/)(classes\.txt|labels\.txt|[^/]*\.names)', name.lower())]


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
    file = _place(data, source, given, data.files)
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


def _place(data: data_folder.DataFolder, source: str, path: str, candidates: Iterable[str],
           root: str = '') -> str | None:
  """Returns the file or folder that a path in `source` means; see `yolo_paths.closest`."""
  try:
    return yolo_paths.closest(path, candidates, [root, posixpath.dirname(source)], root)
  except ValueError as error:
    raise command_line.CommandError(
        f'{data.path(source)}: {error}: write the whole path below the data folder, or give one '
        'data set as --input.') from error


def _images(data: data_folder.DataFolder, source: str, given: Any, root: str,
            findings: findings_lib.Findings) -> list[str]:
  """Returns the images of a split, which are given as folders or lists of images."""
  images: dict[str, None] = {}
  folders = _folders(data)
  finder = file_names.ImageFinder(data)
  for place in given if isinstance(given, list) else [given]:
    if not isinstance(place, str):
      raise command_line.CommandError(
          f'{data.path(source)}: train, val and test must be a folder, a list of images, or '
          'several of them.')
    text = place.rstrip('/\\')
    listing = (_place(data, source, text, data.files, root) if text.lower().endswith('.txt') else
               None)
    if listing:
      for line in filter(str.strip, data.text(listing, findings).splitlines()):
        try:
          images[finder.find(line.strip(), [data.path(posixpath.dirname(listing))]).name] = None
        except findings_lib.UnusableError as error:
          findings.add('all', 'dropped', error.reason, line.strip(), f'in {listing}')
      continue
    folder = _place(data, source, text, folders, root)
    if folder is None and text.strip('./\\'):
      findings.add('all', 'dropped', f'{source} names a folder or list that is not there', text)
    else:
      prefix = f'{folder}/' if folder else ''
      images.update(dict.fromkeys(name for name in data.images if name.startswith(prefix)))
  return list(images)


def _folders(data: data_folder.DataFolder) -> set[str]:
  """Returns the folders that hold images, themselves or in folders below."""
  found: set[str] = set()
  for name in data.images:
    parts = name.split('/')[:-1]
    found.update('/'.join(parts[:end]) for end in range(1, len(parts) + 1))
  return found


def read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> Config:
  """Reads the configuration of a data set.

  Args:
    data: the data set.
    findings: told about folders and images that are not there.

  Returns:
    The configuration; without one, the folders of the images say the splits.

  Raises:
    CommandError: the configuration cannot be understood, or several contradict each other.
  """
  sources = _candidates(data)
  if not sources:
    return _with_splits(data, Config('', {}, {}), findings)
  found = [_read_file(data, source, findings_lib.Findings()) for source in sources]
  config = max(found, key=lambda config: len(config.names))
  for other in found:
    if not other.names.items() <= config.names.items() or other.splits != config.splits:
      raise command_line.CommandError(
          f'{data.path(config.source)} and {data.path(other.source)} name other classes or images: '
          'keep one, or give the folder of one data set as --input.')
  return _with_splits(data, _read_file(data, config.source, findings), findings)


def _read_file(data: data_folder.DataFolder, source: str, findings: findings_lib.Findings
               ) -> Config:
  """Reads a configuration; its splits are those that it names and that have images."""
  if not source.lower().endswith(('.yaml', '.yml', '.data')):
    return Config(source, _names(data, source, posixpath.basename(source), findings), {})
  keys = _mapping(data, source, findings)
  root = keys.get('path')
  root = _place(data, source, root, _folders(data)) if isinstance(root, str) else None
  splits: dict[str | None, list[str]] = {}
  for key, split in _SPLITS.items():
    if keys.get(key):
      splits[split] = _images(data, source, keys[key], root or '', findings)
  splits = {split: images for split, images in splits.items() if images}
  if splits.get('val') == splits.get('train') and 'val' in splits:
    findings.add('all', 'noted', 'train and val are the same images: val is not read', source)
    del splits['val']
  shape = keys.get('kpt_shape')
  values = (int(shape[0]) * int(shape[1]) if isinstance(shape, list) and len(shape) == 2 and
            all(isinstance(size, str) and size.isdecimal() for size in shape) else 0)
  return Config(source, _names(data, source, keys.get('names'), findings), splits, values)


def _with_splits(data: data_folder.DataFolder, config: Config, findings: findings_lib.Findings
                 ) -> Config:
  """Adds the splits that lists or folders of images tell to a configuration without any."""
  if config.splits:
    return config
  by_split = (image_lists.by_lists(data, data.images, findings) or
              image_lists.by_folder(data.images, {}))
  return dataclasses.replace(
      config, splits={split: listed.files for split, listed in by_split.items()})
