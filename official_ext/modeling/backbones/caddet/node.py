"""The node of a multi-scale supernet: its cell, its router and its paths to other scales."""
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import router
from official_ext.ops import conditional
from official_ext.ops import sampling


def _arriving(path: str, features: tf.Tensor, weight: Optional[tf.Tensor],
              target: tf.Tensor) -> tf.Tensor:
  """Returns what a path brings to another scale, times the weight, in the size of that scale."""
  if weight is not None:
    # Before the resize, which is linear: the map is smaller here.
    features *= tf.cast(weight, features.dtype)
  if path == 'up':
    features = sampling.resize_bilinear(features, target, align_corners=False)
  return features


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SupernetNode(tf_keras.layers.Layer):
  """A residual pair of separable convolutions, and gated paths to the next layer.

  Reference: CADDet, https://arxiv.org/abs/2012.04265, section 3.1.

  Gates of all nodes of a layer come first (`route`); `decisions.decide` makes of them what
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

  def route(self, features: tf.Tensor, present: conditional.Selection,
            training: Optional[bool] = None) -> tf.Tensor:
    """Returns what gates are made of, float32 `[batch, paths]`; see `decisions.decide`.

    Args:
      features: `[batch, height, width, channels]`, the sum of what came in, 0 where nothing did.
      present: the images that an open path brings here.
      training: None counts as False.
    """
    if present.case is None:
      return self._router(
          router.pool_quarters(features), self._seen(present.images), training=training)
    weights = self._router.prepare()
    shut = tf.zeros([tf.shape(features)[0], len(self._paths)])
    return conditional.run_selected(
        lambda pooled: self._router.run(weights, pooled), features, present, shut, replace=True,
        before=router.pool_quarters)

  def call(self, features: tf.Tensor, decision: Optional[decisions.NodeDecision] = None,
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
      cell = self._cell(features, lambda conv, x: conv(x, training=training))
      return cell, cell
    runs, weight = decision.runs, tf.cast(decision.weights['keep'], features.dtype)
    if runs.case is None:
      seen = self._seen(runs.images)
      cell = self._cell(features, lambda conv, x: conv(x, seen, training=training))
      left = tf.where(runs.images[:, None, None, None], cell, features)
      return left, left * weight
    weights = {conv.name: conv.prepare(features.dtype) for conv in self._convs}

    def run(inputs):
      features, weight = inputs
      cell = self._cell(features, lambda conv, x: conv.run(weights[conv.name], x))
      return cell, cell * weight

    # Images that do not run keep what came in: their own features, or zeros if not present.
    return conditional.run_selected(
        run, (features, weight), runs, (features, features), replace=True)

  def _seen(self, images: Optional[tf.Tensor]) -> Optional[tf.Tensor]:
    """Returns the images that count in a norm: these, or all."""
    return None if self._norms_all_images else images

  def _cell(self, features: tf.Tensor, apply: Callable[[Any, tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Returns what the cell makes of features; `apply` runs a convolution on a tensor."""
    first, second = self._convs
    return tf.nn.relu(apply(second, apply(first, features)) + features)

  def leave(self, path: str, left: tf.Tensor, base: tf.Tensor,
            decision: Optional[decisions.NodeDecision] = None,
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
    conv = self.transitions[path]
    if decision is None:
      return base + _arriving(path, conv(left, training=training), None, base)
    opened, weight = decision.opened[path], decision.weights[path]
    if opened.case is None:
      features = conv(left, self._seen(opened.images), training=training)
      return base + _arriving(path, features, weight, base)
    weights = conv.prepare(left.dtype)

    def run(inputs):
      left, weight = inputs
      return _arriving(path, conv.run(weights, left), weight, base)

    return conditional.run_selected(run, (left, weight), opened, base)

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
