"""Random numbers that replicas draw differently and a resumed run draws again."""
import zlib
from typing import Any, Sequence, Union

import tensorflow as tf


def uniform_steps(name: str, seed: int, count: tf.Tensor,
                  shape: Union[tf.Tensor, Sequence[Any]]) -> tf.Tensor:
  """Draws whole numbers from 0 to 2**23 - 1, all alike probable.

  From random bits: floats drawn directly differ under XLA.

  Args:
    name: of the layer that draws.
    seed: changes the numbers.
    count: int64 scalar, how often the layer has drawn, which checkpoints keep.
    shape: of the result.

  Returns:
    float32 of this shape; a function of the arguments and of the replica.
  """
  context = tf.distribute.get_replica_context()
  replica = context.replica_id_in_sync_group if context else 0
  key = tf.constant([zlib.crc32(name.encode()) & 0x7fffffff, seed], tf.int32)
  for number in (count, replica):
    key = tf.random.experimental.stateless_fold_in(key, number)
  bits = tf.random.stateless_uniform(shape, key, None, None, tf.uint32, alg='philox')
  return tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32)
