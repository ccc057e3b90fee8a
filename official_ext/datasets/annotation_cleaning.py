"""Turns an annotation as it was read into one that Model Garden accepts, or says why not."""
from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import doubts
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import masks as masks_lib
from official_ext.datasets import normal_values
from official_ext.datasets import segmentations

Entry = annotations_lib.Entry

_NOT_READ = findings_lib.UnusableError('segmentation was not read')


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
            ) -> tuple[Entry, masks_lib.RunLengths | None]:
    """Returns a valid annotation and, if masks are written, its mask.

    Args:
      annotation: COCO entry as it was read.
      image: COCO entry of its image, with the size of the file.
      factor: from coordinates of the annotations to those of the file.

    Raises:
      UnusableError: the annotation cannot be used.
    """
    segmentation = self._segmentation(annotation, image, factor)
    box, is_clipped = self._box(annotation, segmentation, image, factor)
    category = self._categories.record_id(annotation.get('category_id'), self._split)
    if category is None:
      number = annotation.get('category_id')
      # Readers of files that name classes, not ids, give the label that is none of them.
      given = (f'class {annotation["label"]!r}' if number is None and 'label' in annotation else
               f'id {number!r}')
      raise findings_lib.UnusableError('category is unknown', given)
    area = None if is_clipped else normal_values.positive(annotation.get('area'))
    cleaned: Entry = dict(
        image_id=image['id'], category_id=category, bbox=box,
        area=float(box[2] * box[3] if area is None else area * factor**2),
        iscrowd=int(normal_values.is_set(annotation.get('iscrowd'))))
    if not self._include_masks:
      return cleaned, None
    if isinstance(segmentation, findings_lib.UnusableError):
      raise segmentation
    runs = masks_lib.run_lengths(segmentation, image['height'], image['width'])
    num_pixels = masks_lib.area(runs)
    if not num_pixels:
      raise findings_lib.UnusableError('mask is empty')
    cleaned['segmentation'] = segmentation
    if area is None:
      cleaned['area'] = float(num_pixels)
    return cleaned, runs

  def _segmentation(self, annotation: Entry, image: Entry, factor: float
                    ) -> segmentations.Segmentation | findings_lib.UnusableError:
    """Returns the segmentation in the coordinates of the file, or why there is none.

    Without masks it is read where it is needed only: in place of a missing box, and beside the
    boxes whose form `doubts` looks at.
    """
    is_needed = (self._include_masks or annotation.get('bbox') in (None, []) or
                 self._tally.wants_form)
    if not is_needed:
      return _NOT_READ
    width, height = image['width'], image['height']
    try:
      segmentation, change = segmentations.normalize(
          annotation.get('segmentation'), height, width, factor)
    except findings_lib.UnusableError as error:
      return error
    if change and self._include_masks:
      self._tell(change, image, annotation)
    return segmentation

  def _box(self, annotation: Entry,
           segmentation: segmentations.Segmentation | findings_lib.UnusableError,
           image: Entry, factor: float) -> tuple[list[float], bool]:
    """Returns the box of an annotation in the file, and whether it was clipped."""
    width, height = image['width'], image['height']
    polygon_box = segmentations.bounds(segmentation) if isinstance(segmentation, list) else None
    if annotation.get('bbox') in (None, []):
      around = polygon_box or _box_of_runs(segmentation, height, width)
      if around:
        what = 'polygon' if polygon_box else 'mask'
        self._tell(f'annotation has no box: that around its {what} taken', image, annotation)
        box, change = annotations_lib.clean_box(around, width, height)
        return box, change == annotations_lib.CLIPPED
    values, _ = annotations_lib.read_box(annotation.get('bbox'))
    self._tally.add_box(values, (width, height), factor,
                        normal_values.positive(annotation.get('area')), polygon_box)
    box, change = annotations_lib.clean_box(annotation['bbox'], width, height, factor)
    if change:
      self._tell(change, image, annotation)
    if change == annotations_lib.CLIPPED:
      cut = max(values[2] * factor - box[2], values[3] * factor - box[3])
      self._tally.num_clipped += cut > 1
    return box, change == annotations_lib.CLIPPED

  def _tell(self, change: str, image: Entry, annotation: Entry) -> None:
    """Records that an annotation was changed."""
    self._findings.add(self._split, 'fixed', change, image['file_name'],
                       f'annotation {annotation.get("id")}')


def _box_of_runs(segmentation: segmentations.Segmentation | findings_lib.UnusableError,
                 height: int, width: int) -> list[int] | None:
  """Returns the box around run lengths from `segmentations.normalize`; None if they hold none."""
  if not isinstance(segmentation, dict):
    return None
  mask = masks_lib.decode_mask(segmentation, height, width)
  return masks_lib.tight_box(mask) if mask.any() else None
