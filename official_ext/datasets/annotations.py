"""Annotations in one form for every layout: splits as they were read, then valid ids and boxes.

Readers of all layouts return a `Split` of COCO entries. `categories.merge`, and here
`unique_images`, `group_by_image` and `clean_box`, make them valid, and tell `Findings` what they
change.
"""
import collections
from collections.abc import Sequence
import dataclasses
import math
import pathlib
from typing import Any

from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values

Entry = dict[str, Any]  # an image, an annotation or a category of a COCO annotation file

# The shortest side of a box in pixels: a shorter one has equal ends in float32 coordinates.
_MIN_SIDE = 0.01
_RENUMBERED = 'image ids were not whole numbers: renumbered from 1'


@dataclasses.dataclass
class Split:
  """One split of a data set as it was read, before any check.

  Attributes:
    name: `train` or `val`.
    source: the file or folder that holds the annotations, for messages.
    images: COCO image entries: `id`, `file_name`, perhaps `width` and `height`.
    annotations: COCO annotation entries.
    categories: COCO category entries.
    folders: where image files are looked for; the first folder that has a file wins.
  """
  name: str
  source: str
  images: list[Entry]
  annotations: list[Entry]
  categories: list[Entry]
  folders: Sequence[pathlib.Path]

  def find_image(self, file_name: str) -> pathlib.Path | None:
    """Returns the path of an image file, or None if none of the folders has it."""
    paths = (folder / file_name for folder in self.folders)
    return next((path for path in paths if path.is_file()), None)


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


def unique_images(split: Split, findings: findings_lib.Findings) -> list[ListedImage]:
  """Returns the images of a split, each file name and each id once.

  Args:
    split: the split as it was read.
    findings: told which entries are dropped, and if the images are renumbered.

  Returns:
    The images in the order of the split. If every id is a whole number that Model Garden can
    read as int64, the images keep their ids; otherwise they are numbered from 1.
  """
  kept, names, ids = [], set(), set()
  for image in split.images:
    name, normal_id = image.get('file_name'), normal_values.normal_id(image.get('id'))
    if not isinstance(name, str) or not name:
      findings.add(split.name, 'dropped', 'image entry has no file_name', split.source,
                   f'id {image.get("id")}')
    elif name in names:
      findings.add(split.name, 'dropped', 'image is listed twice: only the first is kept', name)
    elif normal_id is None:
      findings.add(split.name, 'dropped', 'image entry has no id that annotations can name', name,
                   f'id {image.get("id")}')
    elif normal_id in ids:
      findings.add(split.name, 'dropped', 'image id is that of another image', name,
                   f'id {image.get("id")}')
    else:
      names.add(name)
      ids.add(normal_id)
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
  for annotation in split.annotations:
    image_id = normal_values.normal_id(annotation.get('image_id'))
    if image_id is not None and image_id in known:
      groups[image_id].append(annotation)
    else:
      findings.add(split.name, 'dropped', 'annotation is for an image that is not listed',
                   split.source, f'annotation {annotation.get("id")}, image id '
                   f'{annotation.get("image_id")}')
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


def clean_box(box: Any, width: int, height: int) -> tuple[list[float], str]:
  """Clips a COCO box to its image.

  Args:
    box: should be `[x, y, width, height]` in pixels; anything else raises.
    width: of the image in pixels.
    height: of the image in pixels.

  Returns:
    The box, and what was changed (empty if nothing).

  Raises:
    UnusableError: no valid box is left.
  """
  try:
    x, y, box_width, box_height = (float(value) for value in box)
  except (TypeError, ValueError) as error:
    raise findings_lib.UnusableError('box is not four numbers') from error
  if not all(math.isfinite(value) for value in (x, y, box_width, box_height)):
    raise findings_lib.UnusableError('box is not finite')
  if box_width < _MIN_SIDE or box_height < _MIN_SIDE:
    raise findings_lib.UnusableError('box has no area')
  clipped_x, clipped_width = _clip(x, box_width, width)
  clipped_y, clipped_height = _clip(y, box_height, height)
  if clipped_width < _MIN_SIDE or clipped_height < _MIN_SIDE:
    raise findings_lib.UnusableError('box is outside the image')
  cleaned = [clipped_x, clipped_y, clipped_width, clipped_height]
  is_same = all(math.isclose(new, old, rel_tol=0, abs_tol=1e-6)
                for new, old in zip(cleaned, (x, y, box_width, box_height)))
  return cleaned, '' if is_same else 'box reached over the edge of the image: clipped'
