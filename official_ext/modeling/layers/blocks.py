"""Small layers that several networks share."""
from typing import Any, Sequence

import tensorflow as tf, tf_keras


@tf_keras.utils.register_keras_serializable(package='official_ext')
class Conv2D(tf_keras.layers.Conv2D):
  """A `same`-padded convolution whose result has the right shape for an empty batch too.

  TensorFlow's oneDNN kernel returns the input's shape when the batch is empty, and the
  next operation fails.  A reshape, which costs nothing, puts that right.
  """

  def __init__(self, filters: int, kernel_size: Any, **kwargs):
    """Initializes the layer; arguments as in `tf_keras.layers.Conv2D`, padding `same`."""
    kwargs['padding'] = 'same'
    super().__init__(filters, kernel_size, **kwargs)

  def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    outputs = super().convolution_op(inputs, kernel)
    keeps_shape = (inputs.shape[-1] == self.filters and self.strides == (1, 1)
                   and self.dilation_rate == (1, 1))
    if keeps_shape or (inputs.shape[0] or 0) > 0:
      return outputs
    size = tf.shape(inputs)
    known = inputs.shape
    height, width = (
        -(-(known[axis] or size[axis]) // self.strides[axis - 1]) for axis in (1, 2))
    return tf.reshape(outputs, [size[0], height, width, self.filters])


def fresh(initializer: tf_keras.initializers.Initializer) -> tf_keras.initializers.Initializer:
  """Returns a copy of an initializer: one that is used twice draws the same values twice."""
  return initializer.__class__.from_config(initializer.get_config())


def build_in_scope(layers: Sequence[tf_keras.layers.Layer], shapes: Sequence[Any]) -> None:
  """Builds layers that a conditional will call, each under its own variable name scope.

  Args:
    layers: layers whose variables do not exist yet.
    shapes: one input shape per layer.
  """
  for layer, shape in zip(layers, shapes):
    with tf.name_scope(layer.name):
      layer.build(shape)
    layer.built = True
