"""The folder of records that convert_dataset writes: its description, and YAML overrides.

    train-00000-of-00004.tfrecord ... val-...  the records
    annotations/train.json, val.json           the same boxes as COCO annotations
    dataset.json                               `Dataset`: classes, counts, names of these files
    overrides.yaml                             makes an experiment use the data
    classes.txt                                a line 'id name' for each class

Class ids are those of the network; dataset.json, the annotation files (`original_id`) and the
comments of overrides.yaml say which category id of the data set each one stands for.
"""
from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import yaml

from official_ext.utils import command_line
from official_ext.utils import files

MARKER = 'dataset.json'
# Further files and folders of such a folder, as patterns.
WRITES = ('*.tfrecord', 'annotations', 'classes.txt', 'overrides.yaml', 'report.json')
# Boxes of an image that experiments keep: the default of Model Garden's `max_num_instances`.
MAX_BOXES = 100


@dataclasses.dataclass(frozen=True)
class SplitRecords:
  """The files of one split.

  Attributes:
    num_images: number of records.
    num_boxes: number of boxes in all records.
    file_pattern: pattern of the record files in the folder.
    num_files: number of record files.
    annotation_file: path of the COCO annotation file in the folder.
    max_boxes: the most boxes of an image; 0 if an earlier version wrote the folder.
  """
  num_images: int
  num_boxes: int
  file_pattern: str
  num_files: int
  annotation_file: str
  max_boxes: int = 0


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The content of dataset.json.

  Attributes:
    num_classes: highest class id + 1, as Model Garden counts classes (background included).
    include_masks: whether the records have masks.
    class_names: class id, at least 1 -> name.
    splits: `train` and `val`.
    original_ids: class id -> id in the data set that was converted; empty if nobody wrote it.
    licence: of the data set; empty if it is not known.
  """
  num_classes: int
  include_masks: bool
  class_names: dict[int, str]
  splits: dict[str, SplitRecords]
  original_ids: dict[int, int | str] = dataclasses.field(default_factory=dict)
  licence: str = ''


def read(folder: pathlib.Path, alternative: str = '') -> Dataset:
  """Reads dataset.json.

  Args:
    folder: a folder that convert_dataset wrote, the value of a command's `--data`.
    alternative: ends the advice if there is no dataset.json, for example with another flag.

  Returns:
    The description of the folder.

  Raises:
    CommandError: the folder has no dataset.json, or the file is damaged.
  """
  path = folder / MARKER
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    return Dataset(
        content['num_classes'], content['include_masks'],
        {int(number): name for number, name in content['class_names'].items()},
        {name: SplitRecords(**{field.name: {'max_boxes': 0, **split}[field.name]
                               for field in dataclasses.fields(SplitRecords)})
         for name, split in content['splits'].items()},
        {int(number): value for number, value in content.get('original_ids', {}).items()},
        content.get('licence', ''))
  except OSError as error:
    raise command_line.CommandError(
        f'--data={folder} has no {MARKER} ({error.strerror}): give a folder that convert_dataset '
        f'wrote{alternative} (python -m official_ext.tools.convert_dataset --help).') from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise command_line.CommandError(
        f'{path} is damaged ({error!r}): run convert_dataset again.') from error


def write(dataset: Dataset, folder: pathlib.Path, final_folder: str | os.PathLike) -> None:
  """Writes dataset.json, overrides.yaml and classes.txt beside the records.

  Args:
    dataset: the description of the records.
    folder: to write into.
    final_folder: where `folder` will be in the end; the overrides name its files.
  """
  (folder / MARKER).write_text(json.dumps(dataclasses.asdict(dataset), indent=2))
  (folder / 'classes.txt').write_text(
      ''.join(f'{number} {name}\n' for number, name in dataset.class_names.items()),
      encoding='utf-8')
  train, val = dataset.splits['train'], dataset.splits['val']
  text = overrides('Makes an experiment use this data set', {
      'annotation_file': os.path.join(os.path.abspath(final_folder), val.annotation_file),
      'model': {'num_classes': dataset.num_classes},
      'train_data': _data_fields(train, final_folder),
      'validation_data': _data_fields(val, final_folder)})
  (folder / 'overrides.yaml').write_text(text, encoding='utf-8')
  _add_class_comments(dataset, folder / 'overrides.yaml')


def _data_fields(split: SplitRecords, folder: str | os.PathLike) -> dict[str, Any]:
  """Returns the fields of an experiment that read a split, all boxes of each image."""
  parser = ({'parser': {'max_num_instances': split.max_boxes}}
            if split.max_boxes > MAX_BOXES else {})
  return {'input_path': path_pattern(folder, split.file_pattern), **parser}


def _add_class_comments(dataset: Dataset, path: pathlib.Path) -> None:
  """Adds the classes to a YAML file as comments: experiments have no field for them."""
  with path.open('a', encoding='utf-8') as file:
    file.write('# Classes of the network, and their category ids in the data set:\n')
    for number, name in dataset.class_names.items():
      original = json.dumps(dataset.original_ids.get(number, number))
      # Whatever is not printable would end the comment, or the YAML.
      shown = ''.join(letter if letter.isprintable() else ' ' for letter in name)
      file.write(f'#   {number} {shown}, category id {original}\n')


def path_pattern(folder: str | os.PathLike, file_pattern: str) -> str:
  """Returns the pattern of files in a folder, for a field such as `input_path`.

  Args:
    folder: the folder.  The pattern has its absolute path, so that it holds from everywhere, and
      matches no other folder, whatever characters the path has.
    file_pattern: pattern of the names of the files.
  """
  return os.path.join(files.escape_pattern(os.path.abspath(folder)), file_pattern)


def overrides(purpose: str, task_fields: Mapping[str, Any]) -> str:
  """Returns the YAML of a `--config_file` that sets fields of an experiment's task.

  Args:
    purpose: begins the comment in the first line.
    task_fields: name of a field of the task -> its value, in plain types.
  """
  text = yaml.safe_dump({'task': dict(task_fields)}, sort_keys=False, allow_unicode=True,
                        width=float('inf'))
  return f'# {purpose}: --config_file=<this file>\n{text}'
