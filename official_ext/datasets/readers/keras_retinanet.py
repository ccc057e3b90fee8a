"""Layout of keras-retinanet: CSV without a first line, `path,x1,y1,x2,y2,class`."""
import collections

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import split_names
from official_ext.datasets.readers import tables
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line

_COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'class')


def _fits(values: list[str]) -> bool:
  """Returns whether values are a path and a box with its class, or a path alone."""
  return len(values) == 6 and bool(values[0]) and (
      not any(values[1:]) or (bool(values[5]) and all(map(text_files.is_number, values[1:5]))))


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the files that begin with such a line."""
  return tables.files_that_begin(data, _fits)


def _classes(data: data_folder.DataFolder, findings: findings_lib.Findings
             ) -> list[annotations.Entry] | None:
  """Returns the categories of a file of lines `class,id`; None if there is no such file."""
  for name in data.with_suffix('.csv'):
    if 'class' in name.rpartition('/')[2].lower():
      rows = tables.read_lines(data, name, findings)
      if not all(len(row.values) == 2 and row.values[1].isdecimal() for row in rows):
        raise command_line.CommandError(
            f'{data.path(name)} must have lines of a class and its number, such as "cat,0".')
      return [dict(id=int(row.values[1]), name=row.values[0]) for row in rows]
  return None


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the splits; a line with only a path is an image without boxes."""
  names = collections.defaultdict(list)
  tables_of_boxes = [name for name in data.with_suffix('.csv') if 'class' not in name.lower()]
  for name in split_names.with_unread(_matches(data), tables_of_boxes):
    names[split_names.of_path(name)].append(name)
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for split, files in names.items():
    builders[split] = split_builder.SplitBuilder(', '.join(map(data.shown, files)),
                                             [data.path(name).parent for name in files])
    for name in files:
      for line, values in tables.read_lines(data, name, findings):
        if len(values) != len(_COLUMNS):
          findings.add('all', 'noted', f'line has not {len(_COLUMNS)} values',
                       f'{name} line {line}', f'{len(values)} values')
          values = [values[0], *'????', '']  # told as a box that cannot be read
        tables.add_row(builders[split], f'{name} line {line}', dict(zip(_COLUMNS, values)))
  return split_builder.build_splits(data, builders, findings, _classes(data, findings))


LAYOUT = interface.Layout('keras_retinanet', 'CSV of keras-retinanet',
                          'CSV files with lines path,x1,y1,x2,y2,class', """\
train.csv, val.csv     lines: images/1.jpg,10,20,50,60,cat   (pixels; images/2.jpg,,,,,: no boxes)
classes.csv            lines: cat,0""", _matches, _read, rank=70)
