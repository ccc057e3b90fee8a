"""Anchor boxes at the locations of one-stage detectors, and boxes coded relative to them."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from official.vision.ops import box_ops
import tensorflow as tf

from official_ext.ops import checks

# Reciprocals of the deviations 0.1 of center y and x, and 0.2 of height and width.
DELTA_WEIGHTS = [10.0, 10.0, 5.0, 5.0]


class Shapes(NamedTuple):
  """The shapes of the anchors of a location.

  Attributes:
    size: side of the smallest square anchor, in strides.
    num_scales: number of sizes; each is `2**(1 / num_scales)` times the one before.
    aspect_ratios: width divided by height; anchors of one size have the same area.
  """
  size: float = 8.0
  num_scales: int = 1
  aspect_ratios: Sequence[float] = (1.0,)

  @property
  def number(self) -> int:
    """The number of anchors of a location."""
    return self.num_scales * len(self.aspect_ratios)


def check(shapes: Shapes) -> None:
  """Checks the shapes.

  Raises:
    ArgumentError: a size, number or ratio that is not positive, or no ratio.
  """
  checks.check_positive('anchor_size', shapes.size)
  checks.check_positive('num_scales', shapes.num_scales)
  if not shapes.aspect_ratios or not all(ratio > 0 for ratio in shapes.aspect_ratios):
    raise checks.ArgumentError(
        'aspect_ratios', f'aspect_ratios is {list(shapes.aspect_ratios)}; it must be a list of '
        'positive numbers, at least one.')


def boxes(points: np.ndarray, strides: np.ndarray, shapes: Shapes) -> tf.Tensor:
  """Returns the anchors of all locations, those of one location one after the other.

  Reference: Tsung-Yi Lin et al., Focal Loss for Dense Object Detection,
  https://arxiv.org/abs/1708.02002, section 4.

  Args:
    points: float32 `[locations, 2]`, y and x in pixels: the centers.
    strides: float32 `[locations]`, in pixels.
    shapes: the shapes of a location's anchors.

  Returns:
    float32 `[locations * number, 4]`.
  """
  sides = shapes.size * 2 ** (np.arange(shapes.num_scales) / shapes.num_scales)
  roots = np.sqrt(np.asarray(shapes.aspect_ratios, np.float64))
  sizes = (sides[:, None, None] * np.stack([1 / roots, roots], -1)).reshape([-1, 2])
  half = strides[:, None, None] * sizes / 2
  centers = points[:, None]
  corners = np.concatenate([centers - half, centers + half], -1)
  return tf.constant(corners.reshape([-1, 4]), tf.float32)


def boxes_from_deltas(deltas: tf.Tensor, anchor_boxes: tf.Tensor) -> tf.Tensor:
  """Returns anchors `[..., 4]` moved and scaled by deltas of center and size, `[..., 4]`."""
  return box_ops.decode_boxes(deltas, anchor_boxes, DELTA_WEIGHTS)


def deltas_from_boxes(targets: tf.Tensor, anchor_boxes: tf.Tensor) -> tf.Tensor:
  """Returns the deltas `[..., 4]` that `boxes_from_deltas` turns into boxes that have an area."""
  return box_ops.encode_boxes(targets, anchor_boxes, DELTA_WEIGHTS)
