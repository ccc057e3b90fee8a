"""Gives convolutions and matrix products in the functions of a graph weights of their own.

oneDNN reorders weights for what it computes, and keeps the result if they are a constant.  A branch
of a conditional gets its weights as arguments, which are reordered at every call.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving.compiling import graph_pruning
from official_ext.serving.compiling import graph_values

# The second input is the weights.
_WEIGHTED = ('Conv2D', 'DepthwiseConv2dNative', 'MatMul')
# A branch has its weights in two functions, for all images and for some.  What more functions use
# stays where it is, for the size of the file.
_MOST_FUNCTIONS = 2


class _Use(NamedTuple):
  """An operation in a function, whose weights are an argument."""
  scope: graph_values.Scope
  node: Any


def move_into_functions(graph_def: Any, outputs: Sequence[str], limit: float) -> None:
  """Replaces weights that functions are passed by constants of these functions.

  Args:
    graph_def: a `GraphDef` without variables, with its functions, which is changed.
    outputs: names of the nodes that are returned.
    limit: the bytes that all constants may have together.
  """
  graph = graph_values.Graph(graph_def, outputs)
  total, moved = size(graph), False
  for weights, uses in _uses(graph).values():
    copies = len({use.scope.name for use in uses})
    if copies <= _MOST_FUNCTIONS and total + copies * weights.nbytes <= limit:
      total, moved = total + copies * weights.nbytes, True
      for scope, node in uses:
        node.input[1], _ = scope.constant(f'{node.name}/weights', weights)
  if moved:
    graph_pruning.prune(graph_def, outputs)


def size(graph: graph_values.Graph) -> int:
  """Returns the bytes of all constants of a graph and of its functions."""
  return sum(node.attr['value'].tensor.ByteSize() for scope in graph.scopes()
             for node in scope.nodes.values() if node.op == 'Const')


def _uses(graph: graph_values.Graph) -> dict[int, tuple[np.ndarray, list[_Use]]]:
  """Returns the weights that functions are passed, by id, and the operations with them."""
  found: dict[int, tuple[np.ndarray, list[_Use]]] = {}
  for scope in graph.scopes():
    for node in scope.nodes.values() if scope.name else ():
      if node.op in _WEIGHTED:
        producer = scope.producer(node.input[1])
        weights = graph.value(scope, node.input[1])
        if weights is not None and weights.dtype == np.float32 and (
            producer is None or producer.op in graph_values.SAME):
          found.setdefault(id(weights), (weights, []))[1].append(_Use(scope, node))
  return found
