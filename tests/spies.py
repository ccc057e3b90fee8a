"""Watches what TensorFlow really runs, and makes gates decide as a test wants."""
import contextlib
import math
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_callbacks

from official_ext.modeling.decoders.dyfpn import gumbel_selection


CONDITIONALS = ('If', 'StatelessIf', 'Case', 'StatelessCase')


class OperationSpy:
  """Counts the multiply-adds of operations executed eagerly while it is open.

  Attributes:
    rows: rows of the batch that each convolution received, in order.
    multiply_adds: of convolutions and matrix products.
  """

  def __init__(self):
    self.rows = []
    self.multiply_adds = 0
    self._last = 0

  def _see(self, op_type, inputs, attrs, outputs, op_name=None, graph=None):
    del attrs, op_name
    if graph is not None:
      return
    kind = op_type.decode() if isinstance(op_type, bytes) else op_type
    if kind == 'Conv2D':
      height, width, depth, _ = inputs[1].shape
      self._last = math.prod(outputs[0].shape) * height * width * depth
      self.rows.append(inputs[0].shape[0])
      self.multiply_adds += self._last
    elif kind == 'BatchToSpaceND':
      # A dilated convolution ran on interleaved rows, padded; count what is kept of it.
      kept = self._last * math.prod(outputs[0].shape) // math.prod(inputs[0].shape)
      self.multiply_adds += kept - self._last
      self.rows[-1] = outputs[0].shape[0]
    elif kind == 'DepthwiseConv2dNative':
      height, width, _, _ = inputs[1].shape
      self.multiply_adds += math.prod(outputs[0].shape) * height * width
    elif kind == 'MatMul':
      self.multiply_adds += math.prod(outputs[0].shape) * inputs[0].shape[1]

  def __enter__(self):
    op_callbacks.add_op_callback(self._see)
    return self

  def __exit__(self, *unused):
    op_callbacks.remove_op_callback(self._see)


def costs_of(record):
  """The costs of a routing record, in the order of its fields."""
  return [record.executed, record.expected, record.minimum, record.maximum, record.all_branches]


SOFT = (0.75, 0.0625)


@contextlib.contextmanager
def forced_gates(gate):
  """Makes every selection return this gate, `[batch, levels, paths]`, whatever the logits.

  What a budget pulls on is the gate in training, and at inference, as always, something softer:
  the gate times the first number of `SOFT`, plus the second.
  """
  gate = tf.convert_to_tensor(gate, tf.float32)

  def call(self, logits, training=None):
    del self, logits
    soft = SOFT[0] * gate + SOFT[1]
    return gumbel_selection.Choice(gate, gate if training else soft, soft)

  with mock.patch.object(gumbel_selection.GumbelSelection, 'call', call):
    yield


def randomize(layer, seed=0):
  """Gives every variable a value of its own: kernels around 0, all others around 1."""
  rng = np.random.default_rng(seed)
  for variable in sorted(layer.variables, key=lambda variable: variable.name):
    if variable.dtype.is_floating:
      kernel = 'kernel' in variable.name
      value = rng.normal(0, 0.2, variable.shape) if kernel else rng.uniform(0.5, 1, variable.shape)
      variable.assign(value.astype(variable.dtype.as_numpy_dtype))


def conditional_operations(graph, inside=False):
  """Yields convolutions and products of a graph, and whether a conditional decides about each."""
  for op in graph.get_operations():
    if op.type in ('Conv2D', 'MatMul'):
      yield op, inside
    for attribute in ('f', 'then_branch', 'else_branch', 'branches', 'body'):
      try:
        value = op.get_attr(attribute)
      except ValueError:
        continue
      for body in value if isinstance(value, list) else [value]:
        if hasattr(body, 'name'):
          yield from conditional_operations(
              graph._get_function(body.name).graph, inside or op.type in CONDITIONALS)
