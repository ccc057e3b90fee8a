"""Reads the label files of YOLO: lines of a class number and relative coordinates."""
from collections.abc import Iterator, Mapping
import re
from typing import NamedTuple

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import shapes
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line

_OTHER_TEXT = re.compile(
    r'(classes|labels|train|val|valid|validation|test|trainval|readme.*|requirements)\.txt')


class Label(NamedTuple):
  """A line of a label file.

  Attributes:
    line: its number, from 1.
    number: of the class, from 0; None if the line cannot be read.
    box: COCO box in pixels; None if the line cannot be read.
    polygon: `[x1, y1, x2, y2, ...]` in pixels; None for a line of a box.
  """
  line: int
  number: int | None
  box: list[float] | None
  polygon: list[float] | None


def files(data: data_folder.DataFolder) -> list[str]:
  """Returns the text files that may be label files, by their names."""
  return [name for name in data.with_suffix('.txt')
          if not _OTHER_TEXT.fullmatch(name.rpartition('/')[2].lower())]


def looks_like(head: str) -> bool:
  """Whether a text begins with a line of a label file."""
  first = next(filter(str.strip, head.splitlines()), '')
  return bool(re.fullmatch(r'\s*\d+(\.0*)?(\s+[-+]?\d*[.,]?\d+(e[-+]?\d+)?){4,}\s*', first.lower()))


def _with_number(text: str, numbers: Mapping[str, int]) -> list[str]:
  """Returns the values of a line that may begin with the name of a class, with its number."""
  values = text.split()
  if all(map(text_files.is_number, values)):
    return values
  # Names may have several words, numbers among them.
  for end in range(len(values), 0, -1):
    name = ' '.join(values[:end])
    if name in numbers:
      return [str(numbers[name]), *values[end:]]
  if not text_files.is_number(values[0]):
    raise ValueError('class of a label line is neither a number nor one of the names')
  return values


def _parse(text: str, size: tuple[int, int], keypoint_values: int, numbers: Mapping[str, int]
           ) -> Label:
  """Returns a label without its line; raises ValueError with the reason."""
  values = [text_files.number(value) for value in _with_number(text, numbers)]
  if len(values) < 5:
    raise ValueError('label line has less than 5 values')
  number, *rest = values
  if number != int(number):
    raise ValueError('class number of a label line is not whole')
  width, height = size
  scaled = [value * size[index % 2] for index, value in enumerate(rest)]
  # 5 values are a box, 6 a box and its score; key points stand behind a box as well.
  if len(values) in (5, 6, 5 + keypoint_values):
    x, y, box_width, box_height = scaled[:4]
    box = [x - box_width / 2, y - box_height / 2, box_width, box_height]
    return Label(0, int(number), box, None)
  if len(rest) % 2:
    raise ValueError('label line has an odd number of coordinates')
  return Label(0, int(number), shapes.box_around(scaled), scaled)


def read(data: data_folder.DataFolder, name: str, size: tuple[int, int], keypoint_values: int,
         numbers: Mapping[str, int], findings: findings_lib.Findings) -> Iterator[Label]:
  """Yields the labels of a file.

  Args:
    data: the data set.
    name: of the file.
    size: (width, height) of the image in pixels.
    keypoint_values: numbers behind the box in a line of key points.
    numbers: name of a class -> its number, for lines that begin with a name.
    findings: told why a line cannot be read. It is a label without a box, so that the image
      counts as one that has lost a label.
  """
  try:
    lines = data.text(name, findings).splitlines()
  except command_line.CommandError as error:
    findings.add('all', 'noted', 'label file cannot be read', name, str(error))
    yield Label(1, None, None, None)
    return
  for number, line in enumerate(lines, 1):
    if line.strip():
      try:
        label = _parse(line, size, keypoint_values, numbers)
      except (ValueError, OverflowError) as error:
        reason = str(error) if str(error).startswith(('label', 'class')) else (
            'label line has something that is not a number')
        findings.add('all', 'noted', reason, f'{name} line {number}', line.strip()[:60])
        label = Label(number, None, None, None)  # the conversion drops it
      yield label._replace(line=number)
