"""Draws accuracy against cost."""
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
    own = [point for point in points if point['model'] == model]
    means = [point['gmac_mean'] for point in own]
    # Rounding may put the mean of equal costs outside of their range.
    bars = [[max(0.0, mean - point['gmac_min']) for mean, point in zip(means, own)],
            [max(0.0, point['gmac_max'] - mean) for mean, point in zip(means, own)]]
    axes.errorbar(means, [point['ap'] for point in own], xerr=bars, color=f'C{number}',
                  marker='o', capsize=3, elinewidth=1, label=model)
    for mean, point in zip(means, own):
      setting = point['threshold'] if point.get('budget') is None else point['budget']
      if setting is not None:
        axes.annotate(f'{setting:g}', (mean, point['ap']), (0, 6), fontsize=8,
                      textcoords='offset points', ha='center', color=f'C{number}')
  axes.set_xlabel('GMAC per image, whole network: mean, and cheapest to dearest image')
  axes.set_ylabel('AP')
  axes.grid(alpha=0.3)
  axes.legend()
  return plot
