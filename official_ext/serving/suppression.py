"""Finishes what an export without suppression leaves to be done; NumPy alone, no TensorFlow.

`export_saved_model --nms=none` writes `suppression` into `export.json`:

  description = json.loads((folder / 'export.json').read_text())
  detections = suppression.finish(outputs, description['suppression'])
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

_FLOATS = ('detection_boxes', 'detection_scores')


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Returns intersection over union of a box `[4]` with boxes `[number, 4]`, float `[number]`."""
  low = np.maximum(box[:2], boxes[:, :2])
  high = np.minimum(box[2:], boxes[:, 2:])
  shared = np.prod(np.maximum(high - low, 0), -1)
  areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
  union = np.prod(box[2:] - box[:2]) + areas - shared
  return shared / np.maximum(union, np.finfo(np.float32).tiny)


def finish(outputs: Mapping[str, np.ndarray], rule: Mapping[str, Any]
           ) -> dict[str, np.ndarray]:
  """Turns decoded boxes and scores into detections, as an export with suppression does.

  Args:
    outputs: `decoded_boxes`, `[batch, boxes, classes or 1, 4]`, corners in pixels;
      `decoded_box_scores`, `[batch, boxes, classes]`; for FCOS and ATSS also
      `decoded_box_centerness`, `[batch, boxes]`.
    rule: `suppression` of `export.json`: `score_threshold`, `iou_threshold`, `max_detections`,
      `per_level` (the number of candidates of a level, or None), `best` (what it counts: `boxes`
      or `pairs`) and `levels` (the number of boxes of each level, in their order).

  Returns:
    `detection_boxes`, float32 `[batch, max_detections, 4]`, padded with zeros;
    `detection_scores`, float32 `[batch, max_detections]`; `detection_classes`, int32, from 1;
    `num_detections`, int32 `[batch]`.
  """
  centerness = outputs.get('decoded_box_centerness')
  images = [_image(boxes, scores, None if centerness is None else centerness[index], rule)
            for index, (boxes, scores) in enumerate(
                zip(outputs['decoded_boxes'], outputs['decoded_box_scores']))]
  size = rule['max_detections']
  shapes = {'detection_boxes': (size, 4), 'detection_scores': (size,),
            'detection_classes': (size,), 'num_detections': ()}
  return {name: np.array([image[name] for image in images],
                         np.float32 if name in _FLOATS else np.int32).reshape(len(images), *shape)
          for name, shape in shapes.items()}


def _image(boxes: np.ndarray, scores: np.ndarray, centerness: np.ndarray | None,
           rule: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the detections of one image."""
  has_area = np.all(boxes[..., 2:] > boxes[..., :2], -1)
  scores = np.where(has_area, scores, np.float32(0))
  rows, classes = _candidates(scores, rule)
  values = scores[rows, classes]
  if centerness is not None:
    values = np.sqrt(values * centerness[rows])
  found = boxes[rows, classes if boxes.shape[1] > 1 else 0]
  kept = _suppress(found, values, classes, rule['iou_threshold'], rule['max_detections'])
  padding = rule['max_detections'] - len(kept)
  return {
      'detection_boxes': np.pad(found[kept], [(0, padding), (0, 0)]).astype(np.float32),
      'detection_scores': np.pad(values[kept], (0, padding)).astype(np.float32),
      'detection_classes': np.pad(classes[kept], (0, padding)).astype(np.int32) + 1,
      'num_detections': np.asarray(len(kept), np.int32)}


def _candidates(scores: np.ndarray, rule: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the rows and classes of the pairs that take part."""
  limit, threshold = rule.get('per_level'), rule['score_threshold']
  if not limit:
    rows, classes = np.nonzero(scores > threshold)
    return rows, classes
  chosen, start = [], 0
  for size in rule['levels']:
    own = scores[start:start + size]
    if rule['best'] == 'boxes':
      best = own.max(-1)
      kept = np.flatnonzero(best > threshold)
      kept = kept[np.argsort(-best[kept], kind='stable')[:limit]]
      rows, classes = np.nonzero(own[kept] > threshold)
      rows = kept[rows]
    else:
      rows, classes = np.nonzero(own > threshold)
      order = np.argsort(-own[rows, classes], kind='stable')[:limit]
      rows, classes = rows[order], classes[order]
    chosen.append((rows + start, classes))
    start += size
  rows, classes = (np.concatenate(values) for values in zip(*chosen))
  return rows, classes


def _suppress(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou_threshold: float,
              max_detections: int) -> np.ndarray:
  """Returns indices of what is kept, best first."""
  order = np.argsort(-scores, kind='stable')
  order = order[scores[order] > 0]
  kept: list[int] = []
  while len(order) and len(kept) < max_detections:
    best, order = order[0], order[1:]
    kept.append(best)
    is_other = classes[order] != classes[best]
    order = order[is_other | (overlaps(boxes[best], boxes[order]) <= iou_threshold)]
  return np.asarray(kept, int)
