"""Shows one image at several budgets: what is detected, and what is switched off."""
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from official_ext.visualization import boxes

BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0)

_GIGA = 1e9
_SIDE = 480  # of a picture in pixels
_NAMED_GATES = 8


class AtBudget(NamedTuple):
  """The detections, cost and gates of an image at a budget.

  Attributes:
    budget: the budget.
    picture: the image with boxes, uint8 `[height, width, 3]`.
    gmac: 10^9 multiply-adds of the whole network.
    objects: number of drawn boxes.
    shut: what is switched off, in words.
  """
  budget: float
  picture: np.ndarray
  gmac: float
  objects: int
  shut: str


def draw(detector: Any, image: np.ndarray, threshold: float = 0.4, afterwards: float = 1.0
         ) -> list[AtBudget]:
  """Runs a detector on an image at every budget of `BUDGETS`.

  Args:
    detector: an `InMemoryDetector`.
    image: uint8 `[height, width, 3]`.
    threshold: least score of a box that is drawn.
    afterwards: the budget that the detector is left with.

  Returns:
    An entry for each budget; none if the detector takes no budget.
  """
  from official_ext.serving import coco_results
  from official_ext.serving import detection_pictures
  from official_ext.serving import labels as labels_lib
  if not detector.set_budget(1.0):
    return []
  labels = labels_lib.of_detector(detector, None)
  static = detector.module.module_of(image.shape[:2]).cost.static
  enlarged, factor = boxes.fit(image, _SIDE)
  found = []
  for budget in BUDGETS:
    detector.set_budget(budget)
    outputs, record = detector.inspect([image])
    detections = [item for item in coco_results.detections(outputs, 0, 0, False, labels)
                  if item['score'] >= threshold]
    found.append(AtBudget(
        budget, detection_pictures.draw(
            enlarged, [detection_pictures.scaled(item, factor) for item in detections], labels),
        (static + float(record.executed[0])) / _GIGA, len(detections),
        switched_off({name: gate[0] for name, gate in record.gates.items()})))
  detector.set_budget(afterwards)
  return found


def switched_off(gates: Mapping[str, np.ndarray]) -> str:
  """Says which gates are shut, or how many if there are many.

  Args:
    gates: name -> value as on a routing tape, without the batch dimension: a number, one number
      for each path of a choice, or a map of positions.
  """
  parts = {}
  for name, gate in gates.items():
    values = np.asarray(gate)
    if values.ndim == 1:
      parts.update({f'{name} path {path}': float(value) for path, value in enumerate(values)})
    else:
      parts[name] = float(np.mean(values > 0))
  shut = {name: share for name, share in parts.items() if share < 1}
  if not shut:
    return 'nothing'
  if len(shut) > _NAMED_GATES:
    return f'{1 - np.mean(list(parts.values())):.0%} of {len(parts)} gates'
  return ', '.join(name if not share else f'{1 - share:.0%} of {name}'
                   for name, share in shut.items())
