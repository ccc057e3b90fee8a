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


def with_known_classes(labels: Mapping[str, tf.Tensor], num_classes: int
                       ) -> dict[str, tf.Tensor]:
  """Returns labels whose use fails at run time if they have a class that the detector lacks.

  The objects of an unknown class would train as background.  XLA leaves assertions out, so that on
  a TPU this one costs nothing and finds nothing.

  Args:
    labels: `classes` `[batch, boxes]`, and others.
    num_classes: number of classes that the detector tells apart, without background.
  """
  classes = labels['classes']
  assertion = tf.debugging.assert_less_equal(
      tf.reduce_max(classes), tf.cast(num_classes, classes.dtype), message=(
          'labels have a class that the detector does not: classes count from 1, and it has '
          f'{num_classes}. Change the labels, or num_classes of the model, which counts background '
          'too.'))
  with tf.control_dependencies([assertion] if assertion is not None else []):
    return {**labels, 'classes': tf.identity(classes)}


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
