"""The node of a multi-scale supernet: its cell, its router and its paths to other scales."""
import math
from typing import Any, Dict, Mapping, NamedTuple, Optional

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import blocks
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
  known, dynamic = features.shape, tf.shape(features)
  rows = tf.matmul(tf.reshape(features, [-1, known[3]]), kernel)
  if bias is not None:
    rows = tf.nn.bias_add(rows, bias)
  if relu:  # Before the reshape, so that TensorFlow sees what it can do in one pass.
    rows = tf.nn.relu(rows)
  return tf.reshape(rows, [*(known[axis] or dynamic[axis] for axis in range(3)), kernel.shape[1]])


def _per_image(weight: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
  """Returns a weight per image `[batch]` as a factor of its features."""
  return tf.cast(weight, features.dtype)[:, None, None, None]


class NodeState(NamedTuple):
  """What a node did for the images of a batch, before its features leave it.

  Attributes:
    features: `[batch, height, width, channels]`, ReLU of the cell where it runs, and what came
      in where the node is dropped.
    kept: the same shape, what goes to the same scale: `features` times the weight of `keep`.
    gates: float32 `[batch, paths]`, 0 where shut or the node is not present; None: no router.
    weights: path -> float32 `[batch]`, what the path is multiplied by; empty without a router.
    opened: path -> boolean `[batch]`, where features leave on it; empty without a router.
    cases: path to another scale -> of `opened`, see `conditional.cases`; empty if nothing is
      skipped.
  """
  features: tf.Tensor
  kept: tf.Tensor
  gates: Optional[tf.Tensor]
  weights: Dict[str, tf.Tensor]
  opened: Dict[str, tf.Tensor]
  cases: Dict[str, tf.Tensor]


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SupernetNode(tf_keras.layers.Layer):
  """A residual pair of separable convolutions, and gated paths to the next layer.

  Reference: CADDet, https://arxiv.org/abs/2012.04265, section 3.1; what a dropped node does is
  that of its predecessor, Yanwei Li et al., https://arxiv.org/abs/2003.10401.

  An image is present where a path that leads here is open.  If all its gates are shut, the node
  is dropped: features pass on the `keep` path as they came.
  """

  def __init__(self, channels: int, paths: Mapping[str, int], has_router: bool = True,
               router_norm: str = 'batch', hard_gates: bool = False,
               norms_all_images: bool = False, norm_options: Optional[Mapping[str, Any]] = None,
               kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the node.

    Args:
      channels: of its features.
      paths: path -> channels of the scale that it leads to, in the order of the gates.
      has_router: False: no gates, every path is open.
      router_norm: see `PathRouter`.
      hard_gates: at inference open paths are multiplied by 1 instead of their gate.
      norms_all_images: batch norm's statistics are those of all images, present or not.
      norm_options: arguments of `PresenceNorm`.
      kernel_regularizer: of all kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(autocast=False, **kwargs)
    self._channels, self._paths = channels, dict(paths)
    self._router_norm, self._hard_gates = router_norm, hard_gates
    self._norms_all_images = norms_all_images
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

  def call(self, features: tf.Tensor, present: tf.Tensor, training: Optional[bool] = None,
           skip: bool = False) -> NodeState:
    """Decides about the paths, and runs the cell.

    Args:
      features: `[batch, height, width, channels]`, the sum of what came in, 0 where nothing did.
      present: boolean `[batch]`.
      training: None counts as False.
      skip: run only what the images need; not in training.
    """
    if self._router is None:
      cell = self._cell(features, None, training)
      return NodeState(cell, cell, None, {}, {}, {})
    gates = self._route(features, present, training, skip)
    opened = gates > 0
    runs = tf.reduce_any(opened, 1)
    dropped = present & ~runs
    multipliers = tf.cast(opened, tf.float32) if self._hard_gates and not training else gates
    weights = dict(zip(self._paths, tf.unstack(multipliers, axis=1)))
    weights['keep'] += tf.cast(dropped, tf.float32)
    opened = dict(zip(self._paths, tf.unstack(opened, axis=1)))
    opened['keep'] |= dropped
    if not skip:
      left, kept = self._run_all(features, runs, weights['keep'], training)
      return NodeState(left, kept, gates, weights, opened, {})
    run_case, *path_cases = conditional.cases(
        tf.stack([runs, *(opened[path] for path in self.transitions)], 1))
    left, kept = self._run_selected(run_case, features, runs, weights['keep'], training)
    return NodeState(
        left, kept, gates, weights, opened, dict(zip(self.transitions, path_cases)))

  def _run_selected(self, case, features, runs, weight, training):
    def some(rows):
      cell = self._cell(tf.gather(features, rows[:, 0]), None, training)
      left = tf.tensor_scatter_nd_update(features, rows, cell)
      return left, left * _per_image(weight, left)

    def every():
      cell = self._cell(features, None, training)
      return cell, cell * _per_image(weight, cell)

    # Images that do not run keep what came in: their own features, or zeros if not present.
    return conditional.by_case(case, runs, lambda: (features, features), some, every)

  def _run_all(self, features, runs, weight, training):
    cell = self._cell(features, runs, training)
    left = tf.where(runs[:, None, None, None], cell, features)
    return left, left * _per_image(weight, left)

  def _seen(self, images: Optional[tf.Tensor]) -> Optional[tf.Tensor]:
    """Returns the images that count in a norm: these, or all."""
    return None if self._norms_all_images else images

  def _route(self, features, present, training, skip):
    if not skip:
      gates = self._router(
          path_router.pool_quarters(features), self._seen(present), training=training)
      return tf.where(present[:, None], gates, 0.0)
    shut = tf.zeros([tf.shape(features)[0], len(self._paths)])

    def route():
      # Pooled before rows are taken: so little is left that it costs nothing to copy.
      rows = tf.where(present)
      pooled = tf.gather(path_router.pool_quarters(features), rows[:, 0])
      return tf.tensor_scatter_nd_add(shut, rows, self._router(pooled))

    return tf.cond(tf.reduce_any(present), route, lambda: shut)

  def _cell(self, features, runs, training):
    seen = self._seen(runs)
    hidden = self._convs[0](features, seen, training=training)
    return tf.nn.relu(self._convs[1](hidden, seen, training=training) + features)

  def leave(self, path: str, state: NodeState, base: tf.Tensor, training: Optional[bool] = None,
            skip: bool = False) -> tf.Tensor:
    """Adds what goes to another scale to what is there already.

    Args:
      path: `up` or `down`.
      state: of `call`.
      base: `[batch, target_height, target_width, target_channels]`.
      training: as in `call`.
      skip: as in `call`.

    Returns:
      A map like `base`.
    """
    if not state.weights:
      return base + self._transition(path, state.features, None, base, None, training)
    features, weight = state.features, state.weights[path]
    if not skip:
      seen = self._seen(state.opened[path])
      return base + self._transition(path, features, weight, base, seen, training)

    def some(rows):
      taken = (tf.gather(x, rows[:, 0]) for x in (features, weight))
      result = self._transition(path, *taken, base, None, training)
      return tf.tensor_scatter_nd_add(base, rows, result)

    return conditional.by_case(
        state.cases[path], state.opened[path], lambda: base, some,
        lambda: base + self._transition(path, features, weight, base, None, training))

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
        'hard_gates': self._hard_gates,
        'norms_all_images': self._norms_all_images,
        'norm_options': dict(self._norm_options),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
