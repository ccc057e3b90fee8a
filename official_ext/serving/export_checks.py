"""Compares the outputs of an export with those of the model in memory."""
from collections.abc import Mapping
from typing import Any

import numpy as np

from official_ext.utils import command_line

# Scores and the like may differ by this much, and numbers above 1, such as boxes, in proportion
# where that is more.  Norms over few positions multiply rounding: boxes of a dynamic head that was
# trained for 200 steps differed by 0.009 of 256 pixels, with every gate alike.
TOLERANCE, RELATIVE_TOLERANCE = 1e-3, 1e-4
_COMPARED = ('detection_scores', 'detection_boxes', 'detection_masks', 'raw_boxes', 'raw_scores',
             'decoded_boxes', 'decoded_box_scores', 'decoded_box_centerness')
_EXACT = ('num_detections',)
_COSTS = ('multiply_adds', 'executed_multiply_adds')
# The share of positions at which a gate of positions may be open on one side only: their logits lie
# within rounding of the threshold.  Of a small map it may be one position.
POSITIONS = 1e-3


class Comparison:
  """Gathers differences over batches of images.

  Attributes:
    differences: output -> largest absolute difference, NaN if one is NaN; of a gate the share of
      images or positions for which it is open in one of the two only.
  """

  def __init__(self):
    self.differences: dict[str, float] = {}
    self._wrong: dict[str, tuple[float, float]] = {}  # with what was allowed for that batch

  def add(self, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Compares the outputs of a batch.

    Args:
      expected: of the model in memory.
      actual: of the export.
    """
    # Without the cost of a position, the share of positions limits the share of the cost.
    differ = any(np.any((np.asarray(value) > 0) != (np.asarray(actual[name]) > 0))
                 for name, value in expected.items() if name.startswith('gate_'))
    for name, value in expected.items():
      wanted, got = np.asarray(value), np.asarray(actual[name])
      allowed = 0.0
      if name.startswith('gate_'):
        difference = float(np.mean((wanted > 0) != (got > 0)))
        allowed = allowed_positions(wanted)
      elif name == 'detection_boxes':
        difference = boxes_difference(expected, actual)
        allowed = _allowed(wanted)
      elif name in (*_COMPARED, *_EXACT, *_COSTS):
        difference = float(np.max(np.abs(np.subtract(wanted, got, dtype=float)), initial=0.0))
        if name in _COMPARED:
          allowed = _allowed(wanted)
        elif name in _COSTS and differ:
          allowed = 2 * POSITIONS * float(np.max(wanted))
      else:
        continue
      self.differences[name] = float(np.maximum(difference, self.differences.get(name, 0.0)))
      if not difference <= allowed:
        self._wrong[name] = difference, allowed

  def check(self, hint: str = '') -> None:
    """Raises a CommandError if an output differs by more than is allowed.

    Args:
      hint: what else to try, as a sentence without an end.
    """
    wrong = [f'{name} by {difference:g} (allowed: {allowed:g})'
             for name, (difference, allowed) in self._wrong.items()]
    if wrong:
      raise command_line.CommandError(
          f'the SavedModel, loaded again, differs from the model in memory in {", ".join(wrong)}, '
          'so nothing was exported: check that the checkpoint is of a training that did not '
          f'diverge{"; " if hint else ""}{hint}.')


def allowed_positions(gate: np.ndarray) -> float:
  """Returns the share of a gate that may be open on one side only: nothing of one per image.

  Args:
    gate: `[batch, height, width, 1]`, or one value for each image.
  """
  return max(POSITIONS, 1 / max(1, gate.size)) if gate.ndim == 4 else 0.0


def _allowed(values: np.ndarray) -> float:
  largest = float(np.max(np.abs(values), initial=0.0))
  return max(TOLERANCE, RELATIVE_TOLERANCE * largest if np.isfinite(largest) else 0.0)


def boxes_difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> float:
  """Returns how far a detected box is at most from one of the other side, in pixels.

  Boxes are compared with those of the same class and score, in any order: detections whose scores
  are equal up to rounding change places.

  Args:
    expected: `detection_boxes`, `detection_scores` and `detection_classes`, by name.
    actual: the same.
  """
  boxes, scores, classes = (
      [np.asarray(outputs[f'detection_{name}']) for outputs in (expected, actual)]
      for name in ('boxes', 'scores', 'classes'))
  distances = np.max(np.abs(boxes[0][:, :, None] - boxes[1][:, None]), -1)
  is_same = (classes[0][:, :, None] == classes[1][:, None]) & (
      np.abs(scores[0][:, :, None] - scores[1][:, None]) <= TOLERANCE)
  distances = np.where(is_same, distances, np.inf)
  return float(max(np.max(np.min(distances, axis)) for axis in (1, 2)))
