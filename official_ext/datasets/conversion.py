"""From annotations as they were read to checked examples: images, boxes, masks, categories."""
import collections
import io
import pathlib
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
from PIL import Image
from PIL import ImageOps
import tensorflow as tf

from official.vision.data import create_coco_tf_record
from official.vision.data import tfrecord_lib
from official_ext.datasets import coco
from official_ext.utils import command_line

MAX_BOXES = 100  # Model Garden's parsers keep so many by default (max_num_instances)

_ORIENTATION = 0x0112  # EXIF: 5 and above are turned by 90 degrees
_SHIFTED = 'category ids began at 0, which stands for background: all raised by one'
_RENUMBERED = 'image ids were not whole numbers: renumbered from 1'


def merge_categories(splits, findings) -> Tuple[List[Dict[str, Any]], int]:
  """Makes one list of the categories of all splits.

  Args:
    splits: `coco.Split` by name.
    findings: `coco.Findings`, told about ids from 0.

  Returns:
    The categories by ascending id, at least 1, and what was added to their ids.

  Raises:
    CommandError: an id is no whole number, stands for two names, or there is none at all.
  """
  names = {}
  for split in splits.values():
    for category in split.categories:
      number, name = category.get('id'), str(category.get('name'))
      if type(number) is not int or number < 0:
        raise command_line.CommandError(
            f'{split.source}: category id {number!r} of {name!r} is not a whole number >= 0.')
      if names.setdefault(number, name) != name:
        raise command_line.CommandError(
            f'{split.source}: category id {number} is both {names[number]!r} and {name!r}; '
            'use the same categories in all splits.')
  if not names:
    source = next(iter(splits.values())).source
    raise command_line.CommandError(f'{source} has no categories.')
  shift = 1 if 0 in names else 0
  if shift:
    for split in splits.values():
      findings.add(split.name, 'fixed', _SHIFTED, split.source)
  return [dict(id=number + shift, name=names[number]) for number in sorted(names)], shift


def read_image(path: pathlib.Path, size=None) -> Tuple[bytes, str, Tuple[int, int], str]:
  """Reads an image file in a form that Model Garden decodes.

  Args:
    path: the file.
    size: `(width, height)` that the annotations are for, if known; it tells whether they
      are for the image as a viewer turns it.

  Returns:
    The bytes, unchanged for 8-bit RGB or gray JPEG and PNG; `jpg` or `png`; width and
    height in pixels; what was done to it (empty if nothing).

  Raises:
    ValueError: it is not a complete image.
  """
  content = path.read_bytes()
  try:
    with Image.open(io.BytesIO(content)) as image:
      image.load()
      # A camera's file may say how to turn it; viewers do, Model Garden does not.
      is_turned = (image.getexif().get(_ORIENTATION, 1) >= 5 and
                   size == image.size[::-1] != image.size)
      formats = {'JPEG': 'jpg', 'MPO': 'jpg', 'PNG': 'png'}
      if image.format in formats and image.mode in ('RGB', 'L') and not is_turned:
        return content, formats[image.format], image.size, ''
      change = f'image was {image.format} {image.mode}: stored as PNG RGB'
      if is_turned:
        image, change = ImageOps.exif_transpose(image), 'image turned as its EXIF data say'
      if image.mode.startswith(('I', 'F')):
        pixels = np.asarray(image, np.float64)
        image = Image.fromarray(np.clip(pixels / 257 if pixels.max() > 255 else pixels, 0, 255)
                                .astype(np.uint8))
      image = image.convert('RGB')
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise ValueError(str(error)) from error
  encoded = io.BytesIO()
  image.save(encoded, 'PNG')
  return encoded.getvalue(), 'png', image.size, change


def _unique_images(split, findings) -> List[Dict[str, Any]]:
  """The images of a split with `original_id` and a numeric, unique `id`."""
  images, names, ids = [], set(), set()
  for image in split.images:
    name = image.get('file_name')
    if not isinstance(name, str) or not name:
      findings.add(split.name, 'dropped', 'image entry has no file_name', split.source,
                   f'id {image.get("id")}')
    elif name in names:
      findings.add(split.name, 'dropped', 'image is listed twice: only the first is kept', name)
    elif str(image.get('id')) in ids:
      findings.add(split.name, 'dropped', 'image id is that of another image', name,
                   f'id {image.get("id")}')
    else:
      names.add(name)
      ids.add(str(image.get('id')))
      images.append(dict(image, original_id=image.get('id')))
  # Model Garden reads the id as int64.
  if not all(type(image['id']) is int and 0 <= image['id'] < 2**63 for image in images):
    for number, image in enumerate(images, 1):
      image['id'] = number
    findings.add(split.name, 'fixed', _RENUMBERED, split.source)
  return images


class SplitConverter:
  """Makes the examples and the matching COCO annotations of one split in one pass."""

  def __init__(self, split, categories, category_shift, include_masks, findings):
    """Initializes the converter.

    Args:
      split: `coco.Split`.
      categories: of the result, from `merge_categories`.
      category_shift: what to add to the category ids of `split`.
      include_masks: whether to write masks; an object without a mask is dropped.
      findings: `coco.Findings`, told everything that is fixed or dropped.
    """
    self._split = split
    self._names = {category['id']: category['name'] for category in categories}
    self._shift = category_shift
    self._include_masks = include_masks
    self._findings = findings
    self._entries = _unique_images(split, findings)
    self._by_image = collections.defaultdict(list)
    known = {str(image['original_id']) for image in self._entries}
    for annotation in split.annotations:
      image_id = str(annotation.get('image_id'))
      if image_id in known:
        self._by_image[image_id].append(annotation)
      else:
        self._add('dropped', 'annotation is for an image that is not listed', split.source,
                  f'annotation {annotation.get("id")}, image id {image_id}')
    self.coco = dict(info=dict(description='written by official_ext.tools.convert_dataset'),
                     images=[], annotations=[], categories=categories)

  def __len__(self):
    return len(self._entries)

  def _add(self, outcome, reason, file, detail=''):
    self._findings.add(self._split.name, outcome, reason, file, detail)

  def _clean_annotation(self, annotation, image):
    """Returns a valid annotation and its mask, or raises ValueError with the reason."""
    category = annotation.get('category_id')
    category = category + self._shift if type(category) is int else None
    if category not in self._names:
      raise ValueError('category is unknown')
    width, height = image['width'], image['height']
    box, change = coco.clean_box(annotation.get('bbox'), width, height)
    if box is None:
      raise ValueError(change)
    if change:
      self._add('fixed', change, image['file_name'], f'annotation {annotation.get("id")}')
    cleaned = dict(image_id=image['id'], category_id=category, bbox=box,
                   iscrowd=int(bool(annotation.get('iscrowd'))))
    area = annotation.get('area')
    is_number = isinstance(area, (int, float)) and area > 0
    cleaned['area'] = float(area) if is_number and not change else box[2] * box[3]
    mask = None
    if self._include_masks:
      mask = coco.decode_mask(annotation.get('segmentation'), height, width)
      if not mask.any():
        raise ValueError('mask is empty')
      cleaned['segmentation'] = annotation['segmentation']
      if change:
        cleaned['area'] = float(mask.sum())
    return cleaned, mask

  def _clean_annotations(self, image, original_id):
    """Valid annotations of an image and their masks."""
    annotations, masks = [], []
    for annotation in self._by_image[str(original_id)]:
      try:
        cleaned, mask = self._clean_annotation(annotation, image)
      except ValueError as error:
        reason, _, more = str(error).partition(':')
        self._add('dropped', reason, image['file_name'],
                  f'annotation {annotation.get("id")}{more}')
        continue
      cleaned['id'] = len(self.coco['annotations']) + len(annotations) + 1
      annotations.append(cleaned)
      masks.append(mask)
    return annotations, masks

  def _read(self, entry):
    """Returns bytes and format, and sets the true size; ValueError if there is no image."""
    name = entry['file_name']
    path = self._split.find_image(name)
    if path is None:
      raise ValueError('image file is missing')
    listed = (entry.get('width'), entry.get('height'))
    try:
      content, encoding, size, change = read_image(path, listed)
    except ValueError as error:
      raise ValueError(f'image file is broken: {error}') from error
    if change:
      self._add('fixed', change, name)
    if all(listed) and listed != size:
      self._add('fixed', 'image size in the annotations is not that of the file', name,
                f'{listed[0]} x {listed[1]}, is {size[0]} x {size[1]}')
    return content, encoding, size

  def examples(self) -> Iterator[Tuple[Any, int]]:
    """Yields Model Garden's `tf.train.Example` of each image, and 0 for annotations skipped.

    Raises:
      RuntimeError: Model Garden would skip a box that was found valid here.
    """
    for entry in self._entries:
      try:
        content, encoding, (width, height) = self._read(entry)
      except ValueError as error:
        reason, _, more = str(error).partition(': ')
        self._add('dropped', reason, entry['file_name'], more)
        continue
      image = dict(id=entry['id'], file_name=entry['file_name'], width=width, height=height)
      annotations, masks = self._clean_annotations(image, entry['original_id'])
      self._note(image, annotations)
      features = tfrecord_lib.image_info_to_feature_dict(
          height, width, image['file_name'], image['id'], content, encoding)
      if annotations:
        boxes, num_skipped = create_coco_tf_record.bbox_annotations_to_feature_dict(
            annotations, height, width, self._names, include_masks=False)
        if num_skipped:
          raise RuntimeError(f'{image["file_name"]}: Model Garden skipped {num_skipped} boxes.')
        features.update(boxes)
        if self._include_masks:  # its own reader of masks cannot take run lengths
          features['image/object/mask'] = tfrecord_lib.convert_to_feature(
              [tfrecord_lib.encode_mask_as_png(mask) for mask in masks])
      self.coco['images'].append(image)
      self.coco['annotations'].extend(annotations)
      yield tf.train.Example(features=tf.train.Features(feature=features)), 0

  def _note(self, image, annotations):
    name = image['file_name']
    if not annotations:
      self._add('noted', 'image has no boxes: kept', name)
    if len(annotations) > MAX_BOXES:
      self._add('noted', f"image has more than {MAX_BOXES} boxes, the default of the parser's "
                'max_num_instances', name, str(len(annotations)))
    for annotation in annotations:
      if annotation['iscrowd']:
        self._add('noted', 'crowd box: kept as such', name)
