"""Tells whether the boxes of a data set are what they should be, `[x, y, width, height]` in pixels.

Four numbers do not say what they mean. Many boxes do: under the wrong reading some reach over the
edge of their image, disagree with the `area` beside them or with the polygon, and under the right
one none does.
"""
import array
from collections.abc import Callable, Sequence

import numpy as np

Corners = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x1, y1, x2, y2 of many boxes
_Reading = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Corners]

_EXPECTED = '[x, y, width, height]'
# A reading of the four numbers -> how it gives the corners of the boxes.
_READINGS: dict[str, _Reading] = {
    _EXPECTED: lambda a, b, c, d: (a, b, a + c, b + d),
    'corners [x1, y1, x2, y2]': lambda a, b, c, d: (a, b, c, d),
    'corners with y first, [y1, x1, y2, x2]': lambda a, b, c, d: (b, a, d, c),
    'y first, [y, x, height, width]': lambda a, b, c, d: (b, a, b + d, a + c),
    'center and size, [center x, center y, width, height]':
        lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    # A reader of corners has subtracted the first from the second, which was a size.
    'x, y, width, height in the columns of two corners':
        lambda a, b, c, d: (a, b, 2 * a + c, 2 * b + d),
}

_MIN_BOXES = 4  # of fewer boxes nothing is said
_RIGHT = 0.98  # share of boxes that must fit under the right reading
_WRONG = 0.95  # share that may fit under the expected one, if another is right
_MIN_WRONG = 2  # boxes that must not fit under the expected one: a single one says nothing
_PIXELS = 1.0  # by which a box may reach over the edge or differ from its polygon
_OVERHANG = 0.2  # share of its side by which a box may: people draw over the edge
_AREA = 0.02  # by which a box may differ from its area
_MISSING = (float('nan'),) * 4  # agrees with nothing
_WIDTH = 11  # numbers of a box, the size of its image, its area and the box around its polygon


def is_normalized(box: Sequence[float], width: int, height: int) -> bool:
  """Returns whether a box lies in the first pixel, because it is in parts of the image.

  Args:
    box: `[x, y, width, height]`.
    width: of the image in pixels.
    height: of the image in pixels.
  """
  x, y, box_width, box_height = box
  return (0 < box_width <= 1.001 and 0 < box_height <= 1.001 and min(x, y) >= 0 and
          max(x + box_width, y + box_height) <= 1.001 and min(width, height) > 2)


class BoxForms:
  """Collects boxes and counts how many of them each reading explains."""

  def __init__(self):
    self._numbers = array.array('d')

  @property
  def num_boxes(self) -> int:
    """How many boxes were collected."""
    return len(self._numbers) // _WIDTH

  def add(self, box: Sequence[float], size: tuple[float, float], area: float | None = None,
          polygon_box: Sequence[float] | None = None) -> None:
    """Adds one box.

    Args:
      box: the four finite numbers of the annotation.
      size: (width, height) of the image in pixels, in the coordinates of the annotations.
      area: of the annotation; None if it has none.
      polygon_box: `[x, y, width, height]` around the polygon; None if there is none.
    """
    self._numbers.extend((*box, *size, _MISSING[0] if area is None else area,
                          *(_MISSING if polygon_box is None else polygon_box)))

  def better_reading(self) -> tuple[str, str] | None:
    """Returns another reading that explains the boxes, and the evidence; None if there is none."""
    if self.num_boxes < _MIN_BOXES:
      return None
    numbers = np.reshape(self._numbers, (-1, _WIDTH)).T
    *box, width, height, area = numbers[:7]
    polygon_box = numbers[7:]
    with np.errstate(over='ignore', invalid='ignore'):  # Boxes that make no sense are huge.
      corners = {name: read(*box) for name, read in _READINGS.items()}
      inside = {name: _num_inside(found, width, height) for name, found in corners.items()}
      polygons = {name: _num_agreeing(found, polygon_box) for name, found in corners.items()}
      areas = {name: _num_of_area(found, area) for name, found in corners.items()}
    readings = self._agreeing(polygons, np.isfinite(polygon_box[0]).sum())
    what = 'agree with their polygons'
    if not readings:
      # An area does not tell which side comes first, nor a center from a corner.
      readings, what = self._agreeing(areas, np.isfinite(area).sum()), 'agree with their area'
      if not readings or _EXPECTED in readings:
        readings, what = readings or list(_READINGS), 'lie in their image'
    name = max(readings, key=lambda name: inside[name])
    if what == 'lie in their image':
      is_better = (inside[name] >= _RIGHT * self.num_boxes and
                   inside[_EXPECTED] <= min(_WRONG * self.num_boxes, self.num_boxes - _MIN_WRONG))
    else:
      is_better = _EXPECTED not in readings
    if not is_better:
      return None
    return name, (f'of {self.num_boxes} boxes {inside[name]} lie in their image if read so, '
                  f'{inside[_EXPECTED]} as {_EXPECTED}; read so they {what}')

  def _agreeing(self, counts: dict[str, int], number: int) -> list[str]:
    """Returns the readings that a witness confirms.

    Args:
      counts: how many boxes agree with the witness, by reading.
      number: how many boxes have the witness.

    Returns:
      The readings with which nearly all boxes agree, and the expected one if half of them do;
      none if most boxes have no witness, or no reading agrees.
    """
    agreeing = [name for name in _READINGS if counts[name] >= _RIGHT * number]
    if number * 2 <= self.num_boxes or not agreeing:
      return []
    if _EXPECTED not in agreeing and counts[_EXPECTED] * 2 >= number:
      agreeing.insert(0, _EXPECTED)
    return agreeing


def _num_inside(corners: Corners, width: np.ndarray, height: np.ndarray) -> int:
  """Returns how many corners enclose something that lies in the image, nearly all of it."""
  x1, y1, x2, y2 = corners
  beyond_x = np.maximum(_PIXELS, _OVERHANG * (x2 - x1))
  beyond_y = np.maximum(_PIXELS, _OVERHANG * (y2 - y1))
  return int(((x2 > x1) & (y2 > y1) & (x1 >= -beyond_x) & (y1 >= -beyond_y) &
              (x2 <= width + beyond_x) & (y2 <= height + beyond_y)).sum())


def _num_of_area(corners: Corners, area: np.ndarray) -> int:
  """Returns how many corners enclose the area of their annotation, to rounding."""
  x1, y1, x2, y2 = corners
  agrees = np.abs((x2 - x1) * (y2 - y1) - area) <= _AREA * area
  return int(((x2 > x1) & (y2 > y1) & agrees).sum())


def _num_agreeing(corners: Corners, polygon_box: np.ndarray) -> int:
  """Returns how many corners are those around a polygon, to rounding."""
  x, y, width, height = polygon_box
  around = np.array([x, y, x + width, y + height])
  return int((np.abs(np.array(corners) - around).max(axis=0) <= 2 * _PIXELS).sum())
