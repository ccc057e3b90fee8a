"""Computes large convolutions with fewer multiplications, in the graph of an export.

`ops.winograd_conv` has a quarter of the multiplications of a 3x3 convolution and four times its
weights; of one of 5x5 a sixth and two and a half times.  A convolution becomes that where it
expects to save time.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.ops import export_expectation
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
    kernel: float32 `[3, 3, channels, filters]`, or of 5x5.
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
    bytes: that are added: by the transformed kernel and by what makes tiles of the maps.
    saving: expected, in multiply-adds.
    is_changed: whether the constant of the kernel becomes the transformed one, because nothing else
      uses it; otherwise every scope gets a constant.
  """
  places: Sequence[_Place]
  bytes: int
  saving: float
  is_changed: bool


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
  uses = graph.uses() if found else {}
  plans = [_plan(graph, places, uses) for places in found.values()]
  count = 0
  transformed: dict[tuple, str] = {}
  for plan in sorted(plans, key=lambda plan: -plan.saving / plan.bytes):
    if size + plan.bytes <= limit and plan.saving >= _LEAST_SAVING * plan.bytes:
      size, count = size + plan.bytes, count + len(plan.places)
      _apply(graph, plan, transformed)
  if count:
    graph_pruning.forget_shapes(graph_def)  # They may be those of a kernel.
  graph_pruning.prune(graph_def, outputs)
  return count


def _transform_kernels(graph: graph_values.Graph, scope: graph_values.Scope) -> int:
  """Makes constants of what `export_expectation.weights_in_graph` has added to a graph or function.

  Returns:
    The bytes of the new constants.
  """
  size = 0
  for node in list(scope.nodes.values()):
    if node.op == 'MatMul' and export_expectation.WEIGHTS_SCOPE in node.name:
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
      if kernel is None or kernel.shape[0] != kernel.shape[1] or (
          len(kernel) not in winograd_conv.TILES):
        continue
      shape = shapes.shape(scope, node.input[0])
      if shape.rank != 4 or None in shape[1:] or shape[-1] != kernel.shape[2]:
        continue
      own = _map(node, shape, winograd_conv.TILES[len(kernel)])
      if saved := winograd_conv.saving([shape[0] or 1, *shape[1:]], own, kernel.shape[3]):
        yield _Place(scope, node, kernel, shape, own, saved)


def _map(node: Any, shape: tf.TensorShape, tile: winograd_conv.Tile) -> winograd_conv.Map:
  """Returns the map of a convolution."""
  rate = max(node.attr['dilations'].list.i, default=1)
  half = rate * (tile.kernel // 2)
  rows, columns = {
      b'SAME': (half, half), b'VALID': (0, 0), b'EXPLICIT': _explicit_paddings(node)[2:6:2]
  }[node.attr['padding'].s]
  return winograd_conv.Map(shape[1], shape[2], (rows, columns), tile, rate)


def _explicit_paddings(node: Any) -> list[int]:
  """Returns the zeros before and after each axis that a convolution has a number of; or zeros."""
  return list(node.attr['explicit_paddings'].list.i) or [0] * 8


def _plan(graph: graph_values.Graph, places: Sequence[_Place], uses: Mapping[int, int]) -> _Plan:
  """Returns the plan for convolutions with one kernel."""
  kernel, tile = places[0].kernel, places[0].map.tile
  weights = tile.products * kernel[0, 0].nbytes
  is_alone = uses[id(kernel)] == len(places)
  is_changed = is_alone and graph.is_constant(kernel)
  # A kernel that nothing else uses is left out.
  added = (weights if is_changed else weights * len({place.scope.name for place in places})) - (
      kernel.nbytes * is_alone)
  # The rows of a map that its tiles are made of, int32.
  rows = 4 * tile.products * sum(place.map.number_of_tiles for place in places)
  return _Plan(places, added + rows, sum(place.saving for place in places), is_changed)


def _is_plain(node: Any) -> bool:
  """Returns whether a node convolves every position, an axis with equally many zeros around it."""
  if node.op != 'Conv2D':
    return False
  above, below, left, right = _explicit_paddings(node)[2:6]
  return ((above, left) == (below, right)
          and node.attr['data_format'].s == b'NHWC'
          and node.attr['T'].type == tf.float32.as_datatype_enum
          and set(node.attr['strides'].list.i) == {1}
          and len(set(node.attr['dilations'].list.i[1:3])) <= 1)


def _apply(graph: graph_values.Graph, plan: _Plan, transformed: dict[tuple, str]) -> None:
  """Replaces the convolutions of a plan.

  Args:
    graph: the graph.
    plan: the plan.
    transformed: scope, map -> its transformed tiles, which convolutions of one map share.
  """
  kernel = plan.places[0].kernel
  weights = winograd_conv.weights(kernel)
  if plan.is_changed:
    graph.replace(kernel, weights)
  for place in plan.places:
    node = place.node
    tensor = node.input[1] if plan.is_changed else (
        place.scope.constant(f'{node.name}/winograd_weights', weights)[0])
    _apply_to(place, tensor, weights.shape, transformed)


def _apply_to(place: _Place, weights: str, shape: Sequence[int], transformed: dict[tuple, str]
              ) -> None:
  """Replaces a convolution.

  Args:
    place: the convolution.
    weights: the tensor of its transformed kernel.
    shape: of that.
    transformed: as for `_apply`.
  """
  scope, node, own, channels = place.scope, place.node, place.map, place.shape[-1]
  part = channels // winograd_conv.number_of_parts(channels, own.tile)
  key = scope.name, node.input[0], own
  if key not in transformed:
    transformed[key] = graph_insertion.insert(
        scope, f'{node.name}/winograd_tiles', lambda x: winograd_conv.tiles(x, own),
        [(node.input[0], [None, *place.shape[1:]])])
  graph_insertion.insert(
      scope, f'{node.name}/winograd', lambda x, kernel: winograd_conv.multiply(x, kernel, own),
      [(transformed[key], [own.tile.products, None, part]), (weights, shape)], node)
