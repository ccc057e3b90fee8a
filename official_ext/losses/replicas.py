"""Sums and means of the values of a replica, which may have no images."""
import tensorflow as tf


def mean_sum(values: tf.Tensor) -> tf.Tensor:
  """Returns the sum of this replica's values, averaged over the replicas.

  The trainer adds the losses of the replicas and divides by their number.  Losses that are divided
  by this value are therefore those of the whole batch, whatever the number of replicas.

  Args:
    values: a tensor of any shape.
  """
  total, context = tf.reduce_sum(values), tf.distribute.get_replica_context()
  if context and context.num_replicas_in_sync > 1:
    total = context.all_reduce(tf.distribute.ReduceOp.MEAN, total)
  return total


def mean_or_zero(values: tf.Tensor) -> tf.Tensor:
  """Returns the mean of a tensor of any shape; 0 of an empty one.

  The last batch of a data set may leave a replica without images.  The mean of nothing is NaN, and
  would make the sum of the losses of all replicas NaN.
  """
  return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))
