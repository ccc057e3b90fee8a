"""The protocol of layers whose weights are prepared once and used many times."""
from typing import Any

import tensorflow as tf, tf_keras


class PreparedLayer(tf_keras.layers.Layer):
  """Base of layers that make tensors of their variables before they run.

  A fixed-point solver calls the same layer many times with the same weights, and a conditional
  would repeat in each of its branches what was made of variables inside.  So `prepare` is called
  once, outside, and `run` as often as needed.
  """

  def prepare(self, dtype: tf.DType) -> Any:
    """Returns what `run` needs of the variables: kernels normalized or folded, and cast.

    Args:
      dtype: of the features.

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
      What the layer makes of the features.
    """
    raise NotImplementedError
