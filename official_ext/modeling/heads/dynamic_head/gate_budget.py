"""A spatial gate that follows the budget of a call on every level."""
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import budget_control
from official_ext.modeling.layers import convolutions

# Normalized and moved logits times this number enter the activation: a position that is one
# deviation above the others' threshold has a gate of 0.99.
_SHARPNESS = 4.0


@tf_keras.utils.register_keras_serializable(package='official_ext')
class GateBudget(tf_keras.layers.Layer):
  """Moves the logits of one gate so that on every level the wanted share of its work runs.

  On each level logits are normalized over images and positions, and moved by the shift of the
  budget; a gate is open where the result is above 0.  The share of a level is that of its open
  positions.  For a residual block it is the mean of this share and of that of the positions that
  have an open one among the 3x3 around them, which need the first of the two convolutions.
  """

  def __init__(self, levels: Sequence[str], is_residual: bool, **kwargs):
    """Initializes the layer.

    Args:
      levels: the levels on which the gate decides.
      is_residual: whether the gate is that of a residual block.
      **kwargs: arguments of `tf_keras.layers.Layer`; `dtype` is that of the logits.
    """
    super().__init__(autocast=False, **kwargs)
    self._levels, self._is_residual = list(levels), is_residual
    columns = {'columns': len(self._levels), 'dtype': self.dtype}
    self._norm = budget_control.BudgetNorm(**columns, name='norm')
    self._shift = budget_control.BudgetShift(**columns, name='shift')

  def build(self, input_shape: Any = None) -> None:
    convolutions.build_in_scope([self._norm, self._shift], [None, None])
    super().build(input_shape)

  def call(self, logits: Mapping[str, tf.Tensor], training: bool | None = None
           ) -> dict[str, tf.Tensor]:
    """Returns logits at the budget of `routing.wanted_budget`.

    Args:
      logits: `{level: [batch, height, width, 1]}`, all levels of the gate.
      training: whether the batch's own statistics normalize, and its share moves the shifts; see
        `budget_control.calibrating` too.

    Returns:
      The shapes of `logits`; gates are open where they are above 0.
    """
    normalized = self._norm([logits[level] for level in self._levels], training=training)
    moved = [_SHARPNESS * x for x in self._shift(normalized)]
    if budget_control.moves_shifts(training):
      self._shift.control(tf.stack([self._share(x) for x in moved], axis=1))
    return dict(zip(self._levels, moved))

  def scale_and_shift(self, levels: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the numbers that `call` multiplies logits by and adds to them at inference.

    Args:
      levels: all levels of the block, among them those of the gate side by side.

    Returns:
      Scale and shift on every level, `[budgets, levels]`; 0 on levels without the gate.
    """
    mean, factor = self._norm.statistics()
    before = levels.index(self._levels[0])
    around = [[0, 0], [before, len(levels) - before - len(self._levels)]]
    return (tf.pad(_SHARPNESS * factor, around),
            tf.pad(_SHARPNESS * (self._shift.shifts() - mean * factor), around))

  def _share(self, moved: tf.Tensor) -> tf.Tensor:
    """Returns the share of a level's work that runs, `[batch]`."""
    is_open = tf.cast(moved > 0, moved.dtype)
    share = tf.reduce_mean(is_open, [1, 2, 3])
    if not self._is_residual:
      return share
    around = tf.nn.max_pool2d(is_open, 3, 1, 'SAME')
    return (share + tf.reduce_mean(around, [1, 2, 3])) / 2

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'levels': list(self._levels),
            'is_residual': self._is_residual}
