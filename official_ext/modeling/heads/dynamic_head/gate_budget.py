"""The gate of a residual block that follows the budget of a call on every level."""
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
  """Moves the logits of a gate so that on every level the wanted share of its block runs.

  On each level logits are normalized over images and positions, and moved by the shift of the
  budget; a gate is open where the result is above 0.  The share of a level is the mean of that of
  its open positions and of that of the positions that have an open one among the 3x3 around them,
  which need the first of the block's two convolutions.
  """

  def __init__(self, levels: Sequence[str], **kwargs):
    """Initializes the layer.

    Args:
      levels: the levels on which the gate decides, finest first.
      **kwargs: arguments of `tf_keras.layers.Layer`; `dtype` is that of the logits.
    """
    super().__init__(autocast=False, **kwargs)
    self._levels = list(levels)
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

  def scale_and_shift(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the numbers that `call` multiplies logits by and adds to them at inference.

    Returns:
      Scale and shift on every level, `[budgets, levels]`.
    """
    mean, factor = self._norm.statistics()
    return _SHARPNESS * factor, _SHARPNESS * (self._shift.shifts() - mean * factor)

  def _share(self, moved: tf.Tensor) -> tf.Tensor:
    """Returns the share of a level's work that runs, `[batch]`."""
    is_open = tf.cast(moved > 0, moved.dtype)
    around = tf.nn.max_pool2d(is_open, 3, 1, 'SAME')
    return tf.reduce_mean((is_open + around) / 2, [1, 2, 3])

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'levels': list(self._levels)}
