"""COCO annotations: masks to polygons and back, boxes made valid, and a record of findings."""
import collections
import dataclasses
import math
import pathlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask as mask_lib
from scipy import ndimage

from official_ext.utils import command_line

# A side below this many pixels is no area: float32 coordinates could not tell its ends apart.
_MIN_SIDE = 0.01


def _trace(component: np.ndarray) -> List[float]:
  """The outline `[x, y, x, y, ...]` of one 4-connected region without holes."""
  padded = np.pad(component.astype(np.int8), 1)
  following = {}
  # Every pixel side between inside and outside, directed so that the inside is on the right.
  for y, x in np.argwhere(np.diff(padded, axis=0)[:, 1:-1]):
    inside_below = padded[y + 1, x + 1]
    following[(x, y) if inside_below else (x + 1, y)] = (x + 1, y) if inside_below else (x, y)
  horizontal, following = following, {}
  for y, x in np.argwhere(np.diff(padded, axis=1)[1:-1]):
    inside_right = padded[y + 1, x + 1]
    following[(x, y + 1) if inside_right else (x, y)] = (x, y) if inside_right else (x, y + 1)
  vertical = following
  point = start = min(horizontal)
  outline = []
  is_horizontal = True
  while True:
    edges = horizontal if is_horizontal else vertical
    outline.extend(point)
    while point in edges:
      point = edges[point]
    is_horizontal = not is_horizontal
    if point == start:
      return [int(value) for value in outline]


def mask_to_polygons(mask: np.ndarray) -> List[List[float]]:
  """Polygons along pixel sides that pycocotools turns back into exactly this mask.

  COCO polygons cannot have holes, and Model Garden's COCO converter reads nothing but
  polygons for single objects: a region with a hole is cut into parts through the hole.

  Args:
    mask: `[height, width]`, nonzero inside the object.

  Returns:
    Polygons `[x1, y1, x2, y2, ...]` in pixels; none for an empty mask.
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
    parts = [(mask[:, :cut], left), (mask[:, cut:], left + cut)]
    outlines = [(outline, start) for part, start in parts for outline in mask_to_polygons(part)]
  else:
    labels, count = ndimage.label(mask)
    outlines = [(_trace(labels == number), left) for number in range(1, count + 1)]
  return [(np.reshape(outline, (-1, 2)) + [start, top]).ravel().tolist()
          for outline, start in outlines]


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
  """Turns a COCO segmentation into a mask.

  Args:
    segmentation: polygons, or run lengths, compressed or not.
    height: of the image in pixels.
    width: of the image in pixels.

  Returns:
    uint8 `[height, width]`, 1 inside the object.

  Raises:
    ValueError: there is no segmentation, it is malformed, or of another size.
  """
  if isinstance(segmentation, dict):
    if list(segmentation.get('size', ())) != [height, width]:
      raise ValueError(f'run lengths are for size {segmentation.get("size")}, not for '
                       f'[{height}, {width}]')
    encoded = segmentation
    if isinstance(segmentation.get('counts'), list):
      if sum(segmentation['counts']) != height * width:
        raise ValueError('run lengths do not add up to the number of pixels')
      encoded = mask_lib.frPyObjects(segmentation, height, width)
  else:
    polygons = [polygon for polygon in segmentation or ()
                if isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0]
    if not polygons:
      raise ValueError('there is no mask')
    encoded = mask_lib.merge(mask_lib.frPyObjects(polygons, height, width))
  try:
    return mask_lib.decode(encoded)
  except (KeyError, TypeError) as error:
    raise ValueError(f'malformed run lengths: {error}') from error


def tight_box(mask: np.ndarray) -> List[float]:
  """The COCO box `[x, y, width, height]` around the nonzero pixels of a mask."""
  rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
  x, y = int(columns[0]), int(rows[0])
  return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def _clip(start: float, length: float, limit: int) -> Tuple[float, float]:
  end = min(start + length, float(limit))
  start = max(start, 0.0)
  length = end - start
  # Model Garden drops a box whose start + length exceeds the limit, be it by rounding.
  while length > 0 and start + length > limit:
    length = math.nextafter(length, 0.0)
  return start, length


def clean_box(box: Any, width: int, height: int) -> Tuple[Optional[List[float]], str]:
  """Clips a COCO box to its image.

  Args:
    box: should be `[x, y, width, height]` in pixels.
    width: of the image in pixels.
    height: of the image in pixels.

  Returns:
    The box and what was done to it (empty if nothing); None and the reason if no valid
    box is left.
  """
  try:
    x, y, box_width, box_height = (float(value) for value in box)
  except (TypeError, ValueError):
    return None, 'box is not four numbers'
  if not all(math.isfinite(value) for value in (x, y, box_width, box_height)):
    return None, 'box is not finite'
  if box_width < _MIN_SIDE or box_height < _MIN_SIDE:
    return None, 'box has no area'
  clipped_x, clipped_width = _clip(x, box_width, width)
  clipped_y, clipped_height = _clip(y, box_height, height)
  if clipped_width < _MIN_SIDE or clipped_height < _MIN_SIDE:
    return None, 'box is outside the image'
  cleaned = [clipped_x, clipped_y, clipped_width, clipped_height]
  is_same = np.allclose(cleaned, (x, y, box_width, box_height), rtol=0, atol=1e-6)
  return cleaned, '' if is_same else 'box reached over the edge of the image: clipped'


@dataclasses.dataclass
class Split:
  """One split of a data set as it was read, before any check.

  Attributes:
    name: `train` or `val`.
    source: the file or folder that the annotations are from, for messages.
    images: COCO image entries: `id`, `file_name`, perhaps `width` and `height`.
    annotations: COCO annotation entries.
    categories: COCO category entries.
    folders: where image files are looked for, the first that has one wins.
  """
  name: str
  source: str
  images: List[Dict[str, Any]]
  annotations: List[Dict[str, Any]]
  categories: List[Dict[str, Any]]
  folders: Sequence[pathlib.Path]

  def find_image(self, file_name: str) -> Optional[pathlib.Path]:
    """The path of an image file, None if it is in none of the folders."""
    paths = (folder / file_name for folder in self.folders)
    return next((path for path in paths if path.is_file()), None)


class Findings:
  """What was fixed, dropped or is worth knowing, by reason and by file."""

  def __init__(self):
    self._items = collections.defaultdict(list)

  def add(self, split: str, outcome: str, reason: str, file: str, detail: str = '') -> None:
    """Records one finding.

    Args:
      split: `train`, `val` or `all`.
      outcome: `fixed`, `dropped`, `noted` or `problem`.
      reason: one sentence, the same for all findings of its kind.
      file: the file that it is about.
      detail: what in this file, for example which annotation.
    """
    self._items[split, outcome, reason].append({'file': file, 'detail': detail})

  def count(self, outcome: str) -> int:
    """How many findings have this outcome."""
    return sum(len(items) for key, items in self._items.items() if key[1] == outcome)

  def to_json(self) -> List[Dict[str, Any]]:
    """All findings as plain JSON types."""
    return [dict(split=split, outcome=outcome, reason=reason, count=len(items), items=items)
            for (split, outcome, reason), items in self._items.items()]

  def say(self, shown: int = 3) -> None:
    """Prints every reason with its number and its first files."""
    for (split, outcome, reason), items in sorted(self._items.items()):
      names = list(dict.fromkeys(
          ' '.join(filter(None, (item['file'], item['detail']))) for item in items))
      more = f' and {len(names) - shown} more' if len(names) > shown else ''
      command_line.say(f'  {split:5} {outcome:7} {len(items):6}  {reason}: '
                       f'{", ".join(names[:shown])}{more}')
