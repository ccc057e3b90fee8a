"""DyFPN: an inception FPN in which gates select what runs.

Reference: Mingjian Zhu, Kai Han, Changbin Yu, Yunhe Wang, Dynamic Feature Pyramid
Networks for Object Detection, https://arxiv.org/abs/2012.00779.
"""
from collections.abc import Mapping
import dataclasses
import functools
import random
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.configs import options
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.decoders.dyfpn import budget_tracker
from official_ext.modeling.decoders.dyfpn import gates
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.modeling.decoders.dyfpn import inception_fpn
from official_ext.modeling.decoders.dyfpn import initializers
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import conditional
from official_ext.ops import multiply_adds
from official_ext.ops import routing

Selections = list[conditional.Selection]
# A threshold of 1 lowers logits by this much, which shuts every gate: far more than the 4 * 10^6 by
# which a budget of 1 raises them.
_LARGEST_SHIFT = 1e9


@dataclasses.dataclass
class DyFPNConfig(inception_fpn.InceptionFPNConfig):
  """Options of `DyFPN`; see its arguments."""
  block: str = 'B'
  gate: options.GateConfig = dataclasses.field(default_factory=options.GateConfig)
  inference: str = 'skip'


@components.register_decoder('dyfpn', DyFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class DyFPN(routed.SkippingLayer, inception_fpn.InceptionFPN):
  """Inception FPN in which a gate selects, for each image and level, what runs.

  Block A runs one of the branches.  Block B runs a 1x1 skip convolution, and all branches or
  none (section 3.2.1).  In training every branch is computed and multiplied by its gate; at
  inference only what is selected runs.

  Reference: see the module.

  Differs: batch norm after the output convolutions by default.  At inference a gate takes the
  most probable path, the released code draws one; `task.sampled_evaluation_runs` evaluates drawn
  paths too.  A gate has one output per branch in block A and two in block B: section 3.2.2
  prints one output for block A and one per convolution for block B, but then block A could not
  choose, and the published numbers of weights are met only this way.
  """

  samples_gates = True

  def __init__(self, block: str = 'B', gate: Mapping[str, Any] | None = None, **kwargs):
    """Initializes the decoder.

    Args:
      block: `A`, select one branch, or `B`, run all branches or none.
      gate: options of the gate, as in `options.GateConfig`.
      **kwargs: `inference`, see `SkippingLayer`; arguments of `InceptionFPN`.

    Raises:
      ArgumentError: an unknown option.
    """
    checks.check_one_of('block', block, ('A', 'B'))
    self._block = block
    super().__init__(**kwargs)
    self._gate_options = {**options.GateConfig().as_dict(), **(gate or {})}
    with checks.naming_record('gate'):
      self._build_gate()

  def _build_laterals(self) -> dict[str, inception_fpn.InceptionLateral]:
    self._skips = {}
    if self._block == 'B':
      self._skips = {level: self.conv(1, f'skip_{level}') for level in self.backbone_levels}
    return super()._build_laterals()

  def _initializers(self) -> list[tf_keras.initializers.Initializer]:
    if self._block == 'B':
      return [inception_fpn.glorot(self._branch_init_scale) for _ in self._branches]
    seed = random.randint(1, 2**30)
    return [initializers.AlikeBranches(self._branch_init_scale, seed) for _ in self._branches]

  def _build_gate(self) -> None:
    gate_options = dict(self._gate_options)
    self._selection = gumbel_selection.GumbelSelection(
        **{key: gate_options.pop(key) for key in ('temperature', 'evaluation', 'seed')},
        always_draws=gate_options['type'] == 'random', name=f'{self.name}_selection')
    if gate_options.pop('budget_input'):
      self._build_budget_input()
    is_channel_gate = gate_options['type'] == 'channel'
    if gate_options['initial_bias'] is None and self._block == 'B' and is_channel_gate:
      # Not in the paper, but in its code: blocks start open, P(execute) = 0.87.
      gate_options['initial_bias'] = [0.1, 2.0]
    self.gate = gates.build_gate(
        channels=self.input_channels, kernel_regularizer=self._kernel_regularizer,
        num_paths=len(self._branches) if self._block == 'A' else 2, **gate_options)

  def _build_budget_input(self) -> None:
    """Makes the layer that moves logits to the budget of a call."""
    if not self.has_gate_threshold:
      raise checks.ArgumentError(
          'budget_input', 'budget_input is true, but random paths follow no budget: gate.type must '
          "be 'channel' or 'recurrent', and gate.evaluation 'argmax'.")
    self._budget_tracker = budget_tracker.BudgetTracker(
        len(self.backbone_levels), self._path_dearness().tolist(), name='gate_budget')

  @property
  def has_budget_input(self) -> bool:
    """Whether gates follow `routing.wanted_budget`."""
    return self._gate_options['budget_input']

  @property
  def budget_variables(self) -> list[tf.Variable]:
    return self._budget_tracker.variables if self.has_budget_input else []

  @property
  def calibrates_budget(self) -> bool:
    return self.has_budget_input

  def budget_logits(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the logits of the gates, `[batch, levels, paths]`; `inputs` are those of `call`."""
    return self.gate({level: inputs[level] for level in self.backbone_levels})

  def calibrate_budget(self, logits: np.ndarray) -> None:
    self._budget_tracker.calibrate(logits)

  @property
  def gate_names(self) -> list[str]:
    return self.backbone_levels

  @property
  def learns_gates(self) -> bool:
    """Whether gates look at images; those of the ablation with random signals do not."""
    return self._gate_options['type'] != 'random'

  @property
  def has_gate_threshold(self) -> bool:
    """Whether inference follows the logits of gates; in ablations with random signals not."""
    return self.learns_gates and self._gate_options['evaluation'] == 'argmax'

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    for level in self.backbone_levels:
      convolutions.build_in_scope([self.laterals[level]], [input_shape[level]])
    super().build(input_shape)

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    logits = self.gate(inputs)
    if self.has_budget_input:
      logits = self._budget_tracker(logits, training=training)
    if not training:
      logits = self._at_threshold(logits)
    choice = self._selection(logits, training=training)
    # In block B path 0 is the skip convolution alone, which always runs.
    gate = choice.gate if self._block == 'A' else choice.gate[..., 1:]
    selections = _select(gate) if self.skips(training) else [None] * len(inputs)
    run = self._run_block_a if self._block == 'A' else functools.partial(
        self._run_block_b, training=training)
    laterals = {}
    for index, level in enumerate(inputs):
      laterals[level] = run(level, inputs[level], gate[:, index], selections[index])
    self._record(inputs, choice)
    return self.top_down(laterals)

  def _path_dearness(self) -> np.ndarray:
    """Returns the cost of each path, from 0 for the cheapest to 1 for the most expensive."""
    taps = np.array(next(iter(self.laterals.values())).taps if self._block == 'A' else [0, 1])
    return (taps - taps.min()) / max(1, np.ptp(taps))

  def _at_threshold(self, logits: tf.Tensor) -> tf.Tensor:
    """Returns logits `[batch, levels, paths]` with those of expensive paths lowered.

    In block B the branches then run where tanh(difference of the two logits / 2) is above the
    threshold of `routing.shutting_gates`.  In block A a path is lowered in proportion to its taps,
    so that a higher threshold never chooses a more expensive path.
    """
    threshold = routing.gate_threshold()
    if threshold is None:
      return logits
    # Twice the inverse hyperbolic tangent, in operations that all engines have.
    shift = tf.minimum(tf.math.log((1 + threshold) / (1 - threshold)), _LARGEST_SHIFT)
    return logits - shift * tf.constant(self._path_dearness(), tf.float32)

  def _run_block_a(self, level: str, features: tf.Tensor, gate: tf.Tensor,
                   selections: Selections | None) -> tf.Tensor:
    """Returns the sum over branches of gate times branch (section 3.2.1, block A).

    Args:
      level: level of the features.
      features: `[batch, height, width, channels]`.
      gate: float32 `[batch, branches]`.
      selections: the images of each branch; None: compute every branch for all images.

    Returns:
      `[batch, height, width, num_filters]`.
    """
    convs = self.laterals[level].convs
    if selections:
      size = tf.shape(features)
      result = tf.zeros([size[0], size[1], size[2], self._num_filters], self.compute_dtype)
      for conv, selection in zip(convs, selections):
        result = conditional.run_selected(conv, features, selection, result)
      return result
    weights = tf.cast(gate, self.compute_dtype)[:, None, None]
    return tf.add_n([weights[..., path, None] * conv(features) for path, conv in enumerate(convs)])

  def _run_block_b(self, level: str, features: tf.Tensor, gate: tf.Tensor,
                   selections: Selections | None, training: bool | None) -> tf.Tensor:
    """Returns 1x1 skip plus gate times the sum of all branches (section 3.2.1, block B).

    Args:
      level: level of the features.
      features: `[batch, height, width, channels]`.
      gate: float32 `[batch, 1]`.
      selections: the images of the branches; None: compute them for all images.
      training: whether the branches run as in training.

    Returns:
      `[batch, height, width, num_filters]`.
    """
    skip, lateral = self._skips[level](features), self.laterals[level]
    if selections:
      selection, = selections
      return conditional.run_selected(lateral, features, selection, skip)
    weight = tf.cast(gate, self.compute_dtype)[:, None, None]
    return skip + weight * lateral(features, training=training)

  def _record(self, inputs: pyramid.Features, choice: gumbel_selection.Choice) -> None:
    """Records gates and multiply-adds (eq. 6), including those of the gate network.

    Args:
      inputs: `{level: [batch, height, width, channels]}`.
      choice: of a path of each level.
    """
    gate, expected = choice.gate, choice.expected

    # float64 holds these whole numbers exactly.  So all open gates cost the maximum to the last
    # bit, although TensorFlow may reorder the sums of a graph.
    def exact(value):
      return tf.cast(value, tf.float64)

    own = exact(self.gate.multiply_adds())
    executed = own + exact(tf.zeros_like(gate[:, 0, 0]))
    costs = {
        'executed': executed, 'expected': executed, 'minimum': own, 'maximum': own,
        'all_branches': own}

    def decided(values, index):
      return values[:, index] if self._block == 'A' else values[:, index, 1]

    recorded, probabilities = {}, {}
    for index, (level, features) in enumerate(inputs.items()):
      branches = exact(
          multiply_adds.conv2d_cost(features, self.laterals[level].taps, self._num_filters))
      everything = tf.reduce_sum(branches)
      paths = branches if self._block == 'A' else tf.stack([0 * everything, everything])
      recorded[level] = decided(gate, index)
      probabilities[level] = decided(choice.probability, index)
      costs['executed'] += tf.reduce_sum(exact(gate[:, index]) * paths, axis=-1)
      costs['expected'] += tf.reduce_sum(exact(expected[:, index]) * paths, axis=-1)
      costs['minimum'] += tf.reduce_min(paths)
      costs['maximum'] += tf.reduce_max(paths)
      costs['all_branches'] += everything
    self.record(gates=recorded, probabilities=probabilities, **costs)

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'block': self._block,
        'gate': dict(self._gate_options),
    }


def _select(gate: tf.Tensor) -> list[Selections]:
  """Returns the selections of each level; `gate` is float32 `[batch, levels, branches]`."""
  levels, branches = gate.shape[1:]
  flat = conditional.select(tf.reshape(gate > 0, [-1, levels * branches]))
  return [flat[level * branches:(level + 1) * branches] for level in range(levels)]
