"""COCO masks: as polygons, run lengths, pixels and PNG files, and the box around a mask."""
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_lib
from scipy import ndimage

from official_ext.datasets import segmentations

Point = tuple[int, int]
RunLengths = dict[str, Any]  # compressed, as pycocotools makes them

# The compression comes first, because OpenCV sets the other options with it.
_PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 1,
                cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
                cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)


def _side_ends(region: np.ndarray) -> tuple[dict[Point, Point], dict[Point, Point]]:
  """Finds the pixel sides between inside and outside, directed with the inside on the right.

  Args:
    region: bool `[height, width]`.

  Returns:
    The horizontal and the vertical sides, each as a dictionary start (x, y) -> end (x, y).
  """
  padded = np.pad(region.astype(np.int8), 1)
  horizontal, vertical = {}, {}
  for y, x in np.argwhere(np.diff(padded, axis=0)[:, 1:-1]):
    if padded[y + 1, x + 1]:  # the pixel below the side is inside
      horizontal[x, y] = (x + 1, y)
    else:
      horizontal[x + 1, y] = (x, y)
  for y, x in np.argwhere(np.diff(padded, axis=1)[1:-1]):
    if padded[y + 1, x + 1]:  # the pixel to the right of the side is inside
      vertical[x, y + 1] = (x, y)
    else:
      vertical[x, y] = (x, y + 1)
  return horizontal, vertical


def _trace(region: np.ndarray) -> list[int]:
  """Returns the outline `[x, y, x, y, ...]` of one 4-connected region without holes."""
  horizontal, vertical = _side_ends(region)
  point = start = min(horizontal)
  outline: list[int] = []
  is_horizontal = True
  while True:
    sides = horizontal if is_horizontal else vertical
    outline.extend(point)
    while point in sides:
      point = sides[point]
    is_horizontal = not is_horizontal
    if point == start:
      return [int(value) for value in outline]


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
  """Returns polygons along pixel sides that pycocotools turns back into exactly this mask.

  COCO polygons cannot have holes, and Model Garden's COCO converter reads only polygons for
  single objects. A region with a hole is therefore cut in two through the hole.

  Args:
    mask: `[height, width]`, nonzero inside the object.

  Returns:
    Polygons `[x1, y1, x2, y2, ...]` in pixels; an empty list for an empty mask.
  """
  mask = np.asarray(mask, bool)
  if not mask.any():
    return []
  left, top, width, height = tight_box(mask)
  mask = mask[top:top + height, left:left + width]
  holes, num_holes = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
  if num_holes:
    columns = np.flatnonzero((holes == 1).any(axis=0))
    cut = columns[len(columns) // 2] + 1
    halves = [(mask[:, :cut], left), (mask[:, cut:], left + cut)]
    outlines = [(outline, start) for half, start in halves for outline in mask_to_polygons(half)]
  else:
    labels, count = ndimage.label(mask)
    outlines = [(_trace(labels == number), left) for number in range(1, count + 1)]
  return [(np.reshape(outline, (-1, 2)) + [start, top]).ravel().tolist()
          for outline, start in outlines]


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
  """Turns a COCO segmentation into a mask.

  Args:
    segmentation: polygons, or run lengths, compressed or not, in any form that
      `segmentations.normalize` reads.
    height: of the image in pixels.
    width: of the image in pixels.

  Returns:
    uint8 `[height, width]`, 1 inside the object.

  Raises:
    UnusableError: from `segmentations.normalize`, before pycocotools sees anything.
  """
  normal, _ = segmentations.normalize(segmentation, height, width)
  return mask_lib.decode(run_lengths(normal, height, width))


def run_lengths(segmentation: segmentations.Segmentation, height: int, width: int) -> RunLengths:
  """Returns the compressed run lengths of a mask.

  Args:
    segmentation: from `segmentations.normalize`.
    height: of the image in pixels.
    width: of the image in pixels.
  """
  if isinstance(segmentation, list):
    return mask_lib.merge(mask_lib.frPyObjects(segmentation, height, width))
  if isinstance(segmentation['counts'], list):
    return mask_lib.frPyObjects(segmentation, height, width)
  return segmentation


def area(runs: RunLengths) -> int:
  """Returns the number of pixels of a mask, from `run_lengths`."""
  return int(mask_lib.area(runs))


def encode_png(runs: RunLengths) -> bytes:
  """Returns a mask as a PNG file of 8-bit gray, 1 inside the object.

  The rows are not filtered, and compressed as runs of equal values only, which is what a mask is
  made of.  To look for the best filters and for repeated texts takes three times as long, for
  larger files.

  Args:
    runs: from `run_lengths`.
  """
  return cv2.imencode('.png', mask_lib.decode(runs), _PNG_OPTIONS)[1].tobytes()


def tight_box(mask: np.ndarray) -> list[int]:
  """Returns the COCO box `[x, y, width, height]` around the nonzero pixels of a mask.

  Args:
    mask: `[height, width]` with at least one nonzero pixel.

  Returns:
    The box in whole pixels.
  """
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  x, y = int(columns[0]), int(rows[0])
  return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
