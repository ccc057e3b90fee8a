"""Functions as TensorFlow graphs, and with their gradients: what several benchmarks time."""
from collections.abc import Callable
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from official_ext.serving.engines import openvino
from official_ext.serving import signatures


def with_gradients(function: Callable[..., tf.Tensor]) -> Callable[..., Any]:
  """Returns a function that computes the gradients of `sum(function(*args)**2)` to all `args`."""

  def gradients(*args):
    with tf.GradientTape() as tape:
      tape.watch(args)
      loss = tf.reduce_sum(tf.square(function(*args)))
    return tape.gradient(loss, args, unconnected_gradients=tf.UnconnectedGradients.ZERO)

  return gradients


def traced(function: Callable[..., Any], *args: Any, compiled: bool = False) -> Callable[..., Any]:
  """Traces a function once, so that calls take no time for the choice of a graph.

  Args:
    function: of nested tensors.
    *args: of the shapes and dtypes that it will be called with.
    compiled: whether XLA compiles it.

  Returns:
    A function of arguments of these shapes and dtypes.
  """
  specs = tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), args)
  # The signature must have no optional arguments: with such a one, or with flattened arguments,
  # every call first writes an error message with all values, which takes milliseconds.
  concrete = tf.function(lambda *values: function(*values), autograph=False,
                         jit_compile=compiled).get_concrete_function(*specs)
  return lambda *values: concrete(*values)


def in_openvino(function: Any, threads: int | None = None) -> openvino.Model:
  """Returns a concrete function as OpenVINO runs it.

  Args:
    function: of named tensors that returns a dictionary.
    threads: number of threads; None: OpenVINO's choice.
  """
  with tempfile.TemporaryDirectory() as folder:
    source, converted = pathlib.Path(folder, 'source'), pathlib.Path(folder, 'converted')
    converted.mkdir()
    module = tf.Module()
    module.run, module.weights = function, function.variables
    tf.saved_model.save(module, str(source), signatures={signatures.DEFAULT: function})
    openvino.convert(source, signatures.DEFAULT, converted)
    return openvino.Model(converted, threads)
