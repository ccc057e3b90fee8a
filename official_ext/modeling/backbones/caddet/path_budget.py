"""Moves the logits of a supernet's gates, so that the share of a budget runs."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.backbones.caddet import wiring
from official_ext.modeling.layers import budget_control
from official_ext.modeling.layers import convolutions

# Normalized and moved logits times this number enter the activation: a gate whose logit is one
# deviation above 0 is 0.96.
_SHARPNESS = 2.0
# By so many deviations the gates of a path open before those of the next one, and those of the
# first layer before those of the last.
_HEAD_START = 2.0
_ORDER = ('keep', 'down', 'up')


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PathBudget(tf_keras.layers.Layer):
  """Moves the logits of all gates by one shift, so that the wanted share of the cost runs.

  Each logit is normalized over the images that are present in its node, so that no gate is open,
  or shut, for all images at every budget.  Then it gets a head start: paths that keep the scale
  open first, those to coarser scales next, and early layers before late ones.  So images differ in
  a few paths at a time, and all images bring a node much the same features.  Where gates open in
  any order, budgets between 0 and 1 learn next to nothing.  The share of a single gate says little
  of the cost: a cell runs if any of its paths is open, and a node if a path leads to it.  So the
  controller finds one shift for all gates, by the share of the whole supernet.
  """

  def __init__(self, num_layers: int, num_scales: int, **kwargs):
    """Initializes the layer.

    Args:
      num_layers: number of layers of the supernet after the entry node.
      num_scales: number of its scales.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    kwargs['dtype'] = 'float32'
    super().__init__(autocast=False, **kwargs)
    self._num_layers, self._num_scales = num_layers, num_scales
    nodes = wiring.wire(num_layers, num_scales)
    self._norms = [budget_control.BudgetNorm(
        len(wiring.PATHS) * sum(node.layer == layer for node in nodes), name=f'layer_{layer:02}')
                   for layer in range(num_layers + 1)]
    self._shift = budget_control.BudgetShift(1, name='shift')
    starts = [self._head_start(node.layer, path) for node in nodes for path in node.paths]
    # With these the logits of all gates have mean 0 and deviation 1, as the controller wants them.
    self._mean, self._spread = np.mean(starts), np.sqrt(1 + np.var(starts))

  def build(self, input_shape: Any = None) -> None:
    layers = [*self._norms, self._shift]
    convolutions.build_in_scope(layers, [None] * len(layers))
    super().build(input_shape)

  def call(self, logits: tf.Tensor, nodes: Sequence[wiring.NodeSpec], present: tf.Tensor,
           training: bool | None = None) -> tf.Tensor:
    """Returns the logits of a layer at the budget of `routing.wanted_budget`.

    Args:
      logits: float32 `[batch, nodes, len(PATHS)]`.
      nodes: the nodes of the layer, finest scale first.
      present: boolean `[batch, nodes]`, the images that statistics count in training.
      training: whether the statistics are those of the batch.

    Returns:
      The shape of `logits`; 0, which is shut, for paths that a node does not have.
    """
    existing = np.array([[path in node.paths for path in wiring.PATHS] for node in nodes])
    flat = [-1, existing.size]
    counted = tf.reshape(present[:, :, None] & existing, flat)
    norm = self._norms[nodes[0].layer]
    normalized, = norm([tf.reshape(logits, flat)], training=training, counted=counted)
    of_node = [self._head_start(nodes[0].layer, path) - self._mean for path in wiring.PATHS]
    starts = np.tile(of_node, len(nodes)).astype(np.float32)
    moved, = self._shift([(normalized + starts) / self._spread.astype(np.float32)])
    sharpness = (_SHARPNESS * self._spread).astype(np.float32)
    return tf.reshape(sharpness * moved, [-1, *existing.shape]) * existing.astype(np.float32)

  def _head_start(self, layer: int, path: str) -> float:
    """Returns what is added to the normalized logits of a path of the nodes of a layer."""
    return -_HEAD_START * (_ORDER.index(path) + layer / self._num_layers)

  def control(self, shares: tf.Tensor) -> None:
    """Moves the shift of a training step towards the budget of the call.

    Args:
      shares: what ran of what gates can save, `[batch]`.
    """
    self._shift.control(shares[:, None])

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'num_layers': self._num_layers,
            'num_scales': self._num_scales}
