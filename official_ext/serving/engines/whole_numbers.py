"""Puts int64 in place of float64, for an engine that has no sums of float64.

A detector computes in float64 only to count multiply-adds, which are whole numbers, so that int64
gives the same sums.  The comparison with the SavedModel after a conversion would show a fraction.
"""
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.serving.compiling import graph_values

_FLOAT64 = tf.float64.as_datatype_enum
_INT64 = tf.int64.as_datatype_enum


def count(graph_def: Any, outputs: Iterable[str]) -> Any:
  """Returns a graph that counts in int64, whose sums have two terms each.

  Args:
    graph_def: the `GraphDef`, which is changed.
    outputs: names of the nodes that are returned.

  Raises:
    ValueError: a constant of float64 has a fraction.
  """
  for scope in graph_values.Graph(graph_def, outputs).scopes():
    for node in list(scope.nodes.values()):
      if node.op == 'AddN' and node.attr['T'].type == _FLOAT64:
        _split_sum(scope, node)
  for function in graph_def.library.function:
    for argument in (*function.signature.input_arg, *function.signature.output_arg):
      if argument.type == _FLOAT64:
        argument.type = _INT64
  for node in _nodes(graph_def):
    _count_in_node(node)
  return graph_def


def _nodes(graph_def: Any) -> Iterator[Any]:
  """Yields the nodes of a graph and of its functions."""
  yield from graph_def.node
  for function in graph_def.library.function:
    yield from function.node_def


def _split_sum(scope: graph_values.Scope, node: Any) -> None:
  """Makes of a sum of many terms sums of two, since LiteRT has no `AddN` of int64."""
  terms = [name for name in node.input if not name.startswith('^')]
  total = terms[0]
  for number, term in enumerate(terms[1:-1]):
    total = scope.add(f'{node.name}_sum_{number}', 'AddV2', [total, term], 'z', T=_FLOAT64)
  node.op = 'AddV2' if len(terms) > 1 else 'Identity'
  del node.attr['N']
  del node.input[:]
  node.input.extend([total, terms[-1]] if len(terms) > 1 else [total])
  scope.rename_output(node.name, 'z' if len(terms) > 1 else 'output')


def _count_in_node(node: Any) -> None:
  """Changes the types of a node, and the value of a constant."""
  if node.op == 'Const' and node.attr['dtype'].type == _FLOAT64:
    value = tf.make_ndarray(node.attr['value'].tensor)
    whole = value.astype(np.int64)
    if not np.array_equal(whole, value):
      raise ValueError(f'{node.name} is a constant of float64 with a fraction.')
    node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(whole))
  for attribute in node.attr.values():
    if attribute.type == _FLOAT64:
      attribute.type = _INT64
    elif attribute.list.type:
      attribute.list.type[:] = [
          _INT64 if kind == _FLOAT64 else kind for kind in attribute.list.type]
