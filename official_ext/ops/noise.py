"""Random numbers that differ between replicas and are drawn again by a resumed run."""
from collections.abc import Sequence
import zlib
from typing import Any

import tensorflow as tf


def uniform_steps(name: str, seed: int, count: tf.Tensor,
                  shape: tf.Tensor | Sequence[Any], differs_by_replica: bool = True) -> tf.Tensor:
  """Draws integers from 0 to 2**23 - 1 with equal probability.

  They are made of random bits, because floats drawn directly differ under XLA.

  Args:
    name: name of the layer that draws; layers of different names draw different numbers.
    seed: integer that changes the numbers.
    count: int64 scalar, how often the layer has drawn; a variable that checkpoints keep.
    shape: shape of the result.
    differs_by_replica: whether each replica draws other numbers.

  Returns:
    float32 of this shape; a function of the arguments and perhaps of the replica.
  """
  context = tf.distribute.get_replica_context()
  replica = context.replica_id_in_sync_group if context and differs_by_replica else 0
  key = tf.constant([zlib.crc32(name.encode()) & 0x7fffffff, seed], tf.int32)
  for number in (count, replica):
    key = tf.random.experimental.stateless_fold_in(key, number)
  bits = tf.random.stateless_uniform(shape, key, None, None, tf.uint32, alg='philox')
  return tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32)
