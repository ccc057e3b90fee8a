"""Switches off a graph optimizer of TensorFlow that makes single images slow."""
from collections.abc import Iterator
import contextlib

import tensorflow as tf


@contextlib.contextmanager
def without_remapper(batch_size: int) -> Iterator[None]:
  """Runs graphs of one image without TensorFlow's remapping optimizer.

  On a CPU with oneDNN, the remapper of TensorFlow 2.20 fuses batch norm into the convolution
  before it.  For two images or more the fused operation is faster; for one image a fused 1x1
  convolution is many times slower than the two operations.  TensorFlow optimizes a `tf.function`
  separately with and without the remapper.

  Args:
    batch_size: number of images that the graphs run on; from two on nothing is changed.
  """
  is_fusing = tf.config.optimizer.get_experimental_options().get('remapping', True)
  if batch_size != 1 or not is_fusing:
    yield
    return
  tf.config.optimizer.set_experimental_options({'remapping': False})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options({'remapping': True})
