"""COCO segmentations in one form: checked polygons or run lengths, before pycocotools reads them.

pycocotools trusts its input: for a vertex that is not a number it asks for all memory, and
malformed run lengths make it write beyond its arrays.
"""
from collections.abc import Sequence
import itertools
import math
from typing import Any

import numpy as np

from official_ext.datasets import findings
from official_ext.datasets import normal_values

Segmentation = list[list[float]] | dict[str, Any]

# pycocotools walks along outlines in fifths of a pixel and keeps every step: this many are 160 MB.
_MAX_STEPS = 10_000_000
_MAX_DIGITS = 8  # of a compressed run length, five bits each

_NO_MASK = 'there is no mask'
_MALFORMED = 'malformed segmentation'


def normalize(segmentation: Any, height: int, width: int, factor: float = 1.0
              ) -> tuple[Segmentation, str]:
  """Checks a segmentation and brings it into COCO's form.

  Args:
    segmentation: polygons, as lists of numbers or of points, or run lengths.
    height: of the image in pixels.
    width: of the image in pixels.
    factor: by which polygons are scaled, because the image was resized after its annotation.

  Returns:
    Polygons `[[x1, y1, x2, y2, ...], ...]` or `{size, counts}`, and what was changed (empty if
    nothing).

  Raises:
    UnusableError: the segmentation is missing, malformed, of another size, not finite, or a
      vertex is farther outside than the image is long.
  """
  if isinstance(segmentation, dict):
    if factor != 1.0:
      raise findings.UnusableError('run lengths cannot be scaled to the size of the file')
    return _run_lengths(segmentation, height, width), ''
  if not isinstance(segmentation, (list, tuple)) or not segmentation:
    raise findings.UnusableError(_NO_MASK)
  if all(map(_is_usual, segmentation)):
    outlines, change = segmentation, ''
  else:
    outlines, change = _outlines(segmentation)
  polygons = [_polygon(outline, height, width, factor) for outline in outlines]
  polygons = [polygon for polygon in polygons if len(polygon) >= 6]  # three points or more
  if not polygons:
    raise findings.UnusableError(_NO_MASK)
  _check_length(polygons, 3 * max(height, width))
  if len(polygons) < len(outlines) and not change:
    change = 'parts of a polygon had fewer than three points: left out'
  return polygons, change


def bounds(segmentation: list[list[float]]) -> list[float]:
  """Returns the COCO box `[x, y, width, height]` around polygons from `normalize`."""
  values = list(itertools.chain.from_iterable(segmentation))
  x, y = values[::2], values[1::2]
  left, top = min(x), min(y)
  return [left, top, max(x) - left, max(y) - top]


def _is_usual(outline: Any) -> bool:
  """Returns whether an outline is a list of numbers, and not a single point."""
  return isinstance(outline, list) and len(outline) > 2 and set(map(type, outline)) <= {int, float}


def _is_flat(values: Any) -> bool:
  return isinstance(values, (list, tuple)) and not any(
      isinstance(value, (list, tuple, dict)) for value in values)


def _is_points(values: Any) -> bool:
  return isinstance(values, (list, tuple)) and len(values) > 2 and all(
      _is_flat(value) and len(value) == 2 for value in values)


def _outlines(segmentation: Sequence[Any]) -> tuple[list[list[Any]], str]:
  """Returns the flat coordinates of each polygon, and how the form was changed."""
  if _is_flat(segmentation):
    return [list(segmentation)], 'polygon was not in a list of polygons: taken as the only one'
  if _is_points(segmentation):
    segmentation = [segmentation]
  outlines, change = [], ''
  for outline in segmentation:
    if _is_points(outline):
      outline = [value for point in outline for value in point]
      change = 'polygon was a list of points: written as a list of coordinates'
    elif not _is_flat(outline):
      raise findings.UnusableError(_MALFORMED, f'polygon {str(outline)[:60]}')
    outlines.append(list(outline))
  if any(isinstance(value, str) for outline in outlines for value in outline):
    change = 'polygon coordinates were text: read as numbers'
  return outlines, change


def _polygon(outline: list[Any], height: int, width: int, factor: float) -> list[float]:
  """Returns the scaled coordinates of a polygon."""
  try:
    polygon = normal_values.to_floats(outline)
  except ValueError as error:
    raise findings.UnusableError(_MALFORMED, str(error)) from error
  if len(polygon) % 2:
    raise findings.UnusableError(_MALFORMED, f'polygon has {len(polygon)} coordinates')
  if factor != 1.0:
    polygon = [value * factor for value in polygon]
  for start, size in enumerate((width, height) if polygon else ()):
    values = polygon[start::2]
    # The sum tells a NaN, with which `min` and `max` depend on the order.
    if min(values) < -size or max(values) > 2 * size or math.isnan(sum(values)):
      raise _far(np.reshape(polygon, (-1, 2)), height, width)
  return polygon


def _far(points: np.ndarray, height: int, width: int) -> findings.UnusableError:
  """Returns the error that names the first vertex `(x, y)` that is not finite or far outside."""
  finite = np.isfinite(points).all(axis=1)
  if not finite.all():
    return findings.UnusableError('polygon is not finite', f'vertex {np.argmin(finite) + 1}')
  size = np.array([width, height])
  near = ((points >= -size) & (points <= 2 * size)).all(axis=1)
  vertex = int(np.argmin(near))
  return findings.UnusableError('polygon reaches far outside the image',
                                f'vertex {vertex + 1} at {points[vertex].tolist()}')


def _check_length(polygons: Sequence[Sequence[float]], longest: int) -> None:
  """Raises UnusableError if outlines are too long for pycocotools; no side is above `longest`."""
  if sum(map(len, polygons)) * (1 + 5 * longest) <= _MAX_STEPS:
    return
  steps = 0.0
  for polygon in polygons:
    points = np.reshape(polygon, (-1, 2))
    steps += len(points) + 5 * np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
  if steps > _MAX_STEPS:
    raise findings.UnusableError('polygon is too long',
                                 f'{steps / 5:.0f} pixels, {_MAX_STEPS // 5} are allowed')


def _run_lengths(segmentation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
  """Returns checked run lengths; those that are compressed stay so."""
  size = segmentation.get('size')
  if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
    raise findings.UnusableError(f'run lengths are for size {size}, not for [{height}, {width}]')
  counts = segmentation.get('counts')
  if isinstance(counts, bytes):
    counts = counts.decode('ascii', 'replace')
  if isinstance(counts, list) and float in set(map(type, counts)):  # NumPy may have written them
    counts = [int(run) if type(run) is float and run.is_integer() else run for run in counts]
  runs = _decompress(counts) if isinstance(counts, str) else counts
  if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
    raise findings.UnusableError('malformed run lengths', 'they must be whole numbers >= 0')
  if sum(runs) != height * width:
    raise findings.UnusableError('run lengths do not add up to the number of pixels')
  return dict(size=[height, width], counts=counts)


def _decompress(text: str) -> list[int]:
  """Reads compressed run lengths.

  A character stands for six bits: five of a number, the lowest first, and whether more follow.
  The last five bits bring the sign. From the fourth on, a number is the difference from the run
  two places before.
  """
  runs: list[int] = []
  value = digits = 0
  for character in text:
    code = ord(character) - ord('0')
    if not 0 <= code < 64 or digits == _MAX_DIGITS:
      raise findings.UnusableError('malformed run lengths', f'character {character!r}')
    value |= (code & 31) << (5 * digits)
    digits += 1
    if not code & 32:
      value -= (code & 16) << (5 * digits - 4)
      runs.append(value + runs[-2] if len(runs) > 2 else value)
      value = digits = 0
  if digits:
    raise findings.UnusableError('malformed run lengths', 'they end within a number')
  return runs
