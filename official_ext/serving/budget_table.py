"""Reads and writes the table of budgets of an export, and chooses a budget by time or cost.

A table has `model`, `data` and `machine`, what was measured and where; `recommended`, a budget;
and `points`, one for each budget: `budget`, `ap`, `ap50`, `gmac_mean`, `gmac_min`, `gmac_max`, and
`milliseconds` of a batch, engine -> size of the batch -> `low`, `median` and `high`.
"""
from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any, NamedTuple

from official_ext.serving import saved_models
from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import machine as machine_lib

Point = Mapping[str, Any]

# Less than two trainings of one network differ by.
SMALL_LOSS = 0.01
_KEY = 'budgets'
_ASSET = 'assets.extra/budgets.json'
_COMMAND = 'python -m official_ext.tools.frontier --calibrate'


class Limit(NamedTuple):
  """How much detection may cost.

  Attributes:
    flag: `--max_ms`, the median time of a batch, or `--max_gmac`, the mean cost of an image.
    value: in milliseconds or 10^9 multiply-adds.
  """
  flag: str
  value: float

  @property
  def unit(self) -> str:
    """The unit of `value`."""
    return 'ms' if self.flag == '--max_ms' else 'GMAC'


def write(folder: pathlib.Path, table: Mapping[str, Any]) -> None:
  """Writes a table into an export, in place of an earlier one.

  Args:
    folder: of the export, or of a conversion of it.
    table: the table.
  """
  # The description comes last, because it is what is read.
  with files.atomic_file(folder / _ASSET) as temporary:
    temporary.write_text(json.dumps(table, indent=2) + '\n', encoding='utf-8')
  saved_models.write_description(folder, {**saved_models.read_description(folder), _KEY: table})


def recommended(points: Sequence[Point]) -> float:
  """Returns the cheapest budget whose average precision is within `SMALL_LOSS` of the best.

  Args:
    points: of a table; at least one.
  """
  least = max(point['ap'] for point in points) - SMALL_LOSS
  return min((point for point in points if point['ap'] >= least),
             key=lambda point: (point['gmac_mean'], point['budget']))['budget']


def without(description: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the content of `export.json` without the table."""
  return {name: value for name, value in description.items() if name != _KEY}


def choose(detector: Any, limit: Limit, batch_size: int, what: str) -> tuple[Point, str]:
  """Chooses the largest budget whose measured time or cost fits.

  Args:
    detector: a `SavedDetector`.
    limit: the largest allowed time or cost.
    batch_size: number of images of a batch, for a limit of time.
    what: the detector, in the words of the command line.

  Returns:
    The point, and a sentence on what to expect of it.

  Raises:
    CommandError: the export has no table, or none that has such times; or nothing fits.
  """
  table = detector.description.get(_KEY)
  if not table:
    raise command_line.CommandError(
        f'{limit.flag}: {what} has no table of budgets: make one with {_COMMAND}.')
  try:
    return _choose(table, limit, detector.engine, str(detector.batch_size or batch_size), what)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise command_line.CommandError(
        f'{limit.flag}: {what} has a damaged table of budgets ({error!r}): make it again with '
        f'{_COMMAND}.') from error


def _choose(table: Mapping[str, Any], limit: Limit, engine: str, batch_size: str, what: str
            ) -> tuple[Point, str]:
  points = sorted(table['points'], key=lambda point: point['budget'])
  if limit.flag == '--max_ms':
    _check_times(points, limit, engine, batch_size, what)
  values = [_value(point, limit, engine, batch_size) for point in points]
  fitting = [point for point, value in zip(points, values) if value <= limit.value]
  measured = _measured(table, limit)
  if not fitting:
    least = min(values)
    raise command_line.CommandError(
        f'{limit.flag}={limit.value:g}: no budget fits; {points[values.index(least)]["budget"]:g} '
        f'takes the least, {least:.3g} {limit.unit}{measured}')
  return fitting[-1], _expected(fitting[-1], limit, engine, batch_size) + measured


def _check_times(points: list[Point], limit: Limit, engine: str, batch_size: str, what: str
                 ) -> None:
  """Raises a CommandError if a budget has no time of such batches in the engine."""
  times = [point['milliseconds'] for point in points]
  if all(batch_size in time.get(engine, ()) for time in times):
    return
  known = [f'{size} in {name}' for name, sizes in times[0].items() for size in sizes]
  raise command_line.CommandError(
      f'{limit.flag}: the table of {what} has no times of batches of {batch_size} in {engine}, but '
      f'of {", ".join(known) or "none"}: give another --batch_size, or measure them with '
      f'{_COMMAND}.')


def _value(point: Point, limit: Limit, engine: str, batch_size: str) -> float:
  """Returns what a limit is compared with."""
  if limit.flag == '--max_gmac':
    return point['gmac_mean']
  return point['milliseconds'][engine][batch_size]['median']


def _expected(point: Point, limit: Limit, engine: str, batch_size: str) -> str:
  """Says what to expect of a point, up to where it was measured."""
  time = point['milliseconds'].get(engine, {}).get(batch_size)
  images = 'an image' if batch_size == '1' else f'{batch_size} images'
  took = (f'{time["median"]:.1f} ms for {images} (quartiles {time["low"]:.1f} to '
          f'{time["high"]:.1f}) in {engine}, ' if time else '')
  return (f'Budget {point["budget"]:g} for {limit.flag}={limit.value:g}: {took}AP '
          f'{point["ap"]:.3f}, AP50 {point["ap50"]:.3f}, {point["gmac_mean"]:.3f} GMAC per image '
          f'({point["gmac_min"]:.3f} to {point["gmac_max"]:.3f})')


def _measured(table: Mapping[str, Any], limit: Limit) -> str:
  """Says where a table was measured, and whether that was another machine."""
  data, known = table['data'], table['machine']
  here = machine_lib.describe()
  text = (f'; measured on {data["images"]} images of {data["name"]}, on '
          f'{machine_lib.text(known)}.')
  if limit.flag == '--max_ms' and dict(known) != here:
    text += (f' This machine is another, {machine_lib.text(here)}, and may take other times: '
             f'measure them with {_COMMAND}.')
  return text
