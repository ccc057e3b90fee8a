"""The check that `offset_rate` of a network slows its offsets, and nothing else."""
import numpy as np
import tensorflow as tf

import spies

_RATE = 0.125


def check(make, loss, inputs, offsets):
  """Compares gradients at a rate of 1 and at a smaller one, which change no value.

  Args:
    make: returns a built layer, given the rate.
    loss: function of the layer and the inputs to a scalar.
    inputs: tensors, whose gradients stay too.
    offsets: number of the variables of offsets.
  """
  fast, slow = (_gradients(make(rate), loss, inputs) for rate in (1.0, _RATE))
  np.testing.assert_array_equal(slow[0], fast[0])
  slowed = 0
  for (name, found), (_, full) in zip(slow[1], fast[1], strict=True):
    factor = _RATE if '/offset/' in name else 1.0
    slowed += factor < 1
    assert np.any(full), name
    np.testing.assert_allclose(
        found, factor * full, 1e-4, 1e-5 * np.max(np.abs(full)), err_msg=name)
  assert slowed == offsets


def _gradients(layer, loss, inputs):
  """Returns the loss, and name and gradient of all trainable variables and of the inputs."""
  spies.randomize(layer)
  variables = layer.trainable_variables
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    value = loss(layer, inputs)
  gradients = tape.gradient(value, [*variables, *inputs])
  names = [*(variable.name for variable in variables), *('input' for _ in inputs)]
  return value.numpy(), list(zip(names, map(np.array, gradients)))
