"""The padded ground truth, as losses that assign labels themselves need it."""
from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from official_ext.ops import assigners

_UNIT_BOX = [0.0, 0.0, 1.0, 1.0]


class Objects(NamedTuple):
  """The padded ground truth.

  Attributes:
    boxes: `[batch, boxes, 4]` in pixels; `[0, 0, 1, 1]` for padding, so that what is computed of it
      is finite.
    columns: int32 `[batch, boxes]`, the class counted from 0; 0 for padding.
    is_object: boolean `[batch, boxes]`.
  """
  boxes: tf.Tensor
  columns: tf.Tensor
  is_object: tf.Tensor


def of(labels: Mapping[str, tf.Tensor], dtype: tf.DType = tf.float32) -> Objects:
  """Returns the ground truth of a batch.

  Args:
    labels: `boxes` `[batch, boxes, 4]` and `classes` `[batch, boxes]`, from 1; see
      `assigners.is_object` for rows that are none.
    dtype: of the boxes.
  """
  boxes = tf.cast(labels['boxes'], dtype)
  is_object = assigners.is_object(boxes, labels['classes'])
  boxes = tf.where(is_object[..., None], boxes, tf.constant(_UNIT_BOX, dtype))
  return Objects(boxes, tf.maximum(tf.cast(labels['classes'], tf.int32) - 1, 0), is_object)
