"""Draws the routes that images take through a supernet of layers and scales.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, Figure 7.
"""
from collections.abc import Mapping, Sequence
import re
from typing import Any, NamedTuple

from matplotlib import figure
import numpy as np

_GIGA = 1e9
_SCALE_CHANGES = {'up': -1, 'keep': 0, 'down': 1}
# Names have `/` between their parts on a routing tape, and `_` in the outputs of a SavedModel.
_NAME = re.compile(r'(?:.*[/_])?layer_(\d+)[/_]scale_(\d+)[/_](up|keep|down)')
_RUNS, _PASSES, _SHUT = '#d1495b', '#edae49', '#d8dee4'

Node = tuple[int, int]


class Route(NamedTuple):
  """The nodes and paths of a supernet that one image uses.

  Attributes:
    running: nodes whose cell runs for the image, `(layer, scale)`.
    passed: nodes with every gate shut, which hand their input on.
    edges: `(layer, scale, path)` -> gate, for paths that carry features.
  """
  running: Sequence[Node]
  passed: Sequence[Node]
  edges: Mapping[tuple[int, int, str], float]


def supernet_paths(gates: Mapping[str, Any]) -> dict[Node, dict[str, Any]]:
  """Returns the gates of a supernet by node and path.

  Args:
    gates: name -> value of one image, or any other value that belongs to the gate.

  Returns:
    Node -> path -> value, without the gates that are not named as a supernet's.
  """
  paths: dict[Node, dict[str, Any]] = {}
  for name, gate in gates.items():
    match = _NAME.fullmatch(name)
    if match:
      paths.setdefault((int(match[1]), int(match[2])), {})[match[3]] = gate
  return dict(sorted(paths.items()))


def follow_route(paths: Mapping[Node, Mapping[str, float]]) -> Route:
  """Follows open paths from the entry node to the last layer.

  Args:
    paths: node -> path -> gate, as `supernet_paths` returns them; a shut gate is 0.
  """
  present, edges = {min(paths)}, {}
  running: list[Node] = []
  passed: list[Node] = []
  for (layer, scale), gates in paths.items():
    if (layer, scale) not in present:
      continue
    is_open = {path: gate for path, gate in gates.items() if gate > 0}
    (running if is_open else passed).append((layer, scale))
    for path, gate in (is_open or {'keep': 1.0}).items():
      edges[layer, scale, path] = float(gate)
      present.add((layer + 1, scale + _SCALE_CHANGES[path]))
  return Route(running, passed, edges)


def draw_route(gates: Mapping[str, float], executed: float,
               maximum: float | None = None) -> figure.Figure:
  """Draws the route of one image: layers from left to right, the finest scale on top.

  Args:
    gates: name -> value of one image.
    executed: multiply-adds of the routed parts for this image.
    maximum: the same with every gate open; None: not known.

  Returns:
    A figure; open paths are bold, shut ones thin.

  Raises:
    ValueError: no gate is named as a supernet's.
  """
  paths = supernet_paths(gates)
  if not paths:
    raise ValueError(f"gates {list(gates)[:3]} are not a supernet's: expected names that end in "
                     'layer_<number>/scale_<number>/<up, keep or down>.')
  route = follow_route(paths)
  layers, scales = max(paths)[0] + 1, max(scale for _, scale in paths) + 1
  plot = figure.Figure(figsize=(2.0 + 0.5 * layers, 1.0 + 0.5 * scales))
  axes = plot.subplots()
  for (layer, scale), leaving in paths.items():
    for path in leaving:
      gate = route.edges.get((layer, scale, path))
      color = _SHUT if gate is None else _RUNS if (layer, scale) in route.running else _PASSES
      axes.plot([layer, layer + 1], [scale, scale + _SCALE_CHANGES[path]], color=color,
                linewidth=0.8 if gate is None else 1.5 + 2.5 * gate, zorder=1 + (gate is not None))
  kinds = ((list(paths), 'white', _SHUT), (route.passed, 'white', _PASSES),
           (route.running, _RUNS, _RUNS))
  for nodes, face, edge in kinds:
    axes.scatter([layer for layer, _ in nodes], [scale for _, scale in nodes], s=36, zorder=3,
                 facecolors=face, edgecolors=edge)
  axes.set_yticks(range(scales), [f'1/{8 * 2**scale}' for scale in range(scales)])
  axes.invert_yaxis()
  axes.set_xticks(range(layers))
  axes.set_xlabel('layer')
  axes.set_ylabel('scale')
  axes.spines[['top', 'right']].set_visible(False)
  axes.set_title(_title(route, executed, maximum), fontsize=10)
  plot.tight_layout()
  return plot


def _title(route: Route, executed: float, maximum: float | None) -> str:
  share = f', {executed / maximum:.0%} of {maximum / _GIGA:.3f}' if maximum else ''
  return (f'{executed / _GIGA:.3f} GMAC{share}; {len(route.running)} nodes run, '
          f'{len(route.passed)} hand on')


def draw_cost_by_scales(costs: np.ndarray, num_scales: np.ndarray) -> figure.Figure:
  """Draws the distribution of cost against the number of scales among an image's objects.

  Args:
    costs: `[images]`, multiply-adds.
    num_scales: `[images]`, number of scales that the objects of each image have.

  Returns:
    A figure with a box for every number of scales, a point per image, and a line through the
    means.
  """
  plot = figure.Figure(figsize=(7, 3.6))
  axes = plot.subplots()
  numbers = np.unique(num_scales)
  groups = [np.asarray(costs)[num_scales == number] / _GIGA for number in numbers]
  _draw_box_plot(axes, groups, numbers, 0.5)
  axes.set_xticks(numbers, [f'{number}\n{len(group)} images'
                            for number, group in zip(numbers, groups)])
  axes.set_xlabel('scales among the objects of the image')
  axes.set_ylabel('GMAC per image')
  plot.tight_layout()
  return plot


def draw_similarity_by_scales(paths: np.ndarray, scales: np.ndarray) -> figure.Figure:
  """Draws how alike the paths of two images are against how alike their scales are.

  Args:
    paths: `[images, images]`, as `path_similarity.path_similarities` gives it.
    scales: `[images, images]`, as `path_similarity.scale_similarities` gives it.

  Returns:
    A figure with a box for every similarity of scales, a point per pair of images, and a line
    through the means.
  """
  plot = figure.Figure(figsize=(7, 3.6))
  axes = plot.subplots()
  rows, columns = np.triu_indices(len(paths), 1)
  alike, cosines = np.asarray(scales)[rows, columns], np.asarray(paths)[rows, columns]
  values = np.unique(alike)
  groups = [cosines[alike == value] for value in values]
  _draw_box_plot(axes, groups, values, 0.08)
  axes.set_xticks(values, [f'{value:.2f}\n{len(group)} pairs'
                           for value, group in zip(values, groups)])
  axes.set_xlabel('share of scales that two images have alike')
  axes.set_ylabel('cosine of their gates')
  plot.tight_layout()
  return plot


def draw_scale_relations(gates: Mapping[str, np.ndarray], costs: np.ndarray, presence: np.ndarray
                         ) -> dict[str, figure.Figure]:
  """Draws how cost and routes depend on the scales of objects.

  Args:
    gates: name -> `[images]`, gates of each image.
    costs: `[images]`, multiply-adds.
    presence: `[images, scales]`, 1 where an image has an object of a scale, else 0.

  Returns:
    `cost_by_scales` and `similarity_by_scales`, or nothing if no gate is named as a supernet's.
  """
  # Imported here: TensorFlow would delay the help text of commands that draw.
  from official_ext.losses import path_similarity
  paths = [gate for node in supernet_paths(gates).values() for gate in node.values()]
  if not paths:
    return {}
  return {
      'cost_by_scales': draw_cost_by_scales(costs, np.sum(presence, axis=1).astype(int)),
      'similarity_by_scales': draw_similarity_by_scales(
          path_similarity.path_similarities(np.stack(paths, axis=1)).numpy(),
          path_similarity.scale_similarities(np.float32(presence)).numpy())}


def _draw_box_plot(axes, groups: Sequence[np.ndarray], positions: np.ndarray, width: float) -> None:
  axes.boxplot(groups, positions=positions, widths=width, showfliers=False,
               medianprops={'color': '#2a788e'})
  for position, group in zip(positions, groups):
    spread = np.linspace(-width / 4, width / 4, len(group)) if len(group) > 1 else [0.0]
    axes.scatter(position + np.array(spread), group, s=6, color='#2a788e', alpha=0.4)
  axes.plot(positions, [np.mean(group) for group in groups], color='#d1495b', marker='D',
            markersize=4, label='mean')
  axes.legend()
