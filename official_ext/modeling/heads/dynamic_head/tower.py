"""The fine-grained dynamic head: towers of blocks that decide per position which paths run.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519.
"""
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.heads.dynamic_head import block
from official_ext.modeling.heads.dynamic_head import steps
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import routing

Features = dict[str, tf.Tensor]

NORM_POSITIONS = ('active', 'all')
TRAINING_MODES = ('mask', 'skip')


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
  training_mode: str = 'mask'
  inference: str = 'skip'
  tile_capacity: float = 1.0
  gate_threshold: float = 0.0
  budget_input: bool = False
  depth_update: str = 'add'


@components.register_tower('dynamic', DynamicTowerConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class DynamicTower(routed.SkippingLayer):
  """Replaces a tower of convolutions by blocks of a gated scale step and a gated depth step.

  Reference: see the module.  The "D8" of its tables is eight blocks.  With both steps
  `fixed` the tower is the fixed head that the paper compares with ("FCOS-D8").

  Differs: in the paper all paths start in parallel from the features of a level, and the depth
  path is a bottleneck module; here, as in the reference's code, a block runs the scale step, then
  the depth step from its result, and the depth step is two 3x3 convolutions.

  Differs: group norm of the depth step takes its statistics from the positions that are
  computed, in training and at inference; the reference's code takes them from all positions in
  training (`norm_positions: all`) and from the computed ones at inference.

  Differs: the budget counts a scale path once, as eq. 4 writes it, and pulls on its gate.  The
  reference's code counts its depthwise convolution twice and lets no gradient reach the gate; its
  share of the same gates is 0.8 to 1.4 % off ours.

  Attributes:
    gate_threshold: gates up to this value are 0 at inference, `routing.shutting_gates` may raise
      it; may be changed at any time.
  """

  inference_modes = ('skip', 'mask', 'tiles')
  decides_for_images = False
  uncounted_parts = 'gates, and convolutions between levels where their gates are shut'

  def __init__(self, num_filters: int = 256, num_blocks: int = 8, scale_step: str = 'gated',
               depth_step: str = 'gated', activation: str = 'tanh', tau: float = 1.5,
               coarse: bool = False, norm_positions: str = 'active',
               training_mode: str = 'mask', tile_capacity: float = 1.0,
               gate_threshold: float = 0.0, budget_input: bool = False,
               depth_update: str = 'add',
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the tower.

    Args:
      num_filters: channels of the features, in and out.
      num_blocks: number of blocks; 2, 4, 6 and 8 are the paper's D2 to D8.
      scale_step: `gated`; `fixed`, always on and without gates; or `absent`.
      depth_step: the same choice for the depth step.
      activation: activation of the gates: `tanh`, the proposed one; `sigmoid` or `softmax`
        (Table 2).
      tau: parameter of `tanh`; 0 is the restricted tanh of Table 2.
      coarse: whether gates decide once per image and level (Table 1).
      norm_positions: group norm of gated depth steps takes its statistics from the `active`
        positions or from `all`; with `all` nothing can be skipped.
      training_mode: in training gated depth steps compute all positions (`mask`) or the active
        ones (`skip`), with the same results.
      tile_capacity: share of an image's tiles that the inference mode `tiles` computes, in (0,
        1]; active tiles beyond it are dropped, and recorded as `dropped_tiles`.
      gate_threshold: gates up to this value are 0 at inference; in [0, 1).
      budget_input: whether gates follow the budget of a call, `routing.spending`: on every level
        of every block the wanted share of what it can save runs.  It needs `tanh`, a gated depth
        step and norms over the active positions, and in training a budget of the kind `drawn`.
      depth_update: whether an open gate of a depth step adds the result of the convolutions to
        the position (`add`, the paper's) or puts it in its place (`replace`), see
        `steps.DepthStep`.
      kernel_regularizer: regularizer of all kernels, and of the scalars of scale steps.
      **kwargs: `inference`, see `SkippingLayer`: `skip` computes active positions, `mask` all of
        them, and `tiles` active tiles with static shapes, for XLA and TPU too; arguments of
        `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: an option that is not allowed.
    """
    super().__init__(**kwargs)
    if num_blocks < 1:
      raise checks.ArgumentError(
          'num_blocks', f'num_blocks is {num_blocks}; it must be at least 1.')
    if not 0 <= gate_threshold < 1:
      raise checks.ArgumentError(
          'gate_threshold', f'gate_threshold is {gate_threshold}; it must be in [0, 1).')
    if not 0 < tile_capacity <= 1:
      raise checks.ArgumentError(
          'tile_capacity', f'tile_capacity is {tile_capacity}; it must be in (0, 1].')
    checks.check_one_of('norm_positions', norm_positions, NORM_POSITIONS)
    checks.check_one_of('training_mode', training_mode, TRAINING_MODES)
    if budget_input and norm_positions == 'all':
      raise checks.ArgumentError(
          'budget_input', "budget_input is true, but norm_positions is 'all', with which nothing "
          "can be saved; it must be 'active'.")
    self._num_filters, self._norm_positions = num_filters, norm_positions
    self._training_mode, self._tile_capacity = training_mode, tile_capacity
    self.gate_threshold = gate_threshold
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    self._block_options: dict[str, Any] = {'scale_step': scale_step, 'depth_step': depth_step,
                           'activation': activation, 'tau': tau, 'coarse': coarse,
                           'budget_input': budget_input, 'depth_update': depth_update}
    self.blocks = [
        block.DynamicBlock(
            **self._block_options, kernel_regularizer=self._kernel_regularizer,
            dtype=self.dtype_policy, name=f'block_{number}') for number in range(num_blocks)]
    self._levels: tuple[str, ...] = ()

  @property
  def is_routed(self) -> bool:
    return 'gated' in (self._block_options['scale_step'], self._block_options['depth_step'])

  @property
  def has_gate_threshold(self) -> bool:
    return True

  @property
  def has_budget_input(self) -> bool:
    return self._block_options['budget_input']

  @property
  def controls_budget(self) -> bool:
    return self.has_budget_input

  @property
  def budget_variables(self) -> list[tf.Variable]:
    return [variable for one_block in self.blocks for layer in one_block.gate_budgets.values()
            for variable in layer.variables]

  @property
  def gate_names(self) -> list[str]:
    """Names of the gates that the built tower records."""
    return [self._gate_name(number, *key) for number, one_block in enumerate(self.blocks)
            for key in one_block.gate_keys(self._levels)]

  @property
  def metric_names(self) -> list[str]:
    return ['dropped_tiles'] if self.inference == 'tiles' else []

  @property
  def metric_limits(self) -> Mapping[str, routed.Limit]:
    reason = 'active tiles beyond tile_capacity are not computed; raise it'
    return dict.fromkeys(self.metric_names, (0.0, reason))

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

  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None) -> Features:
    """Runs all blocks on all levels.

    Args:
      features: `{level: [batch, height, width, num_filters]}`.  Levels are numbers as strings,
        smaller for finer levels; heights and widths may be any.
      training: whether the call trains; None counts as False.

    Returns:
      `{level: [batch, height, width, num_filters]}`, of the shapes of `features`.

    Raises:
      ValueError: other levels than those that the tower was built for.
    """
    if sorted(features, key=int) != list(self._levels):
      raise ValueError(f'{self.name} was built for levels {", ".join(self._levels)}; the input has '
                       f'{", ".join(sorted(features))}.')
    features = {level: features[level] for level in self._levels}
    options = steps.RunOptions(
        mode=self._training_mode if training else self.inference,
        norm_positions=self._norm_positions,
        gate_threshold=0.0 if training else self._raised_threshold(),
        tile_capacity=self._tile_capacity, training=bool(training))
    outputs, results = features, []
    for one_block in self.blocks:
      results.append(one_block(outputs, options=options))
      outputs = results[-1].outputs
    if self.is_routed and routing.RoutingTape.current() is not None:
      self._record(features, results)
    return outputs

  def _raised_threshold(self) -> tf.Tensor | float:
    """Returns the larger one of the threshold of the layer and that of `shutting_gates`."""
    threshold = routing.gate_threshold()
    return self.gate_threshold if threshold is None else tf.maximum(self.gate_threshold, threshold)

  def _record(self, features: Features, results: Sequence[block.BlockResult]) -> None:
    """Records gates and multiply-adds.

    `expected` follows the paper's budget: its place between minimum and maximum is the ratio of
    eq. 4 to its value with all gates at 1.  The paper's tables do not count gates, and count the
    convolutions between levels where their gates are open.

    Args:
      features: the tower's input; all blocks have features of its shapes.
      results: the result of each block.
    """
    cost = block.sum_costs(one_block.cost(features, result.gates)
                           for one_block, result in zip(self.blocks, results))
    everything = cost.fixed + cost.gated
    executed = cost.fixed + cost.executed
    if self._norm_positions == 'all':
      executed = tf.zeros_like(executed) + everything
    # No tiles are dropped in training.
    dropped = tf.add_n([result.dropped_tiles for result in results])
    self.record(
        gates={self._gate_name(number, *key): tf.cast(gate, tf.float32)
               for number, result in enumerate(results) for key, gate in result.gates.items()},
        metrics={name: tf.cast(dropped, tf.float32) for name in self.metric_names},
        executed=executed,
        expected=cost.fixed + cost.gated * tf.math.divide_no_nan(cost.budget, cost.full_budget),
        minimum=cost.fixed, maximum=everything, all_branches=everything,
        uncounted=routing.Uncounted(
            executed=cost.gates + cost.messages - cost.open_messages,
            minimum=cost.gates + cost.messages, maximum=cost.gates))

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'num_filters': self._num_filters,
        'num_blocks': len(self.blocks),
        **self._block_options,
        'norm_positions': self._norm_positions,
        'training_mode': self._training_mode,
        'tile_capacity': self._tile_capacity,
        'gate_threshold': self.gate_threshold,
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
