"""The ids of image files: those of their entries in an annotation file, or running numbers."""
import collections
from collections.abc import Iterator, Mapping, Sequence
import pathlib
import re
import types
from typing import NamedTuple
import unicodedata
from urllib import parse

from official_ext.datasets import normal_values
from official_ext.datasets import truth as truth_lib
from official_ext.utils import command_line

Id = normal_values.Id
Parts = tuple[str, ...]

# An absolute path or a URL, which names a place on the machine where the file was written.
_ROOTED = re.compile(r'[a-zA-Z][\w+.-]*:|[/\\]')


class ImageSet(NamedTuple):
  """Images to run a detector on.

  Attributes:
    paths: image id -> file.
    unknown: files that the annotation file does not have.
    absent: file names of the annotation file that were not among the images.
    entries: image id -> its entry in the annotation file; empty without one.
  """
  paths: dict[Id, pathlib.Path]
  unknown: list[pathlib.Path]
  absent: list[str]
  entries: Mapping[Id, truth_lib.Entry] = types.MappingProxyType({})


def assign(found: Sequence[pathlib.Path], truth: truth_lib.Truth | None) -> ImageSet:
  """Gives every image its id.

  Args:
    found: image files.
    truth: the annotation file; an image belongs to an entry if its path ends in the `file_name`
      of the entry, in the same letters, or else without regard to their case, to composed or
      decomposed letters, to the kind of slashes and to escapes such as %20.  If the `file_name`
      is an absolute path or a URL, it is enough that its last part is that of one image only.
      None numbers the images from 1.

  Returns:
    The images that have an id, and what fits nothing.

  Raises:
    CommandError: the annotation file has none of the images, or two images fit one entry.
  """
  if truth is None:
    return ImageSet(dict(enumerate(found, 1)), [], [])
  entries = _Entries({image.file_name: image.original_id for image in truth.images})
  entries.add_last_parts(found)
  paths: dict[Id, pathlib.Path] = {}
  unknown = []
  for path in found:
    image_id = entries.find(path)
    if image_id is None:
      unknown.append(path)
    elif image_id in paths:
      raise command_line.CommandError(
          f'{paths[image_id]} and {path} both fit one entry of --annotation_file='
          f'{truth.path}: give the folder of its images only, with --images.')
    else:
      paths[image_id] = path
  absent = [image.file_name for image in truth.images if image.original_id not in paths]
  if not paths:
    raise command_line.CommandError(
        f'--annotation_file={truth.path} has none of the {len(found)} images, such as '
        f'{found[0]}: its file names are like {", ".join(absent[:3]) or "nothing"}.')
  return ImageSet(paths, unknown, absent, truth.image_entries)


def _parts(name: str) -> Parts:
  """Returns the parts of a path in the form in which they are compared."""
  text = unicodedata.normalize('NFC', name.replace('\\', '/')).casefold()
  return tuple(part.strip() for part in text.split('/') if part.strip() not in ('', '.'))


class _Entries:
  """The ids of the entries of an annotation file by their file names, exact and normalized."""

  def __init__(self, ids: Mapping[str, Id]):
    """Initializes the index with file name -> id."""
    self._exact = ids
    self._rooted: dict[str, list[Id]] = {}
    self._normalized: dict[Parts, list[Id]] = {}
    for name, image_id in ids.items():
      for parts in {_parts(name), _parts(parse.unquote(re.split('[?#]', name)[0]))} - {()}:
        self._normalized.setdefault(parts, []).append(image_id)
        if _ROOTED.match(name):
          self._rooted.setdefault(parts[-1], []).append(image_id)

  def add_last_parts(self, found: Sequence[pathlib.Path]) -> None:
    """Adds the last parts of absolute names; each must be that of one entry and one image."""
    last = collections.Counter(_parts(path.name) for path in found)
    for name, ids in self._rooted.items():
      if last[name,] == 1:
        self._normalized.setdefault((name,), []).extend(ids)

  def find(self, path: pathlib.Path) -> Id | None:
    """Returns the id of an image; None if no entry, or more than one, fits its path."""
    for ending in _endings(path.parts):
      if '/'.join(ending) in self._exact:
        return self._exact['/'.join(ending)]
    for ending in _endings(_parts('/'.join(path.parts))):
      ids = self._normalized.get(ending, [])
      if len(ids) == 1:
        return ids[0]
    return None


def _endings(parts: Sequence[str]) -> Iterator[Parts]:
  """Yields the ends of a path, the longest first."""
  return (tuple(parts[start:]) for start in range(len(parts)))
