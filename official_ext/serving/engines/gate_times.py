"""Times a converted model with its gates open and with every gate shut."""
from collections.abc import Callable, Mapping, Sequence
import time
from typing import NamedTuple

import numpy as np

from official_ext.utils import timing

# Scalar input -> its value at which the most runs, and the one at which every gate is shut.
EXTREMES: Mapping[str, tuple[float, float]] = {'gate_threshold': (0.0, 1.0), 'budget': (1.0, 0.0)}
# Scalar input -> what gates are at the first of these values.
OPEN: Mapping[str, str] = {
    'gate_threshold': 'with the gates as trained', 'budget': 'with every gate open'}
_SECONDS = 3.0
_REPEATS = (3, 9)  # the fewest, for a slow model, and the most


class Times(NamedTuple):
  """How long a call takes, the median over repeats.

  Attributes:
    images: number of images of the call.
    opened: milliseconds with the gates open.
    shut: milliseconds with every gate shut.
  """
  images: int
  opened: float
  shut: float


def measure(model: Callable[[np.ndarray, Mapping[str, float]], Mapping[str, np.ndarray]],
            batches: Sequence[np.ndarray], scalar: str) -> Times | None:
  """Times a model in turn with open and with shut gates, for a few seconds.

  Args:
    model: the converted model, a function of images and scalars by name.
    batches: images, uint8 `[batch, height, width, 3]`; of the smallest batches the one with the
      most multiply-adds is timed.
    scalar: a key of `EXTREMES`.

  Returns:
    The times; None if no gate of these images is open, so that there is nothing to compare.
  """
  opened, shut = ({scalar: value} for value in EXTREMES[scalar])
  fewest = min(map(len, batches))
  outputs = [(batch, model(batch, opened)) for batch in batches if len(batch) == fewest]
  images, found = max(outputs, key=lambda pair: np.sum(pair[1].get('multiply_adds', 0.0)))
  other = model(images, shut)
  if all(np.array_equal(value, other[name]) for name, value in found.items()):
    return None
  start = time.perf_counter()
  model(images, opened)
  seconds = time.perf_counter() - start
  repeats = int(np.clip(_SECONDS / max(2 * seconds, 1e-6), *_REPEATS))
  times = timing.summaries(timing.interleaved(
      {True: lambda: model(images, opened), False: lambda: model(images, shut)}, repeats))
  return Times(fewest, times[True]['median'], times[False]['median'])
