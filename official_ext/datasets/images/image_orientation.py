"""Which way up an image is: one rule for training and prediction.

Cameras store a picture as the sensor saw it, with an EXIF orientation that says how a viewer turns
it. Model Garden's decoder never turns, so whoever reads an image has to decide. The rule:

1. Annotations that convert_dataset wrote say what was done (`exif_orientation`).
2. If the size in the annotation file is wide and the stored picture is tall, or the other way
   round, annotations are for the turned picture; if both are wide or both are tall and the
   orientation would change that, they are for the stored pixels.
3. Otherwise (square pictures, flips, half turns, no size) most of the other images of the
   annotation file decide, of those that can tell by 2.
4. Otherwise the picture is turned as a viewer shows it.
"""
from collections.abc import Iterable, Mapping
import math
from typing import Any, NamedTuple

import numpy as np

TAG = 0x0112  # of EXIF and TIFF
UPRIGHT = 1
APPLIED, IGNORED = 'applied', 'ignored'

# EXIF orientation -> number of quarter turns to the left, after which the picture may be mirrored.
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True),
          8: (1, False)}
_QUARTER_TURNS = (5, 6, 7, 8)
_INVERSE = {6: 8, 8: 6}


class Header(NamedTuple):
  """The header of an image file.

  Attributes:
    size: (width, height) in pixels as stored, not turned.
    orientation: EXIF orientation, 1 to 8.
  """
  size: tuple[int, int]
  orientation: int

  @property
  def shown_size(self) -> tuple[int, int]:
    """(width, height) in pixels as a viewer shows the image."""
    return self.size[::-1] if self.orientation in _QUARTER_TURNS else self.size


class Listed(NamedTuple):
  """The fields of an image in an annotation file that tell which way up it was annotated.

  Attributes:
    size: (width, height) in pixels; None for what it does not give.
    exif_orientation: `APPLIED` or `IGNORED` if convert_dataset wrote it, else None.
  """
  size: tuple[Any, Any] = (None, None)
  exif_orientation: str | None = None


NOT_LISTED = Listed()


def listed(entry: Mapping[str, Any]) -> Listed:
  """Returns what a COCO image entry says."""
  return Listed((entry.get('width'), entry.get('height')), entry.get('exif_orientation'))


def valid(orientation: Any) -> int:
  """Returns an EXIF orientation, `UPRIGHT` for values that the standard does not have."""
  return orientation if orientation in _TURNS else UPRIGHT


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns a picture as a viewer does.

  Args:
    pixels: `[height, width, ...]` as stored.
    orientation: EXIF orientation, 1 to 8.
  """
  turns, is_mirrored = _TURNS.get(orientation, (0, False))
  turned = np.rot90(pixels, turns)
  return np.ascontiguousarray(turned[:, ::-1] if is_mirrored else turned)


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Undoes `turn`."""
  return turn(pixels, _INVERSE.get(orientation, orientation))


def is_for_turned(orientation: int, stored_size: tuple[int, int], entry: Listed) -> bool | None:
  """Returns whether annotations are for the turned picture; None if the entry cannot tell.

  Args:
    orientation: EXIF orientation, 2 to 8.
    stored_size: (width, height) of the stored picture in pixels.
    entry: what the annotation file says of the image.
  """
  if entry.exif_orientation in (APPLIED, IGNORED):
    return entry.exif_orientation == APPLIED
  if orientation not in _QUARTER_TURNS:
    return None
  # Whether a picture is wide, not its exact size, because annotations may be for a resized one.
  stored, annotated = (_wideness(*size) for size in (stored_size, entry.size))
  return None if not stored * annotated else stored != annotated


def majority(answers: Iterable[bool | None]) -> bool | None:
  """Returns what most answers say, without None; None if neither side has more."""
  balance = sum(0 if answer is None else 1 if answer else -1 for answer in answers)
  return balance > 0 if balance else None


def _wideness(width: Any, height: Any) -> int:
  """Returns 1 for wide, -1 for tall, 0 for square or unknown."""
  try:
    difference = float(width) - float(height)
  except (TypeError, ValueError, OverflowError):
    return 0
  return 0 if math.isnan(difference) else int(np.sign(difference))
