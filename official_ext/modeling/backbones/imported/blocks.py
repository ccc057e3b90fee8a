"""Model Garden's blocks with the padding and the place of the stride of a convention.

The variables have the names that they have in Model Garden's blocks.  `weighted_layers` lists the
layers with variables in one order for all blocks: the main path from input to output, then the
shortcut.
"""
import math
from typing import Any, NamedTuple

from official.vision.modeling.backbones import mobilenet
from official.vision.modeling.layers import nn_blocks
import tensorflow as tf, tf_keras

from official_ext.modeling.backbones.imported import conventions
from official_ext.modeling.backbones.imported import paddings
from official_ext.modeling.layers import deformable

Layers = list[tf_keras.layers.Layer]


class Imported:
  """Base of the blocks: each is a block of Model Garden that follows a convention."""

  def __init__(self, convention: conventions.Convention, **kwargs: Any):
    """Initializes the block.

    Args:
      convention: how the source computes the network.
      **kwargs: arguments of Model Garden's block.
    """
    super().__init__(**kwargs)
    self._convention = convention

  def _padded_depthwise(self, conv: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
    """Returns a depthwise convolution, padded by the convention if its stride is 2."""
    if max(conv.strides) == 1 or self._convention.padding == 'same':
      return conv
    return paddings.changed(
        conv, paddings.PaddedDepthwiseConv2D, pads=self._convention.padding)

  def weighted_layers(self) -> Layers:
    """Returns the layers with variables, in the order of `ImportedBackbone.weighted_layers`."""
    raise NotImplementedError


class Deformable(NamedTuple):
  """Which 3x3 convolutions of a ResNet are deformable.

  Attributes:
    stages: levels of the stages, of 2 to 5.
    modulated: whether their samples are multiplied by masks.
    offset_rate: factor of the gradients of their offsets' convolutions.
  """
  stages: tuple[int, ...] = ()
  modulated: bool = False
  offset_rate: float = 1.0


class Bottleneck(Imported, nn_blocks.BottleneckBlock):
  """A block of ResNet or ResNeXt."""
  _conv1: tf_keras.layers.Layer
  _conv2: tf_keras.layers.Layer

  def __init__(self, convention: conventions.Convention, deformed: Deformable,
               **kwargs: Any):
    """Initializes the block.

    Args:
      convention: how the source computes the network.
      deformed: the stages whose 3x3 convolutions are deformable; the block's own follows from its
        filters.
      **kwargs: arguments of Model Garden's block.
    """
    super().__init__(convention, **kwargs)
    self._deformed = deformed

  @property
  def _level(self) -> int:
    """The level of the block's stage: 2 with 64 filters, 3 with 128, ...."""
    return 2 + int(math.log2(self._filters // 64))

  def build(self, input_shape: tf.TensorShape) -> None:
    super().build(input_shape)
    if self._convention.cardinality:
      self._make_groups(*self._convention.cardinality)
    elif max(self._conv2.strides) > 1:
      if self._convention.stride_in_first:
        self._conv1 = paddings.changed(self._conv1, strides=self._conv2.strides)
        self._conv2 = paddings.changed(self._conv2, strides=(1, 1))
      else:
        self._conv2 = paddings.changed(
            self._conv2, paddings.PaddedConv2D, pads=self._convention.padding)
    if self._level in self._deformed.stages:
      options = self._conv2.get_config()
      for name in ('padding', 'pads', 'scale', 'offset'):
        options.pop(name, None)
      self._conv2 = deformable.DeformableConv2D(
          modulated=self._deformed.modulated, offset_rate=self._deformed.offset_rate, **options)

  def _make_groups(self, groups: int, channels: int) -> None:
    """Makes the block that of ResNeXt: another width, and groups in its 3x3 convolution.

    Args:
      groups: their number.
      channels: of a group in the first stage.
    """
    width = groups * channels * 2**(self._level - 2)
    self._conv1 = paddings.changed(self._conv1, filters=width)
    self._conv2 = paddings.changed(
        self._conv2, paddings.GroupedConv2D, pads='symmetric', filters=width, groups=groups)

  def weighted_layers(self) -> Layers:
    shortcut = [self._shortcut, self._norm0] if self._use_projection else []
    return [self._conv1, self._norm1, self._conv2, self._norm2, self._conv3, self._norm3,
            *shortcut]


class ConvNorm(Imported, mobilenet.Conv2DBNBlock):
  """A convolution of MobileNet with its norm: the first, or the last."""
  _conv0: tf_keras.layers.Layer

  def build(self, input_shape: tf.TensorShape) -> None:
    super().build(input_shape)
    if max(self._conv0.strides) > 1:
      self._conv0 = padded_stem(self._conv0, self._convention)

  def weighted_layers(self) -> Layers:
    return [self._conv0, self._norm0]


class DepthwiseSeparable(Imported, nn_blocks.DepthwiseSeparableConvBlock):
  """A block of MobileNetV1."""
  _dwconv0: tf_keras.layers.Layer

  def build(self, input_shape: tf.TensorShape) -> None:
    super().build(input_shape)
    self._dwconv0 = self._padded_depthwise(self._dwconv0)

  def weighted_layers(self) -> Layers:
    return [self._dwconv0, self._norm0, self._conv1, self._norm1]


class InvertedBottleneck(Imported, nn_blocks.InvertedBottleneckBlock):
  """A block of MobileNetV2 and EfficientNet."""
  _conv1: tf_keras.layers.Layer

  def build(self, input_shape: tf.TensorShape) -> None:
    super().build(input_shape)
    self._conv1 = self._padded_depthwise(self._conv1)

  def weighted_layers(self) -> Layers:
    expansion = [self._conv0, self._norm0] if self._expand_ratio > 1 else []
    excitation = self._squeeze_excitation
    squeezed = [excitation._se_reduce, excitation._se_expand] if excitation else []
    return [*expansion, self._conv1, self._norm1, *squeezed, self._conv2, self._norm2]


IMPORTED = {
    nn_blocks.BottleneckBlock: Bottleneck,
    mobilenet.Conv2DBNBlock: ConvNorm,
    nn_blocks.DepthwiseSeparableConvBlock: DepthwiseSeparable,
    nn_blocks.InvertedBottleneckBlock: InvertedBottleneck,
}


def padded_stem(conv: tf_keras.layers.Layer, convention: conventions.Convention
                ) -> tf_keras.layers.Layer:
  """Returns the first convolution as a convention has it: its input and its padding."""
  change = ({'scale': convention.scale, 'offset': convention.offset}
            if convention.changes_input else {})
  return paddings.changed(
      conv, paddings.PaddedConv2D, pads=convention.stem_padding, **change)
