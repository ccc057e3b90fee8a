r"""Finds the image file that an annotation file means, by a stated rule.

1. Exact: the name below one of the folders of the layout.
2. Normalized: without regard to the case of letters, composed or decomposed letters, `\\` for `/`,
   outer blanks, `%20`, the host of a URL and the first parts of an absolute path. Of all files
   below the data folder with this base name, the one that shares most of the last parts.
3. The same with another image suffix, or none.
Several files that fit equally well are ambiguous, except that a folder of the layout wins; of
folders of one rank none does. Nothing outside of the data folder is ever found, because only files
that `DataFolder` lists are.
"""
import collections
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import functools
import itertools
import pathlib
import posixpath
import re
from typing import Any
import unicodedata
from urllib import parse

from official_ext.datasets import annotations
from official_ext.datasets import findings
from official_ext.datasets.images import image_files
from official_ext.datasets.sources import data_folder

Parts = tuple[str, ...]  # of a relative path, each as `key` gives it

BY_PARTS = 'image file name is written otherwise than the file: found by its last parts'
BY_STEM = 'image file has another suffix than its name in the annotations'
_IMAGE_FOLDERS = {'jpegimages', 'images', 'image', 'imgs', 'img'}
_AMBIGUOUS = 'image file name fits several files'
_CLAIMED = ('image file name fits no file but one that another name means, or the name of another '
            'split')


def key(part: str) -> str:
  """Returns a part of a path in the form in which names are compared."""
  return unicodedata.normalize('NFC', part).casefold().strip()


def _keys(name: str) -> Parts:
  return tuple(key(part) for part in name.split('/') if part.strip() not in ('', '.', '..'))


def _without_suffix(base: str) -> str:
  stem, suffix = posixpath.splitext(base)
  return stem if suffix.lower() in image_files.SUFFIXES else base


def _spellings(name: str) -> Iterator[Parts]:
  """Yields the parts of a name, as it is and as a URL."""
  name = name.strip().strip('"\'').replace('\\', '/')
  yield _keys(name)
  as_url = re.sub(r'^[a-zA-Z][\w+.-]+://[^/]*', '', name)
  local = re.search(r'[?&]d=([^&]*)', as_url)  # Label Studio: /data/local-files/?d=images/a.jpg
  as_url = local.group(1) if local else re.split(r'[?#]', as_url)[0]
  yield _keys(parse.unquote(as_url))


@functools.lru_cache(maxsize=8)
def _relative(root: pathlib.Path, folders: tuple[Any, ...]) -> list[list[str]]:
  """Returns those of `folders` that are inside `root`, relative to it, by rank."""
  return [[folder.relative_to(root).as_posix() for folder in annotations.of_one_rank(entry)
           if folder.is_relative_to(root)] for entry in folders]


class ImageFinder:
  """Finds images below a data folder; the index of names is made once."""

  def __init__(self, data: data_folder.DataFolder):
    """Initializes the finder with the data folder."""
    self._data = data
    self._files = frozenset(data.files)

  @functools.cached_property
  def _by_base(self) -> Mapping[str, list[str]]:
    found = collections.defaultdict(list)
    for name in self._data.files:
      found[key(posixpath.basename(name))].append(name)
    return found

  @functools.cached_property
  def _by_stem(self) -> Mapping[str, list[str]]:
    found = collections.defaultdict(list)
    for name in self._data.images:
      found[key(_without_suffix(posixpath.basename(name)))].append(name)
    return found

  def find(self, name: str, folders: annotations.Folders) -> annotations.FoundImage:
    """Finds the file that a name means.

    Args:
      name: as the annotations give it.
      folders: folders of the layout inside the data folder; the first rank that has the file wins.

    Returns:
      The file.

    Raises:
      UnusableError: there is none, or several fit.
    """
    inside = _relative(self._data.root, tuple(folders))
    for rank in inside:
      paths = {posixpath.normpath(posixpath.join(folder, name)) for folder in rank} & self._files
      if paths:
        path = _only(paths)
        return annotations.FoundImage(self._data.path(path), path)
    folder_keys = [[_keys(folder) for folder in rank] for rank in inside]
    for spelling in filter(None, _spellings(name)):
      for candidates, change, last in (
          (self._by_base.get(spelling[-1], ()), BY_PARTS, spelling[-1]),
          (self._by_stem.get(_without_suffix(spelling[-1]), ()), BY_STEM,
           _without_suffix(spelling[-1]))):
        if candidates:
          chosen = _closest((*spelling[:-1], last), candidates, folder_keys)
          return annotations.FoundImage(self._data.path(chosen), chosen, change)
    raise findings.UnusableError(
        'image file is missing', self._where(name, itertools.chain.from_iterable(inside)))

  def _where(self, name: str, folders: Iterable[str]) -> str:
    """Says where a file was looked for."""
    stem = _without_suffix(posixpath.basename(name.replace('\\', '/')))
    places = ', '.join(dict.fromkeys(folder for folder in folders if folder != '.'))
    text = (f'looked for it in the data folder, in {places} there, and anywhere for {stem} with '
            'any suffix of an image')
    if self._data.outside:
      text += f'; links that lead out of it are not followed: {", ".join(self._data.outside[:3])}'
    return text


def _only(names: Collection[str]) -> str:
  """Returns the only name; raises UnusableError if there are several."""
  if len(names) > 1:
    raise findings.UnusableError(_AMBIGUOUS, ', '.join(sorted(names)[:4]))
  return next(iter(names))


def _closest(parts: Parts, candidates: Sequence[str], folders: Sequence[Sequence[Parts]]) -> str:
  """Returns the candidate with most of the last `parts`; raises UnusableError if several have."""

  def shared(candidate: Parts) -> int:
    """Returns how many parts agree, counted from the end; the last one always does."""
    pairs = zip(reversed(candidate[:-1]), reversed(parts[:-1]))
    return next((count for count, (one, other) in enumerate(pairs) if one != other),
                min(len(candidate), len(parts)) - 1)

  keys = {candidate: _keys(candidate) for candidate in candidates}
  most = max(shared(candidate) for candidate in keys.values())
  closest = [name for name, candidate in keys.items() if shared(candidate) == most]
  for rank in folders if len(closest) > 1 else ():
    # The part of the path that the name does not give is a folder of the layout.
    here = [name for name in closest if keys[name][:-1 - most] in rank]
    if here:
      return _only(here)
  return _only(closest)


def find_images(data: data_folder.DataFolder, splits: Iterable[annotations.Split]) -> None:
  """Finds the image files of splits of a data folder, and adds them to their `found`.

  A name that fits a file less than exactly is refused if another name means the same file, or the
  same name of another split means it exactly: the picture of this split is missing then.

  Args:
    data: the data folder.
    splits: changed.
  """
  finder = ImageFinder(data)
  splits = list(splits)
  names = collections.defaultdict(set)
  exact = set()
  for split in splits:
    for image in split.images:
      name = image.get('file_name')
      if isinstance(name, str) and name not in split.found:
        try:
          file = split.found[name] = finder.find(name, split.folders)
          names[file.path].add(name)
          if not file.change:
            exact.add(file.path)
        except findings.UnusableError as error:
          split.found[name] = error
  for split in splits:
    for name, found in split.found.items():
      if isinstance(found, annotations.FoundImage) and found.change and (
          len(names[found.path]) > 1 or found.path in exact):
        split.found[name] = findings.UnusableError(_CLAIMED, found.name)


def partners(names: Iterable[str], candidates: Iterable[str]) -> dict[str, str]:
  """Pairs files with files of the same stem, such as annotations with images.

  A file's partner lies in the same folder, or in a folder that differs in one part
  (`labels/a/1.txt` and `images/a/1.jpg`); otherwise it must be the only one of its stem.

  Args:
    names: files, relative to the data folder.
    candidates: the files that may be partners, relative as well.

  Returns:
    Name -> its partner; names without one are missing.
  """
  by_stem = collections.defaultdict(list)
  for candidate in candidates:
    by_stem[key(posixpath.splitext(posixpath.basename(candidate))[0])].append(candidate)
  result: dict[str, str] = {}
  alone: dict[str, str] = {}
  for name in names:
    parts = _keys(posixpath.dirname(name))
    same_stem = by_stem.get(key(posixpath.splitext(posixpath.basename(name))[0]), [])
    by_distance = collections.defaultdict(list)
    for candidate in same_stem:
      by_distance[_distance(parts, _keys(posixpath.dirname(candidate)))].append(candidate)
    closest = by_distance[min(by_distance)] if by_distance else []
    if len(closest) > 1:  # masks have the names of their images
      closest = [candidate for candidate in closest if _IMAGE_FOLDERS & {*_keys(candidate)}]
    if len(closest) == 1:
      (alone if min(by_distance) == 2 else result)[name] = closest[0]
  # train/images/1.jpg must not get valid/labels/1.txt, which belongs to valid/images/1.jpg.
  taken = {*result.values(), *_several(alone.values())}
  return result | {name: partner for name, partner in alone.items() if partner not in taken}


def _several(names: Iterable[str]) -> list[str]:
  """Returns the names that are there more than once."""
  return [name for name, count in collections.Counter(names).items() if count > 1]


def _distance(parts: Parts, other: Parts) -> int:
  """Returns 0 for the same folder, 1 for one that differs in one part, 2 for any other."""
  if parts == other:
    return 0
  shorter, longer = sorted((parts, other), key=len)
  if len(parts) == len(other):
    return 1 if sum(a != b for a, b in zip(parts, other)) == 1 else 2
  is_above = len(longer) == len(shorter) + 1 and any(
      longer[:at] + longer[at + 1:] == shorter for at in range(len(longer)))
  return 1 if is_above else 2
