"""Inception FPN and DyFPN: laterals of several receptive fields, all of them or selected ones.

Reference: Mingjian Zhu, Kai Han, Changbin Yu, Yunhe Wang, Dynamic Feature Pyramid
Networks for Object Detection, https://arxiv.org/abs/2012.00779.
"""
import dataclasses
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.configs import options
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import routed
from official_ext.modeling.decoders.dyfpn import gates
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.ops import conditional
from official_ext.ops import multiply_adds

ALL_BRANCHES = ('1x1', '3x3', '3x3d2', '3x3d3', '5x5', '5x5d2', '5x5d3')


def parse_branch(branch: str) -> Tuple[int, int]:
  """Returns kernel size and dilation of a branch such as `5x5d2`."""
  match = re.fullmatch(r'([1-9]\d*)x\1(?:d([1-9]\d*))?', branch)
  if not match or int(match[1]) % 2 == 0:
    raise ValueError(f'branch {branch!r} is not like `3x3` or `5x5d2` (odd kernel, dilation): '
                     'change decoder.<type>.branches.')
  return int(match[1]), int(match[2] or 1)


@dataclasses.dataclass
class InceptionFPNConfig(hyperparams.Config):
  """Options of `InceptionFPN`; see its arguments."""
  num_filters: int = 256
  branches: List[str] = dataclasses.field(default_factory=lambda: list(ALL_BRANCHES))
  branch_init_scale: float = 1.0
  norm: str = 'batch_norm'
  coarse_levels: str = 'conv'


@dataclasses.dataclass
class DyFPNConfig(InceptionFPNConfig):
  """Options of `DyFPN`; see its arguments."""
  block: str = 'B'
  gate: options.GateConfig = dataclasses.field(default_factory=options.GateConfig)
  inference: str = 'skip'


@tf_keras.utils.register_keras_serializable(package='official_ext')
class InceptionLateral(tf_keras.layers.Layer):
  """Parallel convolutions of one map, summed (DyFPN, eq. 3)."""

  def __init__(self, filters: int, branches: Sequence[str],
               kernel_initializers: Sequence[Any], kernel_regularizer: Optional[Any] = None,
               bias_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      branches: such as `1x1` or `5x5d2`: kernel size and dilation.
      kernel_initializers: one per branch.
      kernel_regularizer: of all kernels.
      bias_regularizer: of all biases.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._branches = list(branches)
    self.convs = []
    for branch, initializer in zip(branches, kernel_initializers):
      kernel_size, dilation = parse_branch(branch)
      self.convs.append(convolutions.Conv2D(
          filters, kernel_size, dilation_rate=dilation, kernel_initializer=initializer,
          kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer,
          dtype=self.dtype_policy, name=f'conv_{branch}'))

  @property
  def taps(self) -> List[int]:
    """Kernel height times width of every branch."""
    return [parse_branch(branch)[0]**2 for branch in self._branches]

  def build(self, input_shape: tf.TensorShape) -> None:
    convolutions.build_in_scope(self.convs, [input_shape] * len(self.convs))
    super().build(input_shape)

  def branch_outputs(self, inputs: tf.Tensor) -> List[tf.Tensor]:
    """Returns what every branch makes of the input, for pictures and for block A."""
    return [conv(inputs) for conv in self.convs]

  def call(self, inputs: tf.Tensor) -> tf.Tensor:
    return tf.add_n(self.branch_outputs(inputs))

  def get_config(self) -> Dict[str, Any]:
    first = self.convs[0]
    return {
        **super().get_config(),
        'filters': first.filters,
        'branches': list(self._branches),
        'kernel_initializers': [
            tf_keras.initializers.serialize(conv.kernel_initializer) for conv in self.convs],
        'kernel_regularizer': tf_keras.regularizers.serialize(first.kernel_regularizer),
        'bias_regularizer': tf_keras.regularizers.serialize(first.bias_regularizer),
    }


@components.register_decoder('inception_fpn', InceptionFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class InceptionFPN(pyramid.PyramidDecoder):
  """FPN whose laterals are sums of convolutions of several sizes and dilations.

  Reference: see the module.  `branches: ['1x1']` is FPN, `['7x7']` a static lateral of
  Figure 4; all seven are the network of Table 2's last row.

  Differs: batch norm after the output convolutions by default, as in Model Garden's FPN;
  `norm: none` is the paper's form.
  """

  def __init__(self, branches: Sequence[str] = ALL_BRANCHES, branch_init_scale: float = 1.0,
               **kwargs):
    """Initializes the decoder.

    Args:
      branches: kernel sizes and dilations of the laterals, such as `5x5d2`.
      branch_init_scale: variance of the branches' kernels at the start, as a share of
        Glorot's: 1 is the paper's; small values train better in short schedules.  The
        first branch, the lateral that FPN has too, always starts with Glorot's.
      **kwargs: arguments of `PyramidDecoder`.

    Raises:
      ValueError: a branch that cannot be read, or none, or a scale that is not positive.
    """
    super().__init__(**kwargs)
    if not branches:
      raise ValueError('branches is empty: give at least one, such as `1x1`.')
    if branch_init_scale <= 0:
      raise ValueError(f'branch_init_scale is {branch_init_scale}; it must be positive.')
    self._branches = list(branches)
    self._branch_init_scale = branch_init_scale
    self.laterals = self._build_laterals()

  def _build_laterals(self) -> Dict[str, tf_keras.layers.Layer]:
    """Makes the layers that are summed at every level."""
    return {level: self._lateral(level, first_scale=1.0) for level in self.backbone_levels}

  def _lateral(self, level: str, first_scale: float) -> InceptionLateral:
    scales = [first_scale] + [self._branch_init_scale] * (len(self._branches) - 1)
    initializers = [
        tf_keras.initializers.VarianceScaling(scale, 'fan_avg', 'uniform') for scale in scales]
    return InceptionLateral(
        self._num_filters, self._branches, initializers, self._kernel_regularizer,
        self._bias_regularizer, dtype=self.dtype_policy, name=f'lateral_{level}')

  def build_pyramid(self, inputs: pyramid.Features, training: Optional[bool]) -> pyramid.Features:
    return self.top_down({level: self.laterals[level](inputs[level]) for level in inputs})

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'branches': list(self._branches),
        'branch_init_scale': self._branch_init_scale,
    }


@components.register_decoder('dyfpn', DyFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class DyFPN(routed.SkippingLayer, InceptionFPN):
  """Inception FPN in which a gate decides, per image and level, what runs.

  Reference: see the module.  Block A runs one of the branches; block B runs a 1x1 skip
  convolution, and all branches or none (section 3.2.2).  In training every branch is
  computed and multiplied by its gate; at inference only what is selected runs.

  Differs: batch norm after the output convolutions by default, and at inference the most
  probable path instead of a sample (`gate.evaluation: sampled` is the reference's way).
  """

  samples_gates = True

  def __init__(self, block: str = 'B', gate: Optional[Mapping[str, Any]] = None, **kwargs):
    """Initializes the decoder.

    Args:
      block: `A`, select one branch, or `B`, run or skip them all.
      gate: options of the gate, as in `options.GateConfig`.
      **kwargs: `inference`, see `SkippingLayer`; arguments of `InceptionFPN`.

    Raises:
      ValueError: an unknown option.
    """
    if block not in ('A', 'B'):
      raise ValueError(f'block is {block!r}; allowed are `A` and `B`: change decoder.dyfpn.block.')
    self._block = block
    super().__init__(**kwargs)
    self._gate_options = {**options.GateConfig().as_dict(), **(gate or {})}
    self._build_gate()

  def _build_laterals(self) -> Dict[str, tf_keras.layers.Layer]:
    self._skips = {}
    if self._block == 'B':
      self._skips = {level: self.conv(1, f'skip_{level}') for level in self.backbone_levels}
    return {level: self._lateral(level, first_scale=self._branch_init_scale)
            for level in self.backbone_levels}

  def _build_gate(self) -> None:
    options = dict(self._gate_options)
    self._selection = gumbel_selection.GumbelSelection(
        **{key: options.pop(key) for key in ('temperature', 'evaluation', 'seed')},
        name=f'{self.name}_selection')
    if options['initial_bias'] is None and self._block == 'B' and options['type'] == 'channel':
      # Not in the paper, but in its code: blocks start open, P(execute) = 0.87.
      options['initial_bias'] = [0.1, 2.0]
    self.gate = gates.build_gate(
        channels=self.input_channels, kernel_regularizer=self._kernel_regularizer,
        num_paths=len(self._branches) if self._block == 'A' else 2, **options)

  @property
  def gate_names(self) -> List[str]:
    """Names of the gates that it records."""
    return self.backbone_levels

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    for level in self.backbone_levels:
      convolutions.build_in_scope([self.laterals[level]], [input_shape[level]])
    super().build(input_shape)

  def build_pyramid(self, inputs: pyramid.Features, training: Optional[bool]) -> pyramid.Features:
    gate, expected = self._selection(self.gate(inputs), training=training)
    laterals = {}
    run = self._run_block_a if self._block == 'A' else self._run_block_b
    for index, level in enumerate(inputs):
      laterals[level] = run(level, inputs[level], gate[:, index], training)
    self._record(inputs, gate, expected)
    return self.top_down(laterals)

  def _run_block_a(self, level, features, gate, training):
    """Sum over branches of gate times branch (section 3.2.2, block A)."""
    convs = self.laterals[level].convs
    if self.skips(training):
      size = tf.shape(features)
      result = tf.zeros([size[0], size[1], size[2], self._num_filters], self.compute_dtype)
      for conv, selection in zip(convs, conditional.select(gate > 0)):
        result = conditional.run_selected(conv, features, selection, result)
      return result
    weights = tf.cast(gate, self.compute_dtype)[:, None, None]
    return tf.add_n([weights[..., path, None] * conv(features) for path, conv in enumerate(convs)])

  def _run_block_b(self, level, features, gate, training):
    """1x1 skip plus gate times the sum of all branches (section 3.2.2, block B)."""
    skip, lateral = self._skips[level](features), self.laterals[level]
    execute = gate[:, 1]
    if self.skips(training):
      selection, = conditional.select(execute[:, None] > 0)
      return conditional.run_selected(lateral, features, selection, skip)
    return skip + tf.cast(execute, self.compute_dtype)[:, None, None, None] * lateral(features)

  def _record(self, inputs, gate, expected):
    """Records gates and multiply-adds (eq. 6), the gate network's own included."""
    # float64 holds these whole numbers exactly: TensorFlow may reorder the sums of a graph,
    # and all open has to cost the maximum to the last bit.
    def exact(value):
      return tf.cast(value, tf.float64)

    own = exact(self.gate.multiply_adds())
    executed = own + exact(tf.zeros_like(gate[:, 0, 0]))
    costs = {
        'executed': executed, 'expected': executed, 'minimum': own, 'maximum': own, 'dense': own}
    recorded = {}
    for index, (level, features) in enumerate(inputs.items()):
      branches = exact(
          multiply_adds.conv2d(features, self.laterals[level].taps, self._num_filters))
      dense = tf.reduce_sum(branches)
      paths = branches if self._block == 'A' else tf.stack([tf.zeros_like(dense), dense])
      recorded[level] = gate[:, index] if self._block == 'A' else gate[:, index, 1]
      costs['executed'] += tf.reduce_sum(exact(gate[:, index]) * paths, axis=-1)
      costs['expected'] += tf.reduce_sum(exact(expected[:, index]) * paths, axis=-1)
      costs['minimum'] += tf.reduce_min(paths)
      costs['maximum'] += tf.reduce_max(paths)
      costs['dense'] += dense
    self.record(gates=recorded, **costs)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'block': self._block,
        'gate': dict(self._gate_options),
    }
