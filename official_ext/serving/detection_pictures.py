"""Draws detections in COCO's results format on their image."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from official_ext.serving import labels as labels_lib
from official_ext.visualization import boxes


def draw(image: np.ndarray, found: Sequence[Mapping[str, Any]], labels: labels_lib.Labels
         ) -> np.ndarray:
  """Draws boxes, masks, names and scores.

  Args:
    image: uint8 `[height, width, 3]`; it is not changed.
    found: detections of the image in COCO's results format.
    labels: what the categories are called.

  Returns:
    A new uint8 image of the same size.
  """
  corners = np.array([[y, x, y + h, x + w] for x, y, w, h in (d['bbox'] for d in found)])
  names = [labels.name(d['category_id']) for d in found]
  masks = None
  if found and 'segmentation' in found[0]:
    from pycocotools import mask as mask_lib
    masks = np.stack([mask_lib.decode(d['segmentation']) for d in found])
  return boxes.draw_boxes(image, corners, names, [d['score'] for d in found], masks)


def scaled(detection: Mapping[str, Any], factor: float) -> dict[str, Any]:
  """Returns a detection in an image that was scaled by a factor; masks are left out."""
  return {**{name: value for name, value in detection.items() if name != 'segmentation'},
          'bbox': [factor * side for side in detection['bbox']]}
