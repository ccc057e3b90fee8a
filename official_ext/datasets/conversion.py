"""Turns annotations as they were read into checked `tf.train.Example`s and COCO annotations."""
from collections.abc import Iterator
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official.vision.data import create_coco_tf_record
from official.vision.data import tfrecord_lib
from official_ext.datasets import annotation_cleaning
from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import doubts
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import image_sizes
from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_orientation
from official_ext.datasets.images import image_reading
from official_ext.datasets import normal_values
from official_ext.datasets.records import record_folder
from official_ext.datasets.records import shards
from official_ext.utils import command_line

MAX_BOXES = 100  # per image: the default of Model Garden's parser field `max_num_instances`

Entry = annotations_lib.Entry


class _Image(NamedTuple):
  """An image that was read.

  Attributes:
    entry: its COCO entry with the size of the file.
    encoded: its content.
    factor: from coordinates of the annotations to those of the file.
  """
  entry: Entry
  encoded: image_reading.EncodedImage
  factor: float

  @property
  def size(self) -> tuple[int, int]:
    """(width, height) of the file in pixels."""
    return self.encoded.size


class SplitConverter:
  """Makes the examples and the matching COCO annotations of one split in one pass.

  Attributes:
    coco: COCO annotations of the examples that `convert` has yielded so far.
    tally: counts for `doubts.tell`.
  """

  def __init__(self, split: annotations_lib.Split, categories: categories_lib.Categories,
               include_masks: bool, findings: findings_lib.Findings, *,
               keep_images_that_lost_labels: bool = False,
               max_pixels: int = image_files.MAX_PIXELS):
    """Initializes the converter.

    Args:
      split: the split as it was read.
      categories: of all splits, from `categories.merge`.
      include_masks: whether to write masks; an object without a mask is dropped.
      findings: told everything that is fixed or dropped.
      keep_images_that_lost_labels: whether an image is written though an annotation of it is
        dropped; the detector is then taught that there is nothing in its place. Annotations
        without area never count: there is nothing to lose.
      max_pixels: largest allowed width times height of an image.
    """
    self._reader = image_reading.ImageReader(max_pixels, self._files)
    self._listed = {image['file_name']: image_orientation.listed(image) for image in split.images
                    if isinstance(image.get('file_name'), str)}
    self._split = split
    self._keep_images_that_lost_labels = keep_images_that_lost_labels
    self.tally = doubts.SplitTally(split, categories)
    self._cleaner = annotation_cleaning.AnnotationCleaner(
        split.name, categories, include_masks, findings, self.tally)
    self._categories = categories
    self._findings = findings
    self._images = annotations_lib.unique_images(split, findings)
    self._annotations = annotations_lib.group_by_image(split, self._images, findings)
    self.coco: dict[str, Any] = dict(
        info=dict(description='written by official_ext.tools.convert_dataset'),
        images=[], annotations=[], categories=categories.to_coco())

  def __len__(self):
    """The number of images that the split lists."""
    return len(self._images)

  def convert(self) -> Iterator[tf.train.Example]:
    """Yields Model Garden's example of each image that can be used.

    Raises:
      RuntimeError: Model Garden would skip a box that was found valid here.
    """
    for listed in self._images:
      try:
        image = self._read_image(listed)
      except findings_lib.UnusableError as error:
        self._add('dropped', error.reason, listed.file_name, error.detail)
        continue
      annotations, masks, num_lost = self._clean_annotations(image, listed.original_id)
      if num_lost and not self._keep_images_that_lost_labels:
        self._add('dropped', 'image lost labels: left out', listed.file_name,
                  f'{num_lost} of {num_lost + len(annotations)}')
        continue
      self._note(image.entry, annotations, num_lost)
      example = self._example(image, annotations, masks)
      self.coco['images'].append(image.entry)
      self.coco['annotations'].extend(annotations)
      self.tally.add_image(listed.file_name, image.size,
                           hashlib.sha256(image.encoded.content).hexdigest(), annotations)
      yield example

  def _add(self, outcome: findings_lib.Outcome, reason: str, file: str, detail: str = '') -> None:
    """Records a finding about this split."""
    self._findings.add(self._split.name, outcome, reason, file, detail)

  def _read_image(self, listed: annotations_lib.ListedImage) -> _Image:
    """Reads an image; raises UnusableError if there is none."""
    name = listed.file_name
    found = self._split.locate_image(name)
    read = self._reader.read(found.path, self._listed[name], needs_pixels=False)
    encoded = read.encode()
    width, height = encoded.size
    if found.change:
      self._add('fixed', found.change, name, found.name)
      name = found.name
    for read_change in read.changes:
      self._add(read_change.outcome, read_change.reason, name)
    factor = image_sizes.scale(listed.size, encoded.size)
    change, detail = image_sizes.change(listed.size, encoded.size, factor)
    if change:
      self._add('fixed', change, name, detail)
    entry: Entry = dict(id=listed.id, file_name=name, width=width, height=height)
    if listed.id != listed.original_id:
      entry['original_id'] = listed.original_id
    if read.exif_orientation:
      entry['exif_orientation'] = read.exif_orientation
    return _Image(entry, encoded, factor)

  def _files(self) -> Iterator[tuple[pathlib.Path, image_orientation.Listed]]:
    """Yields the file of each image that is there, with what the annotations say of it."""
    for listed in self._images:
      path = self._split.find_image(listed.file_name)
      if path is not None:
        yield path, self._listed[listed.file_name]

  def _clean_annotations(self, image: _Image, original_id: Any
                         ) -> tuple[list[Entry], list[np.ndarray], int]:
    """Cleans the annotations of an image.

    Returns:
      The valid annotations; with `include_masks` their masks; how many objects of the image have
      lost their annotation.
    """
    annotations: list[Entry] = []
    masks: list[np.ndarray] = []
    num_lost = 0
    for annotation in self._annotations.get(normal_values.known_id(original_id), ()):
      try:
        cleaned, mask = self._cleaner.clean(annotation, image.entry, image.factor)
      except findings_lib.UnusableError as error:
        num_lost += error.reason != annotations_lib.NO_AREA
        self._add('dropped', error.reason, image.entry['file_name'],
                  f'annotation {annotation.get("id")} {error.detail}'.strip())
        continue
      cleaned['id'] = len(self.coco['annotations']) + len(annotations) + 1
      annotations.append(cleaned)
      if mask is not None:
        masks.append(mask)
    return annotations, masks, num_lost

  def _example(self, image: _Image, annotations: list[Entry], masks: list[np.ndarray]
               ) -> tf.train.Example:
    """Returns the example of one image in Model Garden's form."""
    entry, encoded = image.entry, image.encoded
    width, height = image.size
    features = tfrecord_lib.image_info_to_feature_dict(
        height, width, entry['file_name'], entry['id'], encoded.content, encoded.encoding)
    if annotations:
      boxes, num_skipped = create_coco_tf_record.bbox_annotations_to_feature_dict(
          annotations, height, width, self._categories.names, include_masks=False)
      if num_skipped:
        raise RuntimeError(f'{entry["file_name"]}: Model Garden skipped {num_skipped} boxes.')
      features.update(boxes)
      if masks:  # Model Garden's own function for masks cannot read run lengths
        features['image/object/mask'] = tfrecord_lib.convert_to_feature(
            [tfrecord_lib.encode_mask_as_png(mask) for mask in masks])
    return tf.train.Example(features=tf.train.Features(feature=features))

  def _note(self, image: Entry, annotations: list[Entry], num_lost: int) -> None:
    """Notes what is valid and may surprise: no boxes, more than the parser keeps, crowds."""
    name = image['file_name']
    if num_lost:
      self._add('noted', 'image lost labels: kept', name,
                f'{num_lost} of {num_lost + len(annotations)}')
    elif not annotations:
      self._add('noted', 'image has no boxes: kept', name)
    if len(annotations) > MAX_BOXES:
      self._add('noted', f"image has more than {MAX_BOXES} boxes, the default of the parser's "
                'max_num_instances', name, str(len(annotations)))
    for annotation in annotations:
      if annotation['iscrowd']:
        self._add('noted', 'crowd box: kept as such', name)


def write_split(converter: SplitConverter, name: str, folder: pathlib.Path, num_shards: int
                ) -> record_folder.SplitRecords:
  """Writes the records and the annotation file of a split, with progress on standard error.

  Args:
    converter: of the split.
    name: of the split.
    folder: to write into.
    num_shards: record files to write; fewer if the split has fewer images.

  Returns:
    What was written, for `record_folder.Dataset`.

  Raises:
    CommandError: the files cannot be written.
  """
  num_shards = max(1, min(num_shards, len(converter)))
  examples = command_line.progress(converter.convert(), f'converting {name}', len(converter))
  shards.write(examples, folder, name, num_shards)
  annotation_file = folder / 'annotations' / f'{name}.json'
  annotation_file.parent.mkdir(exist_ok=True)
  annotation_file.write_text(json.dumps(converter.coco))
  return record_folder.SplitRecords(
      num_images=len(converter.coco['images']), num_boxes=len(converter.coco['annotations']),
      file_pattern=shards.file_pattern(name), num_files=num_shards,
      annotation_file=f'annotations/{name}.json')
