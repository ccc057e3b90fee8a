"""Counts and sizes of the boxes and images of one split."""
import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from official_ext.datasets.records import record_decoding

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def _percentiles(values: Sequence[np.ndarray]) -> dict[str, float]:
  """Returns percent -> percentile over all values; an empty dictionary without values."""
  joined = np.concatenate(values) if values else np.zeros(0)
  return {str(percent): round(float(np.percentile(joined, percent)), 4)
          for percent in _PERCENTILES} if joined.size else {}


class SplitStatistics:
  """Statistics of the records of one split.

  Attributes:
    num_boxes_by_id: image id -> number of boxes.
    num_tiny_boxes: boxes that lie in the first pixel of their image.
  """

  def __init__(self):
    self.num_boxes_by_id: dict[str, int] = {}
    self._boxes_per_class: collections.Counter[int] = collections.Counter()
    self._image_sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    self._boxes_per_image: list[int] = []
    self._sides: list[np.ndarray] = []
    self._relative_sides: list[np.ndarray] = []
    self.num_tiny_boxes = self._num_crowd = self._num_masks = 0

  @property
  def max_class_id(self) -> int:
    """The highest class id of a box, 0 without boxes."""
    return max(self._boxes_per_class, default=0)

  @property
  def num_boxes(self) -> int:
    """The number of boxes of all records."""
    return sum(self._boxes_per_image)

  @property
  def class_ids(self) -> set[int]:
    """The classes that have boxes."""
    return set(self._boxes_per_class)

  def add(self, decoded: record_decoding.Decoded) -> None:
    """Counts one record.

    Args:
      decoded: from `RecordDecoder`.
    """
    boxes = decoded['groundtruth_boxes']
    width, height = int(decoded['width']), int(decoded['height'])
    self.num_boxes_by_id[decoded['source_id'].decode(errors='replace')] = len(boxes)
    self._boxes_per_image.append(len(boxes))
    self._boxes_per_class.update(decoded['groundtruth_classes'].tolist())
    self._image_sizes[width, height] += 1
    self._num_crowd += int(decoded['groundtruth_is_crowd'].sum())
    self._num_masks += len(decoded['groundtruth_instance_masks_png'])
    self.num_tiny_boxes += int((boxes * (height, width, height, width) <= 1.001).all(axis=1).sum())
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    self._sides.append(np.sqrt((extent * (height, width)).prod(axis=1)))
    self._relative_sides.append(np.sqrt(extent.prod(axis=1)))

  def summary(self, class_names: Mapping[int, str]) -> dict[str, Any]:
    """Returns counts and sizes as plain JSON types.

    Args:
      class_names: class id -> name; classes without boxes are counted as well.

    Returns:
      Counts of images, boxes, masks, crowds, classes and image sizes. `box_side_pixels` and
      `box_side_relative` are percentiles of the square root of the box area, in pixels and in
      parts of the image.
    """
    per_image = self._boxes_per_image or [0]
    class_ids = sorted({*class_names, *self._boxes_per_class})
    return dict(
        num_images=len(self._boxes_per_image), num_boxes=self.num_boxes,
        num_masks=self._num_masks, num_crowd=self._num_crowd,
        images_without_boxes=self._boxes_per_image.count(0),
        boxes_per_image=dict(mean=round(float(np.mean(per_image)), 2), max=max(per_image)),
        boxes_per_class={class_names.get(number, str(number)): self._boxes_per_class[number]
                         for number in class_ids},
        image_sizes={f'{width} x {height}': number
                     for (width, height), number in self._image_sizes.most_common()},
        box_side_pixels=_percentiles(self._sides),
        box_side_relative=_percentiles(self._relative_sides))
