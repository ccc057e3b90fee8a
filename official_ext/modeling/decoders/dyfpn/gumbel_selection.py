"""One-hot choices from logits: drawn in training, the most probable path at inference.

Choices are float32 under any precision policy, because low precision draws infinite noise.
"""
from typing import Any, NamedTuple

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import noise_counter
from official_ext.ops import checks
from official_ext.ops import noise
from official_ext.ops import routing

EVALUATIONS = ('argmax', 'random')


class Choice(NamedTuple):
  """A choice of one of several paths.

  Attributes:
    gate: float32 `[batch, levels, paths]`, one-hot; in training it has the gradient of the soft
      sample.
    expected: float32 `[batch, levels, paths]`, the gates that a budget pulls on: `gate` in
      training, the probabilities at inference.
    probability: float32 `[batch, levels, paths]`, that each path is drawn without temperature.
  """
  gate: tf.Tensor
  expected: tf.Tensor
  probability: tf.Tensor


@tf_keras.utils.register_keras_serializable(package='official_ext')
class GumbelSelection(tf_keras.layers.Layer):
  """Chooses one path for each row of logits (DyFPN, eqs. 4-5).

  In training it takes softmax((logits + Gumbel noise) / temperature), made one-hot with a
  straight-through gradient.  At inference it takes the largest logit without noise, unless an
  open routing tape has `sample_gates`: then it draws as in training.

  The noise is a function of the layer's name, a counter that checkpoints keep, and the replica:
  replicas draw different noise, and a resumed run draws what the unbroken run would have drawn.
  """

  def __init__(self, temperature: float = 1.0, evaluation: str = 'argmax', seed: int = 0,
               always_draws: bool = False, **kwargs):
    """Initializes the selection.

    Args:
      temperature: temperature of the softmax (tau), positive.
      evaluation: the choice at inference: `argmax`, the largest logit, or `random`, each path
        with equal probability whatever the logits (for the ablation of Table 5).
      seed: seed of the noise.
      always_draws: whether `argmax` draws at inference too, as in training; for logits that are
        the same for all images, whose largest one is always the same path.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: a temperature that is not positive, or an unknown evaluation.
    """
    kwargs['dtype'] = 'float32'
    super().__init__(**kwargs)
    checks.check_positive('temperature', temperature)
    checks.check_one_of('evaluation', evaluation, EVALUATIONS)
    self._temperature = temperature
    self._evaluation = evaluation
    self._seed = seed
    self._always_draws = always_draws

  def build(self, input_shape: tf.TensorShape) -> None:
    self._counter = noise_counter.add_noise_counter(self, 'noise_counter')
    super().build(input_shape)

  def _gumbel(self, shape: tf.Tensor) -> tf.Tensor:
    """Draws Gumbel(0, 1) noise, float32, and increments the counter."""
    steps = noise.uniform_steps(self.name, self._seed, self._counter.read_value(), shape)
    self._counter.assign_add(1)
    # The numbers lie between the steps, because the logarithm of 0 is infinite.  They have 23
    # bits, because with 24 bits the largest one would be rounded to 1.
    uniform = (steps + 0.5) * 2.0**-23
    return -tf.math.log(-tf.math.log(uniform))

  def _draws_at_inference(self) -> bool:
    tape = routing.RoutingTape.current()
    return self._always_draws or (tape is not None and tape.sample_gates)

  def call(self, logits: tf.Tensor, training: bool | None = None) -> Choice:
    """Chooses a path.

    Args:
      logits: float32 `[..., paths]`.
      training: Python bool; None counts as False.

    Returns:
      Gates, expected gates and probabilities, all of the shape of `logits`.
    """
    probability = tf.nn.softmax(logits)
    if not training and self._evaluation == 'random':
      logits, probability = tf.zeros_like(logits), tf.ones_like(logits) / logits.shape[-1]
    elif not training and not self._draws_at_inference():
      return Choice(self._one_hot(logits), probability, probability)
    noisy = (logits + self._gumbel(tf.shape(logits))) / self._temperature
    hard = self._one_hot(noisy)
    if not training:
      return Choice(hard, probability, probability)
    soft = tf.nn.softmax(noisy)
    gate = tf.stop_gradient(hard - soft) + soft
    return Choice(gate, gate, probability)

  def _one_hot(self, logits: tf.Tensor) -> tf.Tensor:
    return tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1])

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'temperature': self._temperature,
        'evaluation': self._evaluation,
        'seed': self._seed,
        'always_draws': self._always_draws,
    }
