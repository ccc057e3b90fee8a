"""Checks the files of a task before anything is built, so that a mistake costs seconds."""
import json
from typing import Any

import tensorflow as tf

from official_ext.utils import command_line

_NAMED = 3


def matching_files(pattern: str, field: str) -> list[str]:
  """Returns the files that match a pattern.

  Args:
    pattern: one or more globs with commas between them.
    field: name of the config field or flag that gave the pattern, for the error message.

  Raises:
    CommandError: no file matches.
  """
  files = sorted(file for part in pattern.split(',') for file in tf.io.gfile.glob(part.strip()))
  if not files:
    raise command_line.CommandError(
        f'{field} is {pattern!r}, which matches no file: convert the data first '
        '(python -m official_ext.tools.convert_dataset --help) or change the field.')
  return files


def check_records(pattern: str, field: str) -> list[str]:
  """Returns the files that match a pattern, which must all be TFRecord files.

  Args:
    pattern: one or more globs with commas between them.
    field: name of the config field or flag that gave the pattern, for the error message.

  Raises:
    CommandError: no file matches, or a file is damaged or no TFRecord file.
  """
  files = matching_files(pattern, field)
  for file in files:
    try:
      next(iter(tf.data.TFRecordDataset(file)), None)
    except tf.errors.DataLossError:
      raise command_line.CommandError(
          f'{field} is {pattern!r}, which matches {file}, not a TFRecord file or a damaged one: '
          'narrow the pattern, for example to train-*.tfrecord.') from None
  return files


def _record_image_ids(files: list[str]) -> list[str]:
  spec = {'image/source_id': tf.io.FixedLenFeature([], tf.string, '')}
  records = tf.data.TFRecordDataset(files).batch(64)
  ids = [tf.io.parse_example(batch, spec)['image/source_id'].numpy() for batch in records]
  return [image_id.decode() for batch in ids for image_id in batch]


def check_annotations(annotation_file: str, files: list[str]) -> None:
  """Checks that an annotation file describes all images of record files.

  Args:
    annotation_file: COCO JSON that evaluation reads.
    files: TFRecord files of the validation data.

  Raises:
    CommandError: the file is missing or no COCO JSON, or lacks an image.
  """
  if not tf.io.gfile.exists(annotation_file):
    raise command_line.CommandError(
        f'task.annotation_file is {annotation_file!r}, which does not exist: give the JSON that '
        'convert_dataset wrote beside the records, or null to use the records themselves.')
  with tf.io.gfile.GFile(annotation_file) as file:
    try:
      known = {str(image['id']) for image in json.load(file)['images']}
    except (ValueError, KeyError, TypeError) as error:
      raise command_line.CommandError(
          f'task.annotation_file {annotation_file!r} is not a COCO annotation file: {error}.'
      ) from error
  unknown = [image_id for image_id in _record_image_ids(files) if image_id not in known]
  if unknown:
    raise command_line.CommandError(
        f'task.annotation_file {annotation_file!r} does not have {len(unknown)} images of the '
        f'validation records, such as ids {", ".join(unknown[:_NAMED])}: write both with '
        'one run of convert_dataset.')


def check_task(task: Any, mode: str) -> None:
  """Checks the input files of a detection task that `mode` will read.

  Args:
    task: a task config with `train_data`, `validation_data` and `annotation_file`.
    mode: Model Garden's `--mode`.

  Raises:
    CommandError: names the field and what is wrong with its files.
  """

  def is_local_pattern(data):
    path = getattr(data, 'input_path', None)
    return isinstance(path, str) and path and getattr(data, 'file_type', '') == 'tfrecord'

  if 'train' in mode and is_local_pattern(task.train_data):
    check_records(task.train_data.input_path, 'task.train_data.input_path')
  if 'eval' in mode and is_local_pattern(task.validation_data):
    files = check_records(task.validation_data.input_path, 'task.validation_data.input_path')
    if getattr(task, 'annotation_file', None):
      check_annotations(task.annotation_file, files)
