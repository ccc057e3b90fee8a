"""What the nodes of one layer of a supernet do with the images of a batch."""
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
import tensorflow as tf

from official_ext.modeling.backbones.caddet import wiring
from official_ext.ops import conditional

# Of gates; what is below counts as shut (section 3.1 of CADDet).
THRESHOLD = 1e-4

_IS_KEEP = np.array([path == 'keep' for path in wiring.PATHS])


class NodeDecision(NamedTuple):
  """What one node does.

  Attributes:
    runs: images for which the cell runs.
    opened: path -> images that leave on it.
    weights: path -> float32 `[batch, 1, 1, 1]`, what features are multiplied by.
  """
  runs: conditional.Selection
  opened: Dict[str, conditional.Selection]
  weights: Dict[str, tf.Tensor]


class Arrivals(NamedTuple):
  """The images that open paths bring to the nodes of a layer.

  Attributes:
    images: boolean `[batch, nodes]`.
    present: the same, node by node.
  """
  images: tf.Tensor
  present: List[conditional.Selection]


class LayerDecisions(NamedTuple):
  """What the nodes of a layer do.

  Attributes:
    gates: float32 `[batch, nodes, len(PATHS)]`, 0 where shut or the image is not present.
    nodes: scale -> what its node does.
    arrivals: at the next layer.
  """
  gates: tf.Tensor
  nodes: Dict[int, NodeDecision]
  arrivals: Arrivals


def entrance(batch: tf.Tensor, skip: bool) -> Arrivals:
  """Returns the arrivals of the first layer: every image is at its only node.

  Args:
    batch: number of images.
    skip: as in `decide`.
  """
  images = tf.ones([batch, 1], tf.bool)
  return Arrivals(images, _select(images, skip))


def decide(nodes: Sequence[wiring.NodeSpec], logits: Sequence[tf.Tensor], arrived: tf.Tensor,
           hard: bool, skip: bool) -> LayerDecisions:
  """Decides for a whole layer at once: its few numbers are not worth an operation each.

  Reference: CADDet, https://arxiv.org/abs/2012.04265, section 3.1; what a dropped node does is
  that of its predecessor, Yanwei Li et al., https://arxiv.org/abs/2003.10401.

  Gates are max(0, tanh) of what routers return, and 0 below the threshold.

  Args:
    nodes: of one layer, finest scale first.
    logits: float32 `[batch, paths]` of every node's router.
    arrived: boolean `[batch, nodes]`, the images that are present in a node.
    hard: open paths are multiplied by 1 instead of their gate.
    skip: whether what is not selected will be left out.
  """
  gates = tf.tanh(wiring.by_path(nodes, logits))
  here = tf.expand_dims(arrived, 2)
  is_open = (gates >= THRESHOLD) & here
  gates = tf.where(is_open, gates, 0.0)
  runs = tf.reduce_any(is_open, 2)
  # A node whose gates are all shut is dropped: what came in passes on along `keep`.
  passes = here & ~tf.expand_dims(runs, 2) & _IS_KEEP
  multipliers = tf.cast(is_open, tf.float32) if hard else gates
  weights = iter(tf.unstack(
      _columns(multipliers + tf.cast(passes, tf.float32))[:, None, None, None], axis=4))
  leaves = is_open | passes
  next_images = tf.reduce_any(tf.expand_dims(leaves, 3) & _targets(nodes), [1, 2])
  selections = iter(_select(
      tf.concat([runs, _columns(leaves), next_images], 1), skip))
  running = [next(selections) for _ in nodes]
  decisions = {
      node.scale: NodeDecision(cell, {path: next(selections) for path in wiring.PATHS},
                               {path: next(weights) for path in wiring.PATHS})
      for node, cell in zip(nodes, running)}
  return LayerDecisions(gates, decisions, Arrivals(next_images, list(selections)))


def _select(images: tf.Tensor, skip: bool) -> List[conditional.Selection]:
  """Returns one selection per column; without a case if nothing will be skipped."""
  if skip:
    return conditional.select(images)
  return [conditional.Selection(column, None) for column in tf.unstack(images, axis=1)]


def _columns(values: tf.Tensor) -> tf.Tensor:
  """Returns `[batch, nodes, paths]` as `[batch, nodes * paths]`."""
  return tf.reshape(values, [-1, values.shape[1] * values.shape[2]])


def _targets(nodes: Sequence[wiring.NodeSpec]) -> np.ndarray:
  """Returns boolean `[nodes, paths, scales]`: where a path leads in the next layer."""
  leads = {(index, path): node.scale + wiring.STEPS[path]
           for index, node in enumerate(nodes) for path in node.paths}
  targets = np.zeros([len(nodes), len(wiring.PATHS), 1 + max(leads.values())], bool)
  for (index, path), scale in leads.items():
    targets[index, wiring.PATHS.index(path), scale] = True
  return targets
