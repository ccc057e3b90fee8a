"""The two steps of a block of the dynamic head: between levels, then on each level.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519, section 2.2.  Kernels start from a normal distribution of
deviation 0.01, and the epsilon of group norm is 1e-5, as in the reference's code.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.ops import checks
from official_ext.ops import group_norm
from official_ext.ops import sampling
from official_ext.ops import shapes
from official_ext.ops import sparse_block
from official_ext.ops import tiled_conv


class RunOptions(NamedTuple):
  """How the gates and the depth steps of a tower run in one call.

  Attributes:
    mode: of gated depth steps: `skip` computes the active positions, `mask` all positions, and
      `tiles` the active tiles, see `tiled_conv`.
    norm_positions: group norm of gated depth steps takes its statistics from the `active`
      positions or from `all`; `all` computes all positions in every mode.
    gate_threshold: gates up to this value are 0.
    tile_capacity: share of an image's tiles that the mode `tiles` computes, in (0, 1].
    training: whether gates with `budget_input` take the statistics of the batch.
  """
  mode: str = 'mask'
  norm_positions: str = 'active'
  gate_threshold: tf.Tensor | float = 0.0
  tile_capacity: float = 1.0
  training: bool = False


DEFAULT_OPTIONS = RunOptions()
UPDATES = ('add', 'replace')


class DepthResult(NamedTuple):
  """The result of a depth step.

  Attributes:
    outputs: `{level: [batch, height, width, channels]}`.
    dropped: int32 `[batch]`, active tiles that were not computed, summed over levels.
  """
  outputs: Mapping[str, tf.Tensor]
  dropped: tf.Tensor


def neighbor_levels(level: str, levels: Sequence[str]) -> dict[str, str]:
  """Returns the neighbors of a level, by the path to them.

  Args:
    level: one of `levels`.
    levels: all levels, finest first.

  Returns:
    `coarser` -> the next coarser level, `finer` -> the next finer one; without those that do
    not exist.
  """
  index = levels.index(level)
  neighbors = {'coarser': levels[index + 1]} if index + 1 < len(levels) else {}
  return {**neighbors, 'finer': levels[index - 1]} if index else neighbors


def _as_list(x: tf.Tensor) -> tf.Tensor:
  """Returns a map `[batch, height, width, channels]` as `[batch, height * width, channels]`."""
  return tf.reshape(x, [-1, shapes.num_positions(x), x.shape[-1]])


def _as_map(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
  """Returns the inverse of `_as_list`, in the size of another map."""
  result = tf.reshape(x, [-1, *shapes.sizes(like, 1, 2), x.shape[-1]])
  result.set_shape([*like.shape[:3], x.shape[-1]])
  return result


class _StepLayer(tf_keras.layers.Layer):
  """Base of the steps: initializers and regularizers of their weights."""

  def __init__(self, kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the layer.

    Args:
      kernel_regularizer: regularizer of kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)

  def add_kernel(self, name: str, shape: Sequence[int]) -> tf.Variable:
    """Adds a regularized kernel that starts normally distributed."""
    return self.add_weight(
        name, shape, initializer=tf_keras.initializers.RandomNormal(stddev=0.01),
        regularizer=self._kernel_regularizer)

  def add_vector(self, name: str, channels: int, initializer: str,
                 autocast: bool = False) -> tf.Variable:
    """Adds a vector of one number per channel.

    Args:
      name: name of the variable.
      channels: number of channels.
      initializer: name of an initializer.
      autocast: whether a mixed precision policy casts the vector to the compute dtype; no for
        norms, which compute in float32.
    """
    return self.add_weight(
        name, [channels], initializer=initializer, experimental_autocast=autocast)

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ScaleStep(_StepLayer):
  """Adds to every level what its neighbors send.

      message = gate * group norm(depthwise 3x3(x))        on the source level
      output = w_s * sum of messages, resized + w_o * x    on the target level

  All levels share the convolutions, one for each direction, and the two learned scalars: w_s,
  which starts at 0, and w_o, which starts at 1.  Convolution and norm are computed at all
  positions in training and at inference, because skipping a depthwise convolution saves less
  than it costs.  If all gates of all images are shut, `may_skip` computes no messages.

  Reference: see the module.
  """

  def __init__(self, is_gated: bool = True, **kwargs):
    """Initializes the step.

    Args:
      is_gated: whether messages are multiplied by gates and by w_s.  If not, they are added as
        they are, as in the fixed head.
      **kwargs: `kernel_regularizer`, also of the two scalars; arguments of
        `tf_keras.layers.Layer`.
    """
    super().__init__(**kwargs)
    self._is_gated = is_gated

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    channels = tf.TensorShape(next(iter(input_shape.values())))[-1]
    self.num_groups = group_norm.num_groups_of(channels)
    self.weights_of = {
        path: {
            'kernel': self.add_kernel(f'{path}_kernel', [3, 3, channels, 1]),
            'bias': self.add_vector(f'{path}_bias', channels, 'zeros', autocast=True),
            'gamma': self.add_vector(f'{path}_gamma', channels, 'ones'),
            'beta': self.add_vector(f'{path}_beta', channels, 'zeros'),
        } for path in ('coarser', 'finer')}
    self.own_weight = self.add_weight(
        'own_weight', [], initializer='ones', regularizer=self._kernel_regularizer)
    if self._is_gated:
      self.neighbor_weight = self.add_weight(
          'neighbor_weight', [], initializer='zeros', regularizer=self._kernel_regularizer)
    super().build(input_shape)

  def call(self, features: Mapping[str, tf.Tensor],
           gates: Mapping[tuple[str, str], tf.Tensor] | None = None, may_skip: bool = False
           ) -> dict[str, tf.Tensor]:
    """Exchanges features between neighbors.

    Args:
      features: `{level: [batch, height, width, channels]}`, finest first.
      gates: `(path, source level)`, such as `('coarser', '3')`, -> `[batch, height, width, 1]`
        of the source level, for every neighbor of every level; not used if the step is not
        gated.
      may_skip: whether a conditional leaves out the messages if all gates are shut.

    Returns:
      `{level: [batch, height, width, channels]}`, of the shapes of `features`.
    """
    # Variables are read here, where the policy casts them, not in the branches of `tf.cond`.
    weights = {path: {name: tf.convert_to_tensor(value) for name, value in own.items()}
               for path, own in self.weights_of.items()}
    own_weight = tf.convert_to_tensor(self.own_weight)
    neighbor_weight = tf.convert_to_tensor(self.neighbor_weight) if self._is_gated else None

    def exchange():
      received: dict[str, list[tf.Tensor]] = {level: [] for level in features}
      for source, own in features.items():
        for path, target in neighbor_levels(source, list(features)).items():
          gate = gates[path, source] if gates is not None and self._is_gated else None
          received[target].append(self._message(
              path, own, gate, features[target], weights[path], neighbor_weight))
      # Sums and products of lists of positions: of maps OpenVINO computes them in another order of
      # axes, and copies the maps before and after.
      return {level: _as_map(tf.add_n([own_weight * _as_list(own),
                                       *map(_as_list, received[level])]), own)
              for level, own in features.items()}

    if not (may_skip and self._is_gated and gates):
      return exchange()
    largest = [tf.reduce_max(gate) for gate in gates.values()]
    results = tf.cond(tf.reduce_max(tf.stack(largest)) > 0, exchange,
                      lambda: {level: own_weight * own for level, own in features.items()})
    for level, own in features.items():
      results[level].set_shape(own.shape)
    return results

  def _message(self, path: str, features: tf.Tensor, gate: tf.Tensor | None,
               target: tf.Tensor, weights: Mapping[str, tf.Tensor],
               neighbor_weight: tf.Tensor | None) -> tf.Tensor:
    """Returns what one level sends to another, in the size of the other.

    The norm is a scale and a shift of channels, and resizing leaves these as they are.  So the map
    is scaled and shifted where it is smaller: after it is resized to a coarser level.
    """
    message = tf.nn.depthwise_conv2d(features, weights['kernel'], [1, 1, 1, 1], 'SAME')
    scale, shift = group_norm.scale_and_shift(
        message, weights['bias'], weights['gamma'], weights['beta'], self.num_groups)
    message, scale, shift = _as_list(message), scale[:, 0], shift[:, 0]
    if gate is not None:
      weight = tf.cast(neighbor_weight, scale.dtype)
      scale, shift = scale * weight, shift * weight

    def shrink_or_keep(value):
      if path == 'finer':
        return value
      return _as_list(sampling.resize_bilinear(_as_map(value, features), target))

    if gate is not None:
      gate = _as_list(tf.cast(gate, scale.dtype))
      message *= tf.cast(gate, message.dtype)
      shift *= shrink_or_keep(gate)
    message = tf.cast(shrink_or_keep(message), scale.dtype) * scale + shift
    message = tf.cast(message, features.dtype)
    if path == 'coarser':
      return _as_map(message, target)
    return sampling.resize_bilinear(_as_map(message, features), target)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'is_gated': self._is_gated}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DepthStep(_StepLayer):
  """Refines every level by a residual block of two convolutions, multiplied by a gate.

      h = group norm(conv(ReLU(group norm(conv(x)))))
      output = ReLU(x + gate * h)

  With `update='replace'` an open gate puts the convolutions in the place of the input, as a tower
  of plain convolutions has them: output = ReLU(x + gate * (h - x)).

  A position is active for the second convolution where its gate is above 0, and for the first
  one where its gate or that of a neighbor is.  Norms take their statistics from the active
  positions, in training and at inference, so that skipping changes nothing.  All levels share the
  weights, so that the mode `skip` computes the active positions of all levels together.

  Reference: see the module, section 2.2.3.

  Differs: the paper calls the depth path a bottleneck module; here it is two 3x3 convolutions,
  as in the reference's code.

  Differs: the reference's code takes the statistics of norms from all positions in training,
  and from the active ones at inference; `norm_positions='all'` is how it trains.
  """

  def __init__(self, update: str = 'add', **kwargs):
    """Initializes the step.

    Args:
      update: `add` or `replace`, what the result of the convolutions does to the input.
      **kwargs: `kernel_regularizer`; arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: an unknown update.
    """
    super().__init__(**kwargs)
    checks.check_one_of('update', update, UPDATES)
    self._replaces = update == 'replace'

  def build(self, input_shape: Mapping[str, tf.TensorShape]) -> None:
    channels = tf.TensorShape(next(iter(input_shape.values())))[-1]
    self.num_groups = group_norm.num_groups_of(channels)
    weights = {}
    for conv in (1, 2):
      weights[f'kernel{conv}'] = self.add_kernel(f'kernel{conv}', [3, 3, channels, channels])
      weights[f'gamma{conv}'] = self.add_vector(f'gamma{conv}', channels, 'ones')
      weights[f'beta{conv}'] = self.add_vector(f'beta{conv}', channels, 'zeros')
    self.residual_weights = weights
    super().build(input_shape)

  def call(self, features: Mapping[str, tf.Tensor], gates: Mapping[str, tf.Tensor] | None = None,
           options: RunOptions = DEFAULT_OPTIONS) -> DepthResult:
    """Runs the step on all levels.

    Args:
      features: `{level: [batch, height, width, channels]}`.
      gates: `[batch, height, width, 1]` in [0, 1] of each level; None: every position is
        computed, as with gates of 1.
      options: how the step runs if it has gates.

    Returns:
      The outputs, and the number of dropped tiles, 0 in every mode but `tiles`.
    """
    # Variables are read here, where the policy casts kernels, not in the branches of `tf.cond`.
    weights = sparse_block.ResidualWeights(
        **{name: tf.convert_to_tensor(value) for name, value in self.residual_weights.items()})
    maps = list(features.values())
    dropped = tf.zeros(tf.shape(maps[0])[:1], tf.int32)
    if gates is None or options.norm_positions == 'all':
      outputs = [tf.nn.relu(x + self._run_full(x, gates and gates[level], weights))
                 for level, x in features.items()]
    elif options.mode == 'tiles':
      results = [tiled_conv.tiled_residual_block(
          x, gates[level], weights, self.num_groups, options.tile_capacity,
          replaces=self._replaces)
                 for level, x in features.items()]
      outputs = [tf.nn.relu(x + result.value) for x, result in zip(maps, results)]
      dropped = tf.add_n([result.dropped for result in results])
    else:
      outputs = sparse_block.residual_blocks(
          maps, [gates[level] for level in features], weights, self.num_groups, options.mode,
          adds_input=True, replaces=self._replaces)
    return DepthResult(dict(zip(features, outputs)), dropped)

  def _run_full(self, features: tf.Tensor, gate: tf.Tensor | None,
                weights: sparse_block.ResidualWeights) -> tf.Tensor:
    """Computes the residual branch at all positions, with norms over all of them."""
    hidden = self._normalized(features, weights.kernel1, weights.gamma1, weights.beta1)
    residual = self._normalized(
        tf.nn.relu(hidden), weights.kernel2, weights.gamma2, weights.beta2)
    if self._replaces:
      residual -= features
    return residual if gate is None else residual * tf.cast(gate, residual.dtype)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'update': 'replace' if self._replaces else 'add'}

  def _normalized(self, features: tf.Tensor, kernel: tf.Tensor, gamma: tf.Tensor,
                  beta: tf.Tensor) -> tf.Tensor:
    features = tf.nn.conv2d(features, kernel, 1, 'SAME')
    return group_norm.group_norm(features, gamma, beta, self.num_groups)
