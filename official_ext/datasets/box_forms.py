"""Tells whether the boxes of a data set are what they should be, `[x, y, width, height]` in pixels.

Four numbers do not say what they mean. Many boxes do: under the wrong reading some reach over the
edge of their image, disagree with the `area` beside them or with the polygon, and under the right
one none does.
"""
from collections.abc import Callable, Sequence

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2
_Reading = Callable[[float, float, float, float], Corners]

_EXPECTED = '[x, y, width, height]'
# A reading of the four numbers -> how it gives the corners of the box.
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


def is_normalized(box: Sequence[float], width: int, height: int) -> bool:
  """Returns whether a box lies in the first pixel, because it is in parts of the image.

  Args:
    box: `[x, y, width, height]`.
    width: of the image in pixels.
    height: of the image in pixels.
  """
  x, y, box_width, box_height = box
  return (min(width, height) > 2 and min(x, y) >= 0 and 0 < box_width and 0 < box_height and
          max(x + box_width, y + box_height, box_width, box_height) <= 1.001)


def _fits(corners: Corners, width: float, height: float) -> bool:
  """Returns whether corners enclose something that lies in the image, nearly all of it."""
  x1, y1, x2, y2 = corners
  beyond_x = max(_PIXELS, _OVERHANG * (x2 - x1))
  beyond_y = max(_PIXELS, _OVERHANG * (y2 - y1))
  return (x2 > x1 and y2 > y1 and x1 >= -beyond_x and y1 >= -beyond_y and
          x2 <= width + beyond_x and y2 <= height + beyond_y)


class BoxForms:
  """Counts how many boxes each reading explains.

  Attributes:
    num_boxes: how many boxes were counted.
  """

  def __init__(self):
    self.num_boxes = self._num_areas = self._num_polygons = 0
    self._inside = dict.fromkeys(_READINGS, 0)
    self._areas = dict.fromkeys(_READINGS, 0)
    self._polygons = dict.fromkeys(_READINGS, 0)

  def add(self, box: Sequence[float], size: tuple[float, float], area: float | None = None,
          polygon_box: Sequence[float] | None = None) -> None:
    """Counts one box.

    Args:
      box: the four finite numbers of the annotation.
      size: (width, height) of the image in pixels, in the coordinates of the annotations.
      area: of the annotation; None if it has none.
      polygon_box: `[x, y, width, height]` around the polygon; None if there is none.
    """
    self.num_boxes += 1
    self._num_areas += area is not None
    self._num_polygons += polygon_box is not None
    for name, read in _READINGS.items():
      x1, y1, x2, y2 = corners = read(*box)
      self._inside[name] += _fits(corners, *size)
      if area is not None and x2 > x1 and y2 > y1:
        self._areas[name] += abs((x2 - x1) * (y2 - y1) - area) <= _AREA * area
      if polygon_box is not None:
        self._polygons[name] += _agree(corners, polygon_box)

  def better_reading(self) -> tuple[str, str] | None:
    """Returns another reading that explains the boxes, and the evidence; None if there is none."""
    if self.num_boxes < _MIN_BOXES:
      return None
    readings = self._agreeing(self._polygons, self._num_polygons)
    what = 'agree with their polygons'
    if not readings:
      # An area does not tell which side comes first, nor a center from a corner.
      readings, what = self._agreeing(self._areas, self._num_areas), 'agree with their area'
      if not readings or _EXPECTED in readings:
        readings, what = readings or list(_READINGS), 'lie in their image'
    name = max(readings, key=lambda name: self._inside[name])
    if what == 'lie in their image':
      is_better = (self._inside[name] >= _RIGHT * self.num_boxes and
                   self._inside[_EXPECTED] <= min(_WRONG * self.num_boxes,
                                                  self.num_boxes - _MIN_WRONG))
    else:
      is_better = _EXPECTED not in readings
    if not is_better:
      return None
    return name, (f'of {self.num_boxes} boxes {self._inside[name]} lie in their image if read so, '
                  f'{self._inside[_EXPECTED]} as {_EXPECTED}; read so they {what}')

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


def _agree(corners: Corners, polygon_box: Sequence[float]) -> bool:
  """Returns whether corners are those around a polygon, to rounding."""
  x, y, width, height = polygon_box
  return max(abs(one - other) for one, other in
             zip(corners, (x, y, x + width, y + height))) <= 2 * _PIXELS
