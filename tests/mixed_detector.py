"""A small DyFPN detector that decides differently for different images and levels."""
import re

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import dyfpn
from official_ext.serving import detection
from official_ext.serving import export_checks
import small_detectors

_GATE_GAIN = 300.0  # Makes the margins of the gates far larger than rounding errors.


def images(count: int = 4, size=(64, 80)) -> np.ndarray:
  """Returns images that differ from each other, uint8 `[count, height, width, 3]`."""
  return export_checks.example_batches(size, count)[0]


def build(name: str, image_size=(64, 64), **model_options):
  """Returns a small experiment's config, its model with mixed gates, and its export module."""
  # With other weights, two levels might select the same images.
  tf_keras.utils.set_random_seed(1)
  padded = [-(-side // 32) * 32 for side in image_size]
  options = {'model': {**model_options, 'input_size': [*padded, 3]}}
  _, model = small_detectors.small_task(name, **options)
  config = small_detectors.small_experiment(name, **options)
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=image_size)
  if isinstance(model.decoder, dyfpn.DyFPN):
    _mix_gates(module)
  spread_scores(model)
  return config, model, module


def _mix_gates(module) -> None:
  """Moves the threshold of every level's gate to the median of the images, and widens margins."""
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


def spread_scores(model, gain: float = 1.0) -> None:
  """Makes boxes score differently, so that rounding cannot change their order in suppression.

  Args:
    model: the detector.
    gain: factor of the kernel, above 1 where features are small.
  """
  is_one_stage = hasattr(model, 'head')
  for head in [model.head] if is_one_stage else model.detection_head:
    variables = {re.sub('.*(scores|classes)/', '', v.name): v for v in head.trainable_variables}
    kernel = variables['kernel:0']
    spread = 0.4 if is_one_stage else 0.1  # Gives logits a deviation of about 2.
    kernel.assign(tf.random.stateless_normal(kernel.shape, [1, 2], stddev=gain * spread))
    variables['bias:0'].assign(tf.fill(variables['bias:0'].shape, -2.0))
