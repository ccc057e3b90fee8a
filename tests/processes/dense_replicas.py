"""Prints FCOS losses of two replicas with half a batch each, and of one device, as JSON."""
import json

import official_ext  # noqa: F401 (chooses Keras 2 before anything loads TensorFlow)

import numpy as np
import tensorflow as tf

from official_ext.losses import dense_losses
from official_ext.ops import assigners

SIZES = {'3': (8, 8), '4': (4, 4)}
BOXES = [[[8, 8, 40, 40], [20, 30, 60, 60]], [[4, 4, 12, 12], [0, 0, 0, 0]]]
CLASSES = [[1, 2], [1, -1]]


def main():
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
  random = np.random.default_rng(0)

  def maps(depth):
    return {level: tf.constant(random.uniform(1, 9, [2, *size, depth]), tf.float32)
            for level, size in SIZES.items()}

  outputs = {'cls_outputs': maps(3), 'box_outputs': maps(4),
             'attribute_outputs': {'centerness': maps(1)}}
  labels = {'boxes': tf.constant(BOXES, tf.float32), 'classes': tf.constant(CLASSES)}
  assigner = assigners.assigner('fcos')
  whole = dense_losses.batch_losses(outputs, labels, assigner)
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])

  @tf.function
  def step():

    def replica_losses():
      index = tf.distribute.get_replica_context().replica_id_in_sync_group
      half = tf.nest.map_structure(lambda x: x[index:index + 1], (outputs, labels))
      # The trainer divides losses by the number of replicas, too.
      return [loss / 2 for loss in dense_losses.batch_losses(*half, assigner)]

    return [strategy.reduce('SUM', loss, axis=None) for loss in strategy.run(replica_losses)]

  print(json.dumps({'replicas': strategy.num_replicas_in_sync,
                    'one_device': [float(loss) for loss in whole],
                    'two_replicas': [float(loss) for loss in step()]}))


if __name__ == '__main__':
  main()
