"""The protocol of layers whose weights are prepared once and used many times."""
from typing import Any

import tensorflow as tf, tf_keras


class PreparedLayer(tf_keras.layers.Layer):
  """Base of layers that compute tensors from their variables before they run.

  A fixed-point solver calls a layer many times with the same weights, and `tf.cond` would repeat
  in each of its branches what is computed from variables inside.  Call `prepare` once, outside
  the loop or conditional, and `run` as often as needed.
  """

  def prepare(self, dtype: tf.DType) -> Any:
    """Returns what `run` needs of the variables: kernels normalized or folded, and cast.

    Args:
      dtype: floating dtype of the features.

    Returns:
      A nested structure of tensors.
    """
    raise NotImplementedError

  def run(self, weights: Any, features: Any) -> Any:
    """Computes the result with weights that `prepare` returned.

    Args:
      weights: what `prepare` returned.
      features: `[batch, height, width, channels]`, or a structure of such tensors.

    Returns:
      The result of the layer: a tensor, or a structure of tensors.
    """
    raise NotImplementedError

  def call(self, features: Any) -> Any:
    """Returns `run` of the features, with weights that are prepared for this call alone."""
    dtype = tf.nest.flatten(features)[0].dtype
    return self.run(self.prepare(dtype), features)
