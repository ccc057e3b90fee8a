"""A person's COCO annotation file as evaluation needs it: complete, under its own ids.

The ids, names and flags are those that a conversion would see.  Boxes stay as they are: clipping
or dropping them, as a conversion does, would give the precision of other boxes than the file's.
"""
from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np
from pycocotools import mask as mask_lib

from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import masks
from official_ext.datasets import normal_values
from official_ext.datasets import readers
from official_ext.utils import command_line

Entry = annotations_lib.Entry
Id = normal_values.Id


class Truth:
  """An annotation file.

  Image and category ids are the file's: text as it is written, and 1 for 1.0.

  Attributes:
    path: the file.
    flag: the command's flag that gave it.
    images: its images, each file name and each id once.
    image_entries: image id -> its entry in the file.
    categories: its classes; `original_id` is the id in the file.
    entries: their entries in the file.
    annotations: image id -> annotations in the order of the file, with a number as `id`, `bbox`,
      `area` (that of the box if the file gives none), `iscrowd` and the `segmentation` of the
      file.
    findings: what of the file cannot be used.
  """

  def __init__(self, path: pathlib.Path, flag: str = '--annotation_file'):
    """Reads the file.

    Args:
      path: COCO JSON; `annotations` and `categories` may be missing.
      flag: the command's flag that gave the file, for error messages.

    Raises:
      CommandError: it cannot be read, or its images or categories are ambiguous.
    """
    try:
      content = readers.load_annotations(path, optional=('annotations', 'categories'))
    except command_line.CommandError as error:
      raise command_line.CommandError(f'{flag}: {error}') from error
    self.path, self.flag = path, flag
    self.findings = findings_lib.Findings()
    split = annotations_lib.Split('val', str(path), content['images'], content['annotations'],
                                  content['categories'], [])
    self.images = annotations_lib.unique_images(split, self.findings)
    by_id = {normal_values.normal_id(entry.get('id')): entry for entry in content['images']}
    self.image_entries: dict[Id, Entry] = {
        image.original_id: by_id[normal_values.normal_id(image.original_id)]
        for image in self.images}
    self.entries: list[Entry] = content['categories']
    self.categories = categories_lib.UNKNOWN
    if self.entries:
      self.categories = categories_lib.merge({'val': split}, self.findings)
    self._own_ids = self.categories.original_ids
    grouped = annotations_lib.group_by_image(split, self.images, self.findings)
    self.annotations: dict[Id, list[Entry]] = {}
    self._without_area: set[int] = set()  # ids of annotations
    number = 0
    for image in self.images:
      usable = []
      for annotation in grouped.get(normal_values.known_id(image.original_id), ()):
        completed = self._complete(annotation, image)
        if completed:
          number += 1  # pycocotools takes the id 0 for no object
          usable.append(dict(completed, id=number))
          if normal_values.positive(annotation.get('area')) is None:
            self._without_area.add(number)
      self.annotations[image.original_id] = usable

  @property
  def used(self) -> set[Id]:
    """The ids of the categories that annotations have."""
    return {annotation['category_id'] for group in self.annotations.values()
            for annotation in group}

  @property
  def names(self) -> dict[Id, str]:
    """Category id -> name."""
    return {category.original_id: category.name for category in self.categories}

  def dropped(self) -> dict[str, list[str]]:
    """Returns reason -> places in the file that cannot be used."""
    return {item['reason']: [' '.join(filter(None, (entry['file'], entry['detail'])))
                             for entry in item['items']]
            for item in self.findings.to_json() if item['outcome'] == 'dropped'}

  def _complete(self, annotation: Entry, image: annotations_lib.ListedImage) -> Entry | None:
    """Returns an annotation with all fields that evaluation reads, or None if it has no box."""
    number = self.categories.record_id(annotation.get('category_id'), 'val')
    box = _box(annotation, image)
    where = f'annotation {annotation.get("id")}'
    if number is None:
      self.findings.add('val', 'dropped', 'category is unknown', image.file_name, where)
      return None
    if box is None or min(box[2:]) < 0:
      self.findings.add('val', 'dropped', 'box is not four numbers with a size', image.file_name,
                        where)
      return None
    return {'image_id': image.original_id, 'category_id': self._own_ids[number], 'bbox': box,
            'area': normal_values.positive(annotation.get('area')) or box[2] * box[3],
            'iscrowd': int(normal_values.is_set(annotation.get('iscrowd'))),
            'segmentation': annotation.get('segmentation')}

  def to_coco(self, include_masks: bool) -> tuple[Entry, Mapping[Id, int], Mapping[Id, int]]:
    """Returns the file as pycocotools reads it, whose ids are whole numbers.

    Args:
      include_masks: whether to add the masks.

    Returns:
      The content of a COCO file, with masks only if every annotation has one, and image id ->
      number and category id -> number in it. With masks, an area that the file does not give is
      that of the mask, as areas of COCO are.
    """
    images = {image.original_id: image.id for image in self.images}
    categories = {category.original_id: category.id for category in self.categories}
    found = [dict(annotation, image_id=images[image], segmentation=None,
                  category_id=categories[annotation['category_id']])
             for image, group in self.annotations.items() for annotation in group]
    encoded = self._masks() if include_masks else None
    for annotation in found:
      if encoded is None:
        del annotation['segmentation']
      else:
        annotation['segmentation'] = encoded[annotation['id']]
        if annotation['id'] in self._without_area:
          annotation['area'] = float(masks.area(annotation['segmentation']))
    listed = []
    for image in self.images:
      width, height = _size(image)
      listed.append(
          {'id': image.id, 'file_name': image.file_name, 'width': width, 'height': height})
    return ({'info': {}, 'images': listed, 'annotations': found,
             'categories': self.categories.to_coco()}, images, categories)

  def _masks(self) -> dict[int, Any] | None:
    """Returns annotation id -> run lengths, or None if an annotation has no mask."""
    encoded = {}
    for image in self.images:
      for annotation in self.annotations[image.original_id]:
        try:
          mask = _decode(annotation['segmentation'], image)
        except findings_lib.UnusableError:
          return None
        encoded[annotation['id']] = mask_lib.encode(np.asfortranarray(mask))
    return encoded


def _box(annotation: Entry, image: annotations_lib.ListedImage) -> list[float] | None:
  """Returns the box of an annotation, or that around its mask; None if it has none."""
  try:
    if annotation.get('bbox'):
      return annotations_lib.read_box(annotation['bbox'])[0]
    mask = _decode(annotation.get('segmentation'), image)
  except findings_lib.UnusableError:
    return None
  return [float(value) for value in masks.tight_box(mask)] if mask.any() else None


def _size(image: annotations_lib.ListedImage) -> tuple[int, int]:
  """Returns width and height of an image in pixels as the file gives them; 0 if it does not."""
  width, height = (int(normal_values.positive(side) or 0) for side in image.size)
  return width, height


def _decode(segmentation: Any, image: annotations_lib.ListedImage) -> np.ndarray:
  """Returns a mask, uint8 `[height, width]`; raises UnusableError if there is none."""
  width, height = _size(image)
  if not width or not height:
    raise findings_lib.UnusableError('image has no size')
  return masks.decode_mask(segmentation, height, width)
