"""Checks what a model will see in TFRecords: every problem with the file that has it."""
import collections
from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import io
import random
from typing import Any

import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import record_decoding
from official_ext.datasets import record_statistics
from official_ext.utils import command_line

_TOLERANCE = 1e-5  # of normalized coordinates


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


class RandomSample:
  """Keeps a few of the items that it is given, each with the same chance.

  Attributes:
    items: the items that are kept.
  """

  def __init__(self, size: int):
    """Initializes the sample.

    Args:
      size: how many items to keep.
    """
    self.items: list[Any] = []
    self._size = size
    self._num_offered = 0
    self._random = random.Random(0)

  def offer(self, item: Any) -> None:
    """Keeps the item or leaves it out (reservoir sampling: the total need not be known)."""
    self._num_offered += 1
    if len(self.items) < self._size:
      self.items.append(item)
      return
    place = self._random.randrange(self._num_offered)
    if place < self._size:
      self.items[place] = item


def _box_problem(boxes: np.ndarray) -> str:
  """Returns what is wrong with normalized boxes `[num_boxes, 4]`; empty if nothing is."""
  if not np.isfinite(boxes).all():
    return 'box is not finite'
  if (boxes < -_TOLERANCE).any() or (boxes > 1 + _TOLERANCE).any():
    return 'box is outside the image'
  if (boxes[:, 2:] <= boxes[:, :2]).any():
    return 'box has no area'
  return ''


class SplitCheck:
  """Reads the records of one split, collects their problems and statistics and keeps a sample.

  Attributes:
    source: the records.
    samples: (image name, record) of a few records, for drawing.
    digests: SHA-256 of an image file -> the record that holds it.
  """

  def __init__(self, source: Source, findings: findings_lib.Findings, num_samples: int):
    """Initializes the check.

    Args:
      source: the records.
      findings: told every problem.
      num_samples: how many records to keep for drawing.
    """
    self.source = source
    self.digests: dict[str, str] = {}
    self._findings = findings
    self._sample = RandomSample(num_samples)
    self._statistics = record_statistics.SplitStatistics()

  @property
  def samples(self) -> list[tuple[str, bytes]]:
    return self._sample.items

  @property
  def num_classes_needed(self) -> int:
    """Highest class id that is named or used, + 1."""
    return max(self.source.num_classes or 0, self._statistics.max_class_id + 1)

  def summary(self) -> dict[str, Any]:
    """Returns counts and sizes as plain JSON types, from `SplitStatistics.summary`."""
    return self._statistics.summary(self.source.class_names)

  def run(self, decoder: record_decoding.RecordDecoder) -> None:
    """Reads all records, with progress on standard error.

    Args:
      decoder: decodes the records.
    """
    total = sum(record_decoding.count_records(path) for path in self.source.files)
    for path, number, record in command_line.progress(
        self._records(), f'reading {self.source.name}', max(total, 1)):
      features = tf.train.Example.FromString(record).features.feature
      name = b''.join(features['image/filename'].bytes_list.value).decode(errors='replace')
      where = record_decoding.describe(path, number, name)
      try:
        decoded = decoder(record)
      except ValueError as error:
        self._add('record cannot be decoded', where, str(error))
        continue
      self._sample.offer((name or where, record))
      self._check_duplicate(b''.join(features['image/encoded'].bytes_list.value), where)
      self._check_record(decoded, where)
      self._statistics.add(decoded)
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

  def _check_record(self, decoded: record_decoding.Decoded, where: str) -> None:
    """Checks the image, its id, boxes, classes and masks."""
    self._check_image(decoded, where)
    boxes, classes = decoded['groundtruth_boxes'], decoded['groundtruth_classes']
    problem = _box_problem(boxes)
    if problem:
      self._add(problem, where)
    if len(classes) != len(boxes):
      self._add('record has not one class for each box', where)
    self._check_classes({int(class_id) for class_id in classes}, where)
    self._check_masks(decoded, where)

  def _check_image(self, decoded: record_decoding.Decoded, where: str) -> None:
    """Checks the size of the image and its id."""
    image = decoded['image']
    size = (int(decoded['width']), int(decoded['height']))
    if image.ndim != 3:
      self._add('image is an animation, not one picture', where)
    elif size != image.shape[1::-1]:
      self._add('image size is not what the record says', where)
    source_id = decoded['source_id'].decode(errors='replace')
    if source_id in self._statistics.num_boxes_by_id:
      self._add('image id is there twice', where, f'id {source_id}')
    if not source_id.isdigit():
      self._add('image id is not a whole number, which evaluation needs', where,
                f'id {source_id!r}')

  def _check_classes(self, class_ids: set[int], where: str) -> None:
    """Checks that class ids are in range and have names."""
    limit = self.source.num_classes or np.iinfo(np.int64).max
    wrong = sorted(class_id for class_id in class_ids if not 0 < class_id < limit)
    if wrong:
      self._add(f'class id is not in 1 to num_classes - 1 = {limit - 1}'
                if self.source.num_classes else 'class id is below 1', where, f'ids {wrong}')
    unnamed = class_ids - set(self.source.class_names) - set(wrong)
    if self.source.class_names and unnamed:
      self._add('class id has no name', where, f'ids {sorted(unnamed)}')

  def _check_masks(self, decoded: record_decoding.Decoded, where: str) -> None:
    """Checks the number and the sizes of the masks."""
    masks = decoded['groundtruth_instance_masks_png']
    size = (int(decoded['width']), int(decoded['height']))
    if len(masks) not in (0, len(decoded['groundtruth_boxes'])):
      self._add('record has not one mask for each box', where)
    for number, mask in enumerate(masks, 1):
      try:
        with Image.open(io.BytesIO(mask)) as image:
          if image.size != size:
            self._add("mask is not of the image's size", where, f'mask {number}')
      except OSError:
        self._add('mask is broken', where, f'mask {number}')

  def _compare_with_annotations(self) -> None:
    """Compares image ids and numbers of boxes with the annotation file, if there is one."""
    annotations = self.source.annotations
    if annotations is None:
      return
    num_boxes = self._statistics.num_boxes_by_id
    listed_boxes = collections.Counter(
        str(entry.get('image_id')) for entry in annotations['annotations'])
    listed = {str(entry.get('id')) for entry in annotations['images']}
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
        findings.add(other.source.name, 'problem', f'image is in {check.source.name} as well',
                     other.digests[digest], f'= {check.digests[digest]}')
