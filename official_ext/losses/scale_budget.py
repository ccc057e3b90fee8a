"""Budgets of CADDet: what an image may cost, from the scales of its objects or its own loss.

Reference: Junyi Feng et al., Learning to Generate Content-Aware Dynamic Detectors,
https://arxiv.org/abs/2012.04265, section 3.2, and the budgets that it is compared with in
Table 1.  Costs and targets are shares of C_tot, the cost of the network with every path open.
"""
import math
from typing import Sequence

import tensorflow as tf

# In pixels of the network's input.
BOUNDS = (64.0, 150.0, 360.0)
_EMPTY = -1.0


def check_bounds(bounds: Sequence[float]) -> None:
  """Raises a ValueError unless the bounds of scales ascend from above 0."""
  if not bounds or any(low >= high for low, high in zip([0.0, *bounds], bounds)):
    raise ValueError(f'scale bounds are {list(bounds)}; they are sizes in pixels that ascend from '
                     'above 0: change task.budget.scale_bounds.')


def scales_present(boxes: tf.Tensor, bounds: Sequence[float] = BOUNDS) -> tf.Tensor:
  """Returns which scales the objects of each image have.

  An object's scale is its longer side; scale 0 ends with the first bound, which it includes.

  Args:
    boxes: `[batch, instances, 4]`, `[y1, x1, y2, x2]` in pixels of the network's input; rows
      without area, such as padding, are no objects.
    bounds: ascending, in pixels; there is one scale more than bounds.

  Returns:
    float32 `[batch, scales]` of 0 and 1; all 0 for an image without objects.

  Raises:
    ValueError: bounds that do not ascend.
  """
  check_bounds(bounds)
  sides = tf.cast(boxes[..., 2:], tf.float32) - tf.cast(boxes[..., :2], tf.float32)
  longer = tf.reduce_max(sides, axis=-1, keepdims=True)
  edges = tf.constant([0.0, *bounds, math.inf])
  is_of_scale = (longer > edges[:-1]) & (longer <= edges[1:])
  is_object = tf.reduce_all(sides > 0, axis=-1, keepdims=True)
  return tf.cast(tf.reduce_any(is_of_scale & is_object, axis=1), tf.float32)


def scale_target(presence: tf.Tensor, ratio: float) -> tf.Tensor:
  """Returns the cost that the scales of each image call for (eq. 3, without its 1/m).

  Args:
    presence: `[batch, scales]` as of `scales_present`.
    ratio: share of C_tot for every scale that there is; an image without objects has one.

  Returns:
    float32 `[batch]`, shares of C_tot.
  """
  return ratio * tf.maximum(tf.reduce_sum(presence, axis=-1), 1.0)


def loss_target(losses: tf.Tensor, history: tf.Tensor, ratio: float,
                num_scales: int) -> tf.Tensor:
  """Returns the cost that the loss of each image calls for, beside the losses of others.

  Args:
    losses: `[batch]`, detection losses.
    history: `[places]` as of `remember`.
    ratio: share of C_tot for an image with the least loss; one with the largest may cost
      `num_scales` times as much, one with nothing to compare to the mean of both.
    num_scales: see there.

  Returns:
    float32 `[batch]`, shares of C_tot, without gradient.
  """
  is_known = history >= 0
  below = tf.reduce_sum(tf.cast(is_known & (history < losses[:, None]), tf.float32), axis=1)
  known = tf.reduce_sum(tf.cast(is_known, tf.float32))
  rank = tf.where(known > 0, tf.math.divide_no_nan(below, known), 0.5)
  return tf.stop_gradient(ratio * (1 + (num_scales - 1) * rank))


def empty_history(places: int) -> tf.Tensor:
  """Returns a history of losses that knows none yet: float32 `[places]`."""
  return tf.fill([places], _EMPTY)


def remember(history: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
  """Returns a history in which the latest losses, `[images]`, take the place of the oldest."""
  return tf.concat([history, tf.cast(losses, tf.float32)], axis=0)[-history.shape[0]:]


def cost_loss(cost: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns the mean squared distance of cost from its target (eq. 4), a float32 scalar.

  Args:
    cost: `[batch]`, C_net as a share of C_tot.
    target: `[batch]` or a scalar, C_expect as a share of C_tot.
  """
  return tf.reduce_mean(tf.square(tf.cast(cost, tf.float32) - target))
