"""Checks the files of a task before anything is built, so that a mistake costs seconds.

Nothing here but `check_generated_ids` runs a TensorFlow operation: strategies of several hosts
must be made before the first one.
"""
from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import json
import sys
from typing import Any

from google.protobuf import message
import tensorflow as tf

from official_ext.datasets import findings
from official_ext.datasets.records import example_checks
from official_ext.datasets.records import record_checks
from official_ext.datasets.records import record_decoding
from official_ext.utils import command_line

_NAMED = 3
# Number of records of a split to look at before a start: about a second.
_LOOKED_AT = 1000


def matching_files(pattern: str, field: str) -> list[str]:
  """Returns the files that match a pattern, as Model Garden's input reader finds them.

  Args:
    pattern: one or more names or globs with commas between them.
    field: name of the config field or flag that gave the pattern, for the error message.

  Raises:
    CommandError: no file matches.
  """
  files: list[str] = []
  for part in filter(None, map(str.strip, pattern.split(','))):
    # A name without these two is no pattern for Model Garden, whatever else it has.
    is_glob = '*' in part or '?' in part
    files += tf.io.gfile.glob(part) if is_glob else filter(tf.io.gfile.exists, [part])
  if not files:
    odd = sorted(set(pattern) & set('[],\\'))
    advice = (f' A {" or ".join(odd)} has a meaning in patterns: where it belongs to the name of a '
              'folder, write it as overrides.yaml of convert_dataset does.' if odd else '')
    raise command_line.CommandError(
        f'{field} is {pattern!r}, which matches no file: convert the data first '
        f'(python -m official_ext.tools.convert_dataset --help) or change the field.{advice}')
  return sorted(files)


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
      next(record_decoding.records_in_order(file), None)
    except findings.UnusableError:
      raise command_line.CommandError(
          f'{field} is {pattern!r}, which matches {file}, not a TFRecord file or a damaged one: '
          'narrow the pattern, for example to train-*.tfrecord.') from None
  return files


def check_annotations(annotation_file: str, image_ids: Sequence[str]) -> None:
  """Checks that an annotation file describes all images of the records.

  Args:
    annotation_file: COCO JSON that evaluation reads.
    image_ids: `image/source_id` of the validation data.

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
  unknown = [image_id for image_id in image_ids if image_id not in known]
  if unknown:
    raise command_line.CommandError(
        f'task.annotation_file {annotation_file!r} does not have {len(unknown)} images of the '
        f'validation records, such as ids {", ".join(unknown[:_NAMED])}: write both with '
        'one run of convert_dataset.')


def _check_unique(ids: Sequence[tuple[str, str]], field: str) -> None:
  """Checks that no two images have one id; evaluation would take them for one image.

  Args:
    ids: id and file name of each image.
    field: name of the config field that gave the records.

  Raises:
    CommandError: names the id and two of its images.
  """
  names: dict[str, str] = {}
  for identifier, name in ids:
    if identifier in names:
      images = ' and '.join(filter(None, (names[identifier], name)))
      raise command_line.CommandError(
          f'{field}: two images have the image/source_id {identifier!r}'
          f'{f" ({images})" if images else ""}, so that evaluation would take them for one: give '
          'each image an id of its own.')
    if identifier:
      names[identifier] = name


def _records_problem(task: Any, split: str, files: Sequence[str], limit: int) -> str | None:
  """Returns the first problem of the records of a split, of which at most `limit` are read."""
  is_training = split == 'train_data'
  needs = example_checks.Needs.of_task(task, is_training)
  # Training takes any text as an id, and one image as often as it is there.
  found = record_checks.first_problem(
      files, dataclasses.replace(needs, source_id=needs.source_id and not is_training), limit)
  if found is None and needs.source_id:
    found = _file_without_ids(files)
  return f'{_field(split)}: {found}' if found else None


def _file_without_ids(files: Iterable[str]) -> str | None:
  """Returns that the first record of a file lacks an id, which Model Garden always reads."""
  for file in files:
    for record in itertools.islice(record_decoding.records_in_order(file), 1):
      if 'image/source_id' not in tf.train.Example.FromString(record).features.feature:
        return f'{file}: record has no image/source_id: {example_checks.ID_ADVICE}.'
  return None


def _image_ids(files: Iterable[str]) -> list[tuple[str, str]]:
  """Returns id and file name of every image; both may be empty.

  Raises:
    CommandError: a file is damaged.
  """
  ids = []
  for file in files:
    try:
      for record in record_decoding.records_in_order(file):
        features = tf.train.Example.FromString(record).features.feature
        ids.append((example_checks.image_id(features), example_checks.image_name(features)))
    except (findings.UnusableError, message.DecodeError) as error:
      raise command_line.CommandError(f'{file}: {error}: convert the data again.') from error
  return ids


def check_task(task: Any, mode: str) -> None:
  """Checks the input files of a detection task that `mode` will read.

  Args:
    task: a task config with `train_data`, `validation_data` and `annotation_file`.
    mode: Model Garden's `--mode`.

  Raises:
    CommandError: names the field and what is wrong with its files.
  """
  if 'eval' in mode and _is_detection(task):
    _check_truth_of_masks(task)
  for split in _splits(task, mode):
    files = _check_split(task, split)
    if (split == 'validation_data' and _is_detection(task)
        and example_checks.Needs.of_task(task, is_training=False).source_id):
      ids = _image_ids(files)
      _check_unique(ids, _field(split))
      _check_remainder(task.validation_data, len(ids))
      if task.annotation_file:
        check_annotations(task.annotation_file, [identifier for identifier, _ in ids])


def _check_remainder(data: Any, num_images: int) -> None:
  """Refuses batches of evaluation that leave out all images, and says if they leave out some."""
  size = getattr(data, 'global_batch_size', 1)
  num_left_out = num_images % size if getattr(data, 'drop_remainder', False) else 0
  if not num_left_out:
    return
  text = ('task.validation_data.drop_remainder is true, so that evaluation in batches of '
          f'{size} (global_batch_size) leaves out {num_left_out} of {num_images} images: set it to '
          'false.')
  if num_left_out == num_images:
    raise command_line.CommandError(text)
  command_line.say(f'Doubtful: {text}')


def check_generated_ids(task: Any, mode: str) -> None:
  """Checks that no two images have one id where Model Garden makes ids out of the images.

  It makes them of 22 bits, so that of 2400 images two have the same one as likely as not. Call
  this after the distribution strategy has been made, because it runs TensorFlow operations.

  Args:
    task: the config of a task.
    mode: Model Garden's `--mode`.

  Raises:
    CommandError: names two images that have the same id, and what to do.
  """
  if 'validation_data' not in _splits(task, mode) or not _is_detection(task):
    return
  reads_ids = example_checks.Needs.of_task(task, is_training=False).source_id
  field = _field('validation_data')
  files = matching_files(task.validation_data.input_path, field)
  if reads_ids and '' not in map(_first_id, files):
    return
  names: dict[str, str] = {}
  for file in files:
    for number, record in enumerate(record_decoding.records_in_order(file), 1):
      features = tf.train.Example.FromString(record).features.feature
      where = record_decoding.describe(file, number, example_checks.image_name(features))
      identifier = (reads_ids and example_checks.image_id(features)
                    or record_decoding.generated_id(example_checks.encoded_image(features)))
      if identifier in names:
        raise command_line.CommandError(
            f'{field}: Model Garden makes the image id {identifier} out of {names[identifier]} and '
            f'of {where}, so that evaluation would take them for one image: convert the records '
            'with python -m official_ext.tools.convert_dataset, which numbers the images.')
      names[identifier] = where


def _first_id(file: str) -> str | None:
  """Returns the id in the first record of a file; empty if it has none, None without a record."""
  for record in record_decoding.records_in_order(file):
    return example_checks.image_id(tf.train.Example.FromString(record).features.feature)
  return None


def _check_truth_of_masks(task: Any) -> None:
  """Checks that masks are evaluated against a file; Model Garden cannot read them otherwise."""
  if (getattr(task.model, 'include_mask', False) and not task.annotation_file
      and getattr(task, 'use_coco_metrics', True)):
    raise command_line.CommandError(
        'task.annotation_file is null, but masks can be evaluated only against a COCO annotation '
        'file: give the JSON that convert_dataset wrote beside the records.')


def _splits(task: Any, mode: str) -> list[str]:
  """Returns those of the fields `train_data` and `validation_data` whose records `mode` reads."""
  names = [name for part, name in (('train', 'train_data'), ('eval', 'validation_data'))
           if part in mode]
  return [name for name in names if is_pattern_of_records(getattr(task, name))]


def _field(split: str) -> str:
  return f'task.{split}.input_path'


def is_pattern_of_records(data: Any) -> bool:
  """Returns whether a data config reads TFRecord files that a pattern names."""
  path = getattr(data, 'input_path', None)
  return isinstance(path, str) and bool(path) and getattr(data, 'file_type', '') == 'tfrecord'


def _is_detection(task: Any) -> bool:
  return hasattr(task, 'annotation_file') and hasattr(task, 'model')


def _check_split(task: Any, split: str) -> list[str]:
  """Checks the records of `train_data` or `validation_data`, and returns their files."""
  files = check_records(getattr(task, split).input_path, _field(split))
  if _is_detection(task):
    found = _records_problem(task, split, files, _LOOKED_AT)
    if found:
      raise command_line.CommandError(found)
  return files


def problem_of_all_records(task: Any, mode: str) -> str | None:
  """Looks at every record that `mode` reads, to explain an error that has happened.

  Args:
    task: the task's config.
    mode: Model Garden's `--mode`.

  Returns:
    The first problem, with its field and image; None if no record has one.
  """
  for split in _splits(task, mode) if _is_detection(task) else []:
    files = matching_files(getattr(task, split).input_path, _field(split))
    found = _records_problem(task, split, files, sys.maxsize)
    if found:
      return found
  return None
