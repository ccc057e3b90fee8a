"""Synchronized statistics of present images on two replicas, against one device.

It runs in a process of its own, because logical devices must be made before any operation runs.
"""
import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import tensorflow as tf

from official_ext.modeling.layers import norms

FEATURES = np.random.default_rng(0).normal(2, 3, [4, 3, 5, 6]).astype(np.float32)
TARGET = np.random.default_rng(1).normal(size=FEATURES.shape).astype(np.float32)
# Present images: in both replicas, in one of them, in none.
CASES = ([1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0])


def make(synchronized):
  layer = norms.PresenceNorm(synchronized=synchronized)
  layer.build([None, None, None, 6])
  return layer


def step(layer, features, present, target):
  """Returns the outputs and the gradient of the sum over all images."""
  with tf.GradientTape() as tape:
    tape.watch(features)
    outputs = layer(features, present, training=True)
    loss = tf.reduce_sum(tf.square(outputs - target))
  return outputs, *tape.gradient(loss, [features, layer.gamma])


def main():
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  for case in CASES:
    arguments = [tf.constant(FEATURES), tf.constant(np.array(case, bool)), tf.constant(TARGET)]
    alone = make(False)
    outputs, gradient, gamma = step(alone, *arguments)
    with strategy.scope():
      mirrored = make(True)
    halves = [strategy.experimental_distribute_values_from_function(
        lambda context, x=x: tf.split(x, 2)[context.replica_id_in_sync_group]) for x in arguments]
    run = tf.function(lambda *batch: strategy.run(step, args=(mirrored, *batch)),  # noqa: B023
                      autograph=False)
    results = [strategy.experimental_local_results(x) for x in run(*halves)]
    np.testing.assert_allclose(np.concatenate(results[0]), outputs, 1e-4, 1e-4)
    np.testing.assert_allclose(np.concatenate(results[1]), gradient, 1e-3, 1e-3)
    np.testing.assert_allclose(sum(results[2]), gamma, 1e-4, 1e-3)
    for first, second in zip(mirrored.non_trainable_variables, alone.non_trainable_variables):
      np.testing.assert_allclose(first, second, 1e-5)
  print(f'2 replicas equal one device in {len(CASES)} cases')


if __name__ == '__main__':
  main()
