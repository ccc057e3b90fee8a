"""Logits of gates that follow the budget of a call."""
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.ops import checks
from official_ext.ops import routing

# The budgets, equally far from each other in [0, 1], that have a learned shift.
_KNOTS = 6
# Budgets of 0 and 1 move normalized logits by this much, which shuts or opens every gate.
_LARGEST_SHIFT = 1e4
# The logistic function of this number times x is within 0.01 of the normal distribution of x.
_LOGISTIC_OF_NORMAL = 1.702


@tf_keras.utils.register_keras_serializable(package='official_ext')
class BudgetedLogits(tf_keras.layers.Layer):
  """Normalizes logits over images, and moves them by the wanted share of open gates.

  Batch norm gives each logit a mean of 0 and a deviation of 1 over the images.  So images decide
  differently however large the logits are, and where the logits of images are spread as a normal
  distribution, a shift by its quantile of b opens the gate for a share b of the images.  To this
  quantile the layer adds a shift that it learns for each gate: it starts at 0, is known for six
  budgets and linear between them.  The images for which a gate is open at some budget are, without
  a learned shift, open at every higher one; b = 0 shuts every gate and b = 1 opens all.

  Everything is float32 under any precision policy, because low precision flips decisions.
  """

  def __init__(self, dearness: list[float], sharpness: float = 4.0, momentum: float = 0.9,
               **kwargs):
    """Initializes the layer.

    Args:
      dearness: for each logit, how much of the quantile is added: 1 for a gate that opens
        something, and for a path beside others its cost relative to that of the path whose logit
        is 0; -1 to 1.
      sharpness: factor of normalized and moved logits, positive: the larger, the less do the draws
        of training differ from the decisions of inference.
      momentum: share of the moving mean and variance that a training step keeps.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: a sharpness that is not positive.
    """
    kwargs['dtype'] = 'float32'
    super().__init__(autocast=False, **kwargs)
    checks.check_positive('sharpness', sharpness)
    self._dearness = list(dearness)
    self._sharpness = sharpness
    self._momentum = momentum
    # The logits of images differ by far less than 1 at the start, so that a moving variance of 1
    # would count for too long.
    self._norm = tf_keras.layers.BatchNormalization(
        center=False, scale=False, momentum=momentum, epsilon=1e-5, dtype='float32', name='norm',
        moving_variance_initializer='zeros')

  def build(self, input_shape: tf.TensorShape) -> None:
    self._shifts = self.add_weight(
        'shifts', [_KNOTS, len(self._dearness)], initializer='zeros')
    super().build(input_shape)

  def call(self, logits: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Returns the logits at the budget of `routing.wanted_budget`.

    Args:
      logits: float32 `[batch, ..., logits]`; gates are open where they are positive.
      training: whether the batch's own mean and variance normalize, not the moving ones.

    Returns:
      The shape of `logits`, float32.
    """
    shift = self._shift(tf.reshape(routing.wanted_budget(), [-1, 1]))
    shift = tf.reshape(shift, [-1, *[1] * (logits.shape.rank - 2), len(self._dearness)])
    return self._sharpness * (self._norm(logits, training=training) + shift)

  def _shift(self, budget: tf.Tensor) -> tf.Tensor:
    """Returns the shift `[budgets, logits]` of normalized logits; `budget` is `[budgets, 1]`."""
    quantile = tf.clip_by_value(
        (tf.math.log(budget) - tf.math.log(1 - budget)) / _LOGISTIC_OF_NORMAL,
        -_LARGEST_SHIFT, _LARGEST_SHIFT)
    # Linear interpolation: the weights of the knots beside the budget sum to 1.
    weights = tf.nn.relu(1 - tf.abs(budget * (_KNOTS - 1) - np.arange(_KNOTS, dtype=np.float32)))
    learned = tf.reduce_sum(weights[:, :, None] * self._shifts, axis=1)
    return quantile * tf.constant(self._dearness, tf.float32) + learned

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'dearness': list(self._dearness),
            'sharpness': self._sharpness, 'momentum': self._momentum}
