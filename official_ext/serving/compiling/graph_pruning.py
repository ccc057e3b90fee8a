"""Removes from a graph what nothing needs."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from official_ext.serving.compiling import graph_values


def prune(graph_def: Any, outputs: Sequence[str]) -> None:
  """Removes nodes that nothing needs, and empties what functions get and do not use.

  Functions keep their arguments: they get a constant without elements where a constant, or what was
  computed of one, is not used.

  Args:
    graph_def: a `GraphDef` with its functions, which is changed.
    outputs: names of the nodes that are returned.
  """
  graph = graph_values.Graph(graph_def, outputs)
  for scope in graph.scopes():
    scope.keep(_needed(scope))
  unused: set[tuple[str, int]] | None = None
  found: set[tuple[str, int]] = set()
  while found != unused:
    unused = found
    used = {scope.name: _used(graph, scope, unused) for scope in graph.scopes()}
    found = {(scope.name, index) for scope in graph.scopes()
             for index, name in enumerate(scope.arguments) if name not in used[scope.name]}
  for scope in graph.scopes():
    for name in _emptied(scope, used[scope.name]):
      _empty(scope, scope.nodes[name])


def forget_shapes(graph_def: Any) -> None:
  """Removes the shapes that arguments of functions had when the functions were traced.

  Args:
    graph_def: a `GraphDef` with its functions, which is changed.
  """
  for function in graph_def.library.function:
    for attributes in function.arg_attr.values():
      attributes.attr.pop('_output_shapes', None)


def _emptied(scope: graph_values.Scope, used: set[str]) -> set[str]:
  """Returns the nodes that can be emptied: not used, also not by one that needs their shape.

  Args:
    scope: the graph or function.
    used: the nodes whose values are used.
  """
  unused = scope.nodes.keys() - used
  same = {name for name in unused if scope.nodes[name].op in graph_values.SAME}
  emptied = {name for name in unused - same if _output_type(scope.nodes[name])}
  found = list(unused - same - emptied)
  while found:
    for tensor in scope.nodes[found.pop()].input:
      name = tensor.lstrip('^').split(':')[0]
      if name in emptied | same:
        emptied.discard(name)
        same.discard(name)
        found.append(name)
  return emptied


def _output_type(node: Any) -> int:
  """Returns the dtype of the only output of a node, as a number; 0 if it has several."""
  definition = op_def_registry.get(node.op)
  if definition is None or len(definition.output_arg) != 1:
    return 0
  output = definition.output_arg[0]
  if output.number_attr or output.type_list_attr:
    return 0
  return node.attr[output.type_attr].type if output.type_attr else output.type


def _empty(scope: graph_values.Scope, node: Any) -> None:
  """Makes a node a constant without elements."""
  dtype = _output_type(node)
  scope.rename_output(node.name, 'output')
  node.op = 'Const'
  del node.input[:]
  node.attr.clear()
  node.attr['dtype'].type = dtype
  node.attr['value'].tensor.CopyFrom(
      tf.make_tensor_proto(np.zeros([0], tf.as_dtype(dtype).as_numpy_dtype)))


def _used(graph: graph_values.Graph, scope: graph_values.Scope, unused: set[tuple[str, int]]
          ) -> set[str]:
  """Returns the nodes and arguments whose values are used, but for what unused arguments get.

  Args:
    graph: of the scope.
    scope: the graph or function.
    unused: functions and numbers of their arguments.
  """

  def is_idle(node: Any, index: int) -> bool:
    targets = graph.called(scope, node, index)
    return bool(targets) and all(
        target[1] >= 0 and target in unused for target in targets)

  return _needed(scope, is_idle)


def _needed(scope: graph_values.Scope, is_idle: Callable[[Any, int], bool] | None = None
            ) -> set[str]:
  """Returns the nodes and arguments that the results and operations with an effect need.

  Args:
    scope: the graph or function.
    is_idle: returns whether a node makes no use of its input of some number.  With it there are
      only those whose values are used: to wait until a value was read is no use of it.
  """

  def waits_for(name: str) -> bool:
    return is_idle is None or name not in scope.nodes or (
        scope.nodes[name].op not in graph_values.SAME)

  needed = {name for name, node in scope.nodes.items() if _has_effect(node)}
  needed.update(tensor.split(':')[0] for tensor in scope.returned)
  needed.update(filter(waits_for, scope.awaited))
  found = list(needed)
  while found:
    node = scope.nodes.get(found.pop())
    for index, tensor in enumerate(node.input if node is not None else ()):
      name = tensor.lstrip('^').split(':')[0]
      is_needed = waits_for(name) if tensor.startswith('^') else (
          is_idle is None or not is_idle(node, index))
      if is_needed and name not in needed:
        needed.add(name)
        found.append(name)
  return needed


def _has_effect(node: Any) -> bool:
  """Returns whether a node does more than to compute its results; an input is such a node too."""
  definition = op_def_registry.get(node.op)  # None: the node calls a function.
  return definition is None or definition.is_stateful or node.op == 'Placeholder'
