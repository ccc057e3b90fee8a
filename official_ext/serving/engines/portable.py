"""Puts functions of common operations in place of operations that an engine lacks.

The SavedModel keeps TensorFlow's operation, which is the fastest there; what is converted has the
function.
"""
from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_values


def sample_centers(maps: tf.Tensor, boxes: tf.Tensor, images: tf.Tensor, size: tf.Tensor
                   ) -> tf.Tensor:
  """`CropAndResize` of crops of one pixel: the bilinear value at the center of each box.

  Args:
    maps: float32 `[batch, height, width, channels]`.
    boxes: float32 `[boxes, 4]`, top, left, bottom and right in shares of height - 1 and width - 1.
    images: int32 `[boxes]`, the map of each box.
    size: int32 `[2]`, which has to be 1 and 1.

  Returns:
    `[boxes, 1, 1, channels]`; 0 where the center is not between centers of pixels.
  """
  del size
  shape = tf.shape(maps)
  height, width = shape[1], shape[2]
  table = tf.reshape(maps, [shape[0] * height * width, shape[3]])
  sides = tf.cast(tf.stack([height, width]) - 1, tf.float32)
  centers = 0.5 * (boxes[:, :2] + boxes[:, 2:]) * sides
  is_inside = tf.reduce_all((centers >= 0) & (centers <= sides), 1)
  centers = tf.where(is_inside[:, None], centers, 0.0)
  start = tf.floor(centers)
  share = centers - start
  first, last = (tf.cast(x, tf.int32) for x in (start, tf.math.ceil(centers)))

  def row(vertical: tf.Tensor) -> tf.Tensor:
    begin = (images * height + vertical) * width
    left, right = (tf.gather(table, begin + corner[:, 1]) for corner in (first, last))
    return left + (right - left) * share[:, 1, None]

  top, bottom = row(first[:, 0]), row(last[:, 0])
  values = tf.where(is_inside[:, None], top + (bottom - top) * share[:, 0, None], 0.0)
  return values[:, None, None]


def segment_sum(table: tf.Tensor, rows: tf.Tensor, segments: tf.Tensor, count: tf.Tensor
                ) -> tf.Tensor:
  """`SparseSegmentSumWithNumSegments`: sums of listed rows of a table.

  Args:
    table: float32 `[rows, channels]`.
    rows: int32 `[entries]`, the row of each entry.
    segments: int32 `[entries]`, the sum that the entry belongs to.
    count: int32 scalar, the number of sums.

  Returns:
    `[count, channels]`.
  """
  return tf.math.unsorted_segment_sum(tf.gather(table, rows), segments, count)


def sorted_segment_sum(rows: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
  """`SegmentSum`, for segments with gaps too, which LiteRT's own operation refuses.

  Args:
    rows: `[rows, channels]`.
    segments: int32 `[rows]`, the sum that the row belongs to, in ascending order.

  Returns:
    `[last segment + 1, channels]`, 0 for segments without rows; no sum of no rows.
  """
  count = tf.reduce_max(tf.pad(segments, [[0, 1]], constant_values=-1)) + 1
  return tf.math.unsorted_segment_sum(rows, segments, count)


def suppress(boxes: tf.Tensor, scores: tf.Tensor, count: tf.Tensor, iou_threshold: tf.Tensor,
             score_threshold: tf.Tensor) -> tf.Tensor:
  """`NonMaxSuppressionV3`, by the operation that fills its result with zeros to a fixed size.

  Args:
    boxes: float32 `[boxes, 4]`.
    scores: float32 `[boxes]`.
    count: int32 scalar, the largest number of results.
    iou_threshold: float32 scalar, the overlap above which the lower-scored box is dropped.
    score_threshold: float32 scalar; boxes have a score above this.

  Returns:
    int32 `[results]`, rows of boxes.
  """
  kept, valid = tf.raw_ops.NonMaxSuppressionV4(
      boxes=boxes, scores=scores, max_output_size=count, iou_threshold=iou_threshold,
      score_threshold=score_threshold, pad_to_max_output_size=True)
  return kept[:valid]


class _Substitute(NamedTuple):
  """A function that takes the place of an operation.

  Attributes:
    function: computes the same from the operation's inputs.
    specs: the inputs.
    fits: whether the function can take the place of a node; given the node and the known values
      of its inputs.
  """
  function: Callable[..., tf.Tensor]
  specs: tuple[tf.TensorSpec, ...]
  fits: Callable[[Any, list[np.ndarray | None]], bool]


def _is_crop_of_one_pixel(node: Any, values: list[np.ndarray | None]) -> bool:
  size = values[3]
  return (size is not None and bool(np.all(size == 1)) and node.attr['T'].type == tf.float32
          and node.attr['method'].s == b'bilinear' and not node.attr['extrapolation_value'].f)


def _has_usual_types(node: Any, values: list[np.ndarray | None]) -> bool:
  del values
  kinds = (node.attr[name].type for name in ('Tidx', 'Tsegmentids', 'Tnumsegments'))
  return node.attr['T'].type == tf.float32 and all(kind == tf.int32 for kind in kinds)


def _adds(kind: tf.DType, node: Any, values: list[np.ndarray | None]) -> bool:
  del values
  return node.attr['T'].type == kind and node.attr['Tindices'].type == tf.int32


def _is_float32(node: Any, values: list[np.ndarray | None]) -> bool:
  del values
  return all(node.attr[name].type == tf.float32 for name in ('T', 'T_threshold'))


# An operation's substitutes, one for each combination of types that networks have.
_SUBSTITUTES: dict[str, tuple[_Substitute, ...]] = {
    'CropAndResize': (_Substitute(
        sample_centers, (tf.TensorSpec([None] * 4), tf.TensorSpec([None, 4]),
                         tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int32)),
        _is_crop_of_one_pixel),),
    'SegmentSum': tuple(_Substitute(
        sorted_segment_sum, (tf.TensorSpec([None, None], kind), tf.TensorSpec([None], tf.int32)),
        functools.partial(_adds, kind)) for kind in (tf.float32, tf.int32)),
    'SparseSegmentSumWithNumSegments': (_Substitute(
        segment_sum, (tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int32),
                      tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)),
        _has_usual_types),),
    'NonMaxSuppressionV3': (_Substitute(
        suppress, (tf.TensorSpec([None, 4]), tf.TensorSpec([None]), tf.TensorSpec([], tf.int32),
                   tf.TensorSpec([]), tf.TensorSpec([])), _is_float32),),
}
OPERATIONS = tuple(_SUBSTITUTES)


def has(function: Any, operations: Sequence[str]) -> bool:
  """Returns whether a concrete function, or a function that it calls, has one of some operations.

  Args:
    function: a concrete function.
    operations: names of operations.
  """
  graph_def = function.graph.as_graph_def()
  return any(node.op in operations for nodes in (
      graph_def.node, *(each.node_def for each in graph_def.library.function)) for node in nodes)


def replace(function: Any, operations: Sequence[str] = OPERATIONS) -> Any:
  """Returns a function that computes the same without some operations.

  An operation stays if its types or sizes are not those of this package's networks.

  Args:
    function: a concrete function of tensors that returns a dictionary of tensors.
    operations: those to replace, of `OPERATIONS`.

  Returns:
    A concrete function of the same signature, with constants for variables.
  """

  def change(graph_def: Any, outputs: list[str]) -> Any:
    graph = graph_values.Graph(graph_def, outputs)
    substitutes = [(name, each) for name in operations for each in _SUBSTITUTES[name]]
    for name, substitute in substitutes:
      definition = tf.function(substitute.function, substitute.specs, autograph=False
                               ).get_concrete_function().function_def
      found = [(scope, node) for scope in graph.scopes() for node in scope.nodes.values()
               if node.op == name and substitute.fits(
                   node, [graph.value(scope, tensor) for tensor in node.input])]
      for scope, node in found:
        # TensorFlow inlines calls in the graph, but would rewrite those in the bodies of loops once
        # for every call, under one name.
        if scope.name:
          _inline(scope, node, definition)
        else:
          _call(node, definition)
      if found:
        graph_def.library.function.append(definition)
    return graph_def

  return frozen.rewrite(function, change)


def _call(node: Any, definition: Any) -> None:
  """Makes of a node of the graph a call of a function."""
  node.op = 'PartitionedCall'
  node.attr.clear()
  node.attr['f'].func.name = definition.signature.name
  for kind, arguments in (('Tin', definition.signature.input_arg),
                          ('Tout', definition.signature.output_arg)):
    node.attr[kind].list.type.extend(argument.type for argument in arguments)


def _inline(scope: graph_values.Scope, node: Any, definition: Any) -> None:
  """Copies the nodes of a function before a node of a function, which becomes their result."""
  given = dict(zip([argument.name for argument in definition.signature.input_arg], node.input))

  def renamed(tensor: str) -> str:
    if tensor in given:
      return given[tensor]
    is_control = tensor.startswith('^')
    return f'{"^" * is_control}{node.name}/{tensor[is_control:]}'

  for inner in definition.node_def:
    scope.copy(inner, f'{node.name}/{inner.name}', map(renamed, inner.input))
  controls = [tensor for tensor in node.input if tensor.startswith('^')]
  result, = definition.signature.output_arg
  node.op = 'Identity'
  node.attr.clear()
  node.attr['T'].type = result.type
  del node.input[:]
  node.input.extend([renamed(definition.ret[result.name]), *controls])
  scope.rename_output(node.name, 'output')
