"""Gives the outputs of two runs of one network a form in which they can be compared."""
from collections.abc import Mapping
from typing import Any

import numpy as np

from official_ext.serving import ties

Outputs = Mapping[str, Any]

_PROPOSALS = ('decoded_boxes', 'decoded_box_scores')


def align(expected: Outputs, actual: Outputs, description: Mapping[str, Any], limit: float
          ) -> tuple[Outputs, Outputs]:
  """Returns the outputs of both runs, with detections in pixels and proposals in one order.

  Without suppression a two-stage detector has a row for each proposal, in the order of scores that
  are not among the outputs.  Rounding decides between equal ones.

  Args:
    expected: outputs of the first run, by name.
    actual: of the second one.
    description: the content of `export.json`.
    limit: the largest allowed distance of boxes, in pixels.
  """
  if description.get('normalized_boxes') and 'image_info' in expected:
    info = np.asarray(expected['image_info'])
    return _in_pixels(expected, info), _in_pixels(actual, info)
  rule = description.get('suppression')
  if rule is None or rule['levels']:
    return expected, actual
  return expected, _ordered(expected, actual, limit)


def _in_pixels(outputs: Outputs, info: np.ndarray) -> Outputs:
  """Returns outputs whose boxes are pixels of the resized image in place of shares of the image.

  Args:
    outputs: by name.
    info: Model Garden's image info, `[batch, 4, 2]`: size, wanted size, scale, offset.
  """
  boxes = np.asarray(outputs.get('detection_boxes', ()))
  if boxes.ndim != 3 or len(boxes) != len(info):
    return outputs
  return {**outputs, 'detection_boxes': boxes * np.tile(info[:, 0] * info[:, 2], 2)[:, None]}


def _ordered(expected: Outputs, actual: Outputs, limit: float) -> Outputs:
  """Returns the second run with its proposals in the order of the first one."""
  wanted, got = ([np.asarray(outputs.get(name, ())) for name in _PROPOSALS]
                 for outputs in (expected, actual))
  if [each.shape for each in wanted] != [each.shape for each in got]:
    return actual
  orders = [_order(*values, limit) for values in zip(wanted[0], wanted[1], got[0], got[1])]
  return {**actual, **{
      name: np.stack([image[order] for image, order in zip(values, orders)])
      for name, values in zip(_PROPOSALS, got) if orders}}


def _order(wanted_boxes: np.ndarray, wanted_scores: np.ndarray, boxes: np.ndarray,
           scores: np.ndarray, limit: float) -> np.ndarray:
  """Returns the rows of an image that are the wanted ones; others fill what is left, in order.

  Args:
    wanted_boxes: `[proposals, classes or 1, 4]`.
    wanted_scores: `[proposals, classes]`.
    boxes: of the shape of `wanted_boxes`.
    scores: of the shape of `wanted_scores`.
    limit: the largest allowed distance of boxes.
  """
  number = len(boxes)
  wanted, found = (
      np.concatenate([each.reshape(number, -1) / limit, own / ties.SCORES], -1)
      for each, own in ((wanted_boxes, wanted_scores), (boxes, scores)))
  order = np.arange(number)
  moved = np.flatnonzero(~(np.max(np.abs(wanted - found), -1, initial=0.0) <= 1))
  free, lacking = list(moved), []
  for row in moved:
    apart = np.max(np.abs(found[free] - wanted[row]), -1)
    if np.any(apart <= 1):
      order[row] = free.pop(int(np.nanargmin(apart)))
    else:
      lacking.append(row)
  order[lacking] = free
  return order
