"""The images that a command measures: of a folder, a pattern or TFRecords, or a synthetic one."""
from collections.abc import Callable, Iterable, Iterator, Sequence
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.datasets import findings
from official_ext.datasets.images import image_decoding
from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_reading
from official_ext.datasets.records import record_folder
from official_ext.utils import command_line
from official_ext.utils import input_checks


def decoded(data: str | None, size: Sequence[int]) -> tuple[Iterator[Any], int]:
  """Returns uint8 images `[height, width, 3]` and how many; one synthetic image without data."""
  if not data:
    return iter([np.random.default_rng(0).integers(0, 256, [*size, 3], np.uint8)]), 1
  paths = _image_files(data)
  images, total = (_read_files(paths), len(paths)) if paths else _read_records(data)
  if not total:
    raise command_line.CommandError(f'--data={data} holds no image.')
  return images, total


def _image_files(data: str) -> list[pathlib.Path]:
  """Returns the images of a glob or folder; of the folders below one without images and records."""
  folder = pathlib.Path(data)
  if not folder.is_dir():
    return _with_image_names(map(pathlib.Path, input_checks.matching_files(data, '--data')))
  paths = sorted(folder.iterdir())
  if any('.tfrecord' in path.name for path in paths):
    return _with_image_names(paths)
  return _with_image_names(paths) or _with_image_names(sorted(folder.rglob('*')))


def _with_image_names(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
  return [path for path in paths if image_files.is_image_name(pathlib.Path(path.name))]


def _read_files(paths: Sequence[pathlib.Path]) -> Iterator[Any]:
  reader = image_reading.ImageReader()
  return (_readable(str(path), reader.read, path).pixels for path in paths)


def _read_records(data: str) -> tuple[Iterator[Any], int]:
  """Returns the images of records, and how many there are."""
  if pathlib.Path(data).is_dir() and not any(pathlib.Path(data).glob('*.tfrecord*')):
    raise command_line.CommandError(
        f'--data={data} holds neither images nor TFRecords, nor do folders below it hold images.')
  pattern = (record_folder.path_pattern(data, '*.tfrecord*') if pathlib.Path(data).is_dir()
             else data)
  records = tf.data.TFRecordDataset(input_checks.check_records(pattern, '--data'))
  spec = {'image/encoded': tf.io.FixedLenFeature([], tf.string, '')}

  def images() -> Iterator[Any]:
    for index, record in enumerate(records.as_numpy_iterator()):
      content = tf.io.parse_single_example(record, spec)['image/encoded'].numpy()
      yield _readable(f'record {index} of {pattern}', image_decoding.decode_record, content)

  return images(), sum(1 for _ in records)


def _readable(name: str, read: Callable[[Any], Any], source: Any) -> Any:
  """Returns `read(source)`; raises CommandError if that is no image that can be read."""
  try:
    return read(source)
  except findings.UnusableError as error:
    raise command_line.CommandError(
        f'--data: {name}: {error}: check_dataset lists all such files.') from error
