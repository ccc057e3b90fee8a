"""Counts multiply-adds of single convolutions and of whole TensorFlow graphs.

A multiply-add is a multiplication with the addition that follows it, which papers often count
as two FLOPs.  Additions of biases, normalization, activations, pooling and interpolation are
not counted, as is usual for detectors.
"""
from collections.abc import Callable, Sequence
import math

import tensorflow as tf

from official_ext.ops import sampling


def conv2d_cost(features: tf.Tensor, taps: Sequence[int], filters: int) -> tf.Tensor:
  """Returns the cost of convolutions of stride 1 for one image.

  Args:
    features: their common input, `[batch, height, width, channels]`.
    taps: kernel height times kernel width of each convolution; dilation does not matter.
    filters: channels of the result.

  Returns:
    Multiply-adds, float32 `[len(taps)]`.
  """
  size = tf.cast(tf.shape(features)[1] * tf.shape(features)[2], tf.float32)
  return size * tf.constant([float(tap * features.shape[-1] * filters) for tap in taps])


def _elements(shape: tf.TensorShape, op: tf.Operation) -> int:
  if not shape.is_fully_defined():
    raise ValueError(
        f'{op.type} {op.name!r} has the shape {shape}: multiply-adds are counted for known '
        'sizes only.  Trace with a fixed batch and image size, and with `inference: mask`.')
  return shape.num_elements()


def _result(op):
  """Returns the result of a convolution without padding.

  Keras runs a dilated convolution on interleaved, padded rows, and `BatchToSpaceND` crops them.
  """
  kept = [user for user in op.outputs[0].consumers() if user.type == 'BatchToSpaceND']
  return (kept[0] if kept else op).outputs[0]


def _conv2d(op):
  height, width, channels, _ = op.inputs[1].shape
  return _elements(_result(op).shape, op) * height * width * channels


def _depthwise_conv2d(op):
  height, width, _, _ = op.inputs[1].shape
  return _elements(_result(op).shape, op) * height * width


def _transposed_conv2d(op):
  height, width, channels, _ = op.inputs[1].shape
  return _elements(op.inputs[2].shape, op) * height * width * channels


def _matmul(op):
  inner = op.inputs[0].shape[0 if op.get_attr('transpose_a') else 1]
  return _elements(op.outputs[0].shape.concatenate(inner), op)


def _batch_matmul(op):
  inner = op.inputs[0].shape[-2 if op.get_attr('adj_x') else -1]
  return _elements(op.outputs[0].shape.concatenate(inner), op)


def _einsum(op):
  """Counts one multiply-add for each combination of the indices."""
  labels = op.get_attr('equation').decode().split('->')[0].split(',')
  sizes: dict[str, int] = {}
  for label, tensor in zip(labels, op.inputs):
    _elements(tensor.shape, op)
    if '.' in label:
      # Broadcasting aligns the axes of an ellipsis at the last one.
      rest = len(tensor.shape) - len(label.replace('...', ''))
      label = label.replace('...', ''.join(f'{axis}' for axis in reversed(range(rest))))
    for index, size in zip(label, tensor.shape):
      sizes[index] = max(size, sizes.get(index, 1))
  return math.prod(sizes.values()) if len(labels) > 1 else 0


_COUNTERS: dict[str, Callable[[tf.Operation], int]] = {
    'Conv2D': _conv2d,
    'DepthwiseConv2dNative': _depthwise_conv2d,
    'Conv2DBackpropInput': _transposed_conv2d,
    'MatMul': _matmul,
    'BatchMatMulV2': _batch_matmul,
    'Einsum': _einsum,
}


def _bodies(op: tf.Operation) -> list[str]:
  """Returns the names of the functions that an operation calls, without a loop's condition."""
  names = []
  for attribute in ('f', 'body', 'then_branch', 'else_branch', 'branches'):
    try:
      value = op.get_attr(attribute)
    except ValueError:
      continue
    values = value if isinstance(value, list) else [value]
    names += [body.name for body in values if hasattr(body, 'name')]
  return names


def count_graph(graph: tf.Graph, end: int | None = None) -> int:
  """Counts the multiply-adds of a graph, including the bodies of its functions.

  Count a graph that computes every branch (`inference: mask`): in a graph that skips, branches
  have unknown batch sizes, and training may compute sums of branches at once.  The body of a loop
  is counted once, and all branches of a conditional are counted.  This does not distort Model
  Garden's detectors, because their loops and conditionals (non-maximum suppression) hold no
  convolution.

  Args:
    graph: a traced graph, such as `concrete_function.graph`.
    end: number of operations to count, in the order in which they were made; None: all.

  Returns:
    Multiply-adds, summed over the batch that the graph was traced with.

  Raises:
    ValueError: an operation's shape is not fully known.
  """
  total = 0
  for op in graph.get_operations()[:end]:
    if op.type in _COUNTERS:
      if sampling.RESIZE_SCOPE not in op.name:
        total += _COUNTERS[op.type](op)
      continue
    for name in _bodies(op):
      # TensorFlow has no public function for the graph of an operation's body.
      total += count_graph(graph._get_function(name).graph)
  return total
