"""Draws accuracy against cost and time."""
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure


def draw_tradeoff(points: Sequence[Mapping[str, Any]]) -> figure.Figure:
  """Draws average precision against multiply-adds.

  Args:
    points: mappings with `model`, the name of a curve; `threshold` or `budget` of its gates, those
      that it does not have missing or None; `ap`, in [0, 1]; and `gmac_mean`, `gmac_min` and
      `gmac_max`, 10^9 multiply-adds per image.

  Returns:
    A figure with a line per model through its points; thresholds and budgets are written beside
    the points, and horizontal bars reach from the cheapest to the dearest image.
  """
  plot = figure.Figure(figsize=(8, 5))
  axes = plot.subplots()
  for number, model in enumerate(dict.fromkeys(point['model'] for point in points)):
    _draw_cost(axes, [point for point in points if point['model'] == model], model, f'C{number}')
  axes.legend()
  return plot


def draw_frontier(points: Sequence[Mapping[str, Any]]) -> figure.Figure:
  """Draws average precision against multiply-adds and against time.

  Args:
    points: of one model, as `draw_tradeoff` takes them, without `model`; and `milliseconds` of a
      batch, engine -> number of images -> `low`, `median` and `high`, the same for all points.

  Returns:
    A figure of two pictures.  The left one is of multiply-adds; the right one has a line for each
    engine and size of batches, of milliseconds per image, with bars between the quartiles.
  """
  plot = figure.Figure(figsize=(14, 5))
  left, right = plot.subplots(1, 2)
  _draw_cost(left, points, 'every image', 'C0')
  number = 0
  for engine, sizes in points[0]['milliseconds'].items():
    for size in sizes:
      times = [{name: value / int(size) for name, value in
                point['milliseconds'][engine][size].items()} for point in points]
      _draw_line(right, points, [(time['median'], time['low'], time['high']) for time in times],
                 f'{engine}, batch of {size}', f'C{number}')
      number += 1
  right.set_xlabel('ms per image: median, and quartiles')
  right.legend()
  return plot


def _draw_cost(axes: Any, points: Sequence[Mapping[str, Any]], label: str, color: str) -> None:
  """Draws a line of average precision against multiply-adds."""
  _draw_line(axes, points, [(point['gmac_mean'], point['gmac_min'], point['gmac_max'])
                            for point in points], label, color)
  axes.set_xlabel('GMAC per image, whole network: mean, and cheapest to dearest image')


def _draw_line(axes: Any, points: Sequence[Mapping[str, Any]],
               ranges: Sequence[tuple[float, float, float]], label: str, color: str) -> None:
  """Draws a line of average precision against a value that has a least and a largest one.

  Args:
    axes: what to draw on.
    points: `ap`, and perhaps `threshold` or `budget`, which is written beside each point.
    ranges: value, least and largest one of each point.
    label: of the line.
    color: of the line.
  """
  values = [value for value, _, _ in ranges]
  # Rounding may put the mean of equal costs outside of their range.
  bars = [[max(0.0, value - low) for value, low, _ in ranges],
          [max(0.0, high - value) for value, _, high in ranges]]
  axes.errorbar(values, [point['ap'] for point in points], xerr=bars, color=color,
                marker='o', capsize=3, elinewidth=1, label=label)
  for value, point in zip(values, points):
    setting = point.get('threshold') if point.get('budget') is None else point['budget']
    if setting is not None:
      axes.annotate(f'{setting:g}', (value, point['ap']), (0, 6), fontsize=8,
                    textcoords='offset points', ha='center', color=color)
  axes.set_ylabel('AP')
  axes.grid(alpha=0.3)
