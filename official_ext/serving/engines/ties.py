"""Compares detections of two engines, whose rounding decides between equal scores.

Suppression keeps the better one of two boxes that overlap, and the best detections of an image.
Where two scores differ by less than the rounding of an engine, engines may choose differently.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving import suppression

# Detections of two engines are the same one only if their scores differ by at most this.
SCORES = 1e-3
# Scores of two boxes may be in another order in the other engine if they differ by at most this, or
# by twice what the scores of one box differ by between the engines: 1e-7 for an EfficientDet that
# was trained for 30 steps, 4e-6 for FCOS with DyFPN after 200.
TIE = 1e-6
# Overlap above which a box may have dropped another one; experiments drop above 0.5 or more.
OVERLAP = 0.3
# The largest allowed share of detections of ties.  That EfficientDet, whose scores are all between
# 0.0101 and 0.0102, has 0.05; an engine that decodes boxes wrongly changes many more.
SHARE = 0.1


class Difference(NamedTuple):
  """How the detections of two engines differ.

  Attributes:
    distance: largest distance of a detection's coordinate from that of the nearest detection of
      its class and score on the other side, in pixels; without detections of ties.
    exchanged: share of the detections that one side alone has, because of ties.
  """
  distance: float
  exchanged: float


class _Detections(NamedTuple):
  """The detections of an image: `[number, 4]`, `[number]`, `[number]`, and whether none is missing.

  Attributes:
    boxes: float32 `[number, 4]`.
    scores: float32 `[number]`, descending.
    classes: int `[number]`.
    is_full: whether there are as many detections as an image can have, so that further ones may
      have been left out.
  """
  boxes: np.ndarray
  scores: np.ndarray
  classes: np.ndarray
  is_full: bool


def difference(expected: Mapping[str, Any], actual: Mapping[str, Any], limit: float) -> Difference:
  """Compares the detections of a batch, as sets.

  A detection that the other side lacks is one of a tie if the other side
  - has the largest number of detections, the last of which is not worse by more than rounding, or
  - has a detection of its class that this side lacks, which overlaps it by more than `OVERLAP` and
    is not worse by more than rounding.

  Args:
    expected: `detection_boxes`, `detection_scores` and `detection_classes`, by name.
    actual: the same.
    limit: the largest allowed distance in pixels; a detection without another one so near is
      lacking on the other side.
  """
  distances, exchanged, number = [0.0], 0, 0
  for first, second in zip(_images(expected), _images(actual)):
    if not (np.isfinite(first.boxes).all() and np.isfinite(second.boxes).all()):
      return Difference(float('nan'), 0.0)
    apart = _distances(first, second)
    nearest = [np.min(apart, axis, initial=np.inf) for axis in (1, 0)]
    alone = [each > limit for each in nearest]
    tie = max(TIE, 2 * _rounding(first, second, apart, limit))
    for own, other, side in ((first, second, 0), (second, first, 1)):
      is_tie = _ties(own, other, alone[side], alone[1 - side], tie)
      distances.extend(nearest[side][~is_tie])
      exchanged += int(np.sum(is_tie))
      number += len(is_tie)
  return Difference(float(max(distances)), exchanged / max(number, 1))


def _images(outputs: Mapping[str, Any]) -> list[_Detections]:
  """Returns the detections of each image, without padding."""
  images = []
  for boxes, scores, classes in zip(*(
      np.asarray(outputs[f'detection_{name}']) for name in ('boxes', 'scores', 'classes'))):
    found = scores > 0
    images.append(_Detections(boxes[found], scores[found], classes[found], bool(found.all())))
  return images


def _distances(first: _Detections, second: _Detections) -> np.ndarray:
  """Returns `[number of first, number of second]`, infinity for those that cannot be the same."""
  apart = np.max(np.abs(first.boxes[:, None] - second.boxes), -1, initial=0.0)
  is_same = (first.classes[:, None] == second.classes) & (
      np.abs(first.scores[:, None] - second.scores) <= SCORES)
  return np.where(is_same, apart, np.inf)


def _rounding(first: _Detections, second: _Detections, apart: np.ndarray, limit: float) -> float:
  """Returns the largest difference of the scores of detections that both sides have."""
  if not apart.size:
    return 0.0
  partner = np.argmin(apart, axis=1)
  differences = np.abs(first.scores - second.scores[partner])
  return float(np.max(differences[np.min(apart, axis=1) <= limit], initial=0.0))


def _ties(own: _Detections, other: _Detections, is_alone: np.ndarray,
          is_other_alone: np.ndarray, tie: float) -> np.ndarray:
  """Returns which of the detections that the other side lacks are those of ties.

  Args:
    own: the detections.
    other: those of the other side.
    is_alone: boolean, which of `own` the other side lacks.
    is_other_alone: boolean, which of `other` this side lacks.
    tie: the largest difference of scores that may be in another order.
  """
  is_tie = np.zeros_like(is_alone)
  for index in np.flatnonzero(is_alone):
    least = own.scores[index] - tie
    rivals = is_other_alone & (other.classes == own.classes[index]) & (other.scores >= least)
    is_tie[index] = (other.is_full and other.scores[-1] >= least) or np.any(
        suppression.overlaps(own.boxes[index], other.boxes[rivals]) > OVERLAP)
  return is_tie
