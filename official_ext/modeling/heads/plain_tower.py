"""The plain tower of one-stage detectors: convolutions that all levels share."""
from collections.abc import Mapping
import dataclasses
from typing import Any

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import deformable as deformable_lib
from official_ext.modeling.layers import norms
from official_ext.ops import checks

Features = dict[str, tf.Tensor]

_NORMAL = {'class_name': 'RandomNormal', 'config': {'stddev': 0.01}}


@dataclasses.dataclass
class PlainTowerConfig(hyperparams.Config):
  """Options of a plain tower.

  Attributes:
    num_convs: number of 3x3 convolutions.
    norm: norm after each convolution, `group_norm` or `none`.
    deformable: whether the last convolution samples at offsets that it computes.
    offset_rate: how fast these offsets learn, as a share of the learning rate.
  """
  num_convs: int = 4
  norm: str = 'group_norm'
  deformable: bool = False
  offset_rate: float = 1.0


@components.register_tower('plain', PlainTowerConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class PlainTower(convolutions.ConvBlock):
  """Applies convolutions, each with group norm and ReLU, which all levels share.

  Reference: Zhi Tian et al., FCOS: Fully Convolutional One-Stage Object Detection,
  https://arxiv.org/abs/1904.01355, section 3; without norm: Tsung-Yi Lin et al., Focal Loss
  for Dense Object Detection, https://arxiv.org/abs/1708.02002, section 4; `deformable`: Shifeng
  Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive
  Training Sample Selection, https://arxiv.org/abs/1912.02424, whose code has it with deformable
  backbones.
  """

  def __init__(self, num_filters: int = 256, num_convs: int = 4, norm: str = 'group_norm',
               deformable: bool = False, offset_rate: float = 1.0,
               kernel_initializer: Any = _NORMAL, **kwargs):
    """Initializes the tower.

    Args:
      num_filters: channels of every convolution.
      num_convs: number of 3x3 convolutions; 0 for none.
      norm: `group_norm`, of 32 groups or the largest smaller number that divides the channels,
        or `none`.
      deformable: whether the last convolution is deformable, of version 2.  Its offsets start at
        0 and its masks at 1/2.
      offset_rate: factor of the gradients of its offsets' convolution, see
        `layers.deformable.WithOffsets`.
      kernel_initializer: initializer of all kernels.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ArgumentError: an unknown norm, a wrong number of convolutions or rate, or no convolution that
        could be deformable.
    """
    super().__init__(kernel_initializer=kernel_initializer, **kwargs)
    checks.check_one_of('norm', norm, ('group_norm', 'none'))
    checks.check_range('num_convs', num_convs, 0)
    if deformable and not num_convs:
      raise checks.ArgumentError(
          'deformable', 'deformable is true, but num_convs is 0: there is no last convolution.')
    deformable_lib.check_offset_rate(offset_rate)
    self._num_filters, self._num_convs, self._norm = num_filters, num_convs, norm
    self._deformable, self._offset_rate = deformable, offset_rate
    self._convs = [self._make_conv(index) for index in range(num_convs)]
    self._norms = [norms.GroupNorm(group_size=None, name=f'norm_{i}', dtype=self.dtype_policy)
                   for i in range(num_convs if norm == 'group_norm' else 0)]

  def _make_conv(self, index: int) -> tf_keras.layers.Layer:
    if self._deformable and index == self._num_convs - 1:
      return self.conv(3, f'conv_{index}', self._num_filters,
                       cls=deformable_lib.DeformableConv2D, modulated=True,
                       offset_rate=self._offset_rate)
    return self.conv(3, f'conv_{index}', self._num_filters)

  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None) -> Features:
    """Runs the convolutions on every level.

    Args:
      features: `{level: [batch, height, width, channels]}`.
      training: not used.

    Returns:
      `{level: [batch, height, width, num_filters]}`.
    """
    del training
    return {level: self._run(x) for level, x in features.items()}

  def _run(self, x: tf.Tensor) -> tf.Tensor:
    for index, conv in enumerate(self._convs):
      x = conv(x)
      if self._norms:
        x = self._norms[index](x)
      x = tf.nn.relu(x)
    return x

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'num_filters': self._num_filters,
            'num_convs': self._num_convs, 'norm': self._norm, 'deformable': self._deformable,
            'offset_rate': self._offset_rate}
