"""Sorts annotation files into splits, by lists of images or by the folders that they lie in."""
import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import posixpath
import re

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.images import image_files
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names


@dataclasses.dataclass
class Listed:
  """The annotation files of a split.

  Attributes:
    files: relative to the data folder.
    missing: names in a list that no annotation file has.
  """
  files: list[str] = dataclasses.field(default_factory=list)
  missing: list[str] = dataclasses.field(default_factory=list)

  def __str__(self):
    """How many there are, for findings."""
    return f'{len(self.files)} files, such as {", ".join(self.files[:1]) or "none"}'


def folder_split(name: str) -> str | None:
  """Returns the split that the folders of a file say, None if they say none."""
  folder = posixpath.dirname(name)
  return split_names.of_path(f'{folder}/_') if folder else None


def by_folder(names: Iterable[str], images: Mapping[str, str]) -> dict[str | None, Listed]:
  """Sorts annotation files by the split that their folders, or those of their images, say.

  Args:
    names: annotation files.
    images: annotation file -> its image.
  """
  found: dict[str | None, Listed] = collections.defaultdict(Listed)
  for name in names:
    found[folder_split(name) or folder_split(images.get(name, ''))].files.append(name)
  return found


def _lists(data: data_folder.DataFolder) -> dict[str | None, list[str]]:
  """Returns the lists of images for each split, those of ImageSets/Main if there are any."""
  texts = data.with_suffix('.txt')
  for pattern in (r'(.*/)?imagesets/main/[^/]*', r'(.*/)?imagesets/[^/]*',
                  r'(.*/)?imagesets/.*', r'(?!.*\blabels/).*'):
    plain: dict[str | None, list[str]] = collections.defaultdict(list)
    by_class: dict[str | None, list[str]] = collections.defaultdict(list)
    for name in texts:
      stem = posixpath.splitext(posixpath.basename(name))[0]
      if re.fullmatch(pattern, name, re.IGNORECASE) and (said := split_names.of_name(stem)):
        is_plain = re.fullmatch(r'(train|val|valid|validation|trainval|test)', stem.lower())
        (plain if is_plain else by_class)[said].append(name)
    if plain or by_class:
      # aeroplane_train.txt has every image of train.txt with 1 or -1 behind.
      return plain or by_class
  return {}


def _stems(line: str) -> list[str]:
  """Returns the stems that a line of a list may mean: a name, perhaps with more behind it."""
  texts = (line, re.sub(r'\s+-?[01]$', '', line), line.split()[0])
  bases = [text.replace('\\', '/').strip('/') for text in texts]
  return [base[:-len(suffix)] if (suffix := posixpath.splitext(base)[1]).lower() in
          (*image_files.SUFFIXES, '.xml') else base for base in bases]


def _find(stems: Sequence[str], base: str, index: Mapping[str, list[str]]) -> str | None:
  """Returns the annotation file of one of the stems, below `base` if several have it."""
  for stem in stems:
    found = index.get(file_names.key(posixpath.basename(stem)), [])
    for ending in (f'/{stem}', ''):
      closest = [name for name in found if posixpath.splitext(f'/{name}')[0].endswith(ending)
                 and name.startswith(base)] if ending else found
      if len(closest) == 1:
        return closest[0]
  return None


def by_lists(data: data_folder.DataFolder, names: Sequence[str], findings: findings_lib.Findings
             ) -> dict[str | None, Listed]:
  """Sorts annotation files by lists of images; empty if there is no list that fits.

  Args:
    data: the data set.
    names: annotation files.
    findings: told if the encoding of a list is a guess.
  """
  index = collections.defaultdict(list)
  for name in names:
    index[file_names.key(posixpath.splitext(posixpath.basename(name))[0])].append(name)
  found: dict[str | None, Listed] = {}
  for split, lists in _lists(data).items():
    files: dict[str, None] = {}
    missing: dict[str, None] = {}
    for name in lists:
      base = re.split('imagesets/', name, flags=re.IGNORECASE)[0] if '/' in name else ''
      base = base if base != name else ''
      for line in filter(str.strip, data.text(name, findings).splitlines()):
        stems = _stems(line.strip())
        file = _find(stems, base, index)
        if file:
          files[file] = None
        else:
          missing[stems[1]] = None
    found[split] = Listed(list(files), list(missing))
  return found if any(listed.files for listed in found.values()) else {}
