"""The node of a multi-scale supernet: its cell, its router and its paths to other scales."""
from collections.abc import Mapping
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import router
from official_ext.modeling.backbones.caddet import wiring
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import prepared
from official_ext.ops import sampling


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SupernetNode(prepared.PreparedLayer):
  """A residual pair of separable convolutions (the cell), a router, and paths to other scales.

  Reference: CADDet, https://arxiv.org/abs/2012.04265, section 3.1.

  Calling the node, and `prepare` and `run`, run its cell.  The modes of `modes.py` decide for
  which images they run cell, router and transitions.

  Attributes:
    transitions: `up` and `down`, as far as the node has them -> the convolution of the path.
  """

  def __init__(self, channels: int, paths: Mapping[str, int], has_router: bool = True,
               router_norm: str = 'batch', norm_options: Mapping[str, Any] | None = None,
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the node.

    Args:
      channels: number of channels of the node's features.
      paths: path -> number of channels of the scale that it leads to, in the order of the gates.
      has_router: whether the node has gates; without a router every path is open.
      router_norm: norm of the router, see `PathRouter`.
      norm_options: arguments of `PresenceNorm`.
      kernel_regularizer: regularizer of all kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(autocast=False, **kwargs)
    self._channels, self._paths = channels, dict(paths)
    self._router_norm = router_norm
    self._norm_options = dict(norm_options or {})
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    options = {'norm_options': self._norm_options, 'dtype': self.dtype_policy,
               'kernel_regularizer': self._kernel_regularizer}
    # The second convolution has no ReLU of its own: ReLU follows the residual sum.
    self._convs = [
        conv_norm.SeparableConvNorm(channels, relu=i == 1, name=f'separable_{i}', **options)
        for i in (1, 2)]
    self.transitions = {
        path: conv_norm.PointwiseConvNorm(filters, 2 if path == 'down' else 1, name=path, **options)
        for path, filters in self._paths.items() if path != 'keep'}
    self._router = None
    if has_router:
      self._router = router.PathRouter(
          channels // 2, len(self._paths), router_norm, self._norm_options,
          self._kernel_regularizer, name='router', dtype=self.variable_dtype)

  def build(self, input_shape: tf.TensorShape) -> None:
    layers = [*self._convs, *self.transitions.values()]
    shapes = [[None, None, None, self._channels]] * len(layers)
    convolutions.build_in_scope(layers, shapes)
    if self._router is not None:
      convolutions.build_in_scope([self._router], [[None, 2, 2, self._channels]])
    super().build(input_shape)

  @property
  def paths(self) -> Mapping[str, int]:
    """Path -> number of channels of the scale that it leads to."""
    return self._paths

  def get_router(self) -> router.PathRouter:
    """Returns the router of a node that has one.

    Not a property: `.keras` files would then have the router under a second name.

    Raises:
      ValueError: the node has none.
    """
    if self._router is None:
      raise ValueError(f'{self.name} was made without a router.')
    return self._router

  def call(self, features: tf.Tensor, present: tf.Tensor | None = None,
           training: bool | None = None) -> tf.Tensor:
    """Runs the cell.

    Args:
      features: `[batch, height, width, channels]`, the sum of what came in.
      present: boolean `[batch]`, the images that batch norm counts in training; None: all.
      training: None counts as False.

    Returns:
      The shape and dtype of `features`.
    """
    first, second = self._convs
    hidden = first(features, present, training=training)
    return tf.nn.relu(second(hidden, present, training=training) + features)

  def prepare(self, dtype: tf.DType) -> list[conv_norm.FoldedWeights]:
    """Returns the weights of the cell's convolutions at inference; see `PreparedLayer`."""
    return [conv.prepare(dtype) for conv in self._convs]

  def run(self, weights: list[conv_norm.FoldedWeights], features: tf.Tensor) -> tf.Tensor:
    """Runs the cell as at inference, with weights that `prepare` returned."""
    first, second = self._convs
    hidden = first.run(weights[0], features)
    return tf.nn.relu(second.run(weights[1], hidden) + features)

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'channels': self._channels,
        'paths': dict(self._paths),
        'has_router': self._router is not None,
        'router_norm': self._router_norm,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


def match_size(path: str, features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
  """Returns what a path brings in the size of the map that it is added to.

  Args:
    path: `up` or `down`; only `up` changes the size here, the convolution of `down` has stride 2.
    features: `[batch, height, width, channels]`, times their weight.  The resize is linear, so
      multiplying before it costs less and gives the same.
    target: `[batch, target_height, target_width, channels]`; only its size is used.
  """
  if path == 'up':
    return sampling.resize_bilinear(features, target, align_corners=False)
  return features


def zeros_below(features: tf.Tensor, channels: int) -> tf.Tensor:
  """Returns a map of zeros of the next coarser scale, with static sizes where they are known.

  Args:
    features: a map of a scale, `[batch, height, width, any]`.
    channels: number of channels of the next scale.
  """
  known, dynamic = features.shape, tf.unstack(tf.shape(features))
  batch, height, width = (known[axis] or dynamic[axis] for axis in range(3))
  return tf.zeros([batch, wiring.halved(height), wiring.halved(width), channels], features.dtype)
