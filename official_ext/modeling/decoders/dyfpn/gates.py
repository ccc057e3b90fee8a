"""Gates: networks that score the paths of each pyramid level for an image.

They map the backbone's features to logits `[batch, levels, paths]`, from which
`gumbel_selection` makes choices.  All values after pooling are float32 under any precision
policy, because low precision flips decisions.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.ops import checks

DIRECTIONS = ('upward', 'downward')
TYPES = ('channel', 'recurrent', 'random')


def _linear(units: int, fan_in: int, name: str, bias: list[float] | None = None,
            **options) -> tf_keras.layers.Dense:
  """Makes a float32 `Dense` layer that starts uniform in +-1 / sqrt(fan_in), like the bias."""
  limit = 1 / np.sqrt(fan_in)
  bias_initializer = (
      tf_keras.initializers.RandomUniform(-limit, limit) if bias is None else
      tf_keras.initializers.Constant(bias))
  return tf_keras.layers.Dense(
      units, name=name, dtype='float32', bias_initializer=bias_initializer,
      kernel_initializer=tf_keras.initializers.RandomUniform(-limit, limit), **options)


def _hidden_units(channels: int) -> int:
  return max(channels // 4, 1)


def _pool(features: tf.Tensor) -> tf.Tensor:
  return tf.reduce_mean(tf.cast(features, tf.float32), axis=[1, 2])


class _PyramidGate(tf_keras.layers.Layer):
  """Base of gate networks: the levels of their features and the number of paths."""

  def __init__(self, channels: Mapping[str, int], num_paths: int, **kwargs):
    kwargs['dtype'] = 'float32'
    super().__init__(autocast=False, **kwargs)
    self._channels = dict(channels)
    self._num_paths = num_paths

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'channels': dict(self._channels), 'num_paths': self._num_paths}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class ChannelGate(_PyramidGate):
  """The "CNN gate": pooling and two `Dense` layers, separate for each level (section 3.2.2).

  The hidden layer of a level has a quarter of its channels, but at least one.
  """

  def __init__(self, channels: Mapping[str, int], num_paths: int,
               initial_bias: list[float] | None = None,
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the gate.

    Args:
      channels: level -> channels of its features; each level has its own decision.
      num_paths: number of logits per level.
      initial_bias: initial value of the last bias, one number per path; None: uniform.
      kernel_regularizer: regularizer of the kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.
    """
    super().__init__(channels, num_paths, **kwargs)
    self._initial_bias = initial_bias
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    options = {'kernel_regularizer': self._kernel_regularizer}
    self._hidden, self._output = {}, {}
    for level, depth in self._channels.items():
      units = _hidden_units(depth)
      self._hidden[level] = _linear(
          units, depth, f'hidden_{level}', activation='relu', **options)
      self._output[level] = _linear(num_paths, units, f'output_{level}', initial_bias, **options)

  def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns logits, float32 `[batch, levels, paths]`, of `{level: [batch, h, w, channels]}`."""
    logits = [
        self._output[level](self._hidden[level](_pool(features[level])))
        for level in self._channels
    ]
    return tf.stack(logits, axis=1)

  def multiply_adds(self) -> float:
    """Returns the multiply-adds of the gate for one image."""
    return float(sum(
        _hidden_units(depth) * (depth + self._num_paths) for depth in self._channels.values()))

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'initial_bias': self._initial_bias and list(self._initial_bias),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


@tf_keras.utils.register_keras_serializable(package='official_ext')
class RecurrentGate(_PyramidGate):
  """The "GRU gate": one recurrent pass over the levels of an image (section 3.2.2).

  The state starts at zero for every image.  The output after a level decides about that level.
  """

  UNITS = 16

  def __init__(self, channels: Mapping[str, int], num_paths: int, direction: str = 'upward',
               initial_bias: list[float] | None = None,
               kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the gate.

    Args:
      channels: level -> channels of its features; each level has its own decision.
      num_paths: number of logits per level.
      direction: order of the levels, `upward` (fine to coarse) or `downward`.
      initial_bias: initial value of the last bias, one number per path; None: uniform.
      kernel_regularizer: regularizer of the kernels.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: unknown direction.
    """
    super().__init__(channels, num_paths, **kwargs)
    checks.check_one_of('direction', direction, DIRECTIONS)
    self._direction = direction
    self._initial_bias = initial_bias
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    options = {'kernel_regularizer': self._kernel_regularizer}
    self._embed = {
        level: _linear(self.UNITS, depth, f'embed_{level}', **options)
        for level, depth in self._channels.items()
    }
    # Each weight has an initializer of its own, because one that is used twice repeats its values.
    kernel, recurrent, bias = (
        tf_keras.initializers.RandomUniform(-self.UNITS**-0.5, self.UNITS**-0.5)
        for _ in range(3))
    self._cell = tf_keras.layers.GRUCell(
        self.UNITS, reset_after=True, kernel_initializer=kernel, recurrent_initializer=recurrent,
        bias_initializer=bias, recurrent_regularizer=self._kernel_regularizer, dtype='float32',
        name='cell', **options)
    self._output = _linear(num_paths, self.UNITS, 'output', initial_bias, **options)

  def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns logits, float32 `[batch, levels, paths]`, of `{level: [batch, h, w, channels]}`."""
    levels = list(self._channels)
    order = levels if self._direction == 'upward' else levels[::-1]
    pooled = {level: self._embed[level](_pool(features[level])) for level in levels}
    state = tf.zeros_like(pooled[levels[0]])
    logits = {}
    for level in order:
      output, state = self._cell(pooled[level], state)
      logits[level] = self._output(output)
    return tf.stack([logits[level] for level in levels], axis=1)

  def multiply_adds(self) -> float:
    """Returns the multiply-adds of the gate for one image."""
    step = 2 * 3 * self.UNITS**2 + self.UNITS * self._num_paths
    return float(sum(c * self.UNITS + step for c in self._channels.values()))

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'direction': self._direction,
        'initial_bias': self._initial_bias and list(self._initial_bias),
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


@tf_keras.utils.register_keras_serializable(package='official_ext')
class RandomSignal(_PyramidGate):
  """Fixed probabilities instead of a gate, the same for every image (Table 5)."""

  def __init__(self, channels: Mapping[str, int], num_paths: int,
               probability: float | None = None, **kwargs):
    """Initializes the signal.

    Args:
      channels: level -> channels of its features; only the levels are used.
      num_paths: number of paths per level.
      probability: probability of the last path, in (0, 1), the other paths share the rest;
        None: all paths are equally probable.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: a probability that is not strictly between 0 and 1.
    """
    super().__init__(channels, num_paths, **kwargs)
    _check_probability('probability', probability)
    self._probability = probability

  def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns log-probabilities, float32 `[batch, levels, paths]`, the same for all images."""
    paths = self._num_paths
    last = 1 / paths if self._probability is None else self._probability
    row = tf.math.log([(1 - last) / (paths - 1)] * (paths - 1) + [last])
    batch = tf.shape(features[next(iter(self._channels))])[0]
    return tf.tile(row[None, None], [batch, len(self._channels), 1])

  def multiply_adds(self) -> float:
    """Returns 0, because nothing is computed."""
    return 0.0

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'probability': self._probability}


def _check_probability(argument: str, probability: float | None) -> None:
  if probability is not None and not 0 < probability < 1:
    raise checks.ArgumentError(
        argument, f'{argument} is {probability}; it must lie between 0 and 1.')


def build_gate(type: str, channels: Mapping[str, int], num_paths: int,
               direction: str = 'upward', random_probability: float | None = None,
               initial_bias: list[float] | None = None,
               kernel_regularizer: Any | None = None,
               name: str = 'gate') -> tf_keras.layers.Layer:
  """Builds a gate network; the arguments are those of `options.GateConfig`.

  Args:
    type: `channel`, `recurrent` or `random`.
    channels: level -> channels of its features.
    num_paths: number of logits per level.
    direction: order of the levels for the recurrent gate.
    random_probability: probability of the last path of the random signal.
    initial_bias: initial value of the last bias, one number per path.
    kernel_regularizer: regularizer of the kernels.
    name: name of the layer.

  Returns:
    A layer that maps `{level: features}` to logits `[batch, levels, paths]`.

  Raises:
    ArgumentError: an option that is not allowed.
  """
  checks.check_one_of('type', type, TYPES)
  if random_probability is not None and type != 'random':
    raise checks.ArgumentError(
        'random_probability', f'random_probability is {random_probability}, and type {type!r}, '
        "which learns when a path opens: type must be 'random', or random_probability null.")
  if initial_bias is not None and type == 'random':
    raise checks.ArgumentError(
        'initial_bias', f"initial_bias is {initial_bias}, and type 'random', which has no bias: "
        'initial_bias must be null.')
  if initial_bias is not None and len(initial_bias) != num_paths:
    raise checks.ArgumentError(
        'initial_bias', f'initial_bias has {len(initial_bias)} values for {num_paths} paths.')
  if type == 'channel':
    return ChannelGate(channels, num_paths, initial_bias, kernel_regularizer, name=name)
  if type == 'recurrent':
    return RecurrentGate(
        channels, num_paths, direction, initial_bias, kernel_regularizer, name=name)
  _check_probability('random_probability', random_probability)
  return RandomSignal(channels, num_paths, random_probability, name=name)
