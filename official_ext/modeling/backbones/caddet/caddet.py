"""CADDet: a supernet of scales by layers, in which every image takes its own paths.

Reference: Junyi Feng, Jiashen Hua, Baisheng Lai, Jianqiang Huang, Xi Li, Xian-sheng Hua,
Learning to Generate Content-Aware Dynamic Detectors, https://arxiv.org/abs/2012.04265.

One image goes through one layer like this:

1. `CADDet.call` (this file) gives the maps that reach the layer, one per scale, to `run_layer` of
   one of three modes.
2. `run_layer` (modes.py) does the rest from top to bottom: routers return logits, `decide` makes
   decisions of them, cells run, and what leaves on each path is added to the map of the scale
   that the path leads to.  These are the maps that reach the next layer.
3. `decide` (decisions.py) says for all nodes of the layer which cells run, which paths are open,
   their weights, and the nodes of the next layer where the image is present.
4. The cell, the router and the transitions of a node (node.py) are layers that know no modes.

After the last layer the maps are the result, and `CADDet` records gates and cost (wiring.py).
"""
from collections.abc import Sequence
import dataclasses
from typing import Any

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import decisions
from official_ext.modeling.backbones.caddet import modes
from official_ext.modeling.backbones.caddet import node
from official_ext.modeling.backbones.caddet import path_budget
from official_ext.modeling.backbones.caddet import router
from official_ext.modeling.backbones.caddet import wiring
from official_ext.modeling.layers import budget_control
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import routing

FINEST_LEVEL = 3  # The stem has stride 8.
STATISTICS = ('present', 'all')


@dataclasses.dataclass
class CADDetConfig(hyperparams.Config):
  """Options of `CADDet`; see its arguments."""
  num_layers: int = 16
  channels: list[int] = dataclasses.field(default_factory=lambda: [64, 128, 256, 512])
  routers: bool = True
  router_norm: str = 'batch'
  bn_statistics: str = 'present'
  hard_gates: bool = False
  budget_input: bool = False
  inference: str = 'skip'


@components.register_backbone('caddet', CADDetConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class CADDet(routed.SkippingLayer):
  """A backbone that is its own neck: a grid of layers by scales with a router in every node.

  Reference: see the module; section 3.1.  The input of a node is the sum of what the open paths
  of neighboring scales bring.  In training every cell and path is computed and multiplied by its
  gate; at inference only what an image selected runs.

  Differs: a node that no open path leads to runs nothing, not even its router, and batch norm
  counts only the images for which a convolution would run at inference (`bn_statistics`); the
  code of the predecessor does neither.

  Differs: the paper binarizes gates at inference.  Here a gate is then either 0 or keeps its soft
  value, as in training; `hard_gates` makes open gates 1.
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
               budget_input: bool = False,
               use_sync_bn: bool = False,
               norm_momentum: float = 0.9,
               norm_epsilon: float = 1e-5,
               kernel_regularizer: Any | None = None,
               **kwargs):
    """Initializes the backbone.

    Args:
      input_specs: `InputSpec` or shape of the images, `[batch, height, width, 3]`.
      num_layers: number of layers after the entry node.
      channels: number of channels of every scale.  The first is the finest (stride 8); each next
        one has twice the stride.
      routers: whether nodes have routers; False: every path is open, as in pre-training.
      router_norm: norm of the routers, `batch` or `group`; see `PathRouter`.
      bn_statistics: the images that batch norm counts: those `present` where it stands, or `all`.
      hard_gates: whether open paths have weight 1 at inference instead of their gate; with
        `budget_input` they always have, in training too.
      budget_input: whether gates follow the budget of a call, `routing.spending`; it needs
        routers, and in training a budget of the kind `drawn`.
      use_sync_bn: whether batch norm uses the statistics of all replicas' images.
      norm_momentum: momentum of the moving averages.
      norm_epsilon: number added to the variance.
      kernel_regularizer: regularizer of all kernels.
      **kwargs: `inference`, see `SkippingLayer`; arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: an option that is not allowed, or too few layers for the scales.
    """
    super().__init__(**kwargs)
    checks.check_one_of('bn_statistics', bn_statistics, STATISTICS)
    checks.check_one_of('router_norm', router_norm, router.NORMS)
    if not channels or any(depth < 2 for depth in channels):
      raise checks.ArgumentError(
          'channels', f'channels is {list(channels)}; give one number per scale, 2 or more.')
    if budget_input and not routers:
      raise checks.ArgumentError(
          'budget_input', 'budget_input is true, but routers is false: without gates nothing can '
          'be saved, so routers must be true.')
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
    self._budget = path_budget.PathBudget(
        num_layers, len(channels), name='budget') if budget_input else None

  def _node(self, spec: wiring.NodeSpec, shared: dict[str, Any]) -> node.SupernetNode:
    """Returns the node of a spec; `shared` has the options of all convolutions."""
    paths = {path: self._channels[scale] for path, scale in spec.targets.items()}
    return node.SupernetNode(
        self._channels[spec.scale], paths, self.is_routed, self._router_norm,
        name=f'layer_{spec.layer:02}_scale_{spec.scale}', **shared)

  def build(self, input_shape: tf.TensorShape) -> None:
    depths = [tf.TensorShape(input_shape)[-1], *[self._channels[0]] * 2]
    depths += [self._channels[spec.scale] for spec in self._specs]
    convolutions.build_in_scope(
        [*self._stem, *self._nodes], [[None, None, None, depth] for depth in depths])
    if self._budget is not None:
      convolutions.build_in_scope([self._budget], [None])
    super().build(input_shape)

  @property
  def is_routed(self) -> bool:
    return self._has_routers

  @property
  def has_gate_threshold(self) -> bool:
    return True

  @property
  def has_budget_input(self) -> bool:
    return self._budget is not None

  @property
  def controls_budget(self) -> bool:
    return self.has_budget_input

  @property
  def gate_names(self) -> list[str]:
    """Names of the gates that the layer records, by layer, scale and path in this order."""
    return [f'layer_{spec.layer:02}/scale_{spec.scale}/{path}'
            for spec in self._specs for path in spec.paths]

  @property
  def router_variables(self) -> list[tf.Variable]:
    """Variables of the routers and of the budget, which pre-training does not have."""
    return [variable for layer in self.submodules if isinstance(layer, router.PathRouter)
            for variable in layer.variables] + self.budget_variables

  @property
  def budget_variables(self) -> list[tf.Variable]:
    return [] if self._budget is None else self._budget.variables

  @property
  def output_specs(self) -> dict[str, tf.TensorShape]:
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
    """Returns the multiply-adds of an image with every gate open, by part.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
    """
    return self._cost_model.costs(height, width)

  def call(self, images: tf.Tensor, training: bool | None = None) -> dict[str, tf.Tensor]:
    """Maps images to features.

    Args:
      images: `[batch, height, width, 3]`.
      training: None counts as False.

    Returns:
      `{level: [batch, height, width, channels]}` for levels 3, 4, ..., one per scale; zeros for
      an image that is not present in the last node of the scale.
    """
    features = images
    for conv in self._stem:
      features = conv(features, training=training)
    mode = self._mode(training)
    state = mode.enter(features)
    for layer in range(self._num_layers + 1):
      nodes = {spec: node for spec, node in zip(self._specs, self._nodes) if spec.layer == layer}
      state = mode.run_layer(nodes, state)
    if self.is_routed:
      self._record(features, state.decided, training)
    return {str(FINEST_LEVEL + scale): features for scale, features in state.maps.items()}

  def _mode(self, training: bool | None) -> modes.Mode:
    """Returns how a call runs the layers."""
    if not self.is_routed:
      return modes.AllPaths(training)
    if self.skips(training):
      return modes.Skip(self._hard_gates, self._budget)
    return modes.Mask(training, self._hard_gates and not training, self._bn_statistics == 'all',
                      self._budget)

  def _record(self, finest: tf.Tensor, decided: Sequence[decisions.LayerDecisions],
              training: bool | None) -> None:
    """Records gates and multiply-adds, if a tape is open; the budget sees the cost if shifts move.

    Args:
      finest: the map of the stem, whose size is that of the finest scale.
      decided: what each layer decided.
      training: whether the call trains.
    """
    is_moving = self._budget is not None and budget_control.moves_shifts(training)
    if routing.RoutingTape.current() is None and not is_moving:
      return
    gates = tf.concat([layer.gates for layer in decided], 1)
    use = self._cost_model.use(gates, tf.concat([layer.present for layer in decided], 1), finest)
    if self._budget is not None:
      # A share that is given is one of what runs; the gradient is that of the soft gates.
      use = use._replace(expected=use.executed + use.soft_cost - tf.stop_gradient(use.soft_cost))
      if is_moving:
        self._budget.control((use.executed - use.minimum) / (use.maximum - use.minimum))
    existing = [path in spec.paths for spec in self._specs for path in wiring.PATHS]
    columns = [column for column, exists in zip(tf.unstack(
        tf.reshape(gates, [-1, len(existing)]), axis=1), existing) if exists]
    self.record(
        gates=dict(zip(self.gate_names, columns)), executed=use.executed, expected=use.expected,
        minimum=use.minimum, maximum=use.maximum, all_branches=use.maximum, soft_cost=use.soft_cost)

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'input_specs': list(self._image_shape),
        'num_layers': self._num_layers,
        'channels': list(self._channels),
        'routers': self.is_routed,
        'router_norm': self._router_norm,
        'bn_statistics': self._bn_statistics,
        'hard_gates': self._hard_gates,
        'budget_input': self.has_budget_input,
        'use_sync_bn': self._norm_options['synchronized'],
        'norm_momentum': self._norm_options['momentum'],
        'norm_epsilon': self._norm_options['epsilon'],
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
