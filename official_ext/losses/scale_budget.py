"""Budgets of CADDet: what an image may cost, from the scales of its objects or its own loss.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 3.2, and the budgets in its Table 1.  Costs and targets
are shares of C_tot, the cost of the network with every path open.
"""
from collections.abc import Sequence
import math

import tensorflow as tf

from official_ext.configs import options
from official_ext.losses import replicas
from official_ext.ops import checks

_EMPTY = -1.0  # Marks places of a history that hold no loss yet.


def check_bounds(argument: str, bounds: Sequence[float]) -> None:
  """Checks the sizes at which one scale of objects ends and the next begins.

  Args:
    argument: name of `bounds` in the error.
    bounds: sizes in pixels of the network's input.

  Raises:
    ArgumentError: unless the bounds ascend from above 0.
  """
  if not bounds or any(low >= high for low, high in zip([0.0, *bounds], bounds)):
    raise checks.ArgumentError(
        argument, f'{argument} are {list(bounds)}; they are sizes in pixels that ascend from '
        'above 0.')


def scales_present(boxes: tf.Tensor,
                   bounds: Sequence[float] = options.SCALE_BOUNDS) -> tf.Tensor:
  """Returns which scales the objects of each image have.

  The longer side of an object decides its scale.  Scale 0 ends with the first bound, which
  belongs to it.

  Args:
    boxes: `[batch, instances, 4]`, `[y1, x1, y2, x2]` in pixels of the network's input; rows
      without area, such as padding, are no objects.
    bounds: ascending, in pixels; there is one scale more than bounds.

  Returns:
    float32 `[batch, scales]` of 0 and 1; all 0 for an image without objects.

  Raises:
    ArgumentError: `bounds` do not ascend from above 0.
  """
  check_bounds('bounds', bounds)
  sides = tf.cast(boxes[..., 2:], tf.float32) - tf.cast(boxes[..., :2], tf.float32)
  longer = tf.reduce_max(sides, axis=-1, keepdims=True)
  edges = tf.constant([0.0, *bounds, math.inf])
  is_of_scale = (longer > edges[:-1]) & (longer <= edges[1:])
  is_object = tf.reduce_all(sides > 0, axis=-1, keepdims=True)
  return tf.cast(tf.reduce_any(is_of_scale & is_object, axis=1), tf.float32)


def scale_target(presence: tf.Tensor, ratio: float) -> tf.Tensor:
  """Returns the cost that the scales of each image call for (eq. 3, without its 1/m).

  Args:
    presence: `[batch, scales]`, the result of `scales_present`.
    ratio: share of C_tot for every scale that is present; an image without objects counts as
      one scale.

  Returns:
    float32 `[batch]`, shares of C_tot.
  """
  return ratio * tf.maximum(tf.reduce_sum(presence, axis=-1), 1.0)


def loss_target(losses: tf.Tensor, history: tf.Tensor, ratio: float,
                num_scales: int) -> tf.Tensor:
  """Returns the cost that the loss of each image calls for, by its rank among earlier losses.

  The target grows with the rank from `ratio` to `num_scales * ratio`.  While the history is
  empty, the target is the mean of both.

  Args:
    losses: `[batch]`, detection losses.
    history: `[places]`, from `empty_history` or `remember`.
    ratio: share of C_tot for an image whose loss is the least.
    num_scales: how many times `ratio` an image whose loss is the largest may cost.

  Returns:
    float32 `[batch]`, shares of C_tot, without gradient.
  """
  is_known = history >= 0
  below = tf.reduce_sum(tf.cast(is_known & (history < losses[:, None]), tf.float32), axis=1)
  known = tf.reduce_sum(tf.cast(is_known, tf.float32))
  rank = tf.where(known > 0, tf.math.divide_no_nan(below, known), 0.5)
  return tf.stop_gradient(ratio * (1 + (num_scales - 1) * rank))


def empty_history(places: int) -> tf.Tensor:
  """Returns a history that holds no loss yet: float32 `[places]`."""
  return tf.fill([places], _EMPTY)


def remember(history: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
  """Returns the history with `losses`, `[images]`, at its end instead of its oldest losses."""
  return tf.concat([history, tf.cast(losses, tf.float32)], axis=0)[-history.shape[0]:]


def cost_loss(cost: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns the mean squared distance of cost from its target (eq. 4), a float32 scalar.

  Args:
    cost: `[batch]`, C_net as a share of C_tot.
    target: `[batch]` or a scalar, C_expect as a share of C_tot.
  """
  return replicas.mean_or_zero(tf.square(tf.cast(cost, tf.float32) - target))
