"""Joins what `ops.halved_conv` has cut in halves, and cuts what an export leaves as it is.

An export merges, transforms and replaces whole convolutions, so their halves are joined first.
"""
from collections.abc import Callable, Iterator, Sequence
import re
from typing import Any

import tensorflow as tf

from official_ext.ops import halved_conv
from official_ext.serving.compiling import graph_insertion
from official_ext.serving.compiling import graph_pruning
from official_ext.serving.compiling import graph_shapes
from official_ext.serving.compiling import graph_values

_IN_HALVES = re.compile(rf'(.*{halved_conv.SCOPE}(_\d+)?)/[^/]*')


def join(graph_def: Any, outputs: Sequence[str]) -> int:
  """Makes one convolution of two halves, in a graph that is changed.

  Args:
    graph_def: a `GraphDef` with its functions.
    outputs: names of the nodes that are returned.

  Returns:
    The number of convolutions that are whole now.
  """
  count = 0
  for scope in graph_values.Graph(graph_def, outputs).scopes():
    pads, halves, results = (_in_halves(scope, is_one) for is_one in (
        _is_pad, _is_float32_convolution, _is_result))
    for name in pads.keys() & halves.keys() & results.keys():
      _make_whole(results[name], halves[name], pads[name].input[0])
      count += 1
  if count:
    graph_pruning.prune(graph_def, outputs)
  return count


def split(graph_def: Any, outputs: Sequence[str]) -> None:
  """Cuts whole convolutions in halves where that is worth it, in a graph that is changed.

  Args:
    graph_def: a `GraphDef` with its functions, and constants for weights.
    outputs: names of the nodes that are returned.
  """
  graph = graph_values.Graph(graph_def, outputs)
  found = list(_large(graph, graph_shapes.Shapes(graph_def, graph)))
  for scope, node, shape, kernel_shape in found:
    rates = tuple(node.attr['dilations'].list.i[1:3])
    graph_insertion.insert(
        scope, f'{node.name}/halves',
        lambda x, kernel, rates=rates: halved_conv.convolve(x, kernel, rates),
        [(node.input[0], shape), (node.input[1], kernel_shape)], node)


def _in_halves(scope: graph_values.Scope, is_one: Callable[[Any], bool]) -> dict[str, Any]:
  """Returns the node of some kind of each convolution in halves, by the name of the latter."""
  return {match[1]: node for node in scope.nodes.values()
          if is_one(node) and (match := _IN_HALVES.fullmatch(node.name))}


def _is_pad(node: Any) -> bool:
  return node.op == 'Pad'


def _is_result(node: Any) -> bool:
  return node.op == 'Identity' and node.name.endswith(f'/{halved_conv.RESULT}')


def _is_float32_convolution(node: Any) -> bool:
  return node.op == 'Conv2D' and node.attr['T'].type == tf.float32.as_datatype_enum


def _make_whole(result: Any, half: Any, features: str) -> None:
  """Makes the last node of two halves the convolution of the whole map.

  Args:
    result: that node.
    half: the convolution of both halves as one batch.
    features: the tensor of the map.
  """
  name = result.name
  result.CopyFrom(half)
  result.name, result.input[0] = name, features
  result.attr['padding'].s = b'SAME'
  del result.attr['explicit_paddings']


def _large(graph: graph_values.Graph, shapes: graph_shapes.Shapes) -> Iterator[tuple]:
  """Yields scope, node, shape of the map and of the kernel of what is worth it."""
  for scope in graph.scopes():
    for node in list(scope.nodes.values()):
      if not _is_float32_convolution(node) or node.attr['padding'].s != b'SAME' or (
          set(node.attr['strides'].list.i) != {1}):
        continue
      kernel, shape = graph.value(scope, node.input[1]), shapes.shape(scope, node.input[0])
      if kernel is not None and shape.rank == 4 and halved_conv.is_worth_it(
          shape, kernel.shape[:2], kernel.itemsize):
        yield scope, node, [None, *shape[1:]], kernel.shape
