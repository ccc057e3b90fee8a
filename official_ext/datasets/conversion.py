"""Turns annotations as they were read into checked `tf.train.Example`s and COCO annotations."""
import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import functools
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from official_ext.datasets import annotation_cleaning
from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import doubts
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import image_sizes
from official_ext.datasets import masks as masks_lib
from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_orientation
from official_ext.datasets.images import image_reading
from official_ext.datasets import normal_values
from official_ext.datasets.records import detection_examples
from official_ext.datasets.records import record_folder
from official_ext.datasets.records import shards
from official_ext.utils import command_line


Entry = annotations_lib.Entry
Result = TypeVar('Result')

# Images that wait for threads: at most so many, and those that are so many bytes.
_MAX_WAITING = 2 * (os.cpu_count() or 1)
_MAX_WAITING_BYTES = 200_000_000


class _Image(NamedTuple):
  """An image that was read.

  Attributes:
    name: of its file, as the annotations give it.
    entry: its COCO entry with the size of the file.
    read: its content.
    factor: from coordinates of the annotations to those of the file.
    annotations: its valid annotations.
    masks: of `annotations`; empty if masks are not written.
  """
  name: str
  entry: Entry
  read: image_reading.ReadImage
  factor: float
  annotations: list[Entry]
  masks: list[masks_lib.RunLengths]

  @property
  def is_laborious(self) -> bool:
    """Whether the image or masks have to be encoded."""
    return bool(self.masks) or self.read.original is None


class SplitConverter:
  """Makes the examples and the matching COCO annotations of one split in one pass.

  Attributes:
    coco: COCO annotations of the examples, when `convert` has yielded them all.
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
    self._names = categories.names
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
    """Yields Model Garden's example of each image that can be used, in the order of the split.

    Threads encode images and masks, without Python's lock, while the next images are read.
    """
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      for image, (digest, example) in _in_order(pool, self._example, self._usable_images()):
        self.tally.add_image(image.name, image.read.size, digest, image.annotations)
        yield example

  def _usable_images(self) -> Iterator[_Image]:
    """Yields the images that go into the records, and records what happens to the others."""
    for listed in self._images:
      try:
        image = self._read_image(listed)
      except findings_lib.UnusableError as error:
        self._add('dropped', error.reason, listed.file_name, error.detail)
        continue
      num_lost = self._clean_annotations(image, listed.original_id)
      if num_lost and not self._keep_images_that_lost_labels:
        self._add('dropped', 'image lost labels: left out', listed.file_name,
                  f'{num_lost} of {num_lost + len(image.annotations)}')
        continue
      self._note(image.entry, image.annotations, num_lost)
      self.coco['images'].append(image.entry)
      self.coco['annotations'].extend(image.annotations)
      yield image

  def _example(self, image: _Image) -> tuple[str, tf.train.Example]:
    """Returns the SHA-256 of an encoded image, and its example."""
    encoded = image.read.encode()
    digest = hashlib.sha256(encoded.content).hexdigest()
    return digest, detection_examples.make(
        detection_examples.Image(image.entry, encoded.content, encoded.encoding, digest),
        image.annotations, self._names, list(map(masks_lib.encode_png, image.masks)))

  def _add(self, outcome: findings_lib.Outcome, reason: str, file: str, detail: str = '') -> None:
    """Records a finding about this split."""
    self._findings.add(self._split.name, outcome, reason, file, detail)

  def _read_image(self, listed: annotations_lib.ListedImage) -> _Image:
    """Reads an image; raises UnusableError if there is none."""
    name = listed.file_name
    found = self._split.locate_image(name)
    read = self._reader.read(found.path, self._listed[name], needs_pixels=False)
    width, height = read.size
    if found.change:
      self._add('fixed', found.change, name, found.name)
      name = found.name
    for read_change in read.changes:
      self._add(read_change.outcome, read_change.reason, name)
    factor = image_sizes.scale(listed.size, read.size)
    change, detail = image_sizes.change(listed.size, read.size, factor)
    if change:
      self._add('fixed', change, name, detail)
    entry: Entry = dict(id=listed.id, file_name=name, width=width, height=height)
    if listed.id != listed.original_id:
      entry['original_id'] = listed.original_id
    if read.exif_orientation:
      entry['exif_orientation'] = read.exif_orientation
    return _Image(listed.file_name, entry, read, factor, [], [])

  def _files(self) -> Iterator[tuple[pathlib.Path, image_orientation.Listed]]:
    """Yields the file of each image that is there, with what the annotations say of it."""
    for listed in self._images:
      path = self._split.find_image(listed.file_name)
      if path is not None:
        yield path, self._listed[listed.file_name]

  def _clean_annotations(self, image: _Image, original_id: Any) -> int:
    """Adds the valid annotations and their masks to an image; returns how many objects it lost."""
    num_lost = 0
    for annotation in self._annotations.get(normal_values.known_id(original_id), ()):
      try:
        cleaned, mask = self._cleaner.clean(annotation, image.entry, image.factor)
      except findings_lib.UnusableError as error:
        num_lost += error.reason != annotations_lib.NO_AREA
        self._add('dropped', error.reason, image.entry['file_name'],
                  f'annotation {annotation.get("id")} {error.detail}'.strip())
        continue
      cleaned['id'] = len(self.coco['annotations']) + len(image.annotations) + 1
      image.annotations.append(cleaned)
      if mask is not None:
        image.masks.append(mask)
    return num_lost

  def _note(self, image: Entry, annotations: list[Entry], num_lost: int) -> None:
    """Notes what is valid and may surprise: no boxes, more than the parser keeps, crowds."""
    name = image['file_name']
    if num_lost:
      self._add('noted', 'image lost labels: kept', name,
                f'{num_lost} of {num_lost + len(annotations)}')
    elif not annotations:
      self._add('noted', 'image has no boxes: kept', name)
    if len(annotations) > record_folder.MAX_BOXES:
      self._add('noted', f'image has more than {record_folder.MAX_BOXES} boxes: overrides.yaml '
                'raises max_num_instances for it; max_num_detections limits what is found',
                name, str(len(annotations)))
    for annotation in annotations:
      if annotation['iscrowd']:
        self._add('noted', 'crowd box: kept as such', name)


def _in_order(pool: futures.Executor, function: Callable[[_Image], Result],
              images: Iterable[_Image]) -> Iterator[tuple[_Image, Result]]:
  """Yields each image and the function's result for it, in their order.

  Threads run it for images that have to be encoded; for others that would take longer.  An error
  of the function is raised with a note that names the image.
  """
  waiting: collections.deque[tuple[_Image, Callable[[], Result]]] = collections.deque()

  def first() -> tuple[_Image, Result]:
    image, result = waiting.popleft()
    try:
      return image, result()
    except Exception as error:
      error.add_note(f'The image is {image.entry["file_name"]}.')
      raise

  for image in images:
    waiting.append((image, pool.submit(function, image).result if image.is_laborious else
                    functools.partial(function, image)))
    while waiting and (not waiting[0][0].is_laborious or len(waiting) > _MAX_WAITING or sum(
        waiter.read.num_bytes for waiter, _ in waiting) > _MAX_WAITING_BYTES):
      yield first()
  while waiting:
    yield first()


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
  boxes = collections.Counter(
      annotation['image_id'] for annotation in converter.coco['annotations'])
  return record_folder.SplitRecords(
      num_images=len(converter.coco['images']), num_boxes=boxes.total(),
      file_pattern=shards.file_pattern(name), num_files=num_shards,
      annotation_file=f'annotations/{name}.json', max_boxes=max(boxes.values(), default=0))
