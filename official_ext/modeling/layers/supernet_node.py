"""The node of a multi-scale supernet: its cell, its router and its paths to other scales."""
import math
from typing import Any, Dict, Mapping, Optional, Tuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import blocks
from official_ext.modeling.layers import path_decisions
from official_ext.modeling.layers import path_router
from official_ext.modeling.layers import presence_norm
from official_ext.ops import conditional
from official_ext.ops import sampling

_DEPTHWISE_KAIMING = math.sqrt(2 / 9)  # Nine weights feed each channel; Keras counts all of them.


@tf_keras.utils.register_keras_serializable(package='official_ext')
class PointwiseConvNorm(tf_keras.layers.Layer):
  """A 1x1 convolution and a norm, which at inference are one; no bias."""

  def __init__(self, filters: int, strides: int = 1, relu: bool = True,
               norm_options: Optional[Mapping[str, Any]] = None,
               kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      strides: 1 or 2; at 2 pixels 0, 2, 4, ... are the centers of the kernels.
      relu: whether ReLU follows the norm.
      norm_options: arguments of `PresenceNorm`.
      kernel_regularizer: of all kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._filters, self._strides, self._relu = filters, strides, relu
    self._norm_options = dict(norm_options or {})
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._norm = presence_norm.PresenceNorm(
        **self._norm_options, dtype=self.variable_dtype, name='norm')

  def build(self, input_shape: tf.TensorShape) -> None:
    self._pointwise = self.add_weight(
        'pointwise_kernel', [tf.TensorShape(input_shape)[-1], self._filters],
        initializer=path_router.kaiming(), regularizer=self._kernel_regularizer)
    blocks.build_in_scope([self._norm], [[None, None, None, self._filters]])
    super().build(input_shape)

  def call(self, features: tf.Tensor, present: Optional[tf.Tensor] = None,
           training: Optional[bool] = None) -> tf.Tensor:
    """Maps `[batch, height, width, channels]` to `filters` channels; see `PresenceNorm`."""
    return self._pointwise_norm(features, self._strides, present, training)

  def _pointwise_norm(self, features, strides, present, training):
    kernel = tf.convert_to_tensor(self._pointwise)
    if strides > 1:  # Every second pixel; a slice with strides is many times slower.
      features = tf.nn.avg_pool2d(features, 1, strides, 'SAME')
    if self._norm.uses_batch(training):
      features = self._norm(_product(features, kernel), present, training=training)
      return tf.nn.relu(features) if self._relu else features
    scale, shift = self._norm.frozen()
    kernel = tf.cast(tf.cast(kernel, scale.dtype) * scale, features.dtype)
    return _product(features, kernel, tf.cast(shift, features.dtype), self._relu)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'filters': self._filters,
        'strides': self._strides,
        'relu': self._relu,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SeparableConvNorm(PointwiseConvNorm):
  """A depthwise 3x3 convolution, a pointwise one and a norm; no bias."""

  def build(self, input_shape: tf.TensorShape) -> None:
    self._depthwise = self.add_weight(
        'depthwise_kernel', [3, 3, tf.TensorShape(input_shape)[-1], 1],
        initializer=tf_keras.initializers.RandomNormal(stddev=_DEPTHWISE_KAIMING),
        regularizer=self._kernel_regularizer)
    super().build(input_shape)

  def call(self, features: tf.Tensor, present: Optional[tf.Tensor] = None,
           training: Optional[bool] = None) -> tf.Tensor:
    # On all sides: `SAME` has zeros at the end only where the stride is 2 and the size even.
    padding = [[0, 0], [1, 1], [1, 1], [0, 0]] if self._strides > 1 else 'SAME'
    strides = [1, self._strides, self._strides, 1]
    features = tf.nn.depthwise_conv2d(features, self._depthwise, strides, padding)
    return self._pointwise_norm(features, 1, present, training)


def _product(features: tf.Tensor, kernel: tf.Tensor, bias: Optional[tf.Tensor] = None,
             relu: bool = False) -> tf.Tensor:
  """Returns a 1x1 convolution as a matrix product, `[batch, height, width, filters]`.

  What skips meets batches of one image, for which TensorFlow's convolutions may be many times
  slower when bias or norm are fused with them; and with a single thread the gradient of one of
  stride 2 may end the process.  Products do not depend on the batch.
  """
  batch, *size, channels = features.shape
  if None in size:
    size = tf.unstack(tf.shape(features)[1:3])
  rows = tf.matmul(tf.reshape(features, [-1, channels]), kernel)
  if bias is not None:
    rows = tf.nn.bias_add(rows, bias)
  if relu:  # Before the reshape, so that TensorFlow sees what it can do in one pass.
    rows = tf.nn.relu(rows)
  return tf.reshape(rows, [-1 if batch is None else batch, *size, kernel.shape[1]])


def _per_image(weight: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
  """Returns a weight per image `[batch]` as a factor of its features."""
  return tf.reshape(tf.cast(weight, features.dtype), [-1, 1, 1, 1])


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SupernetNode(tf_keras.layers.Layer):
  """A residual pair of separable convolutions, and gated paths to the next layer.

  Reference: CADDet, https://arxiv.org/abs/2012.04265, section 3.1.

  Gates of all nodes of a layer come first (`route`); `path_decisions.decide` makes of them what
  each node does, which `call` and `leave` then run.
  """

  def __init__(self, channels: int, paths: Mapping[str, int], has_router: bool = True,
               router_norm: str = 'batch', norms_all_images: bool = False,
               norm_options: Optional[Mapping[str, Any]] = None,
               kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the node.

    Args:
      channels: of its features.
      paths: path -> channels of the scale that it leads to, in the order of the gates.
      has_router: False: no gates, every path is open.
      router_norm: see `PathRouter`.
      norms_all_images: batch norm's statistics are those of all images, present or not.
      norm_options: arguments of `PresenceNorm`.
      kernel_regularizer: of all kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(autocast=False, **kwargs)
    self._channels, self._paths = channels, dict(paths)
    self._router_norm, self._norms_all_images = router_norm, norms_all_images
    self._norm_options = dict(norm_options or {})
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    options = {'norm_options': self._norm_options, 'dtype': self.dtype_policy,
               'kernel_regularizer': self._kernel_regularizer}
    # Behind the second one ReLU waits for the sum.
    self._convs = [SeparableConvNorm(channels, relu=i == 1, name=f'separable_{i}', **options)
                   for i in (1, 2)]
    self.transitions = {
        path: PointwiseConvNorm(filters, 2 if path == 'down' else 1, name=path, **options)
        for path, filters in self._paths.items() if path != 'keep'}
    self._router = None
    if has_router:
      self._router = path_router.PathRouter(
          channels // 2, len(self._paths), router_norm, self._norm_options,
          self._kernel_regularizer, name='router', dtype=self.variable_dtype)

  def build(self, input_shape: tf.TensorShape) -> None:
    layers = [*self._convs, *self.transitions.values()]
    shapes = [[None, None, None, self._channels]] * len(layers)
    blocks.build_in_scope(layers, shapes)
    if self._router is not None:
      blocks.build_in_scope([self._router], [[None, 2, 2, self._channels]])
    super().build(input_shape)

  def route(self, features: tf.Tensor, present: conditional.Selection,
            training: Optional[bool] = None) -> tf.Tensor:
    """Returns gates, float32 `[batch, paths]`, 0 where shut or the image is not present.

    Args:
      features: `[batch, height, width, channels]`, the sum of what came in, 0 where nothing did.
      present: the images that an open path brings here.
      training: None counts as False.
    """
    if present.case is None:
      gates = self._router(
          path_router.pool_quarters(features), self._seen(present.images), training=training)
      return tf.where(present.images[:, None], gates, 0.0)

    def shut():
      return tf.zeros([tf.shape(features)[0], len(self._paths)])

    def some(rows):
      # Pooled before rows are taken: so little is left that it costs nothing to copy.
      pooled = tf.gather(path_router.pool_quarters(features), rows[:, 0])
      return tf.tensor_scatter_nd_add(shut(), rows, self._router(pooled))

    return conditional.by_case(
        present, shut, some, lambda: self._router(path_router.pool_quarters(features)))

  def call(self, features: tf.Tensor, decision: Optional[path_decisions.NodeDecision] = None,
           training: Optional[bool] = None) -> Tuple[tf.Tensor, tf.Tensor]:
    """Runs the cell.

    Args:
      features: as in `route`.
      decision: about the node; None: every path is open.
      training: None counts as False.

    Returns:
      What leaves the node, the shape of `features`: the cell's result where it runs, and what
      came in where the node is dropped; and what of that goes to the same scale, times the
      weight of `keep`.
    """
    if decision is None:
      cell = self._cell(features, None, training)
      return cell, cell
    runs, weight = decision.runs, decision.weights['keep']

    def weighted(left):
      return left, left * _per_image(weight, left)

    if runs.case is None:
      cell = self._cell(features, runs.images, training)
      return weighted(tf.where(runs.images[:, None, None, None], cell, features))

    def some(rows):
      cell = self._cell(tf.gather(features, rows[:, 0]), None, training)
      return weighted(tf.tensor_scatter_nd_update(features, rows, cell))

    # Images that do not run keep what came in: their own features, or zeros if not present.
    return conditional.by_case(runs, lambda: (features, features), some,
                               lambda: weighted(self._cell(features, None, training)))

  def _seen(self, images: Optional[tf.Tensor]) -> Optional[tf.Tensor]:
    """Returns the images that count in a norm: these, or all."""
    return None if self._norms_all_images else images

  def _cell(self, features, runs, training):
    seen = self._seen(runs)
    hidden = self._convs[0](features, seen, training=training)
    return tf.nn.relu(self._convs[1](hidden, seen, training=training) + features)

  def leave(self, path: str, left: tf.Tensor, base: tf.Tensor,
            decision: Optional[path_decisions.NodeDecision] = None,
            training: Optional[bool] = None) -> tf.Tensor:
    """Adds what goes to another scale to what is there already.

    Args:
      path: `up` or `down`.
      left: what leaves the node, of `call`.
      base: `[batch, target_height, target_width, target_channels]`.
      decision: as in `call`.
      training: as in `call`.

    Returns:
      A map like `base`.
    """
    if decision is None:
      return base + self._transition(path, left, None, base, None, training)
    opened, weight = decision.opened[path], decision.weights[path]
    if opened.case is None:
      return base + self._transition(
          path, left, weight, base, self._seen(opened.images), training)

    def some(rows):
      taken = (tf.gather(x, rows[:, 0]) for x in (left, weight))
      result = self._transition(path, *taken, base, None, training)
      return tf.tensor_scatter_nd_add(base, rows, result)

    return conditional.by_case(
        opened, lambda: base, some,
        lambda: base + self._transition(path, left, weight, base, None, training))

  def _transition(self, path, features, weight, target, seen, training):
    features = self.transitions[path](features, seen, training=training)
    if weight is not None:
      # Before the resize, which is linear: the map is smaller here.
      features *= _per_image(weight, features)
    if path == 'up':
      features = sampling.resize_bilinear(features, target, align_corners=False)
    return features

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'channels': self._channels,
        'paths': dict(self._paths),
        'has_router': self._router is not None,
        'router_norm': self._router_norm,
        'norms_all_images': self._norms_all_images,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
