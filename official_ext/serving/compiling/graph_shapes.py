"""Infers the shapes of a graph's tensors, those of its functions included."""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph

from official_ext.serving.compiling import graph_values


class Shapes:
  """The shapes of a graph and of functions that it calls, such as branches of conditionals.

  They are those of one image where the batch is not fixed, so that the number of regions of an
  image is known too; it is a common shape, not one that every call has.
  """

  def __init__(self, graph_def: Any, graph: graph_values.Graph):
    """Infers the shapes of the graph; those of functions follow when they are asked for.

    Args:
      graph_def: the `GraphDef`.
      graph: the same, as it was read.
    """
    self._functions = {each.signature.name: each for each in graph_def.library.function}
    self._graph = graph
    self._main = _imported(_of_one_image(graph_def))
    # Name of the function -> its tensors; None: it is not called, or calls itself.
    self._tensors: dict[str, tf.Graph | None] = {'': self._main}
    self._names: dict[str, dict[str, str]] = {}

  def shape(self, scope: graph_values.Scope, tensor: str) -> tf.TensorShape:
    """Returns what is known of the shape of a tensor of a graph or function."""
    if scope.name not in self._tensors:
      self._tensors[scope.name] = None
      self._infer(scope)
    graph = self._tensors[scope.name]
    if graph is None:
      return tf.TensorShape(None)
    name = self._names.get(scope.name, {}).get(tensor, tensor)
    return graph.get_tensor_by_name(name if ':' in name else f'{name}:0').shape

  def _infer(self, scope: graph_values.Scope) -> None:
    """Infers the shapes of a function from those that it is called with."""
    calls = [[self.shape(caller, tensor) if tensor else tf.TensorShape(None)
              for tensor in passed] for caller, passed in self._graph.calls(scope)]
    if not calls:
      return
    function = self._functions[scope.name]
    plain = type(function).FromString(function.SerializeToString())
    plain.arg_attr.clear()  # It may have other shapes, which would hide those of the calls.
    for node in plain.node_def:
      node.attr.pop('_class', None)  # In a loop it names nodes of the caller, to be placed beside.
    with self._main.as_default():  # has the functions that this one calls
      graph_def, self._names[scope.name] = function_def_to_graph.function_def_to_graph_def(
          plain, [_common(shapes) for shapes in zip(*calls)])
    graph_def.library.function.extend(self._called_by(function))
    self._tensors[scope.name] = _imported(graph_def)

  def _called_by(self, function: Any) -> list[Any]:
    """Returns the functions that a function calls, and those that they call.

    Every graph copies the functions that it is given, and a dynamic head of eight blocks has 190.
    """
    found: dict[str, Any] = {}
    left = [function]
    while left:
      for node in left.pop().node_def:
        names = [node.op, *(each.name for attribute in node.attr.values()
                            for each in (attribute.func, *attribute.list.func))]
        for name in names:
          if name in self._functions and name not in found:
            found[name] = self._functions[name]
            left.append(found[name])
    return list(found.values())


def _of_one_image(graph_def: Any) -> Any:
  """Returns a copy of a graph whose inputs have 1 where the first dimension is unknown."""
  copy = type(graph_def).FromString(graph_def.SerializeToString())
  for node in copy.node:
    dims = node.attr['shape'].shape.dim if node.op == 'Placeholder' else []
    if dims and dims[0].size < 0:
      dims[0].size = 1
  return copy


def _imported(graph_def: Any) -> tf.Graph:
  with tf.Graph().as_default() as graph:
    tf.graph_util.import_graph_def(graph_def, name='')
  return graph


def _common(shapes: Sequence[tf.TensorShape]) -> tf.TensorShape:
  """Returns what several shapes have in common."""
  return shapes[0].most_specific_common_supertype(shapes[1:]) or tf.TensorShape(None)
