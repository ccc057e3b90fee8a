"""One-hot choices from logits: sampled in training, the most probable one at inference.

float32 under any precision policy: low precision draws infinite noise.
"""
from typing import Any, Dict, NamedTuple, Optional

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import noise_counter
from official_ext.ops import noise
from official_ext.ops import routing

EVALUATIONS = ('argmax', 'sampled', 'random')


class Selection(NamedTuple):
  """A choice between paths.

  Attributes:
    gate: float32 `[batch, levels, paths]`, one-hot; in training with the gradient of
      the soft sample.
    expected: the same shape; what a budget pulls on: `gate` in training, the
      probabilities at inference.
  """
  gate: tf.Tensor
  expected: tf.Tensor


@tf_keras.utils.register_keras_serializable(package='official_ext')
class GumbelSelection(tf_keras.layers.Layer):
  """Chooses one path per row of logits (DyFPN, eqs. 4-5).

  Training: softmax((logits + Gumbel noise) / temperature), made one-hot with a
  straight-through gradient.  Inference: the largest logit, without noise.

  The noise is a function of the layer's name, a counter that checkpoints keep, and the
  replica: replicas draw different noise, and a resumed run draws what the unbroken run
  would have drawn.
  """

  def __init__(self, temperature: float = 1.0, evaluation: str = 'argmax', seed: int = 0,
               **kwargs):
    """Initializes the selection.

    Args:
      temperature: of the softmax (tau), positive.
      evaluation: at inference `argmax`; `sampled`, as in training; or `random`, every
        path alike whatever the logits say (Table 5).  The last two are for ablations.
      seed: changes the noise.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ValueError: temperature not positive, or unknown evaluation.
    """
    kwargs['dtype'] = 'float32'
    super().__init__(**kwargs)
    if temperature <= 0:
      raise ValueError(f'gate.temperature is {temperature}; it must be positive.')
    if evaluation not in EVALUATIONS:
      raise ValueError(f'gate.evaluation is {evaluation!r}; allowed are {EVALUATIONS}.')
    self._temperature = temperature
    self._evaluation = evaluation
    self._seed = seed

  def build(self, input_shape: tf.TensorShape) -> None:
    self._counter = noise_counter.add_noise_counter(self, 'noise_counter')
    super().build(input_shape)

  def _gumbel(self, shape: tf.Tensor) -> tf.Tensor:
    """Draws Gumbel(0, 1) noise, float32, and moves the counter on."""
    steps = noise.uniform_steps(self.name, self._seed, self._counter.read_value(), shape)
    self._counter.assign_add(1)
    # Between the steps: 0 is an infinite logit, and with 24 bits the largest one rounds to 1.
    uniform = (steps + 0.5) * 2.0**-23
    return -tf.math.log(-tf.math.log(uniform))

  def call(self, logits: tf.Tensor, training: Optional[bool] = None) -> Selection:
    """Chooses a path.

    Args:
      logits: float32 `[..., paths]`.
      training: Python bool; None counts as False.

    Returns:
      A `Selection` of the shape of `logits`.
    """
    tape = routing.RoutingTape.current()
    probability = tf.nn.softmax(logits)
    evaluation = self._evaluation
    if evaluation == 'argmax' and tape is not None and tape.sample_gates:
      evaluation = 'sampled'
    if not training and evaluation == 'random':
      logits, probability = tf.zeros_like(logits), tf.ones_like(logits) / logits.shape[-1]
    if not training and evaluation == 'argmax':
      return Selection(self._one_hot(logits), probability)
    noisy = (logits + self._gumbel(tf.shape(logits))) / self._temperature
    hard = self._one_hot(noisy)
    if not training:
      return Selection(hard, probability)
    soft = tf.nn.softmax(noisy)
    gate = tf.stop_gradient(hard - soft) + soft
    return Selection(gate, gate)

  def _one_hot(self, logits: tf.Tensor) -> tf.Tensor:
    return tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1])

  def get_config(self) -> Dict[str, Any]:
    return {
        **super().get_config(),
        'temperature': self._temperature,
        'evaluation': self._evaluation,
        'seed': self._seed,
    }
