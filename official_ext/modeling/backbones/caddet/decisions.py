"""The decisions of the nodes of one layer for the images of a batch: pure functions of logits."""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.modeling.backbones.caddet import wiring

# A gate below this value is shut (section 3.1 of CADDet).
THRESHOLD = 1e-4

_IS_KEEP = np.array([path == 'keep' for path in wiring.PATHS])


class LayerDecisions(NamedTuple):
  """The decisions of the nodes of one layer.

  `nodes` are those of the layer, finest scale first; `paths` are all of `wiring.PATHS`.  A path
  that a node does not have is shut for every image.

  Attributes:
    present: boolean `[batch, nodes]`, the images that an open path of the layer before brings to
      a node.
    gates: float32 `[batch, nodes, paths]`, 0 where shut or where the image is not present.
    running: boolean `[batch, nodes]`, the images for which a node's cell runs.
    leaving: boolean `[batch, nodes, paths]`, the images whose features leave on a path.
    weights: float32 `[batch, nodes, paths]`, what these features are multiplied by.
    next_present: boolean `[batch, nodes of the next layer]`, `present` of the next layer.
  """
  present: tf.Tensor
  gates: tf.Tensor
  running: tf.Tensor
  leaving: tf.Tensor
  weights: tf.Tensor
  next_present: tf.Tensor


def enter(batch: tf.Tensor) -> tf.Tensor:
  """Returns `present` of the first layer, `[batch, 1]`: every image is at the entry node.

  Args:
    batch: number of images, int32 scalar.
  """
  return tf.ones([batch, 1], tf.bool)


def decide(nodes: Sequence[wiring.NodeSpec], logits: tf.Tensor, present: tf.Tensor, hard: bool,
           threshold: tf.Tensor | None = None,
           move: Callable[[tf.Tensor], tf.Tensor] | None = None) -> LayerDecisions:
  """Decides for all nodes of a layer at once, because many small operations are slow.

  Gates are max(0, tanh) of the logits, and 0 below the threshold.  A node that is present and
  whose gates are all shut is dropped: its features leave on `keep` as they came, with weight 1,
  as in the code of CADDet's predecessor (Yanwei Li et al., https://arxiv.org/abs/2003.10401).

  Args:
    nodes: the nodes of one layer, finest scale first.
    logits: float32 `[batch, nodes, paths]`, what the routers return; 0 for paths that a node does
      not have.
    present: boolean `[batch, nodes]`, the images that are present in each node.
    hard: whether open paths have weight 1 instead of their gate.
    threshold: gates up to this value are shut too, scalar; None: no further ones.
    move: maps logits `[batch, nodes, paths]` to those at the budget of the call; None: as they are.

  Returns:
    The decisions of the layer.
  """
  gates = tf.tanh(logits if move is None else move(logits))
  here = tf.expand_dims(present, 2)
  is_open = (gates >= THRESHOLD) & here
  if threshold is not None:
    is_open &= gates > threshold
  gates = tf.where(is_open, gates, tf.zeros_like(gates))  # A scalar is many times slower.
  running = tf.reduce_any(is_open, 2)
  passing = here & ~tf.expand_dims(running, 2) & _IS_KEEP
  leaving = is_open | passing
  multipliers = tf.cast(is_open, tf.float32) if hard else gates
  return LayerDecisions(
      present, gates, running, leaving, multipliers + tf.cast(passing, tf.float32),
      tf.reduce_any(tf.expand_dims(leaving, 3) & _leads_to(nodes), [1, 2]))


def _leads_to(nodes: Sequence[wiring.NodeSpec]) -> np.ndarray:
  """Returns boolean `[nodes, paths, scales]`: the scale of the next layer that a path leads to."""
  num_scales = 1 + max(scale for node in nodes for scale in node.targets.values())
  leads = np.zeros([len(nodes), len(wiring.PATHS), num_scales], bool)
  for index, node in enumerate(nodes):
    for path, scale in node.targets.items():
      leads[index, wiring.PATHS.index(path), scale] = True
  return leads
