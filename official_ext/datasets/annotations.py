"""Annotations in one form for every layout: splits as they were read, then valid ids and boxes.

Readers of all layouts return a `Split` of COCO entries. `categories.merge`, and here
`unique_images`, `group_by_image` and `clean_box`, make them valid, and tell `Findings` what they
change.
"""
import collections
from collections.abc import Sequence
import dataclasses
import itertools
import math
import pathlib
import posixpath
from typing import Any, NamedTuple

from official_ext.datasets import box_forms
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values

Entry = dict[str, Any]  # an image, an annotation or a category of a COCO annotation file
# Folders where images are looked for, the most special first; those of one rank are a tuple.
Folders = Sequence[pathlib.Path | tuple[pathlib.Path, ...]]

# The shortest side of a box in pixels: a shorter one has equal ends in float32 coordinates.
_MIN_SIDE = 0.01
NO_AREA = 'box has no area'
CLIPPED = 'box reached over the edge of the image: clipped'
_SAME_NAME = ('image is listed several times: all are dropped, because their labels cannot be told '
              'apart')
_SAME_ID = ('image id is that of another image too: both are dropped, because their labels cannot '
            'be told apart')
_RENUMBERED = 'image ids were not whole numbers: renumbered from 1'


def of_one_rank(folder: pathlib.Path | tuple[pathlib.Path, ...]) -> tuple[pathlib.Path, ...]:
  """Returns the folders of an entry of `Folders`."""
  return folder if isinstance(folder, tuple) else (folder,)


class FoundImage(NamedTuple):
  """An image file that was found.

  Attributes:
    path: of the file.
    name: of the file, relative to the data folder.
    change: how its name differs from that in the annotations; empty if it does not.
  """
  path: pathlib.Path
  name: str
  change: str = ''


@dataclasses.dataclass
class Split:
  """One split of a data set as it was read, before any check.

  Attributes:
    name: `train` or `val`.
    source: the file or folder that holds the annotations, for messages.
    images: COCO image entries: `id`, `file_name`, perhaps `width` and `height`.
    annotations: COCO annotation entries.
    categories: COCO category entries.
    folders: where image files are looked for; the first that has a file wins, and none of several
      of one rank.
    found: `file_name` -> what `file_names.find_images` has found for it.
    licences: names of the licences that the annotation file lists.
  """
  name: str
  source: str
  images: list[Entry]
  annotations: list[Entry]
  categories: list[Entry]
  folders: Folders
  found: dict[str, FoundImage | findings_lib.UnusableError] = dataclasses.field(
      default_factory=dict)
  licences: Sequence[str] = ()

  def find_image(self, file_name: str) -> pathlib.Path | None:
    """Returns the path of an image file, None if `locate_image` finds none."""
    try:
      return self.locate_image(file_name).path
    except findings_lib.UnusableError:
      return None

  def locate_image(self, file_name: str) -> FoundImage:
    """Finds the file of an image.

    Args:
      file_name: of an entry in `images`. One that is not in `found` is looked for in `folders`
        as it is.

    Returns:
      The file.

    Raises:
      UnusableError: there is no such file, or several fit.
    """
    found = self.found.get(file_name)
    if isinstance(found, findings_lib.UnusableError):
      raise found
    if found:
      return found
    for folder in itertools.chain.from_iterable(map(of_one_rank, self.folders)):
      path = folder / file_name
      if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
        return FoundImage(path, file_name)
    raise findings_lib.UnusableError('image file is missing')


Splits = dict[str, Split]


@dataclasses.dataclass(frozen=True)
class ListedImage:
  """An image that a split lists.

  Attributes:
    id: in the records, a whole number that no other image of the split has.
    original_id: in the data set, as it is given back: text as it is written, and 1 for 1.0.
    file_name: as the data set gives it.
    size: (width, height) in pixels as the data set gives them; None for what it does not give.
  """
  id: int
  original_id: Any
  file_name: str
  size: tuple[Any, Any]


def _merge_equal_entries(split: Split, findings: findings_lib.Findings
                         ) -> list[tuple[normal_values.Id, Entry]]:
  """Returns (id, entry) of images with id and file name, those that say the same only once."""
  merged: dict[tuple[Any, ...], tuple[normal_values.Id, Entry]] = {}
  for image in split.images:
    name = image.get('file_name')
    if not isinstance(name, str) or not name:
      findings.add(split.name, 'dropped', 'image entry has no file_name', split.source,
                   f'id {image.get("id")}')
      continue
    normal_id = normal_values.normal_id(image.get('id'))
    if normal_id is None:
      findings.add(split.name, 'dropped', 'image entry has no id that annotations can name', name,
                   f'id {image.get("id")}')
      continue
    key = (name, normal_id, *(str(image.get(field)) for field in ('width', 'height')))
    if key in merged:
      findings.add(split.name, 'fixed', 'image is listed twice with the same id: taken once', name)
    merged.setdefault(key, (normal_id, image))
  return list(merged.values())


def unique_images(split: Split, findings: findings_lib.Findings) -> list[ListedImage]:
  """Returns the images of a split, each file name and each id once.

  Entries that share a name or an id are all dropped: nothing says which labels belong to which.

  Args:
    split: the split as it was read.
    findings: told which entries are dropped, and if the images are renumbered.

  Returns:
    The images in the order of the split. If every id is a whole number that Model Garden can
    read as int64, the images keep their ids; otherwise they are numbered from 1.
  """
  kept = []
  entries = _merge_equal_entries(split, findings)
  names = collections.Counter(posixpath.normpath(image['file_name']) for _, image in entries)
  same_id = collections.defaultdict(list)
  for normal_id, image in entries:
    same_id[normal_id].append(image['file_name'])
  for normal_id, image in entries:
    name = image['file_name']
    if names[posixpath.normpath(name)] > 1:
      findings.add(split.name, 'dropped', _SAME_NAME, name, f'id {normal_id}')
    elif len(same_id[normal_id]) > 1:
      others = [other for other in same_id[normal_id] if other != name]
      findings.add(split.name, 'dropped', _SAME_ID, name, f'id {normal_id}, also of {others[0]}')
    else:
      kept.append((normal_id, image))
  is_numbered = all(isinstance(number, int) and 0 <= number < 2**63 for number, _ in kept)
  if not is_numbered:
    findings.add(split.name, 'fixed', _RENUMBERED, split.source)
  return [ListedImage(int(normal_id) if is_numbered else number,
                      normal_values.original_id(image['id']), image['file_name'],
                      (image.get('width'), image.get('height')))
          for number, (normal_id, image) in enumerate(kept, 1)]


def group_by_image(split: Split, images: Sequence[ListedImage],
                   findings: findings_lib.Findings) -> dict[normal_values.Id, list[Entry]]:
  """Groups the annotations of a split by image.

  Args:
    split: the split as it was read.
    images: its images, from `unique_images`.
    findings: told which annotations belong to no image.

  Returns:
    The normal id of an image in the data set -> its annotations in the order of the split; images
    without annotations are missing.
  """
  groups = collections.defaultdict(list)
  known = {normal_values.normal_id(image.original_id) for image in images}
  listed = {normal_values.normal_id(image.get('id')) for image in split.images}
  for annotation in split.annotations:
    image_id = normal_values.normal_id(annotation.get('image_id'))
    if image_id is not None and image_id in known:
      groups[image_id].append(annotation)
    else:
      reason = ('annotation is for an image entry that is dropped' if image_id in listed else
                'annotation is for an image that is not listed')
      findings.add(split.name, 'dropped', reason, split.source,
                   f'annotation {annotation.get("id")}, image id {annotation.get("image_id")}')
  return dict(groups)


def _clip(start: float, length: float, limit: int) -> tuple[float, float]:
  """Clips an interval to [0, limit]; returns its start and its length."""
  end = min(start + length, float(limit))
  start = max(start, 0.0)
  length = end - start
  # Model Garden drops a box whose start + length exceeds the limit, even by a rounding error.
  while length > 0 and start + length > limit:
    length = math.nextafter(length, 0.0)
  return start, length


def read_box(box: Any) -> tuple[list[float], bool]:
  """Reads the four numbers of a COCO box.

  Args:
    box: should be `[x, y, width, height]`; numbers may be text.

  Returns:
    The numbers, and whether one of them was text.

  Raises:
    UnusableError: the box is anything else, or a number is not finite.
  """
  if not isinstance(box, (list, tuple)) or len(box) != 4:
    raise findings_lib.UnusableError('box is not four numbers', _short(box))
  try:
    values = normal_values.to_floats(box)
  except ValueError as error:
    raise findings_lib.UnusableError('box is not four numbers', _short(box)) from error
  if not all(map(math.isfinite, values)):
    raise findings_lib.UnusableError('box is not finite', _short(box))
  return values, any(issubclass(kind, str) for kind in set(map(type, box)))


def _short(value: Any) -> str:
  """Returns a value as text of at most 60 characters; empty for None."""
  text = '' if value is None else repr(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def clean_box(box: Any, width: int, height: int, factor: float = 1.0) -> tuple[list[float], str]:
  """Clips a COCO box to its image.

  Args:
    box: should be `[x, y, width, height]` in pixels; anything else raises.
    width: of the image in pixels.
    height: of the image in pixels.
    factor: by which the box is scaled first, because the image was resized after its annotation.

  Returns:
    The box, and what was changed apart from the scale (empty if nothing).

  Raises:
    UnusableError: no valid box is left.
  """
  values, is_text = read_box(box)
  x, y, box_width, box_height = scaled = [value * factor for value in values]
  if min(box_width, box_height) < 0:
    raise findings_lib.UnusableError('box has a negative width or height', _short(box))
  if box_forms.is_normalized(values, width, height):
    raise findings_lib.UnusableError('box is in parts of the image (0 to 1), not in pixels',
                                     _short(box))
  if box_width < _MIN_SIDE or box_height < _MIN_SIDE:
    raise findings_lib.UnusableError(NO_AREA)
  unclipped = 'box was text: read as numbers' if is_text else ''
  if x >= 0 and y >= 0 and x + box_width <= width and y + box_height <= height:
    return scaled, unclipped
  clipped_x, clipped_width = _clip(x, box_width, width)
  clipped_y, clipped_height = _clip(y, box_height, height)
  if clipped_width < _MIN_SIDE or clipped_height < _MIN_SIDE:
    raise findings_lib.UnusableError('box is outside the image', _short(box))
  cleaned = [clipped_x, clipped_y, clipped_width, clipped_height]
  if not all(math.isclose(new, old, rel_tol=0, abs_tol=1e-6) for new, old in zip(cleaned, scaled)):
    return cleaned, CLIPPED
  return cleaned, unclipped
