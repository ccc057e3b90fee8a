"""CADDet: a supernet of scales by layers, in which every image takes its own paths.

Reference: Junyi Feng, Jiashen Hua, Baisheng Lai, Jianqiang Huang, Xi Li, Xian-sheng Hua,
Learning to Generate Content-Aware Dynamic Detectors, https://arxiv.org/abs/2012.04265.
"""
import dataclasses
from typing import Any, Dict, List, Optional, Sequence

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import routed
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import wiring
from official_ext.modeling.backbones.caddet import node
from official_ext.modeling.backbones.caddet import router
from official_ext.ops import routing

FINEST_LEVEL = 3  # Behind a stem of stride 8.
STATISTICS = ('present', 'all')


@dataclasses.dataclass
class CADDetConfig(hyperparams.Config):
  """Options of `CADDet`; see its arguments."""
  num_layers: int = 16
  channels: List[int] = dataclasses.field(default_factory=lambda: [64, 128, 256, 512])
  routers: bool = True
  router_norm: str = 'batch'
  bn_statistics: str = 'present'
  hard_gates: bool = False
  inference: str = 'skip'


@components.register_backbone('caddet', CADDetConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class CADDet(routed.SkippingLayer):
  """Backbone and neck at once: nodes on a grid of layers and scales, a router in each.

  Reference: see the module.  Features of neighboring scales add up in front of every node.  In
  training every node and path is computed and multiplied by its gate; at inference only what
  an image needs is run for it.

  Differs: nothing runs for an image that no open path brings to a node, its router included,
  and batch norm counts only the images for which a convolution would run at inference
  (`bn_statistics`); the predecessor's code leaves both out.
  """

  has_soft_cost = True

  def __init__(self,
               input_specs: Any = (None, None, None, 3),
               num_layers: int = 16,
               channels: Sequence[int] = (64, 128, 256, 512),
               routers: bool = True,
               router_norm: str = 'batch',
               bn_statistics: str = 'present',
               hard_gates: bool = False,
               use_sync_bn: bool = False,
               norm_momentum: float = 0.9,
               norm_epsilon: float = 1e-5,
               kernel_regularizer: Optional[Any] = None,
               **kwargs):
    """Initializes the backbone.

    Args:
      input_specs: of the images, `[batch, height, width, 3]`, an `InputSpec` or a shape.
      num_layers: layers behind the entry node.
      channels: of every scale, the finest (stride 8) first; each next has twice the stride.
      routers: False: no routers, every path is open, as in pre-training.
      router_norm: norm of the routers, `batch` or `group`; see `PathRouter`.
      bn_statistics: images that batch norm counts, those `present` where it stands, or `all`.
      hard_gates: at inference open paths are multiplied by 1 instead of their gate.
      use_sync_bn: batch norm's statistics are those of all replicas' images.
      norm_momentum: of the moving averages.
      norm_epsilon: added to the variance.
      kernel_regularizer: of all kernels.
      **kwargs: `inference`, see `SkippingLayer`; arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: an option that is not allowed, or too few layers for the scales.
    """
    super().__init__(**kwargs)
    if bn_statistics not in STATISTICS:
      raise ValueError(f'bn_statistics is {bn_statistics!r}; allowed are `present` and `all`: '
                       'change backbone.caddet.bn_statistics.')
    if not channels or any(depth < 2 for depth in channels):
      raise ValueError(f'channels is {list(channels)}; give one number per scale, 2 or more: '
                       'change backbone.caddet.channels.')
    self._image_shape = tf.TensorShape(getattr(input_specs, 'shape', input_specs)).as_list()
    self._num_layers, self._channels = num_layers, list(channels)
    self._router_norm, self._bn_statistics = router_norm, bn_statistics
    self._hard_gates = hard_gates
    self._has_routers = routers
    self._norm_options = {'momentum': norm_momentum, 'epsilon': norm_epsilon,
                          'synchronized': use_sync_bn}
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._specs = wiring.wire(num_layers, len(channels))
    self._cost_model = wiring.CostModel(self._specs, self._channels)
    shared = {'norm_options': self._norm_options, 'dtype': self.dtype_policy,
              'kernel_regularizer': self._kernel_regularizer}
    self._stem = [conv_norm.SeparableConvNorm(channels[0], 2, name=f'stem_{i}', **shared)
                  for i in (1, 2, 3)]
    self._nodes = [self._node(spec, shared) for spec in self._specs]

  def _node(self, spec: wiring.NodeSpec, shared: Dict[str, Any]) -> node.SupernetNode:
    targets = {path: self._channels[spec.scale + wiring.STEPS[path]] for path in spec.paths}
    return node.SupernetNode(
        self._channels[spec.scale], targets, self.is_routed, self._router_norm,
        self._bn_statistics == 'all', name=f'layer_{spec.layer:02}_scale_{spec.scale}', **shared)

  def build(self, input_shape: tf.TensorShape) -> None:
    depths = [tf.TensorShape(input_shape)[-1], *[self._channels[0]] * 2]
    depths += [self._channels[spec.scale] for spec in self._specs]
    convolutions.build_in_scope(
        [*self._stem, *self._nodes], [[None, None, None, depth] for depth in depths])
    super().build(input_shape)

  @property
  def is_routed(self) -> bool:
    return self._has_routers

  @property
  def gate_names(self) -> List[str]:
    """Names of the gates that it records, in the order of layers, scales and paths."""
    return [f'layer_{spec.layer:02}/scale_{spec.scale}/{path}'
            for spec in self._specs for path in spec.paths]

  @property
  def router_variables(self) -> List[tf.Variable]:
    """Variables of the routers, which pre-training does not have."""
    return [variable for layer in self.submodules if isinstance(layer, router.PathRouter)
            for variable in layer.variables]

  @property
  def output_specs(self) -> Dict[str, tf.TensorShape]:
    """Level -> shape of the result."""
    batch, *size, _ = self._image_shape
    levels = range(FINEST_LEVEL, FINEST_LEVEL + len(self._channels))
    return {
        str(level): tf.TensorShape([
            batch, *(length and wiring.halved(length, level) for length in size), depth])
        for level, depth in zip(levels, self._channels)}

  def total_cost(self, height: int, width: int) -> float:
    return float(self.costs(height, width).total)

  def costs(self, height: int, width: int) -> wiring.SupernetCosts:
    """Returns the multiply-adds of an image of this size with every gate open, by part."""
    return self._cost_model.costs(height, width)

  def call(self, images: tf.Tensor, training: Optional[bool] = None) -> Dict[str, tf.Tensor]:
    """Maps images to features.

    Args:
      images: `[batch, height, width, 3]`.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, channels]}` for levels 3, 4, ..., one per scale; zeros
      where an image's paths never lead to the last node of a scale.
    """
    features = images
    for conv in self._stem:
      features = conv(features, training=training)
    nothing = self._nothing(features)
    skip = self.skips(training)
    arrivals = decisions.entrance(tf.shape(features)[0], skip)
    maps, decided, gates, present = {0: features}, {}, [], []
    for layer in range(self._num_layers + 1):
      nodes = {spec: node for spec, node in zip(self._specs, self._nodes) if spec.layer == layer}
      if self.is_routed:
        logits = [node.route(maps[spec.scale], images, training)
                  for (spec, node), images in zip(nodes.items(), arrivals.present)]
        present.append(arrivals.images)
        layer_gates, decided, arrivals = decisions.decide(
            list(nodes), logits, arrivals.images, self._hard_gates and not training, skip)
        gates.append(layer_gates)
      maps = _run(nodes, maps, decided, nothing, training)
    if self.is_routed:
      self._record(features, tf.concat(gates, 1), tf.concat(present, 1))
    return {str(FINEST_LEVEL + scale): features for scale, features in maps.items()}

  def _nothing(self, finest: tf.Tensor) -> List[tf.Tensor]:
    """Returns a map of zeros for every scale."""
    known, dynamic = finest.shape, tf.unstack(tf.shape(finest))
    batch, height, width = (known[axis] or dynamic[axis] for axis in range(3))
    return [
        tf.zeros([batch, *(wiring.halved(size, scale) for size in (height, width)), depth],
                 finest.dtype) for scale, depth in enumerate(self._channels)]

  def _record(self, finest: tf.Tensor, gates: tf.Tensor, present: tf.Tensor) -> None:
    """Records gates `[batch, nodes, PATHS]` and multiply-adds, if a tape is open."""
    if routing.RoutingTape.current() is None:
      return
    use = self._cost_model.use(gates, present, finest)
    existing = [path in spec.paths for spec in self._specs for path in wiring.PATHS]
    columns = [column for column, exists in zip(tf.unstack(
        tf.reshape(gates, [-1, len(existing)]), axis=1), existing) if exists]
    self.record(
        gates=dict(zip(self.gate_names, columns)), executed=use.executed, expected=use.expected,
        minimum=use.minimum, maximum=use.maximum, dense=use.maximum, soft_cost=use.net_cost)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'input_specs': list(self._image_shape),
        'num_layers': self._num_layers,
        'channels': list(self._channels),
        'routers': self.is_routed,
        'router_norm': self._router_norm,
        'bn_statistics': self._bn_statistics,
        'hard_gates': self._hard_gates,
        'use_sync_bn': self._norm_options['synchronized'],
        'norm_momentum': self._norm_options['momentum'],
        'norm_epsilon': self._norm_options['epsilon'],
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


def _run(nodes: Dict[wiring.NodeSpec, node.SupernetNode], maps: Dict[int, tf.Tensor],
         decided: Dict[int, decisions.NodeDecision], nothing: Sequence[tf.Tensor],
         training: Optional[bool]) -> Dict[int, tf.Tensor]:
  """Returns the maps, by scale, that the nodes of a layer make of those that came in."""
  left, maps = {}, dict(maps)
  for spec, cell in nodes.items():
    left[spec], maps[spec.scale] = cell(
        maps[spec.scale], decided.get(spec.scale), training=training)
  for spec, cell in nodes.items():
    for path in cell.transitions:
      target = spec.scale + wiring.STEPS[path]
      maps[target] = cell.leave(path, left[spec], maps.get(target, nothing[target]),
                                decided.get(spec.scale), training)
  return maps
