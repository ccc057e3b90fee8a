"""Draws gates that decide per position as heatmaps over the image."""
from collections.abc import Mapping, Sequence
import re

from matplotlib import figure
import numpy as np

_PANEL = 1.7  # Width of one heatmap in inches.
_MAX_ASPECT = 2.5
# Names have `/` between their parts on a routing tape, and `_` in the outputs of a SavedModel.
_NAME = re.compile(r'(?P<column>.+)[/_](?P<path>[a-z]+)_(?P<level>\d+)')

Maps = dict[tuple[str, int], np.ndarray]


def by_path(gates: Mapping[str, np.ndarray]) -> dict[str, Maps]:
  """Sorts the gates of one image that decide per position.

  Args:
    gates: name -> value, without a batch dimension.  Only values of `[height, width, 1]` are
      used; their names are `<part>/<block>/<path>_<level>`, as `class_tower/block_0/depth_3`.

  Returns:
    Path -> (part and block, level) -> `[height, width]`; empty if no gate decides per position.

  Raises:
    ValueError: the name of a gate per position has another form.
  """
  paths: dict[str, Maps] = {}
  for name, gate in gates.items():
    if np.ndim(gate) != 3:
      continue
    match = _NAME.fullmatch(name)
    if not match:
      raise ValueError(f'a gate per position is named {name!r}; expected a name that ends in '
                       '<path>_<level>, as class_tower/block_0/depth_3.')
    column = re.sub('[/_]', ' ', match['column'])
    paths.setdefault(match['path'], {})[column, int(match['level'])] = np.asarray(gate)[..., 0]
  return paths


def draw_heatmaps(image: np.ndarray, maps: Maps, scale: Sequence[float] = (1.0, 1.0),
                  title: str = '') -> figure.Figure:
  """Draws where the gates of one path are open, as in Figure 4 of the dynamic head's paper.

  Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
  https://arxiv.org/abs/2012.03519.

  Args:
    image: uint8 `[height, width, 3]`.
    maps: (part and block, level) -> `[map_height, map_width]` in [0, 1].  A position covers
      `2**level` pixels of the network's input, which has its first pixel where the image has.
    scale: pixels of the network's input for one pixel of the image, `(y, x)`.
    title: text above the picture.

  Returns:
    A figure with one row per level and one column per part and block.  Shut positions are gray,
    open ones have the color of the gate; a corner shows the share of open positions.
  """
  columns = sorted({column for column, _ in maps}, key=_natural)
  levels = sorted({level for _, level in maps})
  height, width = image.shape[:2]
  aspect = np.clip(height / width, 1 / _MAX_ASPECT, _MAX_ASPECT)
  plot = figure.Figure(figsize=(_PANEL * len(columns) + 1.2, _PANEL * aspect * len(levels) + 1),
                       layout='constrained')
  axes = plot.subplots(len(levels), len(columns), squeeze=False)
  gray = image.mean(axis=-1)
  for row, level in zip(axes, levels):
    row[0].set_ylabel(f'level {level}', fontsize=10)
    for axis, column in zip(row, columns):
      axis.set(xticks=[], yticks=[])
      axis.imshow(gray, cmap='gray', vmin=np.min(gray), vmax=np.max(gray))
      if (column, level) in maps:
        drawn = _draw_map(axis, maps[column, level], 2**level / np.asarray(scale), (height, width))
      else:
        axis.set_visible(False)
  for axis, column in zip(axes[0], columns):
    axis.set_title(column, fontsize=10)
  plot.colorbar(drawn, ax=axes, shrink=0.7, aspect=30, label='gate')
  plot.suptitle(title, fontsize=12)
  return plot


def open_share(maps: Maps) -> float:
  """Returns the share of open positions among the positions of all maps."""
  return sum(np.sum(gate > 0) for gate in maps.values()) / sum(
      gate.size for gate in maps.values())


def _draw_map(axis, gate: np.ndarray, stride: np.ndarray, size: tuple[int, int]):
  """Draws a map over the image on an axis; returns the Matplotlib image, for the color bar."""
  bottom, right = gate.shape * stride
  drawn = axis.imshow(
      gate, extent=(-0.5, right - 0.5, bottom - 0.5, -0.5), cmap='plasma', vmin=0, vmax=1,
      alpha=np.where(gate > 0, 0.55, 0.0), interpolation='nearest')
  # The input may be padded beyond the image.
  axis.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
  axis.text(0.03, 0.03, f'{np.mean(gate > 0):.0%}', transform=axis.transAxes, fontsize=9,
            color='white', bbox={'facecolor': 'black', 'alpha': 0.6, 'pad': 1.5, 'lw': 0})
  return drawn


def _natural(name: str) -> list[object]:
  """Returns a key that sorts `block 10` after `block 9`."""
  return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]
