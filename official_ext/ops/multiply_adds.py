"""Multiply-adds: of the operations that we route, and of a whole TensorFlow graph.

One multiply-add is one multiplication with the addition that follows it; papers
often call two of them "2 FLOPs".  Additions of biases, normalization, activations,
pooling and interpolation are not counted, as is usual for detectors.
"""
import math
from typing import Any, Callable, Dict, List, Optional, Sequence

import tensorflow as tf, tf_keras

from official_ext.ops import sampling


def conv2d(features: tf.Tensor, taps: Sequence[int], filters: int) -> tf.Tensor:
  """Multiply-adds of convolutions of stride 1 for one image.

  Args:
    features: the input, `[batch, height, width, channels]`.
    taps: kernel height times kernel width of each convolution; dilation does not matter.
    filters: channels of the result.

  Returns:
    float32 `[len(taps)]`.
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
  """Returns what is kept of a convolution: a dilated one runs on interleaved, padded rows."""
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
  """Every combination of the indices is one multiply-add, whatever is summed."""
  labels = op.get_attr('equation').decode().split('->')[0].split(',')
  sizes = {}
  for label, tensor in zip(labels, op.inputs):
    _elements(tensor.shape, op)
    if '.' in label:
      # What the ellipsis stands for is aligned at its last axis.
      rest = len(tensor.shape) - len(label.replace('...', ''))
      label = label.replace('...', ''.join(f'{axis}' for axis in reversed(range(rest))))
    for index, size in zip(label, tensor.shape):
      sizes[index] = max(size, sizes.get(index, 1))
  return math.prod(sizes.values()) if len(labels) > 1 else 0


_COUNTERS: Dict[str, Callable[[tf.Operation], int]] = {
    'Conv2D': _conv2d,
    'DepthwiseConv2dNative': _depthwise_conv2d,
    'Conv2DBackpropInput': _transposed_conv2d,
    'MatMul': _matmul,
    'BatchMatMulV2': _batch_matmul,
    'Einsum': _einsum,
}


def _bodies(op: tf.Operation) -> List[str]:
  """Returns the names of the functions that an operation calls, its loop condition left out."""
  names = []
  for attribute in ('f', 'body', 'then_branch', 'else_branch', 'branches'):
    try:
      value = op.get_attr(attribute)
    except ValueError:
      continue
    values = value if isinstance(value, list) else [value]
    names += [body.name for body in values if hasattr(body, 'name')]
  return names


def count_graph(graph: tf.Graph, scope: Optional[Callable[[str], Any]] = None) -> int:
  """Counts the multiply-adds of a graph, the bodies of its functions included.

  Count the graph that computes every branch (training, or `inference: mask`); the
  graph that skips has unknown batch sizes in its branches.  A loop body is counted
  once and all branches of a conditional are counted: Model Garden's loops and
  conditionals (non-maximum suppression) hold no convolution.

  Args:
    graph: a traced graph, such as `concrete_function.graph`.
    scope: if given, only operations whose name it accepts are counted.

  Returns:
    The sum over the batch that the graph was traced with.

  Raises:
    ValueError: an operation's shape is not fully known.
  """
  total = 0
  for op in graph.get_operations():
    if op.type in _COUNTERS:
      interpolates = sampling.RESIZE_SCOPE in op.name
      if not interpolates and (scope is None or scope(op.name)):
        total += _COUNTERS[op.type](op)
      continue
    for name in _bodies(op):
      # No public way leads from an operation to the graph of its body.
      total += count_graph(graph._get_function(name).graph, scope)  # pylint: disable=protected-access
  return total


def count_model(model: tf_keras.Model, image_size: Sequence[int], **call_options: Any) -> int:
  """Counts the multiply-adds that a model's dense graph needs for one image.

  Args:
    model: called with images `[1, height, width, 3]`.
    image_size: `(height, width)`.
    **call_options: passed to the model's call.

  Returns:
    Multiply-adds of one image, every branch of routed parts included.
  """
  function = tf.function(lambda images: model(images, **call_options), autograph=False)
  spec = tf.TensorSpec([1, *image_size, 3], tf.float32)
  return count_graph(function.get_concrete_function(spec).graph)
