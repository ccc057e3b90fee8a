"""Areas and overlaps of boxes `[y1, x1, y2, x2]`."""
import tensorflow as tf


def areas(boxes: tf.Tensor) -> tf.Tensor:
  """Returns areas `[...]`; 0 for boxes of negative height or width."""
  size = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0)
  return size[..., 0] * size[..., 1]


def intersections(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns the areas `[...]` of the intersections of boxes of two broadcastable tensors."""
  return areas(tf.concat([tf.maximum(first[..., :2], second[..., :2]),
                          tf.minimum(first[..., 2:], second[..., 2:])], -1))


def intersection_over_union(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns intersections over unions `[...]`, in [0, 1]; 0 for two empty boxes."""
  shared = intersections(first, second)
  return tf.math.divide_no_nan(shared, areas(first) + areas(second) - shared)


def generalized_iou(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
  """Returns generalized intersections over unions `[...]`, in [-1, 1].

  Reference: Hamid Rezatofighi et al., Generalized Intersection over Union,
  https://arxiv.org/abs/1902.09630, Algorithm 1.
  """
  shared = intersections(first, second)
  union = areas(first) + areas(second) - shared
  hull = areas(tf.concat([tf.minimum(first[..., :2], second[..., :2]),
                          tf.maximum(first[..., 2:], second[..., 2:])], -1))
  return (tf.math.divide_no_nan(shared, union) -
          tf.math.divide_no_nan(hull - union, hull))
