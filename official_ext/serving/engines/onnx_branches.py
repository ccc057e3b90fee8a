"""Lets tf2onnx 1.17 read the functions of conditionals with the right shapes.

It reads a function with the shapes of the inputs of the operation that calls it.  A conditional's
first input is its predicate, which its branches do not get, so that every shape goes to the next
argument; and the optimized functions carry output shapes of unknown rank, which replace those
that follow from the inputs.  Convolutions with inputs of unknown rank cannot be converted.
"""
from collections.abc import Iterator
import contextlib
from typing import Any
from unittest import mock

_CONDITIONALS = ('If', 'StatelessIf')
_FUNCTIONS = ('then_branch', 'else_branch', 'cond', 'body')


def _functions(operation: Any) -> list[str]:
  """Returns the names of the functions that an operation calls."""
  known = operation.node_def.attr
  return [known[name].func.name for name in _FUNCTIONS if name in known]


def read_functions(graph: Any, read: Any, store: Any) -> list[Any]:
  """Reads all functions of a graph.

  Args:
    graph: a TensorFlow graph.
    read: TensorFlow's function from a definition and the shapes of its arguments to a graph.
    store: called with the name and the graph of every function.

  Returns:
    Graphs of functions; those that a function calls stand before it.
  """
  definitions = {function.signature.name: function
                 for function in graph.as_graph_def().library.function}
  found: dict[str, Any] = {}

  def visit(caller: Any) -> None:
    for operation in caller.get_operations():
      inputs = list(operation.inputs)[operation.type in _CONDITIONALS:]
      for name in _functions(operation):
        if name in found:
          continue
        definition = definitions[name]
        for holder in (*definition.node_def, *definition.arg_attr.values()):
          holder.attr.pop('_output_shapes', None)
        function = read(definition, input_shapes=[tensor.shape for tensor in inputs])
        visit(function)
        found[name] = function
        store(name, function)

  visit(graph)
  return list(found.values())


@contextlib.contextmanager
def right_shapes() -> Iterator[None]:
  """Makes tf2onnx read functions by `read_functions` while the context is open."""
  from tf2onnx import tf_loader
  from tf2onnx import tfonnx

  def resolve(graph: Any) -> list[Any]:
    return read_functions(graph, tf_loader.function_def_to_graph, tf_loader.set_function)

  with mock.patch.object(tfonnx, 'resolve_functions', resolve):
    yield
