"""Numbers as annotation files write them."""
from typing import Any


def to_float(value: Any) -> float:
  """Reads a number.

  Args:
    value: a number, or its digits as text.

  Returns:
    The number; infinity for a whole number that no float can hold.

  Raises:
    ValueError: the value is neither a number nor its text; True and False are no numbers.
  """
  if isinstance(value, bool) or not isinstance(value, (int, float, str)):
    raise ValueError(f'{value!r} is not a number')
  try:
    return float(value)
  except OverflowError:
    return float('-inf') if isinstance(value, int) and value < 0 else float('inf')
