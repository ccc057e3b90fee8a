"""Small detectors, and batches of images, for tests of tasks, training and serving."""
import pathlib

from official.core import task_factory
import tensorflow as tf
import yaml

from official_ext import registry_imports
from official_ext.utils import experiment

SMALL = {
    'runtime': {'mixed_precision_dtype': 'float32'},
    'task': {
        'model': {'input_size': [64, 64, 3], 'max_level': 5},
        'losses': {'l2_weight_decay': 0.0},
        # Random scales would depend on what else the process has drawn.
        'train_data': {'parser': {'aug_scale_min': 1.0, 'aug_scale_max': 1.0}},
    },
}
# Its training step is traced in less than half the time of EfficientNet-Lite0's.
SMALL_BACKBONE = {
    'init_checkpoint': None,
    'model': {'backbone': {'type': 'resnet', 'resnet': {'model_id': 10, 'depth_multiplier': 0.25}}},
}
# Every evaluation of the solver takes time to trace.
SHORT_SOLVER = {'training_evaluations': 2, 'inference_evaluations': 2, 'backward_evaluations': 1}
SMALL_CADDET = {'num_layers': 3, 'channels': [4, 6, 8, 8]}
# Positions and channels of that backbone's levels 3 to 5, for images of 64 pixels.
MAPS = {'3': (8 * 8, 32), '4': (4 * 4, 64), '5': (2 * 2, 128)}
# Options of the model of a Cascade Mask R-CNN with the papers' heads.
CASCADE_WITH_MASKS = {
    'head_style': 'paper',
    'include_mask': True,
    'mask_head': {'num_convs': 1, 'num_filters': 16},
    'mask_sampler': {'num_sampled_masks': 16},
    'mask_roi_aligner': {'crop_size': 14},
    'roi_sampler': {'cascade_iou_thresholds': [0.6, 0.7]},
    'detection_head': {'class_agnostic_bbox_pred': True, 'cascade_class_ensemble': True,
                       'fc_dims': 32},
}


def budget_head(**tower):
  """Returns experiment and options of a detector whose head takes a budget; `tower` is added."""
  tower = {'num_blocks': 1, 'budget_input': True, **tower}
  return 'fcos_dynamichead_efficientnetlite0_sample', {
      'max_level': 4, 'decoder': {'fpn': {'num_filters': 8}},
      'head': {'num_filters': 8, 'tower': {'dynamic': tower}}}


# Part whose cost follows a budget -> experiment and options of its model.
BUDGET_NETWORKS = {
    'head': budget_head(),
    'decoder': ('retinanet_ifpn_efficientnetlite0_sample', {
        'decoder': {'ifpn': {'num_filters': 8, 'solver': {
            'budget_input': True, 'training_evaluations': 4, 'inference_evaluations': 4}}}}),
    'backbone': ('fcos_caddet_sample', {'backbone': {'caddet': {'budget_input': True}}}),
}


def small_overrides(name: str) -> dict:
  """Returns what makes a sample experiment small."""
  if 'caddet' in name:  # It is backbone and neck.
    model = {**SMALL['task']['model'], 'backbone': {'caddet': SMALL_CADDET}}
    return {**SMALL, 'task': {**SMALL['task'], 'model': model}}
  model = {**SMALL['task']['model'], **SMALL_BACKBONE['model']}
  return {**SMALL, 'task': {**SMALL['task'], **SMALL_BACKBONE, 'model': model}}


def write_overrides(name: str, folder: pathlib.Path) -> str:
  """Writes the overrides of a small experiment, and returns the flag that gives them."""
  path = folder / 'small.yaml'
  path.write_text(yaml.safe_dump(small_overrides(name)), encoding='utf-8')
  return f'--config_file={path}'


def small_experiment(name: str, **task):
  """Returns a sample experiment with a small backbone, 64-pixel images and no weight decay."""
  config = experiment.resolve(name, lock=False)
  config.override(small_overrides(name))
  config.override({'task': task})
  return config


def pretrained_experiment(name: str):
  """Returns a small experiment with its own backbone, EfficientNet-Lite0 of `data/`."""
  config = experiment.resolve(name, lock=False)
  config.override(SMALL)
  return config


def small_task(name: str, **task):
  """Returns the task of a small experiment, and its model."""
  config = small_experiment(name, **task)
  detection_task = task_factory.get_task(config.task, logging_dir=None)
  model = detection_task.build_model()
  detection_task.initialize(model)
  return detection_task, model


def batch(detection_task, records: str, size: int = 4, training: bool = True):
  """Returns one batch from TFRecords, as the task's own reader gives it."""
  data = detection_task.task_config.train_data if training else (
      detection_task.task_config.validation_data)
  data = data.replace(input_path=records, global_batch_size=size, shuffle_buffer_size=1,
                      drop_remainder=False)
  return next(iter(detection_task.build_inputs(data)))


def traced_step(detection_task, model, optimizer, metrics=None):
  """Returns the training step as a graph, for `step(inputs)`.

  The optimizer makes its slots first: TensorFlow traces a function twice that makes variables.
  """
  optimizer._create_all_weights(model.trainable_variables)
  return tf.function(
      lambda inputs: detection_task.train_step(inputs, model, optimizer, metrics))


def set_gate_bias(model: tf.Module, shift: float) -> None:
  """Sets the last bias of a channel gate; a positive shift opens block B, a negative shuts it."""
  for variable in model.decoder.gate.trainable_variables:
    if '/output_' in variable.name and 'bias' in variable.name:
      variable.assign([0.0, shift])
