"""Takes twenty seeded steps on four images, and prints means over the steps as JSON.

It is a process of its own because the random numbers of Keras and TensorFlow depend on what a
process has drawn before.

Processors round differently, and training amplifies such differences: at four times this learning
rate a relative change of the initial weights by 1e-6 changes the box loss of the last step by 5 %.
At this learning rate a change by 1e-4 changes no printed value by more than 0.2 %.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import official_ext  # noqa: F401 (chooses Keras 2)
import small_detectors
from official.core import task_factory
import tensorflow as tf, tf_keras
from tensorflow.python.autograph.core import ag_ctx

from official_ext.ops import routing

# Without AutoGraph: in a new process it would convert the code of every layer.
with ag_ctx.ControlStatusCtx(ag_ctx.Status.DISABLED):
  tf_keras.utils.set_random_seed(5)
  config = small_detectors.pretrained_experiment('retinanet_dyfpn_efficientnetlite0_sample')
  task = task_factory.get_task(config.task)
  model = task.build_model()
  task.initialize(model)
  images, labels = small_detectors.batch(task, sys.argv[1])
  metrics = task.build_metrics(training=True)
  optimizer = tf_keras.optimizers.legacy.SGD(0.0005, momentum=0.9, clipnorm=10.0)
  step = small_detectors.traced_step(task, model, optimizer, metrics)
  for _ in range(20):
    step((images, labels))
  with routing.RoutingTape() as tape:
    model(images, training=False)
  expected = float(tf.reduce_mean(tape.routing().expected)) / 1e9
  print(json.dumps({**{metric.name: float(metric.result()) for metric in metrics},
                    'inference/gmac/expected': expected}))
