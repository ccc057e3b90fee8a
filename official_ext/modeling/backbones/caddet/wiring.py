"""The nodes and scales of a multi-scale supernet, and the multiply-adds of its parts.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors (CADDet),
https://arxiv.org/abs/2012.04265, sections 3.1 and 3.2.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import shapes

# The paths that leave a node, in the order of its gates.
PATHS = ('up', 'keep', 'down')
# Path -> the scale that it leads to minus the scale of the node; scale 0 is the finest.
SCALE_CHANGES = {'up': -1, 'keep': 0, 'down': 1}


class NodeSpec(NamedTuple):
  """One node.

  Attributes:
    layer: number of its layer, 0 for the entry node.
    scale: number of its scale, 0 for the finest.
    paths: the paths that leave it, in the order of `PATHS`.
  """
  layer: int
  scale: int
  paths: tuple[str, ...]

  @property
  def targets(self) -> dict[str, int]:
    """Path -> the scale of the next layer that it leads to."""
    return {path: self.scale + SCALE_CHANGES[path] for path in self.paths}


def wire(num_layers: int, num_scales: int) -> list[NodeSpec]:
  """Returns the nodes of a supernet, layer by layer and finest scale first.

  Layer 0 is the entry node at the finest scale.  Every layer adds a scale until all exist.
  Only `keep` leaves the last layer.

  Args:
    num_layers: number of layers after the entry node.
    num_scales: number of maps of the last layer, each half the size of the one before.

  Raises:
    ArgumentError: too few layers to reach the coarsest scale.
  """
  if num_layers < max(1, num_scales - 1):
    raise checks.ArgumentError(
        'num_layers', f'num_layers is {num_layers}; the {num_scales} scales of channels need '
        f'{max(1, num_scales - 1)} at least.')
  nodes = []
  for layer in range(num_layers + 1):
    for scale in range(min(layer + 1, num_scales)):
      exists = {'up': scale > 0, 'keep': True, 'down': scale < num_scales - 1}
      leaving = PATHS if layer < num_layers else ('keep',)
      nodes.append(NodeSpec(layer, scale, tuple(path for path in leaving if exists[path])))
  return nodes


def by_path(nodes: Sequence[NodeSpec], values: Sequence[tf.Tensor]) -> tf.Tensor:
  """Stacks one value per path of several nodes into one tensor with all `PATHS` for every node.

  Args:
    nodes: nodes that `wire` returned.
    values: `[batch, paths of the node]` for every node.

  Returns:
    `[batch, nodes, len(PATHS)]`, 0 for paths that a node does not have.
  """
  names = [(index, path) for index, node in enumerate(nodes) for path in node.paths]
  # Paths that a node does not have read the last column, which is always 0.
  columns = [[names.index((index, path)) if path in node.paths else len(names) for path in PATHS]
             for index, node in enumerate(nodes)]
  return tf.gather(tf.concat([*values, tf.zeros_like(values[0][:, :1])], 1), columns, axis=1)


class SupernetCosts(NamedTuple):
  """Multiply-adds of one image with every gate open; Python integers.

  Attributes:
    stem: the three convolutions before the entry node, which every image runs.
    nodes: the cells of all nodes.
    transitions: all paths between scales.
    routers: the routers of all nodes.
  """
  stem: int
  nodes: int
  transitions: int
  routers: int

  @property
  def total(self) -> int:
    """The sum of the parts (C_tot)."""
    return self.stem + self.nodes + self.transitions + self.routers


class NetworkUse(NamedTuple):
  """Multiply-adds of each image of a batch, float32 `[batch]`, and bounds, float32 scalars.

  Attributes:
    soft_cost: cells and paths weighted by their soft gates (C_net of eq. 4), differentiable.
    expected: `soft_cost` plus the routers of nodes where the image is present.
    executed: cells and paths that run, plus the routers of nodes where the image is present.
    minimum: every gate shut: only the routers of the finest scale, along which features pass.
    maximum: every gate open: all cells, paths and routers.
  """
  soft_cost: tf.Tensor
  expected: tf.Tensor
  executed: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor


def halved(size: Any, times: int = 1) -> Any:
  """Returns a length, or a tensor of lengths, after convolutions of stride 2, rounded up."""
  for _ in range(times):
    size = shapes.divide_up(size, 2)
  return size


class CostModel:
  """Multiply-adds of a supernet's parts, from the sizes of its maps (section 3.2).

  Only convolutions and the last layer of the routers are counted, not normalization,
  activations, pooling and interpolation.
  """

  def __init__(self, nodes: Sequence[NodeSpec], channels: Sequence[int]):
    """Initializes the model.

    Args:
      nodes: nodes that `wire` returned.
      channels: number of channels of every scale, finest first.
    """
    self._nodes, self._channels = list(nodes), list(channels)
    self._cells = [2 * (9 * c + c * c) for c in (channels[node.scale] for node in nodes)]
    self._routers = [self._router(node) for node in nodes]

  def _router(self, node: NodeSpec) -> int:
    channels = self._channels[node.scale]
    return 4 * channels * (channels // 2) + len(node.paths) * (channels // 2)

  def _paths(self, node: NodeSpec, pixels: Sequence[Any]) -> dict[str, Any]:
    """Returns path -> multiply-adds; `keep` is free.

    Args:
      node: the node.
      pixels: height times width of every scale.
    """
    scale, channels = node.scale, self._channels
    return {path: 0 if path == 'keep' else
                  pixels[max(scale, target)] * channels[scale] * channels[target]
            for path, target in node.targets.items()}

  def costs(self, height: int, width: int) -> SupernetCosts:
    """Returns the multiply-adds of all parts for one image.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
    """
    halves = [halved(height, n) * halved(width, n) for n in range(1, 4 + len(self._channels))]
    finest = self._channels[0]
    stem = (halves[0] * 3 * (9 + finest) + (halves[1] + halves[2]) * finest * (9 + finest))
    pixels = halves[2:]
    return SupernetCosts(
        stem,
        sum(cell * pixels[node.scale] for cell, node in zip(self._cells, self._nodes)),
        sum(sum(self._paths(node, pixels).values()) for node in self._nodes),
        sum(self._routers))

  def use(self, gates: tf.Tensor, present: tf.Tensor, finest: tf.Tensor) -> NetworkUse:
    """Returns the multiply-adds of the images of a batch.

    Args:
      gates: float32 `[batch, nodes, len(PATHS)]`, 0 where shut or not present.
      present: boolean `[batch, nodes]`, the images that are present in each node.
      finest: a map of the finest scale, `[batch, height, width, any]`; only its size is used.
    """
    # float64 holds these whole numbers exactly, so that an image with every gate open costs
    # exactly the maximum.
    pixels = self._pixels(finest)
    cells = tf.stack([cell * pixels[node.scale] for cell, node in zip(self._cells, self._nodes)])
    none = tf.zeros([], tf.float64)
    paths = tf.stack([[cost.get(path, 0) + none for path in PATHS] for cost in (
        self._paths(node, pixels) for node in self._nodes)])
    routers = tf.constant(self._routers, tf.float64)

    def routed(gates):
      # The product comes before the maximum: OpenVINO 2026.4 multiplies a maximum by a vector
      # wrongly if there are several images.
      return (tf.reduce_sum(tf.reduce_max(gates * cells[:, None], 2), 1)
              + tf.reduce_sum(gates * paths, [1, 2]))

    soft = tf.cast(gates, tf.float64)
    soft_cost = routed(soft)
    router_cost = tf.reduce_sum(tf.cast(present, tf.float64) * routers, 1)
    at_finest = sum(cost for cost, node in zip(self._routers, self._nodes) if node.scale == 0)
    costs = {
        'soft_cost': soft_cost,
        'expected': soft_cost + router_cost,
        'executed': routed(tf.cast(gates > 0, tf.float64)) + router_cost,
        'minimum': tf.constant(at_finest, tf.float64),
        'maximum': tf.reduce_sum(cells) + tf.reduce_sum(paths) + tf.reduce_sum(routers)}
    return NetworkUse(**{name: tf.cast(cost, tf.float32) for name, cost in costs.items()})

  def _pixels(self, finest: tf.Tensor) -> list[tf.Tensor]:
    """Returns height times width of every scale, float64 scalars."""
    size, pixels = tf.shape(finest)[1:3], []
    for _ in self._channels:
      pixels.append(tf.reduce_prod(tf.cast(size, tf.float64)))
      size = halved(size)
    return pixels
