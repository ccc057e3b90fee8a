"""Boxes, polygons and masks of objects in COCO's form."""
from collections.abc import Sequence
import math

import numpy as np

_ELLIPSE_POINTS = 64


def box_around(points: Sequence[float]) -> list[float]:
  """Returns the COCO box around a polygon `[x1, y1, x2, y2, ...]`."""
  x, y = points[0::2], points[1::2]
  return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def corner_box(corners: Sequence[float]) -> list[float]:
  """Returns the COCO box of the corners `[x1, y1, x2, y2]`, as they are."""
  x1, y1, x2, y2 = corners
  return [x1, y1, x2 - x1, y2 - y1]


def mask_segmentation(region: np.ndarray, left: int, top: int, width: int, height: int
                      ) -> dict[str, list[int]]:
  """Returns the COCO run lengths of a mask.

  Args:
    region: `[rows, columns]`, nonzero inside the object; what is outside of the image is cut off.
    left: of the region in the image, in pixels.
    top: of the region in the image, in pixels.
    width: of the image in pixels.
    height: of the image in pixels.
  """
  mask = np.zeros([height, width], bool)
  y, x = max(top, 0), max(left, 0)
  part = np.asarray(region, bool)[y - top:, x - left:][:max(height - y, 0), :max(width - x, 0)]
  mask[y:y + part.shape[0], x:x + part.shape[1]] = part
  pixels = np.concatenate([[False], mask.ravel(order='F')])
  starts = np.flatnonzero(pixels[1:] != pixels[:-1])
  counts = np.diff([0, *starts.tolist(), height * width])
  return dict(size=[height, width], counts=counts.tolist())


def turned_box(corners: Sequence[float], degrees: float = 0.0) -> list[float]:
  """Returns the outline `[x1, y1, x2, y2, ...]` of a box that is turned around its center.

  Args:
    corners: `[x1, y1, x2, y2]` before it is turned, in pixels.
    degrees: clockwise as the image is shown.
  """
  x1, y1, x2, y2 = corners
  return _turned([(-1, -1), (1, -1), (1, 1), (-1, 1)], ((x1 + x2) / 2, (y1 + y2) / 2),
                 ((x2 - x1) / 2, (y2 - y1) / 2), degrees)


def ellipse(center: Sequence[float], radii: Sequence[float], degrees: float = 0.0) -> list[float]:
  """Returns the outline of an ellipse as a polygon of many points.

  Args:
    center: `[x, y]` in pixels.
    radii: along x and y before it is turned, in pixels.
    degrees: clockwise as the image is shown.
  """
  angles = [2 * math.pi * number / _ELLIPSE_POINTS for number in range(_ELLIPSE_POINTS)]
  return _turned([(math.cos(angle), math.sin(angle)) for angle in angles], center, radii, degrees)


def _turned(points: Sequence[tuple[float, float]], center: Sequence[float],
            radii: Sequence[float], degrees: float) -> list[float]:
  """Scales points by the radii, turns them, and moves them to the center."""
  cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  return [value for u, v in points
          for value in (center[0] + radii[0] * u * cosine - radii[1] * v * sine,
                        center[1] + radii[0] * u * sine + radii[1] * v * cosine)]
