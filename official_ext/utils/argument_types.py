"""Types of command-line arguments for `argparse`, with errors that say what is allowed."""
import argparse
from collections.abc import Callable
import re
from typing import TypeVar

Value = TypeVar('Value')


def positive_int(text: str) -> int:
  """Returns a whole number from 1."""
  if not re.fullmatch(r'[0-9]+', text) or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
  return int(text)


def whole_number(text: str) -> int:
  """Returns a whole number from 0."""
  if not re.fullmatch(r'[0-9]+', text):
    raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0')
  return int(text)


def positive_number(text: str) -> float:
  """Returns a finite number above 0."""
  value = _number(text)
  if not 0 < value < float('inf'):
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
  return value


def number_from_0(text: str) -> float:
  """Returns a finite number, at least 0."""
  value = _number(text)
  if not 0 <= value < float('inf'):
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0')
  return value


def threshold(text: str) -> float:
  """Returns a number from 0 to 1."""
  value = _number(text)
  if not 0 <= value <= 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 1')
  return value


def image_size(text: str) -> tuple[int, int]:
  """Returns height and width in pixels of a text such as `256,320`."""
  if not re.fullmatch(r'[0-9]+,[0-9]+', text):
    raise argparse.ArgumentTypeError(f'{text!r} is not height,width such as 256,320')
  height, width = (positive_int(side) for side in text.split(','))
  return height, width


def list_of(parse: Callable[[str], Value]) -> Callable[[str], list[Value]]:
  """Returns a type of arguments that are several values with commas between them.

  Args:
    parse: turns the text of one value into the value; a function of this module.
  """

  def parse_list(text: str) -> list[Value]:
    return [parse(part) for part in text.split(',')]

  return parse_list


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number') from None
