"""Logits of gates that decide for images, moved to the budget of a call."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import budget_control

# Factor of normalized and moved logits: the larger, the less do the draws of training differ from
# the decisions of inference.
_SHARPNESS = 4.0
# Shifts of normalized logits that surely take the cheapest and the most expensive path, and how
# often the distance between them is halved to find one between.
_FARTHEST = 1e3
_BISECTIONS = 40
# Calibrated shifts are at most half of this, in deviations, above the smallest that is enough.
_WIDEST = 1.0
# Share of the statistics that a training step keeps: they are those of the last 100 steps.
_MOMENTUM = 0.99


def _if_images(logits: tf.Tensor, moved: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
  """Returns what the images of a batch moved, or what was before if the batch is empty."""
  return tf.where(tf.shape(logits)[0] > 0, moved, before)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class BudgetTracker(budget_control.KnotLayer):
  """Moves logits so that at every budget b each level spends the share b of what it can save.

  Logits are normalized by statistics over the images of many steps, in training too: a batch of
  few images has others.  Where normalized logits are spread as a normal distribution, their
  quantile of b opens a gate for a share b of the images.  To it the layer adds a shift that it
  tracks for eleven budgets at once: every training step moves it by the distance of b from the
  share that these images would spend.  This is the stochastic approximation of a quantile
  (Herbert Robbins and Sutton Monro, A Stochastic Approximation Method, 1951), so that spreads of
  any form end at the wanted share.  b = 0 takes the cheapest path, b = 1 the
  most expensive one.

  Everything is float32 under any precision policy, because low precision flips decisions.
  """

  def __init__(self, columns: int, dearness: Sequence[float], rate: float = 0.05, **kwargs):
    """Initializes the layer.

    Args:
      columns: number of levels.
      dearness: cost of each path, from 0 for the cheapest to 1 for the most expensive.
      rate: by how much a training step moves a shift if the share is 1 off, positive.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: a rate that is not positive.
    """
    super().__init__(columns, **{**kwargs, 'dtype': 'float32'})
    self._rate = budget_control.check_rate(rate)
    self._dearness = list(dearness)

  def build(self, input_shape: Any = None) -> None:
    others = [self._columns, len(self._dearness) - 1]
    self._mean, self._variance = (self.add_average(name, others) for name in ('mean', 'variance'))
    self._shifts = self.add_knots('shifts')
    super().build(input_shape)

  def call(self, logits: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Moves logits to the budget of `routing.wanted_budget`.

    Args:
      logits: float32 `[batch, levels, paths]`; the path with the largest runs.
      training: whether the images move the statistics and the shifts.

    Returns:
      The shape of `logits`, those of path 0 being 0.
    """
    others = logits[..., 1:] - logits[..., :1]
    if training and self.trainable:
      self._move_statistics(tf.stop_gradient(others))
    normalized = (others - self._mean) * tf.math.rsqrt(self._variance + budget_control.EPSILON)
    if training and self.trainable:
      self._track(tf.stop_gradient(normalized))
    budget = budget_control.wanted(self.dtype)
    shift = budget_control.quantile(budget) + budget_control.knot_weights(budget) @ self._shifts
    return _SHARPNESS * self._moved(normalized, shift)

  def _moved(self, normalized: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Returns the scores of all paths.

    Args:
      normalized: `[..., batch, levels, paths - 1]`, relative to path 0.
      shift: `[..., batch or 1, levels]`, of a path whose dearness is larger by 1 than that of
        path 0.

    Returns:
      `[..., batch, levels, paths]`.
    """
    relative = tf.constant(np.subtract(self._dearness[1:], self._dearness[0]), shift.dtype)
    moved = normalized + shift[..., None] * relative
    return tf.concat([tf.zeros_like(moved[..., :1]), moved], -1)

  def _move_statistics(self, others: tf.Tensor) -> None:
    """Moves mean and variance by the logits of a batch, `[batch, levels, paths - 1]`."""
    mean = tf.reduce_mean(others, 0)
    is_first = tf.equal(self._variance, 0)
    before = tf.where(is_first, mean, self._mean)
    # Around the mean of many steps, which batches of few images differ from.
    variance = tf.reduce_mean(tf.square(others - before), 0)
    moved = tf.where(is_first, variance, _MOMENTUM * self._variance + (1 - _MOMENTUM) * variance)
    self._variance.assign(_if_images(others, moved, self._variance))
    self._mean.assign(_if_images(others, before + (1 - _MOMENTUM) * (mean - before), self._mean))

  def _track(self, normalized: tf.Tensor) -> None:
    """Moves the shifts of all budgets by the images of a batch."""
    budgets = tf.constant(budget_control.KNOTS, self.dtype)[:, None]
    shares = self._shares(normalized, budget_control.quantile(budgets) + self._shifts)
    self._shifts.assign(_if_images(
        normalized, self._shifts + self._rate * (budgets - shares), self._shifts))

  def _shares(self, normalized: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Returns the share that images spend at each shift, `[shifts, levels]`.

    Args:
      normalized: `[batch, levels, paths - 1]`.
      shifts: `[shifts, levels]`.
    """
    choice = tf.argmax(self._moved(normalized[None], shifts[:, None]), -1)
    return tf.reduce_mean(tf.gather(tf.constant(self._dearness, normalized.dtype), choice), 1)

  def calibrate(self, logits: np.ndarray) -> None:
    """Sets statistics and shifts so that images with these logits spend the share b at every b.

    Args:
      logits: `[images, levels, paths]`, of at least one image.
    """
    others = logits[..., 1:].astype(np.float64) - logits[..., :1]
    mean, variance = others.mean(0), others.var(0)
    normalized = tf.constant((others - mean) / np.sqrt(variance + budget_control.EPSILON))
    first = self._bisect(normalized, lambda shares: shares >= budget_control.KNOTS[:, None])
    spent = self._shares(normalized, first)
    following = self._bisect(normalized, lambda shares: shares > spent)
    # Halfway, because at the first shift an image is at the threshold, and rounding decides.
    shifts = first + tf.minimum(following - first, _WIDEST) / 2 - budget_control.quantile(
        tf.constant(budget_control.KNOTS[:, None]))
    is_between = (budget_control.KNOTS > 0) & (budget_control.KNOTS < 1)
    for variable, value in ((self._mean, mean), (self._variance, variance), (
        self._shifts, tf.where(is_between[:, None], shifts, 0))):
      variable.assign(tf.cast(value, self.dtype))

  def _bisect(self, normalized: tf.Tensor, is_enough: Callable[[tf.Tensor], tf.Tensor]
              ) -> tf.Tensor:
    """Returns the smallest shifts, `[knots, levels]`, whose shares are enough."""
    least, most = (tf.fill([len(budget_control.KNOTS), self._columns],
                           tf.constant(end, tf.float64)) for end in (-_FARTHEST, _FARTHEST))
    for _ in range(_BISECTIONS):  # The share grows with the shift.
      middle = (least + most) / 2
      found = is_enough(self._shares(normalized, middle))
      least, most = tf.where(found, least, middle), tf.where(found, middle, most)
    return most

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'dearness': list(self._dearness), 'rate': self._rate}
