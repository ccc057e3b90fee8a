"""The ids of image files: those of their entries in an annotation file, or running numbers."""
import collections
from collections.abc import Callable, Mapping, Sequence
import pathlib
import posixpath
import re
import types
from typing import NamedTuple
import unicodedata
from urllib import parse

from official_ext.datasets.images import image_files
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
    truth: the annotation file; an image belongs to an entry by the first of these rules that
      fits, or else to none.  Its path ends in the `file_name` of the entry; or it does so without
      regard to the case of letters, to composed or decomposed letters, to the kind of slashes and
      to escapes such as %20; or the `file_name` is an absolute path or a URL, and its last part
      is that of one image only; or only the suffix differs.  None numbers the images from 1.

  Returns:
    The images that have an id, and what fits nothing.

  Raises:
    CommandError: the annotation file has none of the images, or two images fit one entry.
  """
  if truth is None:
    return ImageSet(dict(enumerate(found, 1)), [], [])
  ids = {image.file_name: image.original_id for image in truth.images}
  matched: dict[pathlib.Path, Id] = {}
  for rule in _RULES:
    taken = set(matched.values())
    fitting = _match([path for path in found if path not in matched],
                     {name: image_id for name, image_id in ids.items() if image_id not in taken},
                     rule)
    for image_id, fit in fitting.items():
      if len(fit) == 1:
        matched[fit[0]] = image_id
      elif rule.is_certain:
        raise command_line.CommandError(
            f'{fit[0]} and {fit[1]} both fit one entry of {truth.flag}={truth.path}: give the '
            'folder of its images only.')
  paths = {matched[path]: path for path in found if path in matched}
  unknown = [path for path in found if path not in matched]
  absent = [name for name, image_id in ids.items() if image_id not in paths]
  if not paths:
    raise command_line.CommandError(
        f'{truth.flag}={truth.path} has none of the {len(found)} images, such as '
        f'{found[0]}: its file names are like {", ".join(absent[:3]) or "nothing"}.')
  return ImageSet(paths, unknown, absent, truth.image_entries)


def say_left_out(images: ImageSet) -> None:
  """Says which images the annotation file does not have, and which of its images are not there."""
  command_line.say_names('Left out, not in the annotation file', images.unknown)
  command_line.say_names('In the annotation file but not there', images.absent)


class _Rule(NamedTuple):
  """How file names of entries are compared with paths.

  Attributes:
    of_entry: gives what a path may end in, from a `file_name`.
    of_path: gives the parts of a path in the same form.
    is_certain: whether two paths that fit one entry are an error, not merely no match.
  """
  of_entry: Callable[[str], set[Parts]]
  of_path: Callable[[pathlib.Path], Parts]
  is_certain: bool


def _match(paths: Sequence[pathlib.Path], ids: Mapping[str, Id], rule: _Rule
           ) -> dict[Id, list[pathlib.Path]]:
  """Returns the id of an entry -> the paths that fit it by a rule."""
  by_parts = collections.defaultdict(set)
  for name, image_id in ids.items():
    for parts in rule.of_entry(name):
      by_parts[parts].add(image_id)
  fitting = collections.defaultdict(list)
  for path in paths if by_parts else ():
    parts = rule.of_path(path)
    endings = (parts[start:] for start in range(len(parts)))
    entries = next((by_parts[ending] for ending in endings if ending in by_parts), ())
    for image_id in entries if len(entries) == 1 else ():
      fitting[image_id].append(path)
  return fitting


def _normalized(name: str) -> Parts:
  """Returns the parts of a path in the form in which they are compared."""
  text = unicodedata.normalize('NFC', name.replace('\\', '/')).casefold()
  return tuple(part.strip() for part in text.split('/') if part.strip() not in ('', '.'))


def _spellings(name: str) -> set[Parts]:
  """Returns the parts of a `file_name` as it is and as a URL."""
  return {_normalized(name), _normalized(parse.unquote(re.split('[?#]', name)[0]))} - {()}


def _last_parts(name: str) -> set[Parts]:
  """Returns the last part of a `file_name` that is an absolute path or a URL."""
  return {parts[-1:] for parts in _spellings(name)} if _ROOTED.match(name) else set()


def _without_suffix(parts: Parts) -> Parts:
  """Returns the parts of a path without the suffix of an image."""
  stem, suffix = posixpath.splitext(parts[-1])
  return (*parts[:-1], stem if suffix in image_files.SUFFIXES else parts[-1])


_RULES = (
    _Rule(lambda name: {tuple(name.split('/'))}, lambda path: path.parts, True),
    _Rule(_spellings, lambda path: _normalized(str(path)), True),
    _Rule(_last_parts, lambda path: _normalized(path.name), False),
    _Rule(lambda name: {_without_suffix(parts) for parts in _spellings(name)},
          lambda path: _without_suffix(_normalized(str(path))), False),
)
