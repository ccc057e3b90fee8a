"""The fine-grained dynamic head: towers whose blocks decide per position what they compute.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519.
"""
import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import routed
from official_ext.modeling.heads.dynamic_head import block
from official_ext.ops import routing

Features = Dict[str, tf.Tensor]

_ALLOWED = {
    'norm_positions': ('active', 'all'),
    'training_execution': ('mask', 'sparse'),
}
# What `DepthStep` calls the ways of `inference`.
_EXECUTIONS = {'skip': 'sparse', 'mask': 'mask', 'tiles': 'tiles'}


@dataclasses.dataclass
class DynamicTowerConfig(hyperparams.Config):
  """Options of `DynamicTower`; see its arguments."""
  num_blocks: int = 8
  scale_step: str = 'gated'
  depth_step: str = 'gated'
  activation: str = 'tanh'
  tau: float = 1.5
  coarse: bool = False
  norm_positions: str = 'active'
  training_execution: str = 'mask'
  inference: str = 'skip'
  tile_capacity: float = 1.0
  gate_threshold: float = 0.0


@components.register_tower('dynamic', DynamicTowerConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class DynamicTower(routed.SkippingLayer):
  """Blocks of a gated scale step and a gated depth step, in the place of a tower of convolutions.

  Reference: see the module.  The "D8" of its tables is eight blocks.  With both steps
  `fixed` it is the fixed head that the paper compares with ("FCOS-D8").

  Differs: group norm of the depth step is over the positions that are computed, in training
  and at inference; the reference's code normalizes over all of them in training
  (`norm_positions: all`) and over the computed ones at inference.

  Attributes:
    gate_threshold: see the argument; `set_gate_threshold` changes it.
  """

  inference_modes = ('skip', 'mask', 'tiles')

  def __init__(self, num_filters: int = 256, num_blocks: int = 8, scale_step: str = 'gated',
               depth_step: str = 'gated', activation: str = 'tanh', tau: float = 1.5,
               coarse: bool = False, norm_positions: str = 'active',
               training_execution: str = 'mask', tile_capacity: float = 1.0,
               gate_threshold: float = 0.0, kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the tower.

    Args:
      num_filters: channels of the features, in and out.
      num_blocks: 2, 4, 6 and 8 are the paper's D2 to D8.
      scale_step: `gated`; `fixed`, always on and without gates; or `absent`.
      depth_step: the same.
      activation: of the gates: `tanh`, the proposed one; `sigmoid` or `softmax` (Table 2).
      tau: of `tanh`; 0 is the restricted tanh of Table 2.
      coarse: gates decide once per image and level (Table 1).
      norm_positions: group norm of gated depth steps is over the `active` positions, or over
        `all`, and then nothing can be skipped.
      training_execution: `mask`, compute all positions, or `sparse`, the active ones; the same
        numbers.
      tile_capacity: of `tiles`: the share of an image's tiles that there is room for, in (0,
        1]; active ones beyond it are left out, and recorded as `dropped_tiles`.
      gate_threshold: gates up to this are 0 at inference.
      kernel_regularizer: of all kernels and of the weights between scales.
      **kwargs: `inference`, see `SkippingLayer`: `skip` computes active positions, `mask` all of
        them, and `tiles` active tiles with static shapes, for XLA and TPU too; arguments of
        `tf_keras.layers.Layer`.

    Raises:
      ValueError: an option that is not allowed.
    """
    super().__init__(**kwargs)
    if num_blocks < 1:
      raise ValueError(f'num_blocks is {num_blocks}; it must be at least 1: change '
                       'head.tower.dynamic.num_blocks.')
    if not 0 <= gate_threshold < 1:
      raise ValueError(f'gate_threshold is {gate_threshold}; it must be in [0, 1): change '
                       'head.tower.dynamic.gate_threshold.')
    if not 0 < tile_capacity <= 1:
      raise ValueError(f'tile_capacity is {tile_capacity}; it must be in (0, 1]: change '
                       'head.tower.dynamic.tile_capacity.')
    for option, value in (('norm_positions', norm_positions),
                          ('training_execution', training_execution)):
      if value not in _ALLOWED[option]:
        raise ValueError(f'{option} is {value!r}; allowed are {", ".join(_ALLOWED[option])}: '
                         f'change head.tower.dynamic.{option}.')
    self._num_filters, self._norm_positions = num_filters, norm_positions
    self._training_execution, self._tile_capacity = training_execution, tile_capacity
    self.gate_threshold = gate_threshold
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._block_options = {'scale_step': scale_step, 'depth_step': depth_step,
                           'activation': activation, 'tau': tau, 'coarse': coarse}
    self.blocks = [
        block.DynamicBlock(
            **self._block_options, kernel_regularizer=self._kernel_regularizer,
            dtype=self.dtype_policy, name=f'block_{number}') for number in range(num_blocks)]
    self._levels: Tuple[str, ...] = ()

  @property
  def is_routed(self) -> bool:
    return 'gated' in (self._block_options['scale_step'], self._block_options['depth_step'])

  @property
  def gate_names(self) -> List[str]:
    """Names of the gates that it records, once it is built."""
    return [self._gate_name(number, *key) for number, block in enumerate(self.blocks)
            for key in block.gate_keys(self._levels)]

  @property
  def metric_names(self) -> List[str]:
    return ['dropped_tiles'] if self.inference == 'tiles' else []

  @property
  def metric_limits(self) -> Mapping[str, routed.Limit]:
    why = 'active tiles without room are left out, raise head.tower.dynamic.tile_capacity'
    return dict.fromkeys(self.metric_names, (0.0, why))

  def set_gate_threshold(self, threshold: float) -> bool:
    self.gate_threshold = threshold
    return True

  @staticmethod
  def _gate_name(number: int, path: str, level: str) -> str:
    return f'block_{number}/{path}_{level}'

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    shapes = {level: tf.TensorShape(input_shape[level]) for level in sorted(input_shape, key=int)}
    for level, shape in shapes.items():
      if shape.rank != 4 or shape[-1] != self._num_filters:
        raise ValueError(f'{self.name}: level {level!r} has shape {shape}, expected [batch, '
                         f'height, width, {self._num_filters}]: change num_filters of the '
                         'decoder or of the head.')
    self._levels = tuple(shapes)
    convolutions.build_in_scope(self.blocks, [shapes] * len(self.blocks))
    super().build(input_shape)

  def call(self, features: Mapping[str, tf.Tensor], training: Optional[bool] = None) -> Features:
    """Runs all blocks on all levels.

    Args:
      features: `{level: [batch, height, width, num_filters]}`; levels are numbers as strings,
        the finest is the smallest, and sizes may be any.
      training: None counts as False.

    Returns:
      The shapes of `features`.

    Raises:
      ValueError: other levels than those that the tower was built for.
    """
    if sorted(features, key=int) != list(self._levels):
      raise ValueError(f'{self.name} was built for levels {", ".join(self._levels)}; the input has '
                       f'{", ".join(sorted(features))}.')
    features = {level: features[level] for level in self._levels}
    execution = self._training_execution if training else _EXECUTIONS[self.inference]
    if self._norm_positions == 'all':
      execution = 'dense'
    threshold = 0.0 if training else self.gate_threshold
    outputs, gates, dropped = features, [], []
    for one_block in self.blocks:
      outputs, decided, without_room = one_block(outputs, execution, threshold, self._tile_capacity)
      gates.append(decided)
      dropped.append(without_room)
    if self.is_routed and routing.RoutingTape.current() is not None:
      self._record(features, gates, dropped)
    return outputs

  def _record(self, features, gates, dropped):
    """Records gates and multiply-adds; `expected` is a budget that follows eq. 4.

    Between minimum and maximum it lies where eq. 4 does between 0 and 1.
    """
    costs = [block.cost(features, decided) for block, decided in zip(self.blocks, gates)]
    cost = block.Cost(*(sum(values) for values in zip(*costs)))
    executed = cost.executed
    if self._norm_positions == 'all':
      executed = tf.zeros_like(executed) + cost.gated
    values = {
        'executed': cost.fixed + executed,
        'expected': cost.fixed + cost.gated * tf.math.divide_no_nan(
            cost.budget, cost.full_budget),
        'minimum': cost.fixed,
        'maximum': cost.fixed + cost.gated,
        'dense': cost.fixed + cost.gated}
    named = {self._gate_name(number, *key): tf.cast(gate, tf.float32)
             for number, decided in enumerate(gates) for key, gate in decided.items()}
    # In training there are no tiles, and the measure is 0.
    counts = [count for count in dropped if count is not None] or [tf.zeros_like(executed)]
    metrics = {name: tf.cast(tf.add_n(counts), tf.float32) for name in self.metric_names}
    self.record(gates=named, metrics=metrics, **values)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'num_filters': self._num_filters,
        'num_blocks': len(self.blocks),
        **self._block_options,
        'norm_positions': self._norm_positions,
        'training_execution': self._training_execution,
        'tile_capacity': self._tile_capacity,
        'gate_threshold': self.gate_threshold,
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
