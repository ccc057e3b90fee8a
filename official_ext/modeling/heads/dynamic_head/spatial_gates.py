"""Gates that decide, per image and position, which paths of a network run.

A gate is a 3x3 convolution and an activation; where it is 0, what it multiplies need not
be computed.  Both are float32 under any mixed precision policy.

Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
https://arxiv.org/abs/2012.03519, section 3.2.
"""
import math
from typing import Any, Dict, Optional, Sequence

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import convolutions

ACTIVATIONS = ('tanh', 'sigmoid', 'softmax')
# What a gate is at the start, where its features are 0.
_INITIAL_GATE = 0.99


def restricted_tanh(logits: tf.Tensor, tau: float = 1.5) -> tf.Tensor:
  """The gate activation: max(0, (tanh(v - tau) + tanh tau) / (1 + tanh tau)) (eq. 3).

  It is 0 with gradient 0 up to v = 0, has the slope 1 - tanh tau behind it, and nears 1.  With
  tau = 0 it is max(0, tanh v), the "restricted tanh" of Table 2.

  Args:
    logits: v, float32 or float64 of any shape.
    tau: not negative; the larger, the flatter the start.

  Returns:
    The shape and dtype of `logits`.
  """
  rise = tf.tanh(tf.constant(tau, logits.dtype))
  # The same by the addition theorem.  As printed, the sum rounds to something else than 0 where
  # v is near 0, and 0 is what decides that nothing runs.
  return tf.nn.relu(tf.tanh(logits)) * (1 + tf.tanh(logits - tau) * rise) / (1 + rise)


def initial_bias(activation: str, tau: float) -> float:
  """Returns the logit of a gate of 0.99; 0 for softmax, whose paths start with equal shares."""
  if activation == 'softmax':
    return 0.0
  if activation == 'sigmoid':
    return math.log(_INITIAL_GATE / (1 - _INITIAL_GATE))
  return 0.5 * math.log((1 + _INITIAL_GATE * math.exp(2 * tau)) / (1 - _INITIAL_GATE))


@tf_keras.utils.register_keras_serializable(package='official_ext')
class SpatialGate(tf_keras.layers.Layer):
  """A 3x3 convolution to one logit per path, and the gate activation (section 3.2.1).

  Reference: see the module.

  Differs: the bias of a sigmoid starts at ln(0.99 / 0.01), which is a gate of 0.99; the
  reference's code starts at half of that.
  """

  def __init__(self, num_paths: int = 1, activation: str = 'tanh', tau: float = 1.5,
               coarse: bool = False, kernel_regularizer: Optional[Any] = None, **kwargs):
    """Initializes the gate.

    Args:
      num_paths: gates per position.
      activation: `tanh`, the proposed one; `sigmoid`, which is never 0; or `softmax` over the
        paths of a position, which is never 0 either.
      tau: of `tanh`, see `restricted_tanh`.
      coarse: one decision per image and map: logits are averaged over the map.
      kernel_regularizer: of the kernel.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: unknown activation, or a negative tau.
    """
    super().__init__(**kwargs)
    if activation not in ACTIVATIONS:
      raise ValueError(f'activation is {activation!r}; allowed are {", ".join(ACTIVATIONS)}: '
                       'change head.tower.dynamic.activation.')
    if tau < 0:
      raise ValueError(f'tau is {tau}; it must not be negative: change head.tower.dynamic.tau.')
    self._num_paths, self._activation, self._tau, self._coarse = num_paths, activation, tau, coarse
    self._kernel_regularizer = tf_keras.regularizers.get(kernel_regularizer)
    # `self.dtype` is that of variables, and never of low precision.
    self.conv = convolutions.Conv2D(
        num_paths, 3, kernel_initializer=tf_keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=tf_keras.initializers.Constant(initial_bias(activation, tau)),
        kernel_regularizer=self._kernel_regularizer, dtype=self.dtype, name='conv')

  def build(self, input_shape: tf.TensorShape) -> None:
    convolutions.build_in_scope([self.conv], [input_shape])
    super().build(input_shape)

  def call(self, features: tf.Tensor, paths: Optional[Sequence[int]] = None,
           threshold: float = 0.0) -> tf.Tensor:
    """Decides for every position of a map.

    Args:
      features: `[batch, height, width, channels]`.
      paths: which of the paths there are here; softmax is over these.  None: all.
      threshold: gates up to this are 0.

    Returns:
      Gates in [0, 1], `[batch, height, width, paths]`; float32, or float64 under that policy.
    """
    logits = self.conv(features)
    if self._coarse:
      mean = tf.reduce_mean(logits, [1, 2], keepdims=True)
      logits = tf.broadcast_to(mean, tf.shape(logits))
    if paths is not None and len(paths) < self._num_paths:
      logits = tf.gather(logits, paths, axis=-1)
    gates = self._activate(logits)
    return tf.where(gates > threshold, gates, tf.zeros_like(gates))

  def _activate(self, logits: tf.Tensor) -> tf.Tensor:
    if self._activation == 'tanh':
      return restricted_tanh(logits, self._tau)
    return tf.sigmoid(logits) if self._activation == 'sigmoid' else tf.nn.softmax(logits)

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'num_paths': self._num_paths,
        'activation': self._activation,
        'tau': self._tau,
        'coarse': self._coarse,
        'kernel_regularizer': tf_keras.regularizers.serialize(self._kernel_regularizer),
    }
