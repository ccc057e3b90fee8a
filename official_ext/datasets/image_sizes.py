"""Compares the size of an image in the annotations with that of its file."""
import math
from typing import Any

from official_ext.datasets import findings
from official_ext.datasets import normal_values

_RESIZED = 'image size in the annotations is not that of the file'
_TOLERANCE = 1.0  # pixels by which a resized side may be rounded


def _side(value: Any) -> float | None:
  """Returns a side in pixels; None if it is not given, or as no positive number."""
  try:
    side = normal_values.to_float(value)
  except ValueError:
    return None
  return side if math.isfinite(side) and side > 0 else None


def scale(listed: tuple[Any, Any], actual: tuple[int, int]) -> float:
  """Returns the factor that turns coordinates of the annotations into those of the file.

  An image that was made smaller or larger after it was annotated has changed by one factor in
  both directions, and so have its boxes. A file that differs by two factors is another picture,
  a cut, or stretched: no factor puts the boxes where the objects are.

  Args:
    listed: (width, height) in pixels of the annotations, None for what they do not give.
    actual: (width, height) in pixels of the file.

  Returns:
    The factor; 1 if the sizes are equal to a pixel, or no size is given.

  Raises:
    UnusableError: the sizes differ by two factors, or one side differs and the other is unknown.
  """
  width, height = map(_side, listed)
  if width is None and height is None:
    return 1.0
  text = f'{listed[0]} x {listed[1]}, is {actual[0]} x {actual[1]}'
  if width is None or height is None:
    given, found = (width, actual[0]) if width else (height, actual[1])
    if given is not None and abs(given - found) <= _TOLERANCE:
      return 1.0
    raise findings.UnusableError(f'{_RESIZED}, and only one side is given', text)
  if abs(width - actual[0]) <= _TOLERANCE and abs(height - actual[1]) <= _TOLERANCE:
    return 1.0
  factor = actual[0] / width if width > height else actual[1] / height
  if (abs(width * factor - actual[0]) <= _TOLERANCE and
      abs(height * factor - actual[1]) <= _TOLERANCE):
    return factor
  if (width, height) == actual[::-1]:
    raise findings.UnusableError(f'{_RESIZED}: width and height are exchanged', text)
  raise findings.UnusableError(f'{_RESIZED}: it is another picture, cut or stretched', text)


def change(listed: tuple[Any, Any], actual: tuple[int, int], factor: float) -> tuple[str, str]:
  """Returns the reason and the detail of a finding about sizes that differ.

  Args:
    listed: (width, height) in pixels of the annotations, None for what they do not give.
    actual: (width, height) in pixels of the file.
    factor: from `scale`.

  Returns:
    Two empty texts if the sizes are equal or not given.
  """
  width, height = map(_side, listed)
  if not (width and height) or (width, height) == actual:
    return '', ''
  text = f'{listed[0]} x {listed[1]}, is {actual[0]} x {actual[1]}'
  if factor == 1.0:
    return f'{_RESIZED} by a pixel: boxes kept', text
  return f'{_RESIZED}: boxes scaled by the same factor', f'{text}: times {factor:.4g}'
