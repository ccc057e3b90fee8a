"""Logits that follow the budget of a call: their norm, and a controller of the share they open.

Both layers keep numbers for eleven budgets, equally far from each other in [0, 1], and interpolate
between the two that are beside the budget of the call.  A training step moves these two, and means
and shifts of the others by less the farther they are from them.
"""
from collections.abc import Iterator, Sequence
import contextlib
import threading
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.ops import checks
from official_ext.ops import routing

KNOTS = np.linspace(0, 1, 11)
# Added to the variance of logits.
EPSILON = 1e-5
# Budgets of 0 and 1 move normalized logits by this much, which shuts or opens every gate.
_LARGEST_QUANTILE = 1e6
# The controller moves normalized logits by this much at most.
_LARGEST_SHIFT = 4.0
# The logistic function of this number times x is within 0.01 of the normal distribution of x.
_LOGISTIC_OF_NORMAL = 1.702


class _Calibration(threading.local):
  """The rate of the innermost `calibrating` of a thread; None without one."""
  rate: tf.Tensor | float | None = None


_calibration = _Calibration()


@contextlib.contextmanager
def calibrating(rate: tf.Tensor | float) -> Iterator[None]:
  """Lets calls at inference move the shifts of one budget.

  Training normalizes logits by each batch, and scales and crops its images at random; so the shares
  of images as inference gets them are others.

  Args:
    rate: by how much a call moves a shift if the share is 1 off, float32 scalar.  The budget of
      the call must be one of `KNOTS`, because it moves the shift of this one alone.
  """
  outer, _calibration.rate = _calibration.rate, rate
  try:
    yield
  finally:
    _calibration.rate = outer


def moves_shifts(training: bool | None) -> bool:
  """Returns whether a call moves shifts: in training, and in `calibrating`."""
  return bool(training) or _calibration.rate is not None


def wanted(dtype: tf.DType) -> tf.Tensor:
  """Returns the budgets of the call, `[budgets, 1]`: one, or one for each image."""
  return tf.reshape(tf.cast(routing.wanted_budget(), dtype), [-1, 1])


def knot_weights(budget: tf.Tensor) -> tf.Tensor:
  """Returns the weights of linear interpolation, `[budgets, knots]`; they sum to 1."""
  knots = tf.constant(np.arange(len(KNOTS)), budget.dtype)
  return tf.nn.relu(1 - tf.abs(budget * (len(KNOTS) - 1) - knots))


def quantile(budget: tf.Tensor) -> tf.Tensor:
  """Returns the quantile of a budget, by which normalized logits move; of the shape of `budget`."""
  return tf.clip_by_value((tf.math.log(budget) - tf.math.log(1 - budget)) / _LOGISTIC_OF_NORMAL,
                          -_LARGEST_QUANTILE, _LARGEST_QUANTILE)


def check_rate(rate: float) -> float:
  """Returns a rate; raises ArgumentError if it is not positive."""
  checks.check_positive('rate', rate)
  return rate


def _moves(weights: tf.Tensor) -> tf.Tensor:
  """Returns by how much the numbers of all knots move so that an interpolated one moves by 1.

  Neighbors move along, by half as much for each knot farther away, so that budgets that are drawn
  rarely learn from those beside them.

  Args:
    weights: of the interpolation, `[budgets, knots]`.
  """
  distances = np.abs(np.subtract.outer(np.arange(len(KNOTS)), np.arange(len(KNOTS))))
  moves = weights @ tf.constant(0.5**distances, weights.dtype)
  return moves / tf.reduce_sum(moves * weights, 1, keepdims=True)


class KnotLayer(tf_keras.layers.Layer):
  """Base of layers that keep one number for each of eleven budgets and each logit."""

  def __init__(self, columns: int, **kwargs):
    """Initializes the layer.

    Args:
      columns: number of logits.
      **kwargs: arguments of `tf_keras.layers.Layer`; `dtype` is that of variables and results,
        float32 or float64.
    """
    super().__init__(autocast=False, **kwargs)
    self._columns = columns

  def add_knots(self, name: str) -> tf.Variable:
    """Adds numbers `[knots, columns]` of 0 that no gradient moves; replicas average theirs."""
    return self.add_average(name, [len(KNOTS), self._columns])

  def add_average(self, name: str, shape: Sequence[int]) -> tf.Variable:
    """Adds numbers of 0 that no gradient moves; replicas average theirs."""
    return self.add_weight(
        name, shape, initializer='zeros', trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.MEAN)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'columns': self._columns}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class BudgetNorm(KnotLayer):
  """Gives each logit a mean of 0 and a deviation of 1 over images and positions.

  As batch norm it takes the statistics of the batch in training, and moving averages at inference.
  The averages are those of the call's budget, because what earlier gates let pass, and so the
  logits of later gates, differ from budget to budget.  The first step sets them for all budgets.
  """

  def __init__(self, columns: int, momentum: float = 0.9, **kwargs):
    """Initializes the layer.

    Args:
      columns: number of logits.
      momentum: share of the averages that a training step at their budget keeps, in [0, 1).
      **kwargs: arguments of `KnotLayer`.

    Raises:
      ArgumentError: a momentum that is not allowed.
    """
    super().__init__(columns, **kwargs)
    if not 0 <= momentum < 1:
      raise checks.ArgumentError('momentum', f'momentum is {momentum}; it must be in [0, 1).')
    self._momentum = momentum

  def build(self, input_shape: Any = None) -> None:
    self._mean, self._variance = self.add_knots('mean'), self.add_knots('variance')
    super().build(input_shape)

  def call(self, logits: Sequence[tf.Tensor], training: bool | None = None,
           counted: tf.Tensor | None = None) -> list[tf.Tensor]:
    """Normalizes maps of logits, each with its own statistics.

    Args:
      logits: `[batch, ..., columns of the map]`; the maps have `columns` together.
      training: whether the batch's own statistics normalize, and move the averages.
      counted: for a single map, boolean of its shape, the logits that statistics count; None: all.

    Returns:
      Tensors of the shapes of `logits`.
    """
    logits = [tf.cast(x, self.dtype) for x in logits]
    if training and self.trainable:
      moments = [_moments(x, counted) for x in logits]
      mean, variance, number = (tf.concat(parts, 0)[None] for parts in zip(*moments))
      self._move(mean, variance, number > 0, knot_weights(wanted(self.dtype)))
      factor = tf.math.rsqrt(variance + EPSILON)
    else:
      mean, factor = self.statistics()
    sizes = [x.shape[-1] for x in logits]
    parts = [tf.split(statistic, sizes, axis=1) for statistic in (mean, factor)]
    return [(x - _beside(m, x)) * _beside(f, x) for x, m, f in zip(logits, *parts)]

  def statistics(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what inference takes from logits, and then multiplies them by.

    Returns:
      Mean and 1 / deviation of every logit, `[budgets, columns]`.
    """
    weights = knot_weights(wanted(self.dtype))
    return weights @ self._mean, tf.math.rsqrt(weights @ self._variance + EPSILON)

  def _move(self, mean: tf.Tensor, variance: tf.Tensor, is_known: tf.Tensor,
            weights: tf.Tensor) -> None:
    """Moves the averages by statistics `[1, columns]` of a batch."""
    mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
    weights = tf.reduce_mean(weights, 0, keepdims=True)
    rate = (1 - self._momentum) * tf.cast(is_known, self.dtype)
    is_first = tf.reduce_all(tf.equal(self._variance, 0), axis=0, keepdims=True) & is_known
    # Variances are averaged and not corrected by an error, so that they stay positive.
    moves = rate * tf.transpose(_moves(weights)) * (mean - weights @ self._mean)
    self._mean.assign(tf.where(is_first, mean, self._mean + moves))
    moves = rate * tf.transpose(weights) * (variance - self._variance)
    self._variance.assign(tf.where(is_first, variance, self._variance + moves))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'momentum': self._momentum}


def _moments(x: tf.Tensor, counted: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Returns mean, variance and number of what counts of a map, each `[columns]`."""
  axes = list(range(x.shape.rank - 1))
  counts = tf.ones_like(x) if counted is None else tf.cast(counted, x.dtype)
  number = tf.reduce_sum(counts, axes)
  mean = tf.math.divide_no_nan(tf.reduce_sum(counts * x, axes), number)
  return mean, tf.math.divide_no_nan(
      tf.reduce_sum(counts * tf.square(x - mean), axes), number), number


def _beside(statistic: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """Returns `[1 or batch, columns]` with axes of 1 for the positions of a map."""
  return tf.reshape(statistic, [-1, *[1] * (x.shape.rank - 2), statistic.shape[-1]])


@tf_keras.utils.register_keras_serializable(package='official_ext')
class BudgetShift(KnotLayer):
  """Says by how much normalized logits move, so that the gates above 0 cost the wanted share b.

  Where logits are spread as a normal distribution their quantile of b opens a share b of them.  To
  it the layer adds a shift that an integral controller finds: every training step adds the
  distance of b from the share that ran, times a rate.  So no loss has to be weighted against
  others, and no gradient is needed where gates are shut.  b = 0 shuts every gate, b = 1 opens all.
  """

  def __init__(self, columns: int, rate: float = 0.5, **kwargs):
    """Initializes the layer.

    Args:
      columns: number of logits; 1: one shift for all logits.
      rate: by how much a training step moves a shift if the share is 1 off, positive.
      **kwargs: arguments of `KnotLayer`.

    Raises:
      ArgumentError: a rate that is not positive.
    """
    super().__init__(columns, **kwargs)
    self._rate = check_rate(rate)

  def build(self, input_shape: Any = None) -> None:
    self._shifts = self.add_knots('shifts')
    super().build(input_shape)

  def call(self, logits: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Moves normalized logits.

    Args:
      logits: `[batch, ..., columns of the map]`; the maps have `columns` together, or any number
        with one shift for all.

    Returns:
      Tensors of the shapes of `logits`; gates are open where they are above 0.
    """
    shift = self.shifts()
    if self._columns == 1:
      return [x + _beside(shift, x) for x in logits]
    parts = tf.split(shift, [x.shape[-1] for x in logits], axis=1)
    return [x + _beside(part, x) for x, part in zip(logits, parts)]

  def shifts(self) -> tf.Tensor:
    """Returns what is added to every normalized logit, `[budgets, columns]`."""
    budget = wanted(self.dtype)
    return quantile(budget) + knot_weights(budget) @ self._shifts

  def control(self, shares: tf.Tensor) -> None:
    """Moves the shifts of a training step, or in `calibrating`, towards the budget of the call.

    Args:
      shares: what ran of what gates can save, `[batch, columns]`.
    """
    if not self.trainable:
      return
    budget = wanted(self.dtype)
    error = tf.stop_gradient(budget - tf.cast(shares, self.dtype))
    rate, moves = self._rate, knot_weights(budget)
    if _calibration.rate is None:
      moves = _moves(moves)
    else:
      rate = tf.cast(_calibration.rate, self.dtype)
    moves *= tf.ones_like(error[:, :1])
    images = tf.cast(tf.maximum(tf.shape(error)[0], 1), self.dtype)
    moved = self._shifts + rate * tf.matmul(moves, error, transpose_a=True) / images
    self._shifts.assign(tf.clip_by_value(moved, -_LARGEST_SHIFT, _LARGEST_SHIFT))

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'rate': self._rate}
