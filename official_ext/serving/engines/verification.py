"""Compares a converted detector with its SavedModel on images."""
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving import alignment
from official_ext.serving import export_checks
from official_ext.serving.engines import inputs
from official_ext.serving import ties

Outputs = Mapping[str, np.ndarray]

# The largest allowed difference of outputs: scores and masks are probabilities, boxes in pixels.
_TOLERANCES = {
    'decoded_box_scores': 1e-3, 'decoded_box_centerness': 1e-3, 'decoded_boxes': 0.05,
    'detection_scores': 1e-3, 'detection_boxes': 0.05, 'detection_masks': 0.01,
    'raw_scores': 1e-3, 'raw_boxes': 1e-3, 'image_info': 1e-3}
# The relative error of sums of costs.
_ROUNDING = 1e-6


# A detector has all outputs of one of these.
_OUTPUTS = ({'detection_boxes', 'detection_scores', 'detection_classes'}, {'decoded_boxes'},
            {'raw_boxes'})


def can_compare(outputs: Iterable[str]) -> bool:
  """Returns whether outputs with these names are those of a detector, which `compare` knows."""
  names = set(outputs)
  return any(wanted <= names for wanted in _OUTPUTS)


class Difference(NamedTuple):
  """How an output differs.

  Attributes:
    value: of scores and boxes the largest absolute difference, of costs the largest relative one,
      of gates the share that is open in one engine and shut in the other, of
      `exchanged_detections` the share that only one engine has, and of `single_detections` the
      number of images with one that only one engine has, see `ties`.
    limit: the largest allowed value.
  """
  value: float
  limit: float

  @property
  def is_number(self) -> bool:
    """Whether both have the output, in the same shape, and all its values are numbers."""
    return bool(np.isfinite(self.value))

  @property
  def is_allowed(self) -> bool:
    """Whether the difference is a number up to the limit."""
    return self.value <= self.limit


def compare(expected: Callable[..., Outputs], actual: Callable[..., Outputs],
            calls: Iterable[inputs.Call], description: Mapping[str, Any] | None = None
            ) -> dict[str, Difference]:
  """Runs two detectors on the same images.

  Costs of images are equal up to rounding, unless gates of positions differ.

  Args:
    expected: the SavedModel: images and scalars -> outputs by name.
    actual: the converted model.
    calls: images and scalars.
    description: the content of `export.json`, which says how to read the outputs; None: boxes in
      pixels, and rows that have their order.

  Returns:
    Output -> its largest difference, NaN if a value is NaN in one of the two; infinity if an
    output is missing or has another shape.
  """
  found: dict[str, Difference] = {}
  singles, images = 0, 0
  for call in calls:
    wanted, got = alignment.align(
        expected(*call), actual(*call), description or {}, _TOLERANCES['decoded_boxes'])
    if 'detection_boxes' in wanted and 'detection_boxes' in got:
      first, second = ({name: each[name] for name in wanted if name in got}
                       for each in (wanted, got))
      detections = ties.difference(first, second, _TOLERANCES['detection_boxes'])
      singles, images = singles + detections.single, images + len(wanted['detection_boxes'])
    else:
      detections = None
    for name, difference in _differences(wanted, got, detections).items():
      before = found.get(name, difference)
      found[name] = Difference(
          float(np.maximum(before.value, difference.value)), max(before.limit, difference.limit))
  if images:
    found['single_detections'] = Difference(singles, ties.allowed_singles(images))
  return found


def _differences(wanted: Outputs, got: Outputs, detections: ties.Difference | None
                 ) -> dict[str, Difference]:
  """Returns the differences of all outputs that are compared, for one batch.

  Args:
    wanted: of the SavedModel.
    got: of the converted model.
    detections: how their detections differ; None if one has no boxes.
  """
  of_detections = {} if detections is None else {
      'detection_boxes': detections.distance, 'detection_scores': detections.scores,
      **({'detection_masks': detections.masks} if 'detection_masks' in got else {})}
  found: dict[str, Difference] = {}
  if detections is not None:
    found['exchanged_detections'] = Difference(detections.exchanged, ties.SHARE)
    if 'num_detections' in wanted:
      found['num_detections'] = Difference(
          _largest(wanted['num_detections'], got.get('num_detections')), detections.changed)
  for name, value in wanted.items():
    if name in of_detections:
      found[name] = Difference(of_detections[name], _TOLERANCES[name])
    elif name in _TOLERANCES:
      found[name] = Difference(_largest(value, got.get(name)), _TOLERANCES[name])
    elif name.startswith(export_checks.FEATURES):
      found[name] = Difference(
          _largest(value, got.get(name)), export_checks.allowed_difference(value))
    elif name.startswith('gate_'):
      found[name] = Difference(
          _switched(value, got.get(name)), export_checks.allowed_positions(value))
  # Without the cost of a position, the share of positions limits the share of the cost.
  differ = any(difference.value > 0 for name, difference in found.items()
               if name.startswith('gate_'))
  for name in ('multiply_adds', 'executed_multiply_adds'):
    if name in wanted:
      largest = _largest(wanted[name], got.get(name))
      found[name] = Difference(
          largest / max(float(np.max(wanted[name])), 1.0),
          2 * export_checks.POSITIONS if differ else _ROUNDING)
  return found


def _largest(wanted: np.ndarray, got: np.ndarray | None) -> float:
  """Returns the largest absolute difference."""
  if got is None or np.shape(wanted) != np.shape(got):
    return float('inf')
  return float(np.max(np.abs(np.subtract(wanted, got, dtype=np.float64)), initial=0.0))


def _switched(wanted: np.ndarray, got: np.ndarray | None) -> float:
  """Returns the share of gates that only one of the two has open."""
  if got is None or np.shape(wanted) != np.shape(got):
    return float('inf')
  return float(np.mean((wanted > 0) != (got > 0))) if np.size(wanted) else 0.0
