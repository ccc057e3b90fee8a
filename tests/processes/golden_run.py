"""Twenty seeded steps on four images; prints the metrics of the last one as JSON.

A process of its own: what Keras and TensorFlow draw depends on what they drew before.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import official_ext  # noqa: F401 (chooses Keras 2)
import small_detectors
import tensorflow as tf, tf_keras

tf_keras.utils.set_random_seed(5)
task, model = small_detectors.small_task('retinanet_dyfpn_efficientnetlite0_sample')
inputs = small_detectors.batch(task, sys.argv[1])
metrics = task.build_metrics(training=True)
optimizer = tf_keras.optimizers.legacy.SGD(0.002, momentum=0.9, clipnorm=10.0)
step = tf.function(lambda: task.train_step(inputs, model, optimizer, metrics))
for _ in range(20):
  for metric in metrics:
    metric.reset_states()
  step()
print(json.dumps({metric.name: float(metric.result()) for metric in metrics}))
