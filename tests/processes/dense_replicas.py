"""Prints losses of two replicas with half a batch each, and of one device, as JSON."""
import functools
import json

import official_ext  # noqa: F401 (chooses Keras 2 before anything loads TensorFlow)

import numpy as np
import tensorflow as tf

from official_ext.losses import autoassign
from official_ext.losses import dense_losses
from official_ext.losses import free_anchor
from official_ext.ops import assigners

SIZES = {'3': (8, 8), '4': (4, 4)}
BOXES = [[[8, 8, 40, 40], [20, 30, 60, 60]], [[4, 4, 12, 12], [0, 0, 0, 0]]]
CLASSES = [[1, 2], [1, -1]]
LOSSES = {'fcos': dense_losses.batch_losses, 'autoassign': autoassign.losses,
          'freeanchor': free_anchor.losses}


def main():
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
  random = np.random.default_rng(0)

  def maps(depth, least=1):
    return {level: tf.constant(random.uniform(least, 9, [2, *size, depth]), tf.float32)
            for level, size in SIZES.items()}

  outputs = {'cls_outputs': maps(3), 'box_outputs': maps(4),
             'attribute_outputs': {'centerness': maps(1), 'objectness': maps(1, -2)}}
  labels = {'boxes': tf.constant(BOXES, tf.float32), 'classes': tf.constant(CLASSES)}
  prior = tf.zeros([3, 2]), tf.ones([3, 2])
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])

  def losses(name, outputs, labels):
    return list(LOSSES[name]({**outputs, 'center_prior': prior}, labels, assigners.assigner(name)))

  @functools.partial(tf.function, autograph=False)
  def step(name):

    def replica_losses():
      index = tf.distribute.get_replica_context().replica_id_in_sync_group
      half = tf.nest.map_structure(lambda x: x[index:index + 1], (outputs, labels))
      # The trainer divides losses by the number of replicas, too.
      return [loss / 2 for loss in losses(name, *half)]

    return [strategy.reduce('SUM', loss, axis=None) for loss in strategy.run(replica_losses)]

  print(json.dumps({'replicas': strategy.num_replicas_in_sync, 'losses': {name: {
      'one_device': [float(loss) for loss in losses(name, outputs, labels)],
      'two_replicas': [float(loss) for loss in step(name)]} for name in LOSSES}}))


if __name__ == '__main__':
  main()
