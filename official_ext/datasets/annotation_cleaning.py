"""Turns an annotation as it was read into one that Model Garden accepts, or says why not."""
import numpy as np

from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import doubts
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import masks as masks_lib
from official_ext.datasets import normal_values
from official_ext.datasets import segmentations

Entry = annotations_lib.Entry


class AnnotationCleaner:
  """Cleans the annotations of a split."""

  def __init__(self, split: str, categories: categories_lib.Categories, include_masks: bool,
               findings: findings_lib.Findings, tally: doubts.SplitTally):
    """Initializes the cleaner.

    Args:
      split: name of the split.
      categories: of all splits.
      include_masks: whether masks are written; an object without a mask is unusable then.
      findings: told what is fixed.
      tally: told the numbers of each box.
    """
    self._split = split
    self._categories = categories
    self._include_masks = include_masks
    self._findings = findings
    self._tally = tally

  def clean(self, annotation: Entry, image: Entry, factor: float
            ) -> tuple[Entry, np.ndarray | None]:
    """Returns a valid annotation and, if masks are written, its mask.

    Args:
      annotation: COCO entry as it was read.
      image: COCO entry of its image, with the size of the file.
      factor: from coordinates of the annotations to those of the file.

    Raises:
      UnusableError: the annotation cannot be used.
    """
    segmentation, flaw = self._segmentation(annotation, image, factor)
    box, is_clipped = self._box(annotation, segmentation, image, factor)
    category = self._categories.record_id(annotation.get('category_id'), self._split)
    if category is None:
      raise findings_lib.UnusableError('category is unknown',
                                       f'id {annotation.get("category_id")!r}')
    area = normal_values.positive(annotation.get('area'))
    area = box[2] * box[3] if is_clipped or area is None else area * factor**2
    cleaned: Entry = dict(
        image_id=image['id'], category_id=category, bbox=box, area=float(area),
        iscrowd=int(normal_values.is_set(annotation.get('iscrowd'))))
    if not self._include_masks:
      return cleaned, None
    if flaw:
      raise flaw
    width, height = image['width'], image['height']
    mask = masks_lib.decode_mask(segmentation, height, width)
    if not mask.any():
      raise findings_lib.UnusableError('mask is empty')
    cleaned['segmentation'] = segmentation
    if is_clipped:
      cleaned['area'] = float(mask.sum())
    return cleaned, mask

  def _segmentation(self, annotation: Entry, image: Entry, factor: float
                    ) -> tuple[segmentations.Segmentation | None,
                               findings_lib.UnusableError | None]:
    """Returns the segmentation in the coordinates of the file, or None and what is wrong with it.

    Without masks it is read where it is needed only: in place of a missing box, and beside the
    boxes that `doubts` looks at.
    """
    is_needed = (self._include_masks or annotation.get('bbox') in (None, []) or
                 self._tally.wants_boxes)
    if not is_needed:
      return None, None
    width, height = image['width'], image['height']
    try:
      segmentation, change = segmentations.normalize(
          annotation.get('segmentation'), height, width, factor)
    except findings_lib.UnusableError as error:
      return None, error
    if change and self._include_masks:
      self._tell(change, image['file_name'], f'annotation {annotation.get("id")}')
    return segmentation, None

  def _box(self, annotation: Entry, segmentation: segmentations.Segmentation | None,
           image: Entry, factor: float) -> tuple[list[float], bool]:
    """Returns the box of an annotation in the file, and whether it was clipped."""
    width, height = image['width'], image['height']
    name, detail = image['file_name'], f'annotation {annotation.get("id")}'
    polygon_box = segmentations.bounds(segmentation) if isinstance(segmentation, list) else None
    if annotation.get('bbox') in (None, []) and polygon_box:
      self._tell('annotation has no box: that around its polygon taken', name, detail)
      box, change = annotations_lib.clean_box(polygon_box, width, height)
      return box, change == annotations_lib.CLIPPED
    values, _ = annotations_lib.read_box(annotation.get('bbox'))
    self._tally.add_box(values, (width, height), factor,
                        normal_values.positive(annotation.get('area')), polygon_box)
    box, change = annotations_lib.clean_box(annotation['bbox'], width, height, factor)
    if change:
      self._tell(change, name, detail)
    lengths = [value * factor for value in values[2:]]
    self._tally.num_clipped += max(lengths[0] - box[2], lengths[1] - box[3]) > 1
    return box, change == annotations_lib.CLIPPED

  def _tell(self, change: str, file: str, detail: str) -> None:
    """Records that an annotation was changed."""
    self._findings.add(self._split, 'fixed', change, file, detail)
