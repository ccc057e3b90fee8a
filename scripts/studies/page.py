"""The page of a study: claims, tables and pictures."""
from collections.abc import Mapping, Sequence
import json
import math
import pathlib
from typing import Any, NamedTuple

from matplotlib import figure
import numpy as np
from scipy import stats
from studies import plans
from studies.subjects import Subject

from official_ext.utils import files

Points = list[dict[str, Any]]
Results = Mapping[str, Mapping[str, list[Points]]]
Times = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]

# A difference in AP that a person would give away for a cheaper network.
_EQUAL = 0.01
_NOT_TRAINED = 'not trained'


def _student(count: int) -> float:
  """Returns the two-sided 95 % point of Student's distribution for so many values."""
  return float(stats.t.ppf(0.975, count - 1))


def interval(values: Sequence[float]) -> float:
  """Returns half of the 95 % interval of the mean of values; infinite for a single one."""
  count = len(values)
  if count < 2:
    return math.inf
  return float(_student(count) * np.std(values, ddof=1) / math.sqrt(count))


def at(runs: Sequence[Points], budget: float | None) -> Points:
  """Returns the point of each training at a budget."""
  return [point for points in runs for point in points if point['budget'] == budget]


def _values(results: Mapping[str, list[Points]], name: str, key: str = 'ap') -> list[float]:
  """Returns a figure of every training of a subject, `name` or `name@budget`."""
  subject, at_sign, budget = name.partition('@')
  points = at(results.get(subject, []), float(budget) if at_sign else None)
  if key == 'spread':
    return [point['gmac_max'] - point['gmac_min'] for point in points]
  return [point[key] for point in points]


def _best_plain(left: str, plain: Sequence[str], results: Mapping[str, list[Points]]) -> str:
  """Returns the most accurate plain subject that costs at most as much as `left`; '' if none."""
  limit = np.mean(_values(results, left, 'gmac_mean') or [0.0])
  affordable = [name for name in plain if name in results
                and np.mean(_values(results, name, 'gmac_mean')) <= limit]
  return max(affordable, key=lambda name: np.mean(_values(results, name)), default='')


def answer(claim: plans.Claim, results: Mapping[str, list[Points]], plain: Sequence[str] = ()
           ) -> str:
  """Returns `yes`, `no` or `not shown`, with the difference that says so.

  A difference counts if its 95 % interval, by Welch's formula with the fewer degrees of freedom,
  does not reach across the margin.

  Args:
    claim: what is asked.
    results: subject -> points of every training, on one data set.
    plain: names of the plain subjects.
  """
  is_any = claim.right == plans.ANY_PLAIN
  rival = _best_plain(claim.left, plain, results) if is_any else claim.right
  beside = f', beside {rival}' if is_any else ''
  left, right = (_values(results, name, claim.figure) for name in (claim.left, rival))
  if not left or not right:
    return _NOT_TRAINED
  difference = float(np.mean(left) - np.mean(right))
  count = min(len(left), len(right))
  if count < 2:
    trainings = ('one training each' if len(left) == len(right) else
                 f'{len(left)} and {len(right)} trainings')
    return f'not shown: {difference:+.3f}, {trainings}{beside}'
  half = _student(count) * math.sqrt(
      np.var(left, ddof=1) / len(left) + np.var(right, ddof=1) / len(right))
  found = f'{difference:+.3f} +- {half:.3f}{beside}'
  if difference - half > claim.margin:
    return f'yes: {found}'
  return f'no: {found}' if difference + half < claim.margin else f'not shown: {found}'


def _answers(claims: Sequence[plans.Claim], results: Mapping[str, list[Points]],
             plain: Sequence[str]) -> list[str]:
  """Returns a line for each claim that is answered, and how many are not."""
  answers = [(claim, answer(claim, results, plain)) for claim in claims]
  lines = [f'- {claim.text}: {found}' for claim, found in answers if found != _NOT_TRAINED]
  if left := len(answers) - len(lines):
    lines.append(f'- Claims about networks that are not trained here: {left}')
  return lines


def conclusion(results: Mapping[str, list[Points]], times: Mapping[str, Any]) -> list[str]:
  """Says which network to use, in sentences.

  Args:
    results: subject -> points of every training, on one data set.
    times: what `measuring.times` returned for it; empty while nothing is timed.
  """
  found = [_Option(name, budget, at(runs, budget)) for name, runs in results.items()
           for budget in dict.fromkeys(point['budget'] for points in runs for point in points)]
  if not found:
    return []
  best = max(found, key=lambda option: option.ap)
  if not best.ap:
    return ['AP is 0 for all: no network has learned to find objects. Train longer.']
  equal = [option for option in found if option.ap >= best.ap - _EQUAL]
  cheapest = min(equal, key=lambda option: option.gmac)
  sentences = [f'Most accurate: {best.title}, AP {best.ap:.3f}.',
               f'Cheapest within {_EQUAL:g} AP of it: {cheapest.title}, AP {cheapest.ap:.3f} for '
               f'{cheapest.gmac:.3f} GMAC.']
  for engine in _engines(times):
    timed = [(option.milliseconds(times, engine), option) for option in equal]
    fastest = min(((time, option) for time, option in timed if time is not None),
                  key=lambda pair: pair[0], default=None)
    if fastest:
      sentences.append(f'Fastest of these in {engine}: {fastest[1].title}, AP '
                       f'{fastest[1].ap:.3f} in {fastest[0]:.1f} ms.')
  return [*sentences, 'What is closer than the intervals below is not decided.']


class _Option(NamedTuple):
  """A subject at a budget: what a person can choose."""
  name: str
  budget: float | None
  points: Points

  @property
  def title(self) -> str:
    return f'`{self.name}`' if self.budget is None else f'`{self.name}` at budget {self.budget:g}'

  @property
  def ap(self) -> float:
    return float(np.mean([point['ap'] for point in self.points]))

  @property
  def gmac(self) -> float:
    return float(np.mean([point['gmac_mean'] for point in self.points]))

  def milliseconds(self, times: Mapping[str, Any], engine: str) -> float | None:
    return times.get(self.name, {}).get(str(self.budget), {}).get(engine, {}).get('median')


def _engines(times: Mapping[str, Any]) -> list[str]:
  """Returns the engines that something was timed in."""
  return list(dict.fromkeys(engine for budgets in times.values() for found in budgets.values()
                            for engine in found))


def _rows(results: Mapping[str, list[Points]], times: Mapping[str, Any]) -> list[str]:
  """Returns the lines of a table, one for each subject and budget."""
  engines = _engines(times)
  head = ['network', 'budget', 'trainings', 'AP', 'bootstrap over images', 'AP50',
          'GMAC (min to max)', *(f'ms in {engine} (quartiles)' for engine in engines)]
  rows = [head, ['---'] * len(head)]
  for name, runs in results.items():
    for budget in dict.fromkeys(point['budget'] for points in runs for point in points):
      found = at(runs, budget)
      ap = [point['ap'] for point in found]
      mean = {key: float(np.mean([point[key] for point in found])) for key in (
          'ap50', 'ap_low', 'ap_high', 'gmac_mean', 'gmac_min', 'gmac_max')}
      spread = f' +- {interval(ap):.3f}' if len(ap) > 1 else ''
      timed = times.get(name, {}).get(str(budget), {})
      rows.append([
          f'`{name}`', '' if budget is None else f'{budget:g}', str(len(found)),
          f'{np.mean(ap):.3f}{spread}', f'{mean["ap_low"]:.3f} to {mean["ap_high"]:.3f}',
          f'{mean["ap50"]:.3f}',
          '{gmac_mean:.3f} ({gmac_min:.3f} to {gmac_max:.3f})'.format(**mean),
          *('{median:.1f} ({low:.1f} to {high:.1f})'.format(**timed[engine])
            if engine in timed else '-' for engine in engines)])
  return [f'| {" | ".join(row)} |' for row in rows]


def draw(results: Mapping[str, list[Points]], times: Mapping[str, Any],
         subjects: Mapping[str, Subject]) -> figure.Figure:
  """Draws AP against multiply-adds, and against the time in each engine.

  Args:
    results: subject -> points of every training, on one data set.
    times: what `measuring.times` returned for it; empty while nothing is timed.
    subjects: name -> subject; plain ones get squares.
  """
  engines = _engines(times)
  plot = figure.Figure(figsize=(7 * (1 + len(engines)), 5))
  axes = np.atleast_1d(plot.subplots(1, 1 + len(engines)))
  for number, (name, runs) in enumerate(results.items()):
    budgets = list(dict.fromkeys(point['budget'] for points in runs for point in points))
    found = [at(runs, budget) for budget in budgets]
    ap = [float(np.mean([point['ap'] for point in points])) for points in found]
    half = [interval([point['ap'] for point in points]) for points in found]
    marks = {'yerr': [0.0 if math.isinf(value) else value for value in half], 'label': name,
             'color': f'C{number % 10}', 'capsize': 2, 'elinewidth': 1,
             'marker': 's' if subjects[name].is_plain else 'o'}
    axes[0].errorbar([float(np.mean([point['gmac_mean'] for point in points]))
                      for points in found], ap, **marks)
    for axis, engine in zip(axes[1:], engines):
      timed = [times.get(name, {}).get(str(budget), {}).get(engine) for budget in budgets]
      if all(timed):
        axis.errorbar([time['median'] for time in timed], ap, **marks)
  labels = ['GMAC per image', *(f'ms per image in {engine}' for engine in engines)]
  for axis, label in zip(axes, labels):
    axis.set_xlabel(label)
    axis.set_ylabel('AP')
    axis.grid(alpha=0.3)
  if results:
    axes[0].legend(fontsize=7)
  return plot


def write(folder: pathlib.Path, name: str, plan: plans.Plan, results: Results, times: Times,
          arguments: Mapping[str, Any]) -> None:
  """Writes `<name>.md`, `<name>.json` and a picture for each data set.

  Args:
    folder: to write into.
    name: of the plan.
    plan: the plan.
    results: data set -> subject -> points of every training.
    times: data set -> what `measuring.times` returned; empty while nothing is timed.
    arguments: of the command: steps, sizes, resamples.
  """
  height, width = arguments['image_size']
  plain = [subject for subject, what in plan.subjects.items() if what.is_plain]
  lines = [f'# {name}', '',
           f'{arguments["train_steps"]} steps, {height} x {width} pixels. AP: mean over trainings, '
           'and its 95 % interval by Student where there are several; the bootstrap draws the '
           f'images {arguments["resamples"]} times.']
  for data, found in results.items():
    timed = times.get(data, {})
    lines += ['', f'## {data}', '', f'![{data}]({name}_{data}.png)', '',
              ' '.join(conclusion(found, timed)), '', *_rows(found, timed), '',
              *_answers(plan.claims, found, plain)]
    with files.atomic_file(folder / f'{name}_{data}.png') as temporary:
      draw(found, timed, plan.subjects).savefig(temporary, dpi=110, bbox_inches='tight')
  for file, text in ((f'{name}.md', '\n'.join(lines)), (f'{name}.json', json.dumps(
      {'results': results, 'times': times}, indent=2))):
    with files.atomic_file(folder / file) as temporary:
      temporary.write_text(f'{text}\n', encoding='utf-8')
