"""Turns the outputs of a detector into COCO's results format, and evaluates them."""
from collections.abc import Sequence
import contextlib
import copy
import io
from typing import Any

import numpy as np
from official.vision.ops import mask_ops
from pycocotools import coco
from pycocotools import cocoeval
from pycocotools import mask as mask_lib

from official_ext.datasets import normal_values
from official_ext.datasets import truth as truth_lib
from official_ext.serving import labels as labels_lib

Id = normal_values.Id

# Kind of object of pycocotools -> how our names of its results begin.
_PREFIXES = {'bbox': '', 'segm': 'mask_'}
_STATISTICS = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large')


def original_boxes(outputs: dict[str, np.ndarray], row: int, normalized: bool) -> np.ndarray:
  """Returns boxes in pixels of the image before it was resized.

  They are float32, not rounded and not clipped, exactly those that Model Garden's evaluator makes,
  so that predictions and a training's evaluation have the same average precision. A box may
  reach beyond the image as far as the padding of the network's input does.

  Args:
    outputs: outputs of a detector by name, `[batch, ...]`.
    row: index of the image in the batch.
    normalized: whether the boxes are shares of the image, not pixels of the resized image.

  Returns:
    float32 `[boxes, 4]`, `[y1, x1, y2, x2]`.
  """
  boxes, info = outputs['detection_boxes'][row].astype(np.float32), outputs['image_info'][row]
  if normalized:
    return boxes * np.tile(info[0], 2)
  return (boxes + np.tile(info[3], 2)) / np.tile(info[2], 2)


def detections(outputs: dict[str, np.ndarray], row: int, image_id: Id, normalized: bool,
               labels: labels_lib.Labels) -> list[dict[str, Any]]:
  """Returns the detections of one image in COCO's results format, best first.

  Args:
    outputs: outputs of a detector by name, `[batch, ...]`.
    row: index of the image in the batch.
    image_id: COCO id of the image.
    normalized: whether the boxes are shares of the image, not pixels of the resized image.
    labels: give the category ids.
  """
  boxes = original_boxes(outputs, row, normalized)
  found = []
  for index in range(int(outputs['num_detections'][row])):
    y1, x1, y2, x2 = boxes[index]
    found.append({
        'image_id': image_id,
        'category_id': labels.category_id(int(outputs['detection_classes'][row, index])),
        'bbox': [float(value) for value in (x1, y1, x2 - x1, y2 - y1)],
        'score': float(outputs['detection_scores'][row, index]),
    })
  return found


def add_masks(found: list[dict[str, Any]], masks: np.ndarray, height: int, width: int) -> None:
  """Adds `segmentation` to detections.

  Args:
    found: detections of one image, as `detections` returns them.
    masks: `[boxes, size, size]`, probabilities over the area of each box.
    height: height of the image in pixels.
    width: width of the image in pixels.
  """
  for detection, mask in zip(found, masks):
    pasted = mask_ops.paste_instance_masks(
        mask[None], np.array([detection['bbox']], np.float32), height, width)[0]
    encoded = mask_lib.encode(np.asfortranarray(pasted.astype(np.uint8)))
    detection['segmentation'] = {**encoded, 'counts': encoded['counts'].decode()}


def gates(outputs: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
  """Returns name -> value for the gates of one image."""
  return {name.removeprefix('gate_'): value[row]
          for name, value in sorted(outputs.items()) if name.startswith('gate_')}


def cost_entry(outputs: dict[str, np.ndarray], row: int) -> dict[str, Any]:
  """Returns cost and gates of one image; a gate per position becomes its share of open ones."""
  entry: dict[str, Any] = {
      name: float(outputs[name][row])
      for name in ('multiply_adds', 'executed_multiply_adds') if name in outputs}
  decided = gates(outputs, row)
  if decided:
    entry['gates'] = {name: gate.tolist() if gate.ndim < 2 else float(np.mean(gate > 0))
                      for name, gate in decided.items()}
  return entry


def average_precision(truth: truth_lib.Truth, predictions: Sequence[dict[str, Any]],
                      image_ids: Sequence[Id]) -> dict[str, float]:
  """Evaluates detections with pycocotools.

  Args:
    truth: the annotation file.
    predictions: detections of all images in COCO's results format, under the ids of the file.
    image_ids: ids of the images to evaluate, also of those without a detection.

  Returns:
    `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium` and `ap_large` of boxes, in [0, 1], or -1 if
    there is no object to find.  If both the annotations and the detections have masks, also
    `mask_ap` and so on.
  """
  results = {}
  with contextlib.redirect_stdout(io.StringIO()):
    for kind, evaluation in _evaluations(truth, predictions, image_ids).items():
      evaluation.accumulate()
      evaluation.summarize()
      results.update({f'{_PREFIXES[kind]}{name}': float(value)
                      for name, value in zip(_STATISTICS, evaluation.stats)})
  return results


def precision_interval(truth: truth_lib.Truth, predictions: Sequence[dict[str, Any]],
                       image_ids: Sequence[Id], resamples: int) -> tuple[float, float]:
  """Returns how far the AP of boxes depends on which images there are, by a bootstrap over them.

  Args:
    truth: as in `average_precision`.
    predictions: as there.
    image_ids: as there.
    resamples: number of times that as many images are drawn with repetition.

  Returns:
    The 2.5th and the 97.5th percentile of the AP, those of -1, without an object to find, left out;
    twice -1 if all are.
  """
  random = np.random.default_rng(0)
  with contextlib.redirect_stdout(io.StringIO()):
    evaluation = _evaluations(truth, predictions, image_ids)['bbox']
    options = evaluation.params
    number = len(options.imgIds)
    # One entry for each class, range of areas and image; AP is that of the first range.
    found = np.array(evaluation.evalImgs, object).reshape(
        len(options.catIds), len(options.areaRng), number)[:, :1]
    options.areaRng, options.areaRngLbl = options.areaRng[:1], options.areaRngLbl[:1]
    options.maxDets = options.maxDets[-1:]
    evaluation._paramsEval = copy.deepcopy(options)
    options.imgIds = evaluation._paramsEval.imgIds = list(range(number))
    values = []
    for _ in range(resamples):
      evaluation.evalImgs = list(found[:, :, random.integers(0, number, number)].ravel())
      evaluation.accumulate()
      precision = evaluation.eval['precision']
      if np.any(precision > -1):
        values.append(np.mean(precision[precision > -1]))
  if not values:
    return -1.0, -1.0
  low, high = np.percentile(values, [2.5, 97.5])
  return float(low), float(high)


def _evaluations(truth: truth_lib.Truth, predictions: Sequence[dict[str, Any]],
                 image_ids: Sequence[Id]) -> dict[str, cocoeval.COCOeval]:
  """Returns what pycocotools has matched, of `bbox` and, where there are masks, of `segm`."""
  has_masks = bool(predictions) and all('segmentation' in item for item in predictions)
  content, images, categories = truth.to_coco(has_masks)
  # Detections of classes that the file does not have are of no object that it could have.
  numbered = [{**detection, 'image_id': images[detection['image_id']],
               'category_id': categories[detection['category_id']]}
              for detection in predictions if detection['category_id'] in categories]
  has_masks = has_masks and all('segmentation' in item for item in content['annotations'])
  known = coco.COCO()
  known.dataset = content
  known.createIndex()
  found = known.loadRes(numbered) if numbered else coco.COCO()
  evaluations = {}
  for kind in list(_PREFIXES)[:1 + has_masks]:
    evaluations[kind] = cocoeval.COCOeval(known, found, kind)
    evaluations[kind].params.imgIds = sorted(images[image_id] for image_id in image_ids)
    evaluations[kind].evaluate()
  return evaluations
