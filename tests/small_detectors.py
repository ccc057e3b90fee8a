"""Small detectors and real batches that tests of tasks, training and serving share."""
from official.core import task_factory
import tensorflow as tf

from official_ext import registry_imports
from official_ext.utils import experiment

SMALL = {
    'runtime': {'mixed_precision_dtype': 'float32'},
    'task': {
        'model': {'input_size': [64, 64, 3], 'max_level': 5},
        'losses': {'l2_weight_decay': 0.0},
        # What augmentation draws depends on what else the process has done.
        'train_data': {'parser': {'aug_scale_min': 1.0, 'aug_scale_max': 1.0}},
    },
}


def small_experiment(name: str, **task):
  """Returns a sample experiment on 64-pixel images, levels up to 5, no weight decay."""
  config = experiment.resolve(name, lock=False)
  config.override(SMALL)
  config.override({'task': task})
  return config


def small_task(name: str, **task):
  """Returns the task of a small experiment, and its model with the carried backbone."""
  config = small_experiment(name, **task)
  detection_task = task_factory.get_task(config.task, logging_dir=None)
  model = detection_task.build_model()
  detection_task.initialize(model)
  return detection_task, model


def batch(detection_task, records: str, size: int = 4, training: bool = True):
  """Returns one batch of composed images from TFRecords, as the task's own reader gives it."""
  data = detection_task.task_config.train_data if training else (
      detection_task.task_config.validation_data)
  data = data.replace(input_path=records, global_batch_size=size, shuffle_buffer_size=1,
                      drop_remainder=False)
  return next(iter(detection_task.build_inputs(data)))


def set_gate_bias(model: tf.Module, shift: float) -> None:
  """Moves the last bias of a channel gate: positive opens, negative shuts block B."""
  for variable in model.decoder.gate.trainable_variables:
    if '/output_' in variable.name and 'bias' in variable.name:
      variable.assign([0.0, shift])
