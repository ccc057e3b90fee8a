"""Computes large 3x3 convolutions with fewer multiplications, in the graph of an export.

`ops.winograd_conv` has a quarter of a convolution's multiplications, and four times its weights.
A convolution becomes that where it expects to save time.
"""
from collections.abc import Iterator, Sequence
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.ops import winograd_conv
from official_ext.serving.compiling import graph_constants
from official_ext.serving.compiling import graph_insertion
from official_ext.serving.compiling import graph_pruning
from official_ext.serving.compiling import graph_shapes
from official_ext.serving.compiling import graph_values


# Multiply-adds that are saved for each byte of the weights, at least.
_LEAST_SAVING = 10


class _Place(NamedTuple):
  """A convolution.

  Attributes:
    scope: the graph or function that it is in.
    node: its node.
    kernel: float32 `[3, 3, channels, filters]`.
    shape: of its map, for one image where the batch is not fixed.
    map: the same, for `winograd_conv`.
    saving: expected, in multiply-adds.
  """
  scope: graph_values.Scope
  node: Any
  kernel: np.ndarray
  shape: tf.TensorShape
  map: winograd_conv.Map
  saving: float


class _Plan(NamedTuple):
  """The convolutions with one kernel, such as those of the levels of a head.

  Attributes:
    places: the convolutions.
    bytes: of the transformed kernel, which every scope gets, and of what makes tiles of the maps.
    saving: expected, in multiply-adds.
  """
  places: Sequence[_Place]
  bytes: int
  saving: float


def replace(graph_def: Any, outputs: Sequence[str], limit: float) -> int:
  """Replaces convolutions in a graph without variables, which is changed.

  Args:
    graph_def: a `GraphDef` with its functions.
    outputs: names of the nodes that are returned.
    limit: the bytes that all constants may have together; kernels that save most for their bytes
      come first.

  Returns:
    The number of convolutions.
  """
  graph = graph_values.Graph(graph_def, outputs)
  size = graph_constants.size(graph) + sum(
      _transform_kernels(graph, scope) for scope in graph.scopes())
  found: dict[int, list[_Place]] = {}
  for place in _places(graph, graph_shapes.Shapes(graph_def, graph)):
    found.setdefault(id(place.kernel), []).append(place)
  plans = [_plan(places) for places in found.values()]
  uses = graph.uses() if plans else {}
  count = 0
  transformed: dict[tuple, str] = {}
  for plan in sorted(plans, key=lambda plan: -plan.saving / plan.bytes):
    kernel, places = plan.places[0].kernel, plan.places
    # A kernel that nothing else uses is left out.
    added = plan.bytes - kernel.nbytes * (uses[id(kernel)] == len(places))
    if size + added <= limit and plan.saving >= _LEAST_SAVING * plan.bytes:
      size, count = size + added, count + len(places)
      weights = winograd_conv.weights(kernel)
      for place in places:
        _apply(place, weights, transformed)
  graph_pruning.prune(graph_def, outputs)
  return count


def _transform_kernels(graph: graph_values.Graph, scope: graph_values.Scope) -> int:
  """Makes constants of what `winograd_conv.weights_in_graph` has added to a graph or function.

  Returns:
    The bytes of the new constants.
  """
  size = 0
  for node in list(scope.nodes.values()):
    if node.op == 'MatMul' and winograd_conv.WEIGHTS_SCOPE in node.name:
      matrix, kernel = (graph.value(scope, tensor) for tensor in node.input[:2])
      if kernel is not None and matrix is not None:
        weights = (matrix.astype(np.float64) @ kernel).astype(np.float32)
        constant, is_new = scope.constant(f'{node.name}/value', weights)
        size += weights.nbytes * is_new
        scope.rename_output(node.name, 'output')
        node.op = 'Identity'
        node.input[:] = [constant]
        kind = node.attr['T'].type
        node.attr.clear()
        node.attr['T'].type = kind
  return size


def _places(graph: graph_values.Graph, shapes: graph_shapes.Shapes) -> Iterator[_Place]:
  """Yields the convolutions for which it is worth it."""
  for scope in graph.scopes():
    for node in list(scope.nodes.values()):
      kernel = graph.value(scope, node.input[1]) if _is_plain(node) else None
      if kernel is None or kernel.shape[:2] != (winograd_conv.KERNEL,) * 2:
        continue
      shape = shapes.shape(scope, node.input[0])
      if shape.rank != 4 or None in shape[1:] or shape[-1] != kernel.shape[2]:
        continue
      own = winograd_conv.Map(shape[1], shape[2], int(node.attr['padding'].s == b'SAME'))
      if saved := winograd_conv.saving([shape[0] or 1, *shape[1:]], own, kernel.shape[3]):
        yield _Place(scope, node, kernel, shape, own, saved)


def _plan(places: Sequence[_Place]) -> _Plan:
  """Returns the plan for convolutions with one kernel."""
  scopes = {place.scope.name for place in places}
  weights = places[0].kernel[0, 0].nbytes * len(scopes)
  # The rows of a map that its tiles are made of, int32.
  rows = 4 * sum(math.prod(place.map.tiles) for place in places)
  return _Plan(places, winograd_conv.PRODUCTS * (weights + rows),
               sum(place.saving for place in places))


def _is_plain(node: Any) -> bool:
  """Returns whether a node convolves every position, with zeros or nothing around the map."""
  return (node.op == 'Conv2D' and node.attr['padding'].s in (b'SAME', b'VALID')
          and node.attr['data_format'].s == b'NHWC'
          and node.attr['T'].type == tf.float32.as_datatype_enum
          and set(node.attr['strides'].list.i) == {1}
          and set(node.attr['dilations'].list.i) <= {1})


def _apply(place: _Place, weights: np.ndarray, transformed: dict[tuple, str]) -> None:
  """Replaces a convolution.

  Args:
    place: the convolution.
    weights: its transformed kernel.
    transformed: scope, map -> its transformed tiles, which convolutions of one map share.
  """
  scope, node, _, shape, own, _ = place
  kernel, _ = scope.constant(f'{node.name}/winograd_weights', weights)
  key = scope.name, node.input[0], own
  if key not in transformed:
    transformed[key] = graph_insertion.insert(
        scope, f'{node.name}/winograd_tiles', lambda x: winograd_conv.tiles(x, own),
        [(node.input[0], [None, *shape[1:]])])
  graph_insertion.insert(
      scope, f'{node.name}/winograd', lambda x, kernel: winograd_conv.multiply(x, kernel, own),
      [(transformed[key], [winograd_conv.PRODUCTS, None, shape[-1]]), (kernel, weights.shape)],
      node)
