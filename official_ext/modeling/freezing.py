"""Stages of a backbone that do not train."""
from collections.abc import Sequence

import tensorflow as tf, tf_keras

from official_ext.ops import checks

STAGES = ('stem', 'conv2_x', 'conv3_x', 'conv4_x', 'conv5_x')
# The level that a stage of convolutions ends with.
_LEVELS = {f'conv{level}_x': str(level) for level in range(2, 6)}


def freeze_stages(backbone: tf_keras.Model, stages: Sequence[str]) -> None:
  """Freezes stages of Model Garden's ResNet.

  Their variables get no gradient and no weight decay, and their batch norms use and keep the
  moving statistics.  As with Model Garden's `freeze_backbone`, the losses still have the constant
  that the kernels' regularizers add.

  Args:
    backbone: the backbone of a detector.
    stages: some of `STAGES`; empty: nothing is frozen.

  Raises:
    FieldError: an unknown stage, or a backbone that is no ResNet with all stages.
  """
  if not stages:
    return
  unknown = [stage for stage in stages if stage not in STAGES]
  if unknown:
    raise checks.FieldError(f'task.frozen_stages has {", ".join(unknown)}; allowed are '
                            f'{", ".join(STAGES)}.')
  layers = _layers_of_stages(backbone)
  for stage in stages:
    for layer in layers[stage]:
      layer.trainable = False


def _layers_of_stages(backbone: tf_keras.Model) -> dict[str, list[tf_keras.layers.Layer]]:
  """Returns the layers of every stage of a ResNet."""
  pools = [layer for layer in getattr(backbone, 'layers', ())
           if isinstance(layer, tf_keras.layers.MaxPooling2D)]
  levels = backbone.output if isinstance(getattr(backbone, 'output', None), dict) else {}
  if len(pools) != 1 or not set(_LEVELS.values()) <= set(levels):
    raise checks.FieldError(
        f'task.frozen_stages names stages of a ResNet; {type(backbone).__name__} of '
        'task.model.backbone has no such stages: set task.frozen_stages=[].')
  ends: dict[str, tf.Tensor] = {'stem': pools[0].output} | {
      stage: levels[level] for stage, level in _LEVELS.items()}
  stages: dict[str, list[tf_keras.layers.Layer]] = {}
  before: set[int] = set()
  for stage, end in ends.items():
    layers = tf_keras.Model(backbone.input, end).layers
    stages[stage] = [layer for layer in layers if id(layer) not in before]
    before.update(map(id, layers))
  return stages
