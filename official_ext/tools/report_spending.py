"""The part of a report that says which images cost more than others."""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving import prediction_files
from official_ext.utils import command_line
from official_ext.visualization import routing_figures

_GIGA = 1e9
_LEAST_IMAGES = 12
# Reading many images takes long and tells little more.
_MOST_IMAGES = 400
# Standard deviations; one of the three properties of unrelated costs is beyond it in 1 of 20 sets.
_CHANCE = 2.4
_OBJECTS, _SIZE, _BRIGHTNESS = 'the number of objects', 'the size of objects', 'brightness'

Id = prediction_files.Id


class Relation(NamedTuple):
  """How costs of images follow a property of them.

  Attributes:
    correlation: Spearman's, of their ranks, in [-1, 1].
    images: how many images have the property.
    low: the mean cost in 10^9 multiply-adds of the third of the images that has least of it.
    high: of the third that has most of it.
  """
  correlation: float
  images: int
  low: float
  high: float

  @property
  def is_chance(self) -> bool:
    """Whether costs that have nothing to do with the property may follow it as closely."""
    return abs(self.correlation) <= _CHANCE / np.sqrt(self.images - 1)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
  """Returns Spearman's correlation; equal values have the mean of their ranks.

  Args:
    first: `[n]`.
    second: `[n]`.

  Returns:
    In [-1, 1]; 0 if all values of one of them are equal.
  """
  ranks = np.stack([_ranks(first), _ranks(second)])
  ranks -= ranks.mean(1, keepdims=True)
  scale = np.sqrt(np.prod((ranks**2).sum(1)))
  return float(ranks[0] @ ranks[1] / scale) if scale else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
  """Returns ranks from 0, float64 `[n]`; equal values have their mean rank."""
  _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def properties(predicted: prediction_files.Predictions) -> dict[str, dict[Id, float]]:
  """Returns what can be seen of the images of predictions, up to 400 of them.

  Args:
    predicted: of a detector.

  Returns:
    Property -> image id -> value: the mean of all pixels; with annotations the number of objects
    too, and for images that have some the median side of an object beside that of the image.
  """
  chosen = [cost['image_id'] for cost in routing_figures.pick_evenly(predicted.costs, _MOST_IMAGES)]
  found: dict[str, dict[Id, float]] = {_OBJECTS: {}, _SIZE: {}, _BRIGHTNESS: {}}
  for image_id in command_line.progress(chosen, 'images looked at'):
    pixels = predicted.image(image_id)
    found[_BRIGHTNESS][image_id] = float(np.mean(pixels))
    if not predicted.has_truth:
      continue
    objects = predicted.objects(image_id)
    found[_OBJECTS][image_id] = len(objects)
    if len(objects):
      areas = np.prod(objects[:, 2:] - objects[:, :2], 1)
      found[_SIZE][image_id] = float(np.median(np.sqrt(areas / np.prod(predicted.size(image_id)))))
  return found


def relations(costs: Sequence[Mapping[str, Any]], seen: Mapping[str, Mapping[Id, float]]
              ) -> dict[str, Relation]:
  """Returns property -> how costs follow it.

  Args:
    costs: cost of every image, as `costs.json` has them.
    seen: what `properties` returned.

  Returns:
    Nothing where all costs are equal; no property that fewer than 12 images have, or that is the
    same for all.
  """
  found = {}
  for name, values in seen.items():
    pairs = np.array([(values[cost['image_id']], cost['multiply_adds'] / _GIGA)
                      for cost in costs if cost['image_id'] in values]).reshape(-1, 2)
    if len(pairs) < _LEAST_IMAGES or np.any(np.ptp(pairs, 0) == 0):
      continue
    ordered = pairs[np.argsort(pairs[:, 0], kind='stable'), 1]
    third = len(ordered) // 3
    found[name] = Relation(rank_correlation(*pairs.T), len(pairs), float(ordered[:third].mean()),
                           float(ordered[-third:].mean()))
  return found


def sentence(name: str, found: Mapping[str, Relation]) -> str:
  """Says which images a network spends more on; empty if nothing is known.

  Args:
    name: of the network.
    found: what `relations` returned.
  """
  if not found:
    return ''
  follows = [
      f'{"rises" if one.correlation > 0 else "falls"} with {what} (rank correlation '
      f'{one.correlation:.2f}; from the third of the images with the least to that with the most '
      f'{one.low:.3f} to {one.high:.3f} GMAC)'
      for what, one in found.items() if not one.is_chance]
  others = [f'{what} ({one.correlation:.2f})' for what, one in found.items() if one.is_chance]
  unrelated = f'does not follow {" or ".join(others)} more than chance may' if others else ''
  return f'The cost of an image in {name} {", and it ".join(filter(None, [*follows, unrelated]))}.'
