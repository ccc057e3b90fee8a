"""A gated residual block in plain NumPy, and patterns of active positions."""
import numpy as np
import tensorflow as tf

from official_ext.ops import sparse_block
import reference

BATCH, HEIGHT, WIDTH, CHANNELS, GROUPS = 3, 6, 7, 8, 4
# Options that make a function compute all positions, list the active ones, or fall back from the
# list to all positions.
VARIANTS = {'mask': {'mode': 'mask'}, 'list': {'break_even': 1.0}, 'fall-back': {'break_even': 0.0}}


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def _masks():
  """Returns the name of a pattern -> boolean `[batch, height, width, 1]`."""
  empty = np.zeros([BATCH, HEIGHT, WIDTH, 1], bool)
  one, corners, blob, several, last = (empty.copy() for _ in range(5))
  one[:, 3, 2] = True
  corners[0, 0, 0] = corners[1, 0, -1] = corners[2, -1, -1] = corners[2, -1, 0] = True
  blob[:, 1:4, 2:5] = True
  several[0, 2, 3] = several[0, 0, 6] = several[2, 1:, :4] = True
  last[-1, 3, 2] = True
  scattered = np.random.default_rng(1).uniform(size=empty.shape) < 0.3
  return {'empty': empty, 'one pixel': one, 'corners': corners, 'blob': blob, 'random': scattered,
          'full': ~empty, 'one image empty': several, 'only the last': last}


MASKS = _masks()


def random_gate(mask):
  """Returns random values in [0.1, 1) at the positions of a mask, and 0 elsewhere."""
  return mask * np.random.default_rng(7).uniform(0.1, 1, size=mask.shape)


def _weights():
  kernels = 0.3 * random(2, 3, 3, CHANNELS, CHANNELS, seed=2)
  gammas, betas = 1 + 0.3 * random(2, CHANNELS, seed=3), random(2, CHANNELS, seed=4)
  return sparse_block.ResidualWeights(
      kernels[0], gammas[0], betas[0], kernels[1], gammas[1], betas[1])


X, WEIGHTS = random(BATCH, HEIGHT, WIDTH, CHANNELS) + 0.5, _weights()


def expected(x, gate, weights, mask=None):
  """Computes the block by its equations.

  Args:
    x: `[batch, height, width, channels]`.
    gate: `[batch, height, width, 1]`.
    weights: a `ResidualWeights` of arrays.
    mask: the active positions; None: where the gate is above 0.
  """
  mask = gate > 0 if mask is None else mask
  hidden = reference.conv2d(x, weights.kernel1)
  hidden = np.maximum(reference.group_norm(
      hidden, reference.dilate(mask), weights.gamma1, weights.beta1, GROUPS), 0)
  hidden = reference.conv2d(hidden, weights.kernel2)
  return gate * reference.group_norm(hidden, mask, weights.gamma2, weights.beta2, GROUPS)


def tensors(*values, dtype=None):
  """Returns arrays, and tuples of arrays, as tensors."""
  return tf.nest.map_structure(lambda value: tf.cast(tf.constant(value), dtype or value.dtype),
                               values)


def gradients(block, x, gate, weights, upstream):
  """Returns gradients of the sum of a block's value times `upstream`: x, gate, each weight."""
  with tf.GradientTape() as tape:
    tape.watch([x, gate, weights])
    loss = tf.reduce_sum(upstream * block(x, gate, weights))
  return tf.nest.flatten(tape.gradient(loss, [x, gate, weights]))


def check_finite_differences(block, pattern):
  """Compares each gradient with a finite difference in one direction, for fixed positions."""
  mask, upstream = MASKS[pattern], random(*X.shape, seed=6)
  inputs = [X, random_gate(mask), *WEIGHTS]
  found = gradients(block, *tensors(X, random_gate(mask), WEIGHTS), upstream)
  for number, (value, gradient) in enumerate(zip(inputs, found)):
    # A gate of 0 must stay 0, so that the active positions do not change.
    direction = random(*value.shape, seed=number) * (mask if number == 1 else 1)
    ends = []
    for step in (1e-6, -1e-6):
      x, gate, *weights = [*inputs[:number], value + step * direction, *inputs[number + 1:]]
      weights = sparse_block.ResidualWeights(*weights)
      ends.append(np.sum(upstream * expected(x, gate, weights, mask)))
    np.testing.assert_allclose(
        np.sum(direction * gradient), (ends[0] - ends[1]) / 2e-6, 1e-5, 1e-7)
    if number == 1:
      np.testing.assert_array_equal(gradient.numpy()[~mask], 0)


def signature(dtype=tf.float32):
  """Returns the input signature of a function of a map and its gate, of any size."""
  return [tf.TensorSpec([None, None, None, CHANNELS], dtype),
          tf.TensorSpec([None, None, None, 1], dtype)]
