"""Sets what gates do at each budget by images as inference gets them.

Training scales and crops images at random, so the logits of its gates are spread otherwise than
those of images as they are.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed

# Quantiles of so many images are off by 0.03 at most, in two of three cases.
_IMAGES = 256
_BATCH = 8


class BudgetCalibration:
  """Calibrates the decoder before each evaluation and at the end of a training.

  It is an action of Orbit's controller, which comes before the checkpoint is saved.

  Attributes:
    trainer: Model Garden's, which is made after its actions; None before.
  """

  def __init__(self, params: Any, task: Any, strategy: tf.distribute.Strategy):
    """Initializes the action.

    Args:
      params: the experiment.
      task: its task.
      strategy: of the training.
    """
    self._params, self._task, self._strategy = params.trainer, task, strategy
    self.trainer: Any = None

  def __call__(self, output: Any) -> None:
    """Calibrates after a loop of steps, if it is time to.

    Args:
      output: of the loop; not used.
    """
    del output
    step = int(self.trainer.global_step.numpy())
    is_time = step >= self._params.train_steps or step % self._params.validation_interval == 0
    if is_time and applies(self.trainer.model):
      calibrate(self.trainer.model, self._task, self._strategy)


def applies(model: tf_keras.Model) -> bool:
  """Returns whether a detector has a decoder that is calibrated."""
  decoder = getattr(model, 'decoder', None)
  return isinstance(decoder, routed.RoutedLayer) and decoder.calibrates_budget


def calibrate(model: tf_keras.Model, task: Any, strategy: tf.distribute.Strategy) -> None:
  """Calibrates a decoder by training images that are not augmented.

  Args:
    model: a detector to which `applies`.
    task: its task, which reads the images.
    strategy: of the training.
  """
  data = task.task_config.train_data.replace(
      is_training=False, global_batch_size=_BATCH * strategy.num_replicas_in_sync,
      drop_remainder=False)
  with strategy.scope():
    batches = strategy.distribute_datasets_from_function(
        lambda context: task.build_inputs(data, context).take(_IMAGES // _BATCH))

    def logits_of(images: tf.Tensor) -> tf.Tensor:
      features: Mapping[str, tf.Tensor] = model.backbone(images, training=False)
      return model.decoder.budget_logits(features)

    compute = tf.function(
        lambda images: strategy.run(logits_of, args=(images,)), autograph=False)
    found = [np.asarray(value) for images, *_ in batches
             for value in strategy.experimental_local_results(compute(images))]
    model.decoder.calibrate_budget(np.concatenate(found))
