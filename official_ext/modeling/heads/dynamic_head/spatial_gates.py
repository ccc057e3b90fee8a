"""Gates that decide, per image and position, which paths of a network run.

A gate is a 3x3 convolution and an activation, both float32 under any mixed precision policy.
Where the gate is 0, the path that it multiplies need not be computed.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519, section 2.2.
"""
from collections.abc import Sequence
import functools
import math
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions
from official_ext.ops import checks
from official_ext.ops import narrow_conv

ACTIVATIONS = ('tanh', 'sigmoid', 'softmax')
# Value of a gate at the start of a training, for features of 0.
_INITIAL_GATE = 0.99


def restricted_tanh(logits: tf.Tensor, tau: float = 1.5) -> tf.Tensor:
  """Returns the gate activation max(0, (tanh(v - tau) + tanh tau) / (1 + tanh tau)) (eq. 3).

  Value and gradient are 0 up to v = 0; from there the function rises with a slope of 1 - tanh tau
  and approaches 1.  With tau = 0 it is max(0, tanh v), the "restricted tanh" of Table 2.

  Args:
    logits: v, float32 or float64 of any shape.
    tau: not negative; the larger, the flatter the start.

  Returns:
    Gates of the shape and dtype of `logits`.
  """
  rise = tf.tanh(tf.constant(tau, logits.dtype))
  # The addition theorem gives this form of eq. 3.  As printed, the sum rounds to small numbers
  # where it should be 0, and only at 0 is a path skipped.
  return tf.nn.relu(tf.tanh(logits)) * (1 + tf.tanh(logits - tau) * rise) / (1 + rise)


def initial_bias(activation: str, tau: float) -> float:
  """Returns the bias of a gate's convolution at the start of a training.

  Args:
    activation: one of `ACTIVATIONS`.
    tau: parameter of `tanh`.

  Returns:
    The logit of a gate of 0.99; 0 for softmax, whose paths start with equal shares.
  """
  if activation == 'softmax':
    return 0.0
  if activation == 'sigmoid':
    return math.log(_INITIAL_GATE / (1 - _INITIAL_GATE))
  return 0.5 * math.log((1 + _INITIAL_GATE * math.exp(2 * tau)) / (1 - _INITIAL_GATE))


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SpatialGate(tf_keras.layers.Layer):
  """Computes gates by a 3x3 convolution to one logit per path, and the gate activation.

  Reference: see the module, section 2.2.1.

  Differs: the bias of a sigmoid starts at ln(0.99 / 0.01), which is a gate of 0.99; the
  reference's code starts at half of that.
  """

  def __init__(self, num_paths: int = 1, activation: str = 'tanh', tau: float = 1.5,
               coarse: bool = False, kernel_regularizer: Any | None = None, **kwargs):
    """Initializes the gate.

    Args:
      num_paths: number of gates per position.
      activation: `tanh`, the proposed one; `sigmoid`, which is never 0; or `softmax` over the
        paths of a position, which is never 0 either.
      tau: parameter of `tanh`, see `restricted_tanh`.
      coarse: whether logits are averaged over the map, for one decision per image and map.
      kernel_regularizer: regularizer of the kernel.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: unknown activation, or a negative tau.
    """
    super().__init__(**kwargs)
    checks.check_one_of('activation', activation, ACTIVATIONS)
    if tau < 0:
      raise checks.ArgumentError('tau', f'tau is {tau}; it must not be negative.')
    self._num_paths, self._activation, self._tau, self._coarse = num_paths, activation, tau, coarse
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    # `self.dtype` is the dtype of variables, which is float32 under mixed precision.
    self.conv = convolutions.Conv2D(
        num_paths, 3, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=tf_keras.initializers.Constant(initial_bias(activation, tau)),
        kernel_regularizer=self._kernel_regularizer, dtype=self.dtype, name='conv')

  def build(self, input_shape: tf.TensorShape) -> None:
    convolutions.build_in_scope([self.conv], [input_shape])
    super().build(input_shape)

  def call(self, features: tf.Tensor, paths: Sequence[int] | None = None,
           threshold: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Computes the gates of every position of a map.

    Args:
      features: `[batch, height, width, channels]`.
      paths: numbers of the paths that exist on this level; softmax is over these.  None: all.
      threshold: gates up to this value are 0; scalar.

    Returns:
      Gates in [0, 1], `[batch, height, width, paths]`; float32, or float64 under that policy.
    """
    return self.decide(self.conv(features), paths, threshold)

  def decide(self, logits: tf.Tensor, paths: Sequence[int] | None = None,
             threshold: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Computes what `call` returns from the results of the convolution.

    Args:
      logits: `[batch, height, width, number of paths]`.
      paths: as in `call`.
      threshold: as in `call`.
    """
    if self._coarse:
      mean = tf.reduce_mean(logits, [1, 2], keepdims=True)
      logits = tf.broadcast_to(mean, tf.shape(logits))
    if paths is not None and len(paths) < self._num_paths:
      logits = tf.gather(logits, paths, axis=-1)
    return self.activate(logits, threshold)

  @property
  def decides_alone(self) -> bool:
    """Whether the gate of a path and position depends on the logit there and on nothing else."""
    return self._activation != 'softmax' and not self._coarse

  def activate(self, logits: tf.Tensor, threshold: tf.Tensor | float = 0.0) -> tf.Tensor:
    """Returns gates of the shape of logits, whose last axis are paths; 0 up to a threshold."""
    gates = {'tanh': functools.partial(restricted_tanh, tau=self._tau), 'sigmoid': tf.sigmoid,
             'softmax': tf.nn.softmax}[self._activation](logits)
    return tf.where(gates > tf.cast(threshold, gates.dtype), gates, tf.zeros_like(gates))

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'num_paths': self._num_paths,
        'activation': self._activation,
        'tau': self._tau,
        'coarse': self._coarse,
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }


def convolve_together(gates: Sequence[SpatialGate], maps: Sequence[tf.Tensor],
                      present: Sequence[range], activation: narrow_conv.Activation | None = None
                      ) -> list[list[tf.Tensor]]:
  """Computes the convolutions of several gates of the same maps as one.

  Args:
    gates: built gates.
    maps: `[batch, height, width, channels]` each.
    present: numbers of the gates of each map.
    activation: what all logits go through at once, see `narrow_conv.conv2d`.

  Returns:
    For each map the logits of its gates, for `SpatialGate.decide`.
  """
  convs = [gate.conv for gate in gates]
  kernel, bias = (tf.concat([getattr(conv, name) for conv in convs], axis=-1)
                  for name in ('kernel', 'bias'))
  # The first filter of every gate, and the end of the last one's.
  starts = [sum(conv.filters for conv in convs[:number]) for number in range(len(convs) + 1)]
  logits = narrow_conv.conv2d(
      [tf.cast(x, kernel.dtype) for x in maps], kernel, bias,
      [range(starts[own.start], starts[own.stop]) for own in present], activation)
  return [[tf.concat(of_map[starts[number] - starts[own.start]:
                            starts[number + 1] - starts[own.start]], axis=-1) for number in own]
          for of_map, own in zip(logits, present)]
