"""Gradients that differ from those of the values, by hand."""
import numpy as np
import tensorflow as tf

from official_ext.ops import gradients


def test_the_value_stays_and_its_gradient_is_multiplied():
  """The gradient of x**3 + x, where that of the cube is multiplied by a third."""
  x = tf.constant([0.1, -2.0, 3e7, 1e-30])
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = gradients.scaled(x, 1 / 3)
    loss = tf.reduce_sum(value**3 + x)
  np.testing.assert_array_equal(value, x)
  np.testing.assert_allclose(tape.gradient(loss, x), x**2 + 1, 1e-6)


def test_factor_one_adds_no_operation():
  x = tf.constant(1.0)
  assert gradients.scaled(x, 1.0) is x
