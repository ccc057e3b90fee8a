"""Several exported detectors on the same images: what each costs and takes, and which to use."""
from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving import prediction_files
from official_ext.utils import timing

_GIGA = 1e9
# Times that differ by less count as equal, because medians differ so much from run to run.
_SAME_TIME = 1.05
# Two trainings of one network differ by as much (docs/dyfpn.md, "Results").
_SAME_AP = 0.04


class Network(NamedTuple):
  """The accuracy, cost and time of a detector.

  Attributes:
    name: of the network.
    ap: average precision in [0, 1]; None where it is not known.
    ap50: the same at an overlap of 0.5.
    gmac_mean: 10^9 multiply-adds of an image, the mean over all images.
    gmac_min: of the cheapest image.
    gmac_max: of the dearest image.
    ms_mean: milliseconds of an image, the mean over the timed images.
    ms_min: of the fastest of them.
    ms_max: of the slowest.
    decides: how many of its gates decide differently for different images.
    gates: how many gates it has.
  """
  name: str
  ap: float | None
  ap50: float | None
  gmac_mean: float
  gmac_min: float
  gmac_max: float
  ms_mean: float
  ms_min: float
  ms_max: float
  decides: int
  gates: int


def measure(detectors: Mapping[str, Any], predicted: Mapping[str, prediction_files.Predictions],
            images: Sequence[np.ndarray], repeats: int) -> list[Network]:
  """Times detectors in one run, and puts beside it what their predictions say.

  Args:
    detectors: name -> one of `serving.detectors`.
    predicted: name -> predictions of the same detectors.
    images: what is timed, uint8 `[height, width, 3]` each.
    repeats: number of times that each detector gets each image, one at a time.

  Returns:
    The networks, in the order of `detectors`.
  """
  calls = {(name, number): functools.partial(detector.seconds, [image])
           for name, detector in detectors.items() for number, image in enumerate(images)}
  seconds = timing.interleaved(calls, repeats, label='timing the networks')
  networks = []
  for name in detectors:
    times = [1e3 * float(np.median(seconds[name, number])) for number in range(len(images))]
    costs = [cost['multiply_adds'] / _GIGA for cost in predicted[name].costs]
    gates = predicted[name].gates()
    precision = predicted[name].evaluation
    networks.append(Network(
        name, _known(precision.get('ap')), _known(precision.get('ap50')), *_spread(costs),
        *_spread(times), sum(bool(np.any(gate != gate[0])) for gate in gates.values()),
        len(gates)))
  return networks


def _known(precision: float | None) -> float | None:
  """Returns an average precision; None for the -1 of images without objects."""
  return precision if precision is not None and precision >= 0 else None


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
  """Returns the mean, which rounding may have moved beyond equal values, and both ends."""
  least, most = min(values), max(values)
  return float(np.clip(np.mean(values), least, most)), least, most


def entries(networks: Sequence[Network]) -> list[dict[str, Any]]:
  """Returns the networks as `report.json` has them."""
  return [network._asdict() for network in networks]


def frontier(networks: Sequence[Network]) -> list[Network]:
  """Returns, from the fastest to the slowest, the networks that none is ahead of in AP and time.

  Args:
    networks: any; those of unknown precision are left out.
  """
  best: list[Network] = []
  known = [network for network in networks if network.ap is not None]
  for network in sorted(known, key=lambda one: (one.ms_mean, -(one.ap or 0.0))):
    if not best or (network.ap or 0.0) > (best[-1].ap or 0.0):
      best.append(network)
  return best


def advice(networks: Sequence[Network]) -> list[str]:
  """Says which network to use, in sentences.

  Args:
    networks: at least one; the first is the plain one that people have.

  Returns:
    Sentences, the most important first; of a single network only what is wrong with it.
  """
  if len(networks) == 1:
    return _alike(networks)
  known = [network for network in networks if network.ap is not None]
  if networks[0].ap is None:
    return ['No network can be recommended: the accuracy is not known.', *_alike(networks)]
  plain = known[0]
  limit = _SAME_TIME * plain.ms_mean
  winner = max((network for network in known if network.ms_mean <= limit), key=_rank)
  most = max(known, key=_rank)
  sentences = [_at_equal_time(plain, winner)]
  if most is not winner:
    sentences.append(
        f'The most accurate, {most.name}, has AP {most.ap:.3f} in {most.ms_mean:.1f} ms, '
        f'{most.ms_mean / plain.ms_mean:.2f} of the time of {plain.name}.')
  saving = min((network for network in known if _precision(network) >= _precision(plain)
                and network.ms_mean < plain.ms_mean / _SAME_TIME), default=None,
               key=lambda network: network.ms_mean)
  if saving and saving is not winner:
    sentences.append(
        f'{saving.name} is the fastest of those that are not behind {plain.name}: AP '
        f'{saving.ap:.3f} in {saving.ms_mean / plain.ms_mean:.2f} of its time.')
  if any(abs(_precision(network) - _precision(winner)) < _SAME_AP
         for network in known if network is not winner):
    sentences.append(
        f'These are one training each, and two trainings of one network differ by up to '
        f'{_SAME_AP:g} in AP: more steps and several trainings (scripts/compare.py) decide what '
        'is closer than that.')
  return [*sentences, *_alike(networks)]


def _precision(network: Network) -> float:
  return network.ap if network.ap is not None else -1.0


def _rank(network: Network) -> tuple[float, float]:
  """Returns what is larger for a better network: accuracy, and speed where that is equal."""
  return _precision(network), -network.ms_mean


def _at_equal_time(plain: Network, winner: Network) -> str:
  """Says which network is the most accurate of those that take no longer than the plain one."""
  if winner is plain:
    return (f'Use {plain.name} for this data: at its time ({plain.ms_mean:.1f} ms an image) no '
            f'network is more accurate (AP {plain.ap:.3f}).')
  return (f'Use {winner.name} for this data: AP {winner.ap:.3f} in {winner.ms_mean:.1f} ms an '
          f'image, where {plain.name} has AP {plain.ap:.3f} in {plain.ms_mean:.1f} ms.')


def _alike(networks: Sequence[Network]) -> list[str]:
  """Names the networks whose gates decide alike for all images, and what to change."""
  return [f'The gates of {network.name} decide alike for all images, so it spends the same on '
          'each: give them a budget that is met by the mean of a batch '
          '(task.budget.reduction=mean_share), or train longer.'
          for network in networks if network.gates and not network.decides]
