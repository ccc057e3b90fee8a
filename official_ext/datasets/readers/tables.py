"""Reads tables of boxes, with columns of whatever usual names."""
from collections.abc import Callable
import json
import re

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import shapes
from official_ext.datasets.readers import split_builder
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line

# Names of a column, written in small letters without blanks, `_` and `-`.
_COLUMNS = {
    'image': 'image filename imagename imagefile imagepath imageid path filepath',
    'xmin': 'xmin x1 left bboxxmin bboxleft bboxx1 xtl',
    'ymin': 'ymin y1 top bboxymin bboxtop bboxy1 ytl',
    'xmax': 'xmax x2 right bboxxmax bboxright bboxx2 xbr',
    'ymax': 'ymax y2 bottom bboxymax bboxbottom bboxy2 ybr',
    'class': 'class label classname name category labelname categoryname classlabel',
    'width': 'width imagewidth imgwidth', 'height': 'height imageheight imgheight',
    'split': 'split subset set', 'bbox': 'bbox box'}
_NAMES = {alias: column for column, aliases in _COLUMNS.items() for alias in aliases.split()}
_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_FIRST_LINE = ('its first line must be image,xmin,ymin,xmax,ymax,class or '
               'filename,width,height,class,xmin,ymin,xmax,ymax, and may add split')

Values = dict[str, str]  # a value for each column
Row = tuple[int, Values]  # the number of the line, from 1, and its values


def columns(values: list[str]) -> list[str]:
  """Returns the columns that a first line names, as `read_rows` does; unknown names stay."""
  plain = [re.sub(r'[\s_\-"]', '', value).lower() for value in values]
  names = [_NAMES.get(name, name) for name in plain]
  # Of two columns that may be meant, such as label and class, the first one is.
  return [name if name not in names[:index] else f'other {plain[index]}'
          for index, name in enumerate(names)]


def missing_columns(names: list[str]) -> list[str]:
  """Returns the columns that a table of boxes needs and does not have."""
  corners = () if 'bbox' in names else _CORNERS
  return [key for key in ('image', *corners, 'class') if key not in names]


def files_that_begin(data: data_folder.DataFolder, fits: Callable[[list[str]], bool]) -> list[str]:
  """Returns the CSV files of a data set whose first line has values that fit a layout."""
  found = []
  for name in data.with_suffix('.csv'):
    try:
      first = next(text_files.rows(data.head(name)), None)
    except ValueError:
      continue
    if first and fits(first.values):
      found.append(name)
  return found


def read_lines(data: data_folder.DataFolder, name: str, findings: findings_lib.Findings
               ) -> list[text_files.Row]:
  """Reads the lines of a table that are not blank, with the first one.

  Args:
    data: the data set.
    name: of the file.
    findings: told if the encoding is a guess.

  Raises:
    CommandError: the file is no table.
  """
  try:
    return list(text_files.rows(data.text(name, findings)))
  except ValueError as error:
    raise command_line.CommandError(f'{data.path(name)} is not a CSV file: {error}.') from error


def read_rows(data: data_folder.DataFolder, name: str, findings: findings_lib.Findings
              ) -> list[Row]:
  """Reads the rows of a table.

  Args:
    data: the data set.
    name: of the file.
    findings: told why a line cannot be read.

  Returns:
    The rows; the columns have the names image, xmin, ymin, xmax, ymax, class, width, height,
    split and bbox, whichever there are.

  Raises:
    CommandError: a column is missing, or no line fits the first one.
  """
  rows = read_lines(data, name, findings)
  names = columns(rows[0].values) if rows else []
  if not rows:
    raise command_line.CommandError(f'{data.path(name)} is empty.')
  if missing := missing_columns(names):
    raise command_line.CommandError(
        f'{data.path(name)} has no column {", ".join(missing)}: {_FIRST_LINE}.')
  kept: list[Row] = []
  too_long: list[Row] = []  # told as boxes that cannot be read
  for line, values in rows[1:]:
    while len(values) > len(names) and not values[-1]:
      values.pop()
    if columns(values) == names:
      findings.add('all', 'noted', 'first line is repeated: not read', f'{name} line {line}')
    elif len(values) > len(names):
      findings.add('all', 'noted', f'line has more values than the {len(names)} columns',
                   f'{name} line {line}', f'{len(values)} values')
      too_long.append((line, {'image': values[names.index('image')], 'class': '?'}))
    else:
      kept.append((line, dict(zip(names, values + [''] * (len(names) - len(values))))))
  if not kept:
    advice = (f'line {rows[1].line} has {len(rows[1].values)} values for {len(names)} columns: '
              'quote numbers with decimal commas, or separate values by semicolons'
              if len(rows) > 1 else 'it ends after its first line')
    raise command_line.CommandError(f'{data.path(name)} has no line of values; {advice}.')
  return sorted([*kept, *too_long], key=lambda row: row[0])


def box(row: Values) -> list[float] | None:
  """Returns the COCO box of a row, None if a corner is not a number.

  Args:
    row: with the corners, or `bbox` as `[x, y, width, height]`; all in pixels.
  """
  try:
    if 'xmin' in row:
      return shapes.corner_box([text_files.number(row[key]) for key in _CORNERS])
    x, y, width, height = json.loads(row.get('bbox', ''))
    return [float(x), float(y), float(width), float(height)]
  except (TypeError, ValueError):
    return None


def add_row(builder: split_builder.SplitBuilder, place: str, row: Values) -> None:
  """Adds the image and the box of a row; one with only a file name is an image without boxes.

  Args:
    builder: of the split.
    place: file and line, for findings.
    row: the values.
  """
  size: list[int | None] = []
  for key in ('width', 'height'):
    try:
      size.append(round(text_files.number(row.get(key))))
    except (ValueError, OverflowError):
      size.append(None)
  image = builder.add_image(row['image'], *size)
  if any(row.get(key) for key in (*_CORNERS, 'bbox', 'class')):
    builder.add_object(image, place, row['class'], box(row))
