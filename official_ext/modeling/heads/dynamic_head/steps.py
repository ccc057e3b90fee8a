"""The two steps of a block of the dynamic head: between levels, then on each level.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519, section 3.2.  Convolutions start normal(0, 0.01); group
norm has an epsilon of 1e-5, as the reference's code.
"""
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import tensorflow as tf, tf_keras

from official_ext.ops import group_norm
from official_ext.ops import sampling
from official_ext.ops import sparse_conv
from official_ext.ops import tiled_conv


def neighbors_of(level: str, levels: Sequence[str]) -> Dict[str, str]:
  """Returns the `coarser` and `finer` neighbor of a level, if any; `levels` is finest first."""
  index = levels.index(level)
  neighbors = {'coarser': levels[index + 1]} if index + 1 < len(levels) else {}
  return {**neighbors, 'finer': levels[index - 1]} if index else neighbors


class _Step(tf_keras.layers.Layer):
  """What the steps share: how their weights start and are regularized."""

  def __init__(self, kernel_regularizer: Optional[Any] = None, **kwargs):
    super().__init__(**kwargs)
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)

  def add_kernel(self, name: str, shape: Sequence[int]) -> tf.Variable:
    """Adds a kernel of normal(0, 0.01), regularized."""
    return self.add_weight(
        name, shape, initializer=tf_keras.initializers.RandomNormal(stddev=0.01),
        regularizer=self._kernel_regularizer)

  def add_vector(self, name: str, channels: int, initializer: str,
                 autocast: bool = False) -> tf.Variable:
    """Adds a vector, by default one that no policy casts: norms compute in float32."""
    return self.add_weight(
        name, [channels], initializer=initializer, experimental_autocast=autocast)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ScaleStep(_Step):
  """Adds to every level what its neighbors have to say.

      message = gate * group norm(depthwise 3x3(x))        on the source level
      output = w_s * sum of messages, resized + w_o * x    on the target level

  The convolutions are shared by all levels, one for each direction, as is the pair of
  learned scalars; w_s starts at 0 and w_o at 1.  Convolution and norm are dense in training
  and at inference: a depthwise convolution is not worth skipping per position.

  Reference: see the module.
  """

  def __init__(self, is_gated: bool = True, **kwargs):
    """Initializes the step.

    Args:
      is_gated: otherwise messages are not gated, and added as they are, without w_s: the
        step of the fixed head.
      **kwargs: `kernel_regularizer`, of kernels and of the two scalars; arguments of
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
           gates: Optional[Mapping[Tuple[str, str], tf.Tensor]] = None) -> Dict[str, tf.Tensor]:
    """Exchanges features between neighbors.

    Args:
      features: `{level: [batch, height, width, channels]}`, finest first.
      gates: of a gated step `[batch, height, width, 1]` for every neighbor of every level,
        by `(path, level)` as `('coarser', '3')`.

    Returns:
      The shapes of `features`.
    """
    received = {level: [] for level in features}
    for source, own in features.items():
      for path, target in neighbors_of(source, list(features)).items():
        message = self._message(path, own)
        if self._is_gated:
          message *= tf.cast(gates[path, source], message.dtype)
        received[target].append(sampling.resize_bilinear(message, features[target]))
    outputs = {}
    for level, own in features.items():
      outputs[level] = self.own_weight * own
      if received[level]:
        total = tf.add_n(received[level])
        outputs[level] += self.neighbor_weight * total if self._is_gated else total
    return outputs

  def _message(self, path: str, features: tf.Tensor) -> tf.Tensor:
    weights = self.weights_of[path]
    message = tf.nn.depthwise_conv2d(features, weights['kernel'], [1, 1, 1, 1], 'SAME')
    return group_norm.group_norm(
        message + weights['bias'], weights['gamma'], weights['beta'], self.num_groups)

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'is_gated': self._is_gated}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DepthStep(_Step):
  """A residual block of two convolutions, behind a gate.

      h = group norm(conv(ReLU(group norm(conv(x)))))
      output = ReLU(x + gate * h)

  Where the gate is 0 the second convolution need not be computed, nor the first where the
  gates of all neighbors are 0 too.  Norms are over the positions that are computed, in
  training and at inference, so that skipping changes nothing.

  Reference: see the module.

  Differs: the reference's code normalizes over all positions in training and over the
  computed ones at inference; `execution='dense'` is what it trains.
  """

  def build(self, input_shape: tf.TensorShape) -> None:
    channels = tf.TensorShape(input_shape)[-1]
    self.num_groups = group_norm.num_groups_of(channels)
    weights = {}
    for conv in (1, 2):
      weights[f'kernel{conv}'] = self.add_kernel(f'kernel{conv}', [3, 3, channels, channels])
      weights[f'gamma{conv}'] = self.add_vector(f'gamma{conv}', channels, 'ones')
      weights[f'beta{conv}'] = self.add_vector(f'beta{conv}', channels, 'zeros')
    self.residual_weights = weights
    super().build(input_shape)

  def call(self, features: tf.Tensor, gate: Optional[tf.Tensor] = None,
           execution: str = 'dense', tile_capacity: float = 1.0
           ) -> Tuple[tf.Tensor, Optional[tf.Tensor]]:
    """Runs the step on one level.

    Args:
      features: `[batch, height, width, channels]`.
      gate: `[batch, height, width, 1]` in [0, 1]; None: no gate, dense.
      execution: one of `sparse_conv.residual_block`; `tiles`, see `tiled_conv`; or `dense`,
        norms over all positions.
      tile_capacity: of `tiles`: the share of an image's tiles that there is room for.

    Returns:
      The output, of the shape and dtype of `features`, and of `tiles` the number of active
      ones without room, int32 `[batch]`, otherwise None.
    """
    # Read here, where the policy casts kernels, and not in the branches of a conditional.
    weights = sparse_conv.ResidualWeights(
        **{name: tf.convert_to_tensor(value) for name, value in self.residual_weights.items()})
    dropped = None
    if gate is None or execution == 'dense':
      residual = self._run_dense(features, gate, weights)
    elif execution == 'tiles':
      residual, dropped = tiled_conv.tiled_residual_block(
          features, gate, weights, self.num_groups, tile_capacity)
    else:
      residual = sparse_conv.residual_block(
          features, gate, weights, self.num_groups, execution=execution)
    return tf.nn.relu(features + residual), dropped

  def _run_dense(self, features, gate, weights):
    hidden = self._normalized(features, weights.kernel1, weights.gamma1, weights.beta1)
    residual = self._normalized(
        tf.nn.relu(hidden), weights.kernel2, weights.gamma2, weights.beta2)
    return residual if gate is None else residual * tf.cast(gate, residual.dtype)

  def _normalized(self, features, kernel, gamma, beta):
    features = tf.nn.conv2d(features, kernel, 1, 'SAME')
    return group_norm.group_norm(features, gamma, beta, self.num_groups)
