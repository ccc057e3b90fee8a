"""A variable that counts how often a layer has drawn random numbers."""
import tensorflow as tf, tf_keras


def add_noise_counter(layer: tf_keras.layers.Layer, name: str) -> tf.Variable:
  """Adds the counter that `ops.noise.uniform_steps` needs, so that checkpoints keep it.

  Args:
    layer: the layer that draws.
    name: name of the variable.

  Returns:
    An int64 scalar that starts at 0 and is not trained.
  """
  # Replicas read their own copy: the default would merge copies in the middle of a step, which
  # a branch of a conditional cannot.
  return layer.add_weight(
      name, shape=(), dtype=tf.int64, initializer='zeros', trainable=False,
      synchronization=tf.VariableSynchronization.ON_READ,
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
