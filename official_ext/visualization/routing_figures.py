"""Draws what routed networks decided, what that cost, and what branches compute."""
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np

from official_ext.visualization import gate_heatmaps
from official_ext.visualization import routes

_GIGA = 1e9
_FEW_GATES = 16

Item = TypeVar('Item')


def draw_gate_matrix(gates: Mapping[str, np.ndarray]) -> figure.Figure:
  """Draws which gates opened for which image, images sorted by how much they opened.

  Args:
    gates: name -> `[images]`, 0 (shut) to 1 (open).

  Returns:
    A figure with one row per gate and one column per image.
  """
  names = list(gates)
  matrix = np.stack([gates[name] for name in names])
  matrix = matrix[:, np.lexsort(matrix[::-1])][:, ::-1]
  # A dynamic head has hundreds of gates.
  row, font_size = (0.4, 10) if len(names) <= _FEW_GATES else (0.15, 7)
  plot = figure.Figure(figsize=(10, 0.7 + row * len(names)))
  axes = plot.subplots()
  axes.imshow(matrix, aspect='auto', cmap='viridis', vmin=0, vmax=1, interpolation='nearest')
  axes.set_yticks(range(len(names)), [
      f'{name}  ({np.mean(gates[name]):.0%} open)' for name in names], fontsize=font_size)
  axes.set_xlabel(f'{matrix.shape[1]} images, sorted; bright: open')
  return plot


def draw_cost_histogram(costs: np.ndarray, references: Mapping[str, float]) -> figure.Figure:
  """Draws the distribution of cost over images, and the fixed cost of other networks as lines.

  Args:
    costs: `[images]`, multiply-adds.
    references: name of a network -> its multiply-adds.

  Returns:
    A figure; its axis is in 10^9 multiply-adds (GMAC).
  """
  plot = figure.Figure(figsize=(10, 3.2))
  axes = plot.subplots()
  values = np.asarray(costs) / _GIGA
  span = (min(values.min(), *(v / _GIGA for v in references.values())),
          max(values.max(), *(v / _GIGA for v in references.values())))
  axes.hist(values, bins=40, range=span, color='#2a788e')
  for index, (label, value) in enumerate(references.items()):
    axes.axvline(value / _GIGA, color=f'C{index + 1}', linestyle='--',
                 label=f'{label}: {value / _GIGA:.3f}')
  axes.axvline(values.mean(), color='black', label=f'mean: {values.mean():.3f}')
  axes.set_xlabel('GMAC per image, whole network')
  axes.set_ylabel('images')
  axes.legend()
  return plot


def draw_feature_grid(image: np.ndarray, branches: Mapping[str, np.ndarray],
                      title: str) -> figure.Figure:
  """Draws the output of each branch for an image: the mean magnitude over channels.

  Args:
    image: uint8 `[height, width, 3]`.
    branches: name -> `[map_height, map_width, channels]`.
    title: text above the picture.

  Returns:
    A figure of the image and one map per branch; all maps have one color scale.
  """
  maps = {name: np.mean(np.abs(value), axis=-1) for name, value in branches.items()}
  top = max(float(values.max()) for values in maps.values()) or 1.0
  columns = min(4, len(maps) + 1)
  rows = -(-(len(maps) + 1) // columns)
  plot = figure.Figure(figsize=(2.6 * columns, 2.8 * rows))
  axes = np.ravel(plot.subplots(rows, columns))
  axes[0].imshow(image)
  axes[0].set_title('image', fontsize=10)
  for axis, (name, values) in zip(axes[1:], maps.items()):
    axis.imshow(values, cmap='magma', vmin=0, vmax=top)
    axis.set_title(f'{name}, mean {values.mean():.2f}', fontsize=10)
  for axis in axes:
    axis.axis('off')
  plot.suptitle(title)
  return plot


def pick_evenly(items: Sequence[Item], count: int) -> list[Item]:
  """Returns up to `count` of the items at equal distances, first and last included."""
  count = min(count, len(items))
  return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]


def draw_decisions(image: np.ndarray, gates: Mapping[str, Any], executed: float,
                   maximum: float | None = None, scale: Sequence[float] = (1.0, 1.0)
                   ) -> dict[str, figure.Figure]:
  """Draws what a network decided about one image: gates per position, or a route.

  Args:
    image: uint8 `[height, width, 3]`.
    gates: name -> value as on a routing tape, without the batch dimension.
    executed: multiply-adds of the routed parts for this image.
    maximum: multiply-adds of the routed parts with every gate open; None: not known.
    scale: pixels of the network's input for one pixel of the image, `(y, x)`.

  Returns:
    Name -> figure: one for each path of gates per position, named as the path, and `route` for
    a supernet.  Empty if no gate is of these kinds.
  """
  cost = f'{executed / _GIGA:.3g}' + (f' of {maximum / _GIGA:.3g}' if maximum else '')
  is_supernet = bool(routes.supernet_paths(gates))
  route = {'route': routes.draw_route(gates, executed, maximum)} if is_supernet else {}
  return route | {
      path: gate_heatmaps.draw_heatmaps(image, maps, scale, (
          f'{path} gates: {gate_heatmaps.open_share(maps):.0%} of positions open\n'
          f'routed parts: {cost} GMAC'))
      for path, maps in gate_heatmaps.by_path(gates).items()}


def render(plot: figure.Figure, dots_per_inch: int = 80) -> np.ndarray:
  """Renders a figure to pixels, uint8 `[height, width, 3]`."""
  canvas = backend_agg.FigureCanvasAgg(plot)
  plot.set_dpi(dots_per_inch)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()
