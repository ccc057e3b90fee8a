"""Stages of a backbone that do not train."""
from collections.abc import Sequence

from official.vision.modeling.layers import nn_blocks
import tensorflow as tf, tf_keras

from official_ext.ops import checks

STAGES = ('stem', 'conv2_x', 'conv3_x', 'conv4_x', 'conv5_x')
# The level that a stage of convolutions ends with.
_LEVELS = {f'conv{level}_x': str(level) for level in range(2, 6)}


def freeze_stages(backbone: tf_keras.Model, stages: Sequence[str]) -> None:
  """Freezes stages of Model Garden's ResNet or EfficientNet.

  Their variables get no gradient and no weight decay, and their batch norms use and keep the
  moving statistics.  As with Model Garden's `freeze_backbone`, the losses still have the constant
  that the kernels' regularizers add.

  Args:
    backbone: the backbone of a detector.
    stages: some of `STAGES`; empty: nothing is frozen.

  Raises:
    FieldError: an unknown stage, or a backbone that has other stages.
  """
  if not stages:
    return
  if not isinstance(stages, (list, tuple)):
    example = stages if stages in STAGES else STAGES[0]
    raise checks.FieldError(
        f'task.frozen_stages is {stages!r}, and must be a list, such as [{example}]; allowed in it '
        f'are {", ".join(STAGES)}.')
  unknown = [stage for stage in stages if stage not in STAGES]
  if unknown:
    raise checks.FieldError(f'task.frozen_stages has {", ".join(map(str, unknown))}; allowed are '
                            f'{", ".join(STAGES)}.')
  layers = _layers_of_stages(backbone)
  for stage in stages:
    for layer in layers[stage]:
      layer.trainable = False


def _layers_of_stages(backbone: tf_keras.Model) -> dict[str, list[tf_keras.layers.Layer]]:
  """Returns the layers of every stage: what its end needs and the end before it does not."""
  levels = backbone.output if isinstance(getattr(backbone, 'output', None), dict) else {}
  stem = _end_of_stem(getattr(backbone, 'layers', ()))
  if stem is None or not set(_LEVELS.values()) <= set(levels):
    raise checks.FieldError(
        f'task.frozen_stages names stages of a ResNet or EfficientNet; {type(backbone).__name__} '
        'of task.model.backbone has no such stages: set task.frozen_stages=[].')
  ends: dict[str, tf.Tensor] = {'stem': stem.output} | {
      stage: levels[level] for stage, level in _LEVELS.items()}
  stages: dict[str, list[tf_keras.layers.Layer]] = {}
  before: set[int] = set()
  for stage, end in ends.items():
    layers = tf_keras.Model(backbone.input, end).layers
    stages[stage] = [layer for layer in layers if id(layer) not in before]
    before.update(map(id, layers))
  return stages


def _end_of_stem(layers: Sequence[tf_keras.layers.Layer]) -> tf_keras.layers.Layer | None:
  """Returns the only pooling of a ResNet, or what is before the first block of an EfficientNet."""
  pools = [layer for layer in layers if isinstance(layer, tf_keras.layers.MaxPooling2D)]
  if len(pools) == 1:
    return pools[0]
  blocks = [number for number, layer in enumerate(layers)
            if isinstance(layer, nn_blocks.InvertedBottleneckBlock)]
  return layers[blocks[0] - 1] if blocks and not pools else None
