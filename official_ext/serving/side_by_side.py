"""Several exported detectors on the same images: what each costs and takes, and which to use."""
from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple, cast

import numpy as np

from official_ext.serving import prediction_files
from official_ext.utils import timing

_GIGA = 1e9
# Times that differ by less count as equal, because medians differ so much from run to run.
_SAME_TIME = 1.05
# Two trainings of one network differ by as much (docs/dyfpn.md, "Results").
_SAME_AP = 0.04
TENSORFLOW = 'tensorflow'
# Name, engine, budget and number of the image -> seconds of each repeat.
Times = Mapping[tuple[str, str, float | None, int], np.ndarray]


class Candidate(NamedTuple):
  """A detector that is put side by side with others.

  Attributes:
    detectors: engine -> one of `serving.detectors`; `TENSORFLOW` is the export itself.
    predicted: its predictions, made at the budget that is timed.
  """
  detectors: Mapping[str, Any]
  predicted: prediction_files.Predictions


class Network(NamedTuple):
  """The accuracy, cost and time of a detector.

  Attributes:
    name: of the network.
    ap: average precision in [0, 1]; None where it is not known.
    ap50: the same at an overlap of 0.5.
    gmac_mean: 10^9 multiply-adds of an image, the mean over all images.
    gmac_min: of the cheapest image.
    gmac_max: of the dearest image.
    ms_mean: milliseconds of an image in TensorFlow, the mean over the timed images.
    ms_min: of the fastest of them.
    ms_max: of the slowest.
    decides: how many of its gates decide differently for different images.
    gates: how many gates it has.
    budget: what it was given to spend; None if it takes no budget.
    budgets: for each budget of the export's table `budget`, `ap`, `gmac_mean` and `ms_mean`.
    engines: other engine -> `ms_mean`, `ms_min` and `ms_max` there.
    images: how many images `decides` is of; 0 where that is not known.
    ap_low: the lower end of the 95 % interval of `ap` over images; None where it is not known.
    ap_high: the upper end.
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
  budget: float | None = None
  budgets: Sequence[Mapping[str, float]] = ()
  engines: Mapping[str, Mapping[str, float]] = {}
  images: int = 0
  ap_low: float | None = None
  ap_high: float | None = None


def time_images(candidates: Mapping[str, Candidate], images: Sequence[np.ndarray], repeats: int
                ) -> Times:
  """Times detectors in one run.

  A detector whose export has a table of budgets (`serving.budget_table`) is timed at all of them.

  Args:
    candidates: name -> a detector and its predictions.
    images: what is timed, uint8 `[height, width, 3]` each.
    repeats: number of times that each detector gets each image, one at a time.

  Returns:
    Name, engine, budget and number of the image -> seconds, float64 `[repeats]`.
  """
  return timing.interleaved({
      (name, engine, budget, number): functools.partial(_detect, detector, budget, image)
      for name, candidate in candidates.items() for engine, detector in candidate.detectors.items()
      for budget in _budgets(candidate, engine) for number, image in enumerate(images)},
                            repeats, label='timing the networks')


def describe(candidates: Mapping[str, Candidate], seconds: Times) -> list[Network]:
  """Puts the times of detectors beside what their predictions say.

  Args:
    candidates: name -> a detector and its predictions.
    seconds: what `time_images` returned for them.

  Returns:
    The networks, in the order of `candidates`.
  """
  numbers = sorted({number for *_, number in seconds})

  def milliseconds(name, engine, budget):
    return [1e3 * float(np.median(seconds[name, engine, budget, number])) for number in numbers]

  networks = []
  for name, (detectors, predicted) in candidates.items():
    gates = predicted.gates()
    precision = predicted.evaluation
    networks.append(Network(
        name, _known(precision.get('ap')), _known(precision.get('ap50')),
        *_spread([cost['multiply_adds'] / _GIGA for cost in predicted.costs]),
        *_spread(milliseconds(name, TENSORFLOW, predicted.budget)),
        sum(bool(np.any(gate != gate[0])) for gate in gates.values()), len(gates),
        predicted.budget,
        [{**{key: point[key] for key in ('budget', 'ap', 'gmac_mean')},
          'ms_mean': float(np.mean(milliseconds(name, TENSORFLOW, point['budget'])))}
         for point in _points(detectors[TENSORFLOW])],
        {engine: dict(zip(('ms_mean', 'ms_min', 'ms_max'), _spread(
            milliseconds(name, engine, predicted.budget))))
         for engine in detectors if engine != TENSORFLOW}, len(predicted.costs),
        _known(precision.get('ap_low')), _known(precision.get('ap_high'))))
  return networks


def _points(detector: Any) -> Sequence[Mapping[str, Any]]:
  """Returns the points of the table of budgets of an export; none if it has none."""
  return detector.description.get('budgets', {}).get('points', ())


def _budgets(candidate: Candidate, engine: str) -> list[float | None]:
  """Returns at which budgets a detector is timed: its own first, then those of its table."""
  own = candidate.predicted.budget
  points = _points(candidate.detectors[engine]) if engine == TENSORFLOW else ()
  return list(dict.fromkeys([own, *(point['budget'] for point in points)]))


def _detect(detector: Any, budget: float | None, image: np.ndarray) -> None:
  """Detects the objects of one image at a budget; None: the detector takes none."""
  if budget is not None:
    detector.set_budget(budget)
  detector(image[None])


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


def in_engine(networks: Sequence[Network], engine: str) -> list[Network]:
  """Returns the networks with the times of an engine, those that were timed there."""
  if engine == TENSORFLOW:
    return list(networks)
  return [network._replace(**cast(dict[str, Any], network.engines[engine])) for network in networks
          if engine in network.engines]


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
  if not any(network.ap for network in known):
    return ['No network can be recommended: AP is 0 for all, so none has learned to find objects: '
            'train them longer.', *_alike(networks)]
  plain = known[0]
  winner = _at_equal_time(known)
  most = max(known, key=_rank)
  sentences = [_use(plain, winner)]
  if most is not winner:
    sentences.append(
        f'The most accurate, {_title(most)}, has AP {most.ap:.3f} in {most.ms_mean:.1f} ms, '
        f'{most.ms_mean / plain.ms_mean:.2f} of the time of {plain.name}.')
  saving = min((network for network in known if _precision(network) >= _precision(plain)
                and network.ms_mean < plain.ms_mean / _SAME_TIME), default=None,
               key=lambda network: network.ms_mean)
  if saving and saving is not winner:
    sentences.append(
        f'{_title(saving)} is the fastest of those that are not behind {plain.name}: AP '
        f'{saving.ap:.3f} in {saving.ms_mean / plain.ms_mean:.2f} of its time.')
  sentences += _other_engines(known, winner)
  if any(abs(_precision(network) - _precision(winner)) < _SAME_AP
         for network in known if network is not winner):
    sentences.append(
        f'These are one training each, and two trainings of one network differ by up to '
        f'{_SAME_AP:g} in AP: scripts/quickstart.sh --full, with more steps and several trainings, '
        'decides what is closer than that.')
  return [*sentences, *_alike(networks)]


def _precision(network: Network) -> float:
  return network.ap if network.ap is not None else -1.0


def _rank(network: Network) -> tuple[float, float]:
  """Returns what is larger for a better network: accuracy, and speed where that is equal."""
  return _precision(network), -network.ms_mean


def _title(network: Network) -> str:
  """Returns the name of a network, with its budget if it takes one."""
  return network.name if network.budget is None else f'{network.name} at budget {network.budget:g}'


def _at_equal_time(known: Sequence[Network]) -> Network:
  """Returns the most accurate of those that take no longer than the first."""
  limit = _SAME_TIME * known[0].ms_mean
  return max((network for network in known if network.ms_mean <= limit), key=_rank)


def _use(plain: Network, winner: Network) -> str:
  """Says which network to use at the time of the plain one."""
  if winner is plain:
    return (f'Use {plain.name} for this data: at its time ({plain.ms_mean:.1f} ms an image) no '
            f'network is more accurate (AP {plain.ap:.3f}).')
  return (f'Use {_title(winner)} for this data: AP {winner.ap:.3f} in {winner.ms_mean:.1f} ms an '
          f'image, where {plain.name} has AP {plain.ap:.3f} in {plain.ms_mean:.1f} ms.')


def _other_engines(known: Sequence[Network], winner: Network) -> list[str]:
  """Says for each other engine which network is ahead there."""
  sentences = []
  for engine in known[0].engines:
    there = in_engine(known, engine)
    other = _at_equal_time(there)
    same = 'too' if other.name == winner.name else 'instead'
    sentences.append(f'In {engine} that is {_title(other)} {same}: AP {other.ap:.3f} in '
                     f'{other.ms_mean:.1f} ms, {there[0].name} takes {there[0].ms_mean:.1f} ms.')
  return sentences


def _alike(networks: Sequence[Network]) -> list[str]:
  """Names the networks of which gates decide alike for several images, and what to change."""
  return [_all_alike(network) if not network.decides else
          f'{network.gates - network.decides} of the {network.gates} gates of {_title(network)} '
          'decide alike for all images: task.budget.information rewards those that do not '
          '(docs/budgets.md).'
          for network in networks if network.decides < network.gates and network.images != 1]


def _all_alike(network: Network) -> str:
  """Says that no gate of a network looks at the image, and what lets it."""
  change = ('give them another budget between 0 and 1 (predict --budget)'
            if network.budget is not None else
            'let them take the budget as an input (budget_input, docs/frontier.md)')
  return (f'The gates of {_title(network)} decide alike for all images, so it spends the same on '
          f'each: {change}, reward those that do not (task.budget.information, docs/budgets.md), '
          'or train longer.')
