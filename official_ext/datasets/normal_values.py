"""One form for the ids, names, flags and numbers of annotation files, whatever wrote them.

The same id is `1` in one place of a file and `1.0` (through pandas) or `"1"` (through a text
editor) in another; here they become equal.
"""
from collections.abc import Sequence
import contextlib
import math
import re
from typing import Any
import unicodedata

Id = int | str

_WHOLE = re.compile(r'(-?(?:0|[1-9][0-9]{0,30}))(?:\.0*)?')


def normal_id(value: Any) -> Id | None:
  """Returns the id that a value of an annotation file stands for.

  Args:
    value: of a field `id`, `image_id` or `category_id`.

  Returns:
    A whole number for `1`, `1.0`, `"1"` and `"1.0"`.  Any other text as it is, without blanks at
    its ends: `"007"` stays text, because it may stand beside `"7"`.  None if the value is no id:
    missing, empty, true or false, not finite, a list or an object.
  """
  if isinstance(value, bool):
    return None
  if isinstance(value, int):
    return value
  if isinstance(value, float):
    if not math.isfinite(value):
      return None
    return int(value) if value.is_integer() else repr(value)
  if not isinstance(value, str) or not value.strip():
    return None
  match = _WHOLE.fullmatch(value.strip())
  return int(match[1]) if match else value.strip()


def known_id(value: Any) -> Id:
  """Returns the id that a value stands for, where it is known to be one; see `normal_id`."""
  found = normal_id(value)
  if found is None:
    raise ValueError(f'{value!r} is no id')
  return found


def original_id(value: Any) -> Any:
  """Returns an id as it is given back: text as in the file, and 1 for 1.0."""
  return value if isinstance(value, str) else normal_id(value)


def normal_name(value: Any) -> str:
  """Returns a class name in one line that every file can hold, composed (NFC); empty if none."""
  if value is None:
    return ''
  text = unicodedata.normalize('NFC', str(value)).encode('utf-8', 'replace').decode('utf-8')
  return ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())


def is_set(value: Any) -> bool:
  """Returns whether a flag such as `iscrowd` is set; 0, "0", "false", null and NaN are not."""
  if isinstance(value, str):
    return value.strip().lower() in ('1', '1.0', 'true', 'yes')
  return isinstance(value, (int, float)) and value == value and value != 0


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


def to_floats(values: Sequence[Any]) -> list[float]:
  """Reads numbers as `to_float` does, which is called only if they are not all int and float."""
  if set(map(type, values)) <= {int, float}:
    with contextlib.suppress(OverflowError):
      return list(map(float, values))
  return [to_float(value) for value in values]


def positive(value: Any) -> float | None:
  """Returns a positive finite number, also one that is written as text; None for anything else."""
  try:
    number = to_float(value)
  except ValueError:
    return None
  return number if 0 < number < math.inf else None
