"""EfficientDet's tower: separable convolutions that levels share, and norms that they do not."""
from collections.abc import Mapping
import dataclasses
from typing import Any

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks

Features = dict[str, tf.Tensor]


@dataclasses.dataclass
class SeparableTowerConfig(hyperparams.Config):
  """Options of `SeparableTower`; see its arguments."""
  num_convs: int = 3
  activation: str = 'swish'
  use_sync_bn: bool = False
  norm_momentum: float = 0.99
  norm_epsilon: float = 0.001


@components.register_tower('separable', SeparableTowerConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class SeparableTower(convolutions.ConvBlock):
  """Applies separable convolutions, each with batch norm and an activation.

      x = activation(norm of the level(pointwise(depthwise 3x3(x)) + bias))

  All levels share the convolutions.  Every level has batch norms of its own, because the values of
  fine and coarse levels have other means and variances.

  Reference: Mingxing Tan, Ruoming Pang, Quoc V. Le, EfficientDet: Scalable and Efficient Object
  Detection, https://arxiv.org/abs/1911.09070, section 4; the norms, and the bias before them, are
  those of the authors' code.
  """

  def __init__(self, num_filters: int = 64, num_convs: int = 3, activation: str = 'swish',
               use_sync_bn: bool = False, norm_momentum: float = 0.99,
               norm_epsilon: float = 0.001, kernel_initializer: Any = 'VarianceScaling', **kwargs):
    """Initializes the tower.

    Args:
      num_filters: channels of every convolution.
      num_convs: number of convolutions, at least 1.
      activation: name of the activation after every norm.
      use_sync_bn: whether replicas share the statistics of batch norm.
      norm_momentum: momentum of the moving averages of batch norm, in [0, 1].
      norm_epsilon: constant that batch norm adds to the variance, positive.
      kernel_initializer: initializer of all kernels.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ArgumentError: no convolution, an unknown activation, or a number that is not allowed.
    """
    super().__init__(kernel_initializer=kernel_initializer, **kwargs)
    checks.check_range('num_convs', num_convs, 1)
    checks.check_range('norm_momentum', norm_momentum, 0, 1)
    checks.check_positive('norm_epsilon', norm_epsilon)
    self._options = {
        'num_filters': num_filters, 'num_convs': num_convs, 'activation': activation,
        'use_sync_bn': use_sync_bn, 'norm_momentum': norm_momentum, 'norm_epsilon': norm_epsilon}
    try:
      self._activation = tf_keras.activations.get(activation)
    except ValueError as error:
      raise checks.ArgumentError(
          'activation', f'activation is {activation!r}; it must be one that Keras knows, such as '
          "'swish', 'relu' or 'relu6'.") from error
    self._convs = [self.conv(3, f'conv_{i}', num_filters, cls=convolutions.SeparableConv2D)
                   for i in range(num_convs)]
    self._levels: tuple[str, ...] = ()
    # Name -> norm; made when the levels are known.  Keras does not save lists in a dictionary.
    self._norms: dict[str, tf_keras.layers.BatchNormalization] = {}

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    self._levels = tuple(sorted(input_shape, key=int))
    names = [f'norm_{i}_{level}' for level in self._levels for i in range(len(self._convs))]
    self._norms = {name: self._norm(name) for name in names}
    shape = tf.TensorShape(next(iter(input_shape.values())))
    inner = shape[:-1].concatenate(self._options['num_filters'])
    convolutions.build_in_scope(
        [*self._convs, *self._norms.values()],
        [shape, *[inner] * (len(self._convs) - 1 + len(names))])
    super().build(input_shape)

  def _norm(self, name: str) -> tf_keras.layers.BatchNormalization:
    options = self._options
    return tf_keras.layers.BatchNormalization(
        momentum=options['norm_momentum'], epsilon=options['norm_epsilon'],
        synchronized=options['use_sync_bn'], name=name, dtype=self.dtype_policy)

  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None) -> Features:
    """Runs the convolutions on every level.

    Args:
      features: `{level: [batch, height, width, channels]}`, the levels of the first call.
      training: whether norms take the statistics of the batch; None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}`.

    Raises:
      ValueError: other levels than those of the first call.
    """
    if sorted(features, key=int) != list(self._levels):
      raise ValueError(f'{self.name} has norms for levels {", ".join(self._levels)}; the input has '
                       f'{", ".join(sorted(features, key=int))}.')
    return {level: self._run(x, level, training) for level, x in features.items()}

  def _run(self, x: tf.Tensor, level: str, training: bool | None) -> tf.Tensor:
    for index, conv in enumerate(self._convs):
      x = self._norms[f'norm_{index}_{level}'](conv(x), training=training)
      x = self._activation(x)
    return x

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._options}
