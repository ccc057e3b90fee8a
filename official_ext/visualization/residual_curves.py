"""Draws how fast fixed-point solvers converge."""
from collections.abc import Mapping

from matplotlib import figure
import numpy as np


def draw_residuals(residuals: Mapping[str, np.ndarray], title: str = '') -> figure.Figure:
  """Draws the relative residual after each evaluation, on a logarithmic scale.

  Args:
    residuals: label -> `[evaluations, images]`, as `Solution.residuals` of
      `ops/fixed_point`.
    title: text above the picture.

  Returns:
    A figure with a line and a band per label: the median over the images, and least to
    largest.
  """
  plot = figure.Figure(figsize=(8, 4.5))
  axes = plot.subplots()
  for index, (label, values) in enumerate(residuals.items()):
    values = np.asarray(values)
    steps = np.arange(1, len(values) + 1)
    color = f'C{index}'
    median = np.median(values, axis=1)
    axes.plot(steps, median, color=color, marker='o', markersize=3,
              label=f'{label}: {median[-1]:.1e} after {len(values)}')
    axes.fill_between(steps, values.min(axis=1), values.max(axis=1), color=color, alpha=0.15)
  axes.set_yscale('log')
  axes.set_xlabel('evaluations of the map')
  axes.set_ylabel('relative residual')
  axes.set_title(title)
  axes.grid(alpha=0.3)
  axes.legend()
  return plot
