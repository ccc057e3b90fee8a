"""What a model will see in TFRecords: read by Model Garden's decoder, checked and counted."""
import collections
import dataclasses
import hashlib
import io
import os
import random
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
from PIL import Image
import tensorflow as tf

from official.vision.dataloaders import tf_example_decoder
from official_ext.datasets import coco
from official_ext.utils import command_line

_TOLERANCE = 1e-5  # of normalized coordinates
_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclasses.dataclass
class Source:
  """The records of one split and what is known about them.

  Attributes:
    name: of the split.
    files: TFRecord files.
    num_classes: highest class id + 1; None if unknown.
    class_names: name by class id; empty if unknown.
    annotations: content of the COCO annotation file; None if there is none.
  """
  name: str
  files: List[str]
  num_classes: Optional[int] = None
  class_names: Dict[int, str] = dataclasses.field(default_factory=dict)
  annotations: Optional[Dict[str, Any]] = None


def _count_records(path: str) -> int:
  """The number of records, from their lengths alone."""
  position = count = 0
  with tf.io.gfile.GFile(path, 'rb') as file:
    size = file.size()
    while position + 8 <= size:
      file.seek(position)
      position += int.from_bytes(file.read(8), 'little') + 16  # a length and two checksums
      count += position <= size
  return count


class RecordDecoder:
  """Model Garden's `TfExampleDecoder`, one record at a time."""

  def __init__(self):
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
    keys = ('source_id', 'image', 'height', 'width', 'groundtruth_boxes',
            'groundtruth_classes', 'groundtruth_is_crowd', 'groundtruth_instance_masks_png')

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(record):
      # What is not returned is not computed: the float masks would take gigabytes.
      decoded = decoder.decode(record)
      return {key: decoded[key] for key in keys}

    self._decode = decode

  def __call__(self, record: bytes) -> Dict[str, np.ndarray]:
    """Decodes a serialized example.

    Returns:
      As the decoder's: boxes are `[num_boxes, 4]` normalized, masks PNG bytes.

    Raises:
      ValueError: the record cannot be decoded, with TensorFlow's reason.
    """
    try:
      return {key: value.numpy() for key, value in self._decode(tf.constant(record)).items()}
    except tf.errors.OpError as error:
      lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
      raise ValueError(lines[0] if len(lines) == 1 else lines[1]) from error


def decode_masks(decoded: Dict[str, np.ndarray]) -> Optional[np.ndarray]:
  """The masks of a decoded record, bool `[num_boxes, height, width]`; None without masks."""
  encoded = decoded['groundtruth_instance_masks_png']
  if not len(encoded):
    return None
  return np.stack([np.asarray(Image.open(io.BytesIO(mask))) > 0 for mask in encoded])


def _box_problem(boxes: np.ndarray) -> str:
  if not np.isfinite(boxes).all():
    return 'box is not finite'
  if (boxes < -_TOLERANCE).any() or (boxes > 1 + _TOLERANCE).any():
    return 'box is outside the image'
  if (boxes[:, 2:] <= boxes[:, :2]).any():
    return 'box has no area'
  return ''


class SplitCheck:
  """Reads one split, collects its problems, statistics and a few records to draw."""

  def __init__(self, source: Source, findings: coco.Findings, num_samples: int):
    """Initializes the check.

    Args:
      source: the records.
      findings: told every problem.
      num_samples: how many records to keep for drawing, spread over all.
    """
    self.source = source
    self.samples: List[Tuple[str, bytes]] = []
    self.digests: Dict[str, str] = {}
    self._findings = findings
    self._num_samples = num_samples
    self._num_decoded = 0
    self._random = random.Random(0)
    self._num_boxes_by_id: Dict[str, int] = {}
    self._classes = collections.Counter()
    self._image_sizes = collections.Counter()
    self._boxes_per_image: List[int] = []
    self._relative_sides: List[np.ndarray] = []
    self._sides: List[np.ndarray] = []
    self._num_crowd = self._num_masks = 0

  def _problem(self, reason, file, detail=''):
    self._findings.add(self.source.name, 'problem', reason, file, detail)

  def _records(self) -> Iterator[Tuple[str, int, bytes]]:
    for path in self.source.files:
      number = 0
      try:
        for number, record in enumerate(tf.data.TFRecordDataset(path), 1):
          yield path, number, record.numpy()
      except tf.errors.DataLossError as error:
        if number == 0 and 'truncated' not in str(error.message):
          self._problem('file is no TFRecord file: narrow the pattern', path)
        else:
          self._problem('file is truncated or damaged', path, f'after {number} records')
      except tf.errors.OpError as error:
        self._problem('file cannot be read', path, str(error.message))
      else:
        if not number:
          self._problem('file has no records', path)

  def run(self, decoder: RecordDecoder) -> None:
    """Goes through all records."""
    total = sum(_count_records(path) for path in self.source.files)
    for path, number, record in command_line.progress(
        self._records(), f'reading {self.source.name}', max(total, 1)):
      features = tf.train.Example.FromString(record).features.feature
      name = b''.join(features['image/filename'].bytes_list.value).decode(errors='replace')
      where = f'{os.path.basename(path)} record {number} {name}'.strip()
      try:
        decoded = decoder(record)
      except ValueError as error:
        self._problem('record cannot be decoded', where, str(error))
        continue
      self._keep_sample(name or where, record)
      content = b''.join(features['image/encoded'].bytes_list.value)
      digest = hashlib.sha256(content).hexdigest()
      if digest in self.digests:
        self._findings.add(self.source.name, 'noted', 'image is there twice', where)
      self.digests[digest] = where
      self._check_record(decoded, where)
    self._check_annotations()

  def _keep_sample(self, name, record):
    """Keeps each record with the same chance, without knowing how many there are."""
    self._num_decoded += 1
    if len(self.samples) < self._num_samples:
      self.samples.append((name, record))
    else:
      place = self._random.randrange(self._num_decoded)
      if place < self._num_samples:
        self.samples[place] = (name, record)

  def _check_record(self, decoded, where):
    image, boxes = decoded['image'], decoded['groundtruth_boxes']
    classes = decoded['groundtruth_classes']
    size = (int(decoded['width']), int(decoded['height']))
    if image.ndim != 3:
      self._problem('image is an animation, not one picture', where)
    elif size != image.shape[1::-1]:
      self._problem('image size is not what the record says', where)
    source_id = decoded['source_id'].decode(errors='replace')
    if source_id in self._num_boxes_by_id:
      self._problem('image id is there twice', where, f'id {source_id}')
    self._num_boxes_by_id[source_id] = len(boxes)
    if not source_id.isdigit():
      self._problem('image id is not a whole number, which evaluation needs', where,
                    f'id {source_id!r}')
    problem = _box_problem(boxes)
    if problem:
      self._problem(problem, where)
    if len(classes) != len(boxes):
      self._problem('record has not one class for each box', where)
    self._check_classes(classes, where)
    self._check_masks(decoded['groundtruth_instance_masks_png'], len(boxes), size, where)
    self._image_sizes[size] += 1
    self._classes.update(classes.tolist())
    self._boxes_per_image.append(len(boxes))
    self._num_crowd += int(decoded['groundtruth_is_crowd'].sum())
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    self._relative_sides.append(np.sqrt(extent.prod(axis=1)))
    self._sides.append(np.sqrt((extent * size[::-1]).prod(axis=1)))

  def _check_classes(self, classes, where):
    limit = self.source.num_classes or np.iinfo(np.int64).max
    wrong = sorted({int(value) for value in classes if not 0 < value < limit})
    if wrong:
      self._problem(f'class id is not in 1 to num_classes - 1 = {limit - 1}'
                    if self.source.num_classes else 'class id is below 1', where, f'ids {wrong}')
    unnamed = {int(value) for value in classes} - set(self.source.class_names) - set(wrong)
    if self.source.class_names and unnamed:
      self._problem('class id has no name', where, f'ids {sorted(unnamed)}')

  def _check_masks(self, masks, num_boxes, size, where):
    self._num_masks += len(masks)
    if len(masks) not in (0, num_boxes):
      self._problem('record has not one mask for each box', where)
    for number, mask in enumerate(masks, 1):
      try:
        with Image.open(io.BytesIO(mask)) as image:
          if image.size != size:
            self._problem("mask is not of the image's size", where, f'mask {number}')
      except OSError:
        self._problem('mask is broken', where, f'mask {number}')

  def _check_annotations(self):
    annotations = self.source.annotations
    if annotations is None:
      return
    boxes = collections.Counter(str(entry.get('image_id')) for entry in annotations['annotations'])
    listed = {str(entry.get('id')) for entry in annotations['images']}
    for image_id, number in self._num_boxes_by_id.items():
      if image_id not in listed:
        self._problem('image id of the records is not in the annotation file', f'id {image_id}')
      elif number != boxes[image_id]:
        self._problem('records and annotation file differ in boxes', f'id {image_id}',
                      f'{number} and {boxes[image_id]}')
    for image_id in sorted(listed - set(self._num_boxes_by_id)):
      self._problem('image id of the annotation file is not in the records', f'id {image_id}')

  @property
  def num_classes_needed(self) -> int:
    """Highest class id that is named or used, + 1."""
    return max(self.source.num_classes or 0, max(self._classes, default=0) + 1)

  def summary(self) -> Dict[str, Any]:
    """Counts and sizes as plain JSON types; box sides are in pixels and in [0, 1]."""
    per_image = self._boxes_per_image or [0]
    names = {**dict.fromkeys(self.source.class_names, 0), **self._classes}

    def percentiles(values):
      values = np.concatenate(values) if values else np.zeros(0)
      return {str(percent): round(float(np.percentile(values, percent)), 4)
              for percent in _PERCENTILES} if values.size else {}

    return dict(
        num_images=len(self._boxes_per_image), num_boxes=sum(self._boxes_per_image),
        num_masks=self._num_masks, num_crowd=self._num_crowd,
        images_without_boxes=self._boxes_per_image.count(0),
        boxes_per_image=dict(mean=round(float(np.mean(per_image)), 2), max=max(per_image)),
        boxes_per_class={self.source.class_names.get(key, str(key)): self._classes[key]
                         for key in sorted(names)},
        image_sizes={f'{width} x {height}': number
                     for (width, height), number in self._image_sizes.most_common()},
        box_side_pixels=percentiles(self._sides),
        box_side_relative=percentiles(self._relative_sides))


def check_overlap(checks: List[SplitCheck], findings: coco.Findings) -> None:
  """Reports images, equal byte for byte, that are in more than one split."""
  for position, check in enumerate(checks):
    for other in checks[position + 1:]:
      for digest in sorted(set(check.digests) & set(other.digests)):
        findings.add(other.source.name, 'problem', f'image is in {check.source.name} as well',
                     other.digests[digest], f'= {check.digests[digest]}')
