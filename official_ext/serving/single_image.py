"""Keeps TensorFlow from making the detection of a single image many times slower."""
import contextlib
from typing import Iterator

import tensorflow as tf


@contextlib.contextmanager
def fast_execution(batch_size: int) -> Iterator[None]:
  """Makes graphs that run while the context lasts fast for one image as well.

  On a CPU with oneDNN, TensorFlow 2.20 fuses batch norm into the convolution before it.  Of two
  images or more that is faster; of one image a fused 1x1 convolution is many times slower than
  its parts.  A function is optimized once for either way.

  Args:
    batch_size: images that the graphs get; from two on nothing is changed.
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
