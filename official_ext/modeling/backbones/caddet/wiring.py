"""The wiring of a multi-scale supernet and what its parts cost; there is no variable here.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors (CADDet),
https://arxiv.org/abs/2012.04265, sections 3.1 and 3.2.
"""
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import tensorflow as tf

# The order of a node's gates; `STEPS` is the scale that a path leads to, less the node's own.
PATHS = ('up', 'keep', 'down')
STEPS = {'up': -1, 'keep': 0, 'down': 1}


class NodeSpec(NamedTuple):
  """One node: where it stands and the paths that leave it, in the order of `PATHS`."""
  layer: int
  scale: int
  paths: Tuple[str, ...]


def wire(num_layers: int, num_scales: int) -> List[NodeSpec]:
  """Returns the nodes of a supernet, layer by layer and finest scale first.

  Layer 0 is the entry node at the finest scale; every layer adds a scale until all are there;
  from the last layer nothing but `keep` leaves.

  Args:
    num_layers: layers behind the entry node.
    num_scales: maps of the last layer, each half the size of the one before.

  Raises:
    ValueError: too few layers to reach the coarsest scale.
  """
  if num_layers < max(1, num_scales - 1):
    raise ValueError(
        f'num_layers is {num_layers}; {num_scales} scales need {max(1, num_scales - 1)} at least: '
        'change backbone.caddet.num_layers or backbone.caddet.channels.')
  nodes = []
  for layer in range(num_layers + 1):
    for scale in range(min(layer + 1, num_scales)):
      exists = {'up': scale > 0, 'keep': True, 'down': scale < num_scales - 1}
      leaving = PATHS if layer < num_layers else ('keep',)
      nodes.append(NodeSpec(layer, scale, tuple(path for path in leaving if exists[path])))
  return nodes


def by_path(nodes: Sequence[NodeSpec], values: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns what several nodes have for each path as one tensor, with all `PATHS` for every node.

  Args:
    nodes: of `wire`.
    values: `[batch, paths]` of every node.

  Returns:
    `[batch, nodes, len(PATHS)]`, 0 for paths that a node does not have.
  """
  names = [(index, path) for index, node in enumerate(nodes) for path in node.paths]
  # Where a node has no such path, the number of a column that is always 0.
  columns = [[names.index((index, path)) if path in node.paths else len(names) for path in PATHS]
             for index, node in enumerate(nodes)]
  return tf.gather(tf.concat([*values, tf.zeros_like(values[0][:, :1])], 1), columns, axis=1)


class SupernetCosts(NamedTuple):
  """Multiply-adds of one image with every gate open; Python integers.

  Attributes:
    stem: not routed.
    nodes: the cells of all nodes.
    transitions: all paths between scales.
    routers: of all nodes.
  """
  stem: int
  nodes: int
  transitions: int
  routers: int

  @property
  def total(self) -> int:
    """All of it (C_tot)."""
    return sum(self)


class NetworkUse(NamedTuple):
  """Multiply-adds of each image of a batch, float32 `[batch]`, and bounds, float32 scalars.

  Attributes:
    net_cost: cells and paths by their soft gates (C_net of eq. 4), differentiable.
    expected: `net_cost` and the routers of present nodes.
    executed: cells and paths that run, and the routers of present nodes.
    minimum: every gate shut: the routers of the finest scale, along which features pass.
    maximum: every gate open.
  """
  net_cost: tf.Tensor
  expected: tf.Tensor
  executed: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor


def halved(size: Any, times: int = 1) -> Any:
  """Returns a length, or a tensor of lengths, after convolutions of stride 2, rounded up."""
  for _ in range(times):
    size = -(-size // 2)
  return size


class CostModel:
  """Multiply-adds of a supernet's parts, from the sizes of its maps (section 3.2).

  Convolutions only, and the last layer of the routers: normalization, activations, pooling and
  interpolation are not counted.
  """

  def __init__(self, nodes: Sequence[NodeSpec], channels: Sequence[int]):
    """Initializes the model.

    Args:
      nodes: of `wire`.
      channels: of every scale, finest first.
    """
    self._nodes, self._channels = list(nodes), list(channels)
    self._cells = [2 * (9 * c + c * c) for c in (channels[node.scale] for node in nodes)]
    self._routers = [self._router(node) for node in nodes]

  def _router(self, node: NodeSpec) -> int:
    channels = self._channels[node.scale]
    return 4 * channels * (channels // 2) + len(node.paths) * (channels // 2)

  def _paths(self, node: NodeSpec, pixels: Sequence[Any]) -> Dict[str, Any]:
    """Multiply-adds of a node's paths, `keep` is free."""
    scale, channels = node.scale, self._channels
    return {path: 0 if path == 'keep' else
                  pixels[max(scale, scale + STEPS[path])] * channels[scale]
                  * channels[scale + STEPS[path]]
            for path in node.paths}

  def costs(self, height: int, width: int) -> SupernetCosts:
    """Returns what all parts cost for an image of this size, in pixels."""
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
    """Returns what the images of a batch use.

    Args:
      gates: float32 `[batch, nodes, len(PATHS)]`, 0 where shut or not present.
      present: boolean `[batch, nodes]`.
      finest: a map of the finest scale, `[batch, height, width, any]`; only its size is used.
    """
    # float64 holds these whole numbers exactly, and all open has to cost the maximum to the bit.
    pixels = self._pixels(finest)
    cells = tf.stack([cell * pixels[node.scale] for cell, node in zip(self._cells, self._nodes)])
    none = tf.zeros([], tf.float64)
    paths = tf.stack([[cost.get(path, 0) + none for path in PATHS] for cost in (
        self._paths(node, pixels) for node in self._nodes)])
    routers = tf.constant(self._routers, tf.float64)

    soft = tf.cast(gates, tf.float64)

    def total(gates):
      return (tf.reduce_sum(tf.reduce_max(gates, 2) * cells, 1)
              + tf.reduce_sum(gates * paths, [1, 2]))

    running = tf.reduce_sum(tf.cast(present, tf.float64) * routers, 1)
    net_cost = total(soft)
    at_finest = sum(cost for cost, node in zip(self._routers, self._nodes) if node.scale == 0)
    costs = (net_cost, net_cost + running, total(tf.cast(soft > 0, tf.float64)) + running,
             tf.constant(at_finest, tf.float64),
             tf.reduce_sum(cells) + tf.reduce_sum(paths) + tf.reduce_sum(routers))
    return NetworkUse(*(tf.cast(cost, tf.float32) for cost in costs))

  def _pixels(self, finest: tf.Tensor) -> List[tf.Tensor]:
    """Returns height times width of every scale, float64 scalars."""
    size, pixels = tf.shape(finest)[1:3], []
    for _ in self._channels:
      pixels.append(tf.reduce_prod(tf.cast(size, tf.float64)))
      size = halved(size)
    return pixels
