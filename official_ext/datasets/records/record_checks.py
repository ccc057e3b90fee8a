"""Checks what a model will see in TFRecords: every problem with the file that has it."""
import collections
from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import itertools
from typing import Any

from google.protobuf import message
import tensorflow as tf

from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values
from official_ext.datasets.records import example_checks
from official_ext.datasets.records import random_sample
from official_ext.datasets.records import record_decoding
from official_ext.datasets.records import record_statistics
from official_ext.utils import command_line


@dataclasses.dataclass
class Source:
  """The records of one split and what is known about them.

  Attributes:
    name: of the split.
    files: TFRecord files.
    num_classes: highest class id + 1; None if unknown.
    class_names: class id -> name; empty if unknown.
    annotations: content of the COCO annotation file; None if there is none.
  """
  name: str
  files: list[str]
  num_classes: int | None = None
  class_names: dict[int, str] = dataclasses.field(default_factory=dict)
  annotations: dict[str, list[annotations_lib.Entry]] | None = None


def _features(record: bytes) -> example_checks.Features:
  """Returns the features of a serialized example; raises UnusableError if it is none."""
  try:
    return tf.train.Example.FromString(record).features.feature
  except message.DecodeError as error:
    raise findings_lib.UnusableError('record is no tf.train.Example', str(error)) from error


class SplitCheck:
  """Reads the records of one split, collects their problems and statistics and keeps a sample.

  Attributes:
    source: the records.
    samples: (image name, record) of a few records, for drawing.
    digests: SHA-256 of an image file -> the record that holds it.
    statistics: of the records that can be decoded.
  """

  def __init__(self, source: Source, findings: findings_lib.Findings, num_samples: int,
               needs: example_checks.Needs | None = None):
    """Initializes the check.

    Args:
      source: the records.
      findings: told every problem.
      num_samples: how many records to keep for drawing.
      needs: of the experiment; None if it is unknown.
    """
    self.source = source
    self.digests: dict[str, str] = {}
    self._findings = findings
    self._needs = dataclasses.replace(needs or example_checks.Needs(),
                                      num_classes=source.num_classes)
    self._ids: dict[str, list[str]] = collections.defaultdict(list)  # image id -> records
    self._sample = random_sample.RandomSample(num_samples)
    self.statistics = record_statistics.SplitStatistics()

  @property
  def samples(self) -> list[tuple[str, bytes]]:
    return self._sample.items

  @property
  def num_classes_needed(self) -> int:
    """Highest class id that is named or used, + 1."""
    return max(self.source.num_classes or 0, self.statistics.max_class_id + 1)

  def summary(self) -> dict[str, Any]:
    """Returns counts and sizes as plain JSON types, from `SplitStatistics.summary`."""
    return self.statistics.summary(self.source.class_names)

  def run(self, decoder: record_decoding.RecordDecoder) -> None:
    """Reads all records, with progress on standard error.

    Args:
      decoder: decodes the records.
    """
    total = sum(record_decoding.count_records(path) for path in self.source.files)
    for path, number, record in command_line.progress(
        self._records(), f'reading {self.source.name}', max(total, 1)):
      try:
        self._check_record(record, decoder, path, number)
      except findings_lib.UnusableError as error:
        self._add(error.reason, record_decoding.describe(path, number, ''), error.detail)
    self._check_ids()
    self._check_boxes()
    self._compare_with_annotations()

  def _add(self, reason: str, file: str, detail: str = '') -> None:
    """Records a problem of this split."""
    self._findings.add(self.source.name, 'problem', reason, file, detail)

  def _records(self) -> Iterator[tuple[str, int, bytes]]:
    """Yields the file, the number in the file (from 1) and the bytes of every record."""
    for path in self.source.files:
      try:
        for number, record in enumerate(record_decoding.read_records(path), 1):
          yield path, number, record
      except findings_lib.UnusableError as error:
        self._add(error.reason, path, error.detail)

  def _check_duplicate(self, content: bytes, where: str) -> None:
    """Notes an image file that another record of the split holds."""
    digest = hashlib.sha256(content).hexdigest()
    if digest in self.digests:
      self._findings.add(self.source.name, 'noted', 'image is there twice', where)
    self.digests[digest] = where

  def _check_record(self, record: bytes, decoder: record_decoding.RecordDecoder, path: str,
                    number: int) -> None:
    """Checks and counts one record; raises UnusableError if it is no example."""
    features = _features(record)
    name = example_checks.image_name(features)
    where = record_decoding.describe(path, number, name)
    problems = list(example_checks.problems(features, self._needs))
    for problem in problems:
      self._add(problem.reason, where, problem.detail)
    try:
      decoded = decoder(record)
    except ValueError as error:
      if not any(problem.is_fatal for problem in problems):
        self._add('record cannot be decoded', where, str(error))
      return
    self._check_class_names(decoded, where)
    size = (int(decoded['width']), int(decoded['height']))
    if min(size) > 0 and example_checks.is_long(size):
      self._findings.add(self.source.name, 'doubt', example_checks.LONG_IMAGE, where,
                         f'{size[0]} x {size[1]}')
    self._sample.offer((name or where, record))
    self._check_duplicate(b''.join(features['image/encoded'].bytes_list.value), where)
    self._ids[decoded['source_id'].decode(errors='replace')].append(where)
    self.statistics.add(decoded)

  def _check_class_names(self, decoded: record_decoding.Decoded, where: str) -> None:
    """Checks that class ids have names."""
    limit = self.source.num_classes or 2**31
    class_ids = {int(class_id) for class_id in decoded['groundtruth_classes']}
    unnamed = sorted(class_id for class_id in class_ids - set(self.source.class_names)
                     if 0 < class_id < limit)
    if self.source.class_names and unnamed:
      self._add('class id has no name', where, f'ids {unnamed}')

  def _check_ids(self) -> None:
    """Checks that no two records have the same image id, or says that all have the same."""
    num_records = sum(map(len, self._ids.values()))
    if len(self._ids) == 1 and num_records > 1:
      (source_id, records), = self._ids.items()
      self._add('all records have the same image id, so evaluation takes them for one image',
                records[0], f'id {source_id}, {num_records} records')
      return
    for source_id, records in self._ids.items():
      for where in records[1:]:
        self._add('image id is there twice', where, f'id {source_id}')

  def _check_boxes(self) -> None:
    """Checks that there are boxes, and that they are not all in the first pixel."""
    num_boxes, num_tiny = self.statistics.num_boxes, self.statistics.num_tiny_boxes
    if num_tiny * 2 > num_boxes:
      self._add('boxes lie in the first pixel of their image: were they divided by its size twice?',
                self.source.name, f'{num_tiny} of {num_boxes}')
    if self._ids and not num_boxes:
      self._findings.add(self.source.name, 'doubt', 'split has no boxes at all', self.source.name)

  def _compare_with_annotations(self) -> None:
    """Compares image ids and numbers of boxes with the annotation file, if there is one."""
    annotations = self.source.annotations
    if annotations is None:
      return
    num_boxes = self.statistics.num_boxes_by_id
    listed_boxes = collections.Counter(
        str(normal_values.normal_id(entry.get('image_id'))) for entry in annotations['annotations'])
    listed = {str(normal_values.normal_id(entry.get('id'))) for entry in annotations['images']}
    for image_id, number in num_boxes.items():
      if image_id not in listed:
        self._add('image id of the records is not in the annotation file', f'id {image_id}')
      elif number != listed_boxes[image_id]:
        self._add('records and annotation file differ in boxes', f'id {image_id}',
                  f'{number} and {listed_boxes[image_id]}')
    for image_id in sorted(listed - set(num_boxes)):
      self._add('image id of the annotation file is not in the records', f'id {image_id}')


def check_overlap(checks: Sequence[SplitCheck], findings: findings_lib.Findings) -> None:
  """Reports images, equal byte for byte, that are in more than one split.

  Args:
    checks: the check of each split, after it has run.
    findings: told every such image.
  """
  for position, check in enumerate(checks):
    for other in checks[position + 1:]:
      for digest in sorted(set(check.digests) & set(other.digests)):
        findings.add(other.source.name, 'doubt',
                     f'image is in {check.source.name} as well: accuracy will seem too high',
                     other.digests[digest], f'= {check.digests[digest]}')


def check_classes(checks: Sequence[SplitCheck], findings: findings_lib.Findings) -> None:
  """Reports classes that have boxes in another split, but not in `train`.

  Args:
    checks: the check of each split, after it has run.
    findings: told every such class.
  """
  train = next((check for check in checks if check.source.name == 'train'), None)
  if train is None or not train.statistics.class_ids:
    return
  for check in checks:
    for number in sorted(check.statistics.class_ids - train.statistics.class_ids):
      findings.add(check.source.name, 'doubt', 'class has no box in train: it cannot be learned',
                   check.source.name, repr(check.source.class_names.get(number, number)))


def _first_problem_of_file(path: str, limit: int, needs: example_checks.Needs,
                           ids: dict[str, str]) -> str | None:
  """Returns a sentence about the first fatal problem of the first records of a file, or None.

  Args:
    path: of the file.
    limit: how many records to read.
    needs: of the experiment.
    ids: image id -> the record that has it; those of this file are added.
  """
  where = path
  try:
    for number, record in enumerate(
        itertools.islice(record_decoding.records_in_order(path), limit), 1):
      where = record_decoding.describe(path, number, '')
      features = _features(record)
      where = record_decoding.describe(path, number, example_checks.image_name(features))
      for problem in example_checks.problems(features, needs):
        if problem.is_fatal:
          return _sentence(where, problem.reason, problem.detail)
      image_id = example_checks.image_id(features)
      if needs.source_id and image_id and image_id in ids:
        return _sentence(where, 'image id is there twice', f'id {image_id}, also {ids[image_id]}')
      ids[image_id] = where
      where = path
  except findings_lib.UnusableError as error:
    return _sentence(where, error.reason, error.detail)
  return None


def first_problem(files: Sequence[str], needs: example_checks.Needs, limit: int = 200
                  ) -> str | None:
  """Looks at some records for what makes a training or an evaluation fail.

  No TensorFlow operation runs, so this may be called before a distribution strategy is made.

  Args:
    files: TFRecord files; the first records of each are read.
    needs: what the experiment needs of each record.
    limit: how many records to read in all.

  Returns:
    One sentence about the first problem, or None.
  """
  share = max(1, limit // max(len(files), 1))
  ids: dict[str, str] = {}
  for path in files[:limit]:
    problem = _first_problem_of_file(path, share, needs, ids)
    if problem:
      return problem
  return None if ids else 'the files have no records.'


def _sentence(where: str, reason: str, detail: str) -> str:
  return f'{where}: {reason}{f" ({detail})" if detail else ""}; check_dataset lists all problems.'
