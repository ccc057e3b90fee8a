"""CSV layout: a row for each box, with image, corners in pixels and class."""
import collections

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import split_names
from official_ext.datasets.readers import tables
from official_ext.datasets.sources import data_folder
from official_ext.utils import command_line


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the files whose first line names the columns."""
  return tables.files_that_begin(
      data, lambda values: not tables.missing_columns(tables.columns(values)))


def _files(data: data_folder.DataFolder) -> dict[str | None, list[str]]:
  """Returns the files of each split; raises CommandError if it is not clear what they are."""
  by_split = collections.defaultdict(list)
  names = split_names.with_unread(_matches(data), data.with_suffix('.csv'))
  for name in names:
    by_split[split_names.of_path(name)].append(name)
  if not by_split or (len(by_split) == 1 and len(by_split.get(None, ())) > 1):
    raise command_line.CommandError(
        f'--input {data.root} needs train.csv, or exactly one CSV file; it has '
        f'{", ".join(names) or "none"}.')
  return by_split


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the splits; the check of boxes finds the rows that cannot be used."""
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for of_file, names in _files(data).items():
    for name in names:
      for line, row in tables.read_rows(data, name, findings):
        of_row = split_names.of_name(row.get('split'))
        if row.get('split') and not of_row:
          raise command_line.CommandError(
              f'{data.path(name)} line {line}: split is {row["split"]!r}; it must be train, val or '
              'test.')
        # In a table with a column for the split, what names none is for training.
        split = of_row or of_file or ('train' if 'split' in row else None)
        if split not in builders:
          builders[split] = split_builder.SplitBuilder(data.shown(name), [data.path(name).parent])
        tables.add_row(builders[split], f'{name} line {line}', row)
  return split_builder.build_splits(data, builders, findings)


LAYOUT = interface.Layout('csv', 'CSV of the TensorFlow tutorials, of Roboflow, of VoTT',
                          'CSV files whose first line names image, corners and class', """\
train_labels.csv, test_labels.csv      or  train.csv, val.csv, or one file with a column split,
images/*.jpg                               or train/_annotations.csv, valid/..., test/...
first line: filename,width,height,class,xmin,ymin,xmax,ymax
        or: image,xmin,ymin,xmax,ymax,class   (pixels; only image: no boxes)""",
                          _matches, _read, rank=60)
