"""CSV layout: a row for each box, with image, corners in pixels and class."""
import collections
import csv
import pathlib

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.utils import command_line

_COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'class')

Row = dict[str, str]  # a value for each column, and `line`: the file name and the line number


def _read_rows(path: pathlib.Path) -> list[Row]:
  """Reads the rows of a file; raises CommandError if a column is missing."""
  with path.open(newline='', encoding='utf-8-sig') as file:
    reader = csv.DictReader(file)
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
      raise command_line.CommandError(
          f'{path} has no column {", ".join(missing)}: its first line must be '
          f'{",".join(_COLUMNS)}, and may add split.')
    try:
      return [dict(row, line=f'{path.name} line {reader.line_num}') for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
      raise command_line.CommandError(f'{path} is not a CSV file: {error}.') from error


def _read_splits(folder: pathlib.Path) -> dict[str, list[Row]]:
  """Returns the rows of each split, from a file for each or from one with a column `split`."""
  files = {name: folder / f'{name}.csv' for name in ('train', 'val')}
  if files['train'].is_file():
    return {name: _read_rows(path) for name, path in files.items() if path.is_file()}
  paths = sorted(folder.glob('*.csv'))
  if len(paths) != 1:
    raise command_line.CommandError(
        f'--input {folder} needs train.csv, or exactly one CSV file; it has '
        f'{", ".join(path.name for path in paths) or "none"}.')
  splits = collections.defaultdict(list)
  for row in _read_rows(paths[0]):
    name = (row.get('split') or 'train').strip().lower()
    if name not in ('train', 'val'):
      raise command_line.CommandError(
          f'{folder / row["line"]}: split is {name!r}; it must be train or val.')
    splits[name].append(row)
  return splits


def _box(row: Row) -> list[float] | None:
  """Returns the COCO box of a row, None if a corner is not a number."""
  try:
    x1, y1, x2, y2 = (float(row[key]) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
  except (TypeError, ValueError):
    return None
  return [x1, y1, x2 - x1, y2 - y1]


def _read(folder: pathlib.Path, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the splits; the check of boxes finds the rows that cannot be used."""
  del findings
  rows = _read_splits(folder)
  categories = interface.number_categories(
      {(row['class'] or '').strip() for split in rows.values() for row in split} - {''})
  category_ids = {category['name']: category['id'] for category in categories}
  splits = {}
  for name, split_rows in rows.items():
    images: dict[str, annotations.Entry] = {}
    boxes = []
    for row in split_rows:
      file_name = (row['image'] or '').strip()
      image = images.setdefault(file_name, dict(id=len(images) + 1, file_name=file_name))
      values = [(row[key] or '').strip() for key in _COLUMNS[1:]]
      if any(values):  # a row with only a file name is an image without boxes
        boxes.append(dict(id=row['line'], image_id=image['id'], bbox=_box(row),
                          category_id=category_ids.get(values[-1])))
    folders = [folder / 'images' / name, folder / name, folder / 'images', folder]
    splits[name] = annotations.Split(name, str(folder), list(images.values()), boxes, categories,
                                     folders)
  return splits


LAYOUT = interface.Layout('csv', 'train.csv (CSV)', lambda folder: any(folder.glob('*.csv')), _read)
