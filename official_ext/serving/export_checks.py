"""Compares the outputs of an export with those of the model in memory."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from official_ext.serving import alignment
from official_ext.serving import ties
from official_ext.utils import command_line

# Scores and the like may differ by this much, and numbers above 1, such as boxes, in proportion
# where that is more.  Norms over few positions multiply rounding: boxes of a dynamic head that was
# trained for 200 steps differed by 0.009 of 256 pixels, with every gate alike.
TOLERANCE, RELATIVE_TOLERANCE = 1e-3, 1e-4
_COMPARED = ('raw_boxes', 'raw_scores', 'decoded_boxes', 'decoded_box_scores',
             'decoded_box_centerness')
_EXACT = ('num_detections',)
# How names of Model Garden's intermediate features begin; a level follows.
FEATURES = ('backbone_', 'decoder_')
_COSTS = ('multiply_adds', 'executed_multiply_adds')
# The share of positions at which a gate of positions may be open on one side only: their logits lie
# within rounding of the threshold.  Of a small map it may be one position.
POSITIONS = 1e-3


class Comparison:
  """Gathers differences over batches of images.

  Attributes:
    differences: output -> largest absolute difference, NaN if one is NaN; of a gate the share of
      images or positions for which it is open in one of the two only.  Detections are compared as
      sets; `exchanged_detections` is the share that one of the two alone has.
  """

  def __init__(self, description: Mapping[str, Any] | None = None):
    """Starts with no batch.

    Args:
      description: the content of `export.json`, which says how to read the outputs; None: boxes in
        pixels, and rows that have their order.
    """
    self._description = description or {}
    self.differences: dict[str, float] = {}
    self._wrong: dict[str, tuple[float, float]] = {}  # with what was allowed for that batch
    self._images, self._singles = 0, 0

  def add(self, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
    """Compares the outputs of a batch.

    Args:
      expected: of the model in memory.
      actual: of the export.
    """
    expected, actual = alignment.align(
        expected, actual, self._description,
        allowed_difference(np.asarray(expected.get('decoded_boxes', ()))))
    found = _differences(expected, actual)
    if 'detection_boxes' in expected:
      limit = allowed_difference(np.asarray(expected['detection_boxes']))
      detections = ties.difference(expected, actual, limit)
      self._images += len(expected['detection_boxes'])
      self._singles += detections.single
      found |= {'detection_boxes': (detections.distance, limit),
                'detection_scores': (detections.scores, TOLERANCE),
                'exchanged_detections': (detections.exchanged, ties.SHARE)}
      if 'detection_masks' in expected:
        found['detection_masks'] = detections.masks, TOLERANCE
      if 'num_detections' in expected:
        found['num_detections'] = found['num_detections'][0], detections.changed
    for name, (difference, allowed) in found.items():
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
    if self._singles > ties.allowed_singles(self._images):
      wrong.append(f'one detection of each of {self._singles} images (allowed: '
                   f'{ties.allowed_singles(self._images):g} of {self._images})')
    if wrong:
      raise command_line.CommandError(
          f'the SavedModel, loaded again, differs from the model in memory in {", ".join(wrong)}, '
          'so nothing was exported: check that the checkpoint is of a training that did not '
          f'diverge{"; " if hint else ""}{hint}.')


def example_batches(size: Sequence[int], batch_size: int) -> list[np.ndarray]:
  """Makes images with structure at several scales; every call makes the same ones.

  Args:
    size: `(height, width)` in pixels of the first batch; the second has another size and shape.
    batch_size: images per batch.

  Returns:
    Two batches, uint8 `[batch_size, height, width, 3]`.
  """
  random = np.random.default_rng(0)
  height, width = size

  def make_image(rows, columns):
    layers = [
        np.asarray(Image.fromarray(random.integers(0, 256, [cells, cells, 3], np.uint8)).resize(
            (columns, rows), Image.Resampling.NEAREST)) for cells in (3, 9, 27)]
    return np.mean(layers, axis=0).astype(np.uint8)

  return [np.stack([make_image(*shape) for _ in range(batch_size)])
          for shape in ((height, width), (height * 3 // 4 + 1, width * 5 // 4 + 1))]


def _differences(expected: Mapping[str, Any], actual: Mapping[str, Any]
                 ) -> dict[str, tuple[float, float]]:
  """Returns the difference of each output that is compared, and what is allowed."""
  # Without the cost of a position, the share of positions limits the share of the cost.
  differ = any(np.any((np.asarray(value) > 0) != (np.asarray(actual[name]) > 0))
               for name, value in expected.items() if name.startswith('gate_'))
  found = {}
  for name, value in expected.items():
    wanted, got = np.asarray(value), np.asarray(actual[name])
    if name.startswith('gate_'):
      found[name] = float(np.mean((wanted > 0) != (got > 0))), allowed_positions(wanted)
    elif name in (*_COMPARED, *_EXACT, *_COSTS) or name.startswith(FEATURES):
      allowed = 0.0 if name in (*_EXACT, *_COSTS) else allowed_difference(wanted)
      if name in _COSTS and differ:
        allowed = 2 * POSITIONS * float(np.max(wanted))
      found[name] = float(
          np.max(np.abs(np.subtract(wanted, got, dtype=float)), initial=0.0)), allowed
  return found


def allowed_positions(gate: np.ndarray) -> float:
  """Returns the share of a gate that may be open on one side only: nothing of one per image.

  Args:
    gate: `[batch, height, width, 1]`, or one value for each image.
  """
  return max(POSITIONS, 1 / max(1, gate.size)) if gate.ndim == 4 else 0.0


def allowed_difference(values: np.ndarray) -> float:
  """Returns by how much scores, boxes or maps may differ, which grows with the largest value.

  Args:
    values: what the model in memory gives, of any shape.
  """
  largest = float(np.max(np.abs(values), initial=0.0))
  return max(TOLERANCE, RELATIVE_TOLERANCE * largest if np.isfinite(largest) else 0.0)
