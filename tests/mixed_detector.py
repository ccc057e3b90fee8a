"""A small DyFPN detector that decides differently for different images and levels."""
import numpy as np
import tensorflow as tf

from official_ext.serving import detection
from official_ext.serving import export_saved_model
import detectors

# Margins of the gates, and gaps between scores, far above what rounding can move.
_GATE_GAIN = 300.0
_SCORE_GAIN = 60.0


def images(count: int = 4, size=(64, 80)) -> np.ndarray:
  """Returns pictures that differ from each other, uint8 `[count, height, width, 3]`."""
  return export_saved_model.example_batches(size, count)[0]


def build(name: str, **task):
  """Returns a small experiment's config, its task's model with mixed gates, and a module."""
  detection_task, model = detectors.small_task(name, **task)
  config = detectors.small_experiment(name, **task)
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=[64, 64])
  _mix_gates(module)
  _spread_scores(model)
  return config, model, module


def _mix_gates(module) -> None:
  """Puts every level's gate at the median of the images, and widens its margins."""
  model = module.model
  features = model.backbone(module.preprocess(tf.constant(images()))[0])
  features = {level: features[level] for level in model.decoder.backbone_levels}
  variables = {variable.name: variable for variable in model.decoder.gate.trainable_variables}
  for name, variable in variables.items():
    if '/output_' in name:
      variable.assign(variable * (_GATE_GAIN if 'kernel' in name else 0.0))
  logits = model.decoder.gate(features).numpy()
  for index, level in enumerate(features):
    bias, = (v for name, v in variables.items() if f'/output_{level}/' in name and 'bias' in name)
    bias.assign([np.median(logits[:, index, 1] - logits[:, index, 0]), 0.0])


def _spread_scores(model) -> None:
  """Makes scores of neighboring boxes differ, or their order in suppression is a matter of luck."""
  heads = [model.head] if hasattr(model, 'head') else [*model.detection_head]
  for head in heads:
    for variable in head.trainable_variables:
      if 'classnet' in variable.name or 'scores' in variable.name:
        variable.assign(variable * (_SCORE_GAIN if 'kernel' in variable.name else 0.5))


def without(outputs, *names):
  """Returns outputs as arrays, less those whose name begins with one of the names."""
  return {name: np.asarray(value) for name, value in outputs.items()
          if not name.startswith(names or ('\0',))}
