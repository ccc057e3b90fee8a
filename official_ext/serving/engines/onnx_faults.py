"""Works around faults of tf2onnx 1.17 while it converts.

- It reads a function with the shapes of the inputs of the operation that calls it.  A conditional's
  first input is its predicate, which its branches do not get, so that every shape goes to the next
  argument; and the optimized functions carry output shapes of unknown rank, which replace those
  that follow from the inputs.  Convolutions with inputs of unknown rank cannot be converted.
- It renames the tensors of a function.  Of a function that returns one tensor twice it renames the
  first result alone, and then does not find the second one.
- It makes a pooling of every maximum over the last axes, and ONNX Runtime has none for float64.
- It makes reshapes of the transpositions of maps of one pixel, some with the shape before.
- It sums segments on a grid as wide as the longest segment.  Of a list without entries, such as
  that of a map whose gates are all shut, there is no longest one, and ONNX Runtime fails.
- It makes a sum of two products with 0 and 1 of a choice between numbers, where it does not see
  that one is infinite or NaN, which then reaches what is chosen.
"""
from collections.abc import Iterator
import contextlib
import itertools
from typing import Any
from unittest import mock

import numpy as np

_CONDITIONALS = ('If', 'StatelessIf')
_SUMS = ('SegmentSum', 'UnsortedSegmentSum', 'SparseSegmentSumWithNumSegments')
_FUNCTIONS = ('then_branch', 'else_branch', 'cond', 'body')


def _functions(operation: Any) -> list[str]:
  """Returns the names of the functions that an operation calls."""
  known = operation.node_def.attr
  return [known[name].func.name for name in _FUNCTIONS if name in known]


def separate_results(definition: Any) -> None:
  """Gives every result of a function a tensor of its own, by identities.

  Args:
    definition: TensorFlow's definition of the function, which is changed.
  """
  seen = set()
  for result in definition.signature.output_arg:
    tensor = definition.ret[result.name]
    if tensor in seen:
      name = f'separate_{result.name}'
      node = definition.node_def.add(name=name, op='Identity', input=[tensor])
      node.attr['T'].type = result.type
      definition.ret[result.name] = f'{name}:output:0'
    seen.add(tensor)


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
        separate_results(definition)
        function = read(definition, input_shapes=[tensor.shape for tensor in inputs])
        visit(function)
        found[name] = function
        store(name, function)

  visit(graph)
  return list(found.values())


def sum_segments(graph: Any, node: Any) -> None:
  """Converts sums of the rows of each segment to a product with a matrix of zeros and ones.

  The matrix has a row for each segment, with ones at the rows of the segment.  Where a segment has
  none, or no segment has, the product is 0.

  Args:
    graph: tf2onnx's graph.
    node: one of `_SUMS` of values with one or two axes.
  """
  import onnx
  integer = onnx.TensorProto.INT64

  def add(operation: str, inputs: list[str], **attributes: Any) -> str:
    return graph.make_node(operation, inputs, attributes).output[0]

  def constant(value: Any) -> str:
    return graph.make_const(f'{result}_{next(numbers)}', np.array(value, np.int64)).output[0]

  result, numbers = node.output[0], itertools.count()
  values, *listed = node.input
  if node.type.startswith('Sparse'):
    values = add('Gather', [values, listed.pop(0)], axis=0)
  segments = add('Cast', [listed[0]], to=integer)
  if len(listed) == 2:
    count = add('Cast', [listed[1]], to=integer)
  else:
    # A maximum of no segments needs one to begin with.
    largest = add('ReduceMax', [add('Concat', [constant([-1]), segments], axis=0)], keepdims=0)
    count = add('Add', [largest, constant(1)])
  every = add('Unsqueeze', [add('Range', [constant(0), count, constant(1)]), constant([1])])
  owners = add('Cast', [add('Equal', [every, segments])], to=graph.get_dtype(values))
  graph.replace_all_inputs(result, add('MatMul', [owners, values]))
  graph.remove_node(node.name)


@contextlib.contextmanager
def mended() -> Iterator[None]:
  """Makes tf2onnx convert without these faults while the context is open."""
  import onnx
  from tf2onnx import tf_loader
  from tf2onnx import tfonnx
  from tf2onnx.onnx_opset import controlflow
  from tf2onnx.onnx_opset import reduction
  from tf2onnx.optimizer import global_pool_optimizer
  from tf2onnx.optimizer import transpose_optimizer
  optimizer = global_pool_optimizer.GlobalPoolOptimizer
  make_pooling = optimizer._optimize_reduce
  convert_segments = reduction.SegmentSum.any_version
  choose_by_products = controlflow.Select.version_7

  def resolve(graph: Any) -> list[Any]:
    return read_functions(graph, tf_loader.function_def_to_graph, tf_loader.set_function)

  def optimize_reduce(self: Any, node: Any, graph: Any) -> bool:
    return (graph.get_dtype(node.output[0]) == onnx.TensorProto.FLOAT
            and make_pooling(self, node, graph))

  def convert_sum(opset: int, graph: Any, node: Any, **options: Any) -> None:
    if node.type in _SUMS and graph.get_rank(node.input[0]) in (1, 2):
      sum_segments(graph, node)
    else:
      convert_segments(opset, graph, node, **options)

  def choose(graph: Any, node: Any, **options: Any) -> None:
    if graph.get_dtype(node.output[0]) in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
      node.set_attr('handles_nan', 1)
      controlflow.Select.version_9(graph, node, **options)
    else:
      choose_by_products(graph, node, **options)

  with (mock.patch.object(tfonnx, 'resolve_functions', resolve),
        mock.patch.object(controlflow.Select, 'version_7', choose),
        mock.patch.object(optimizer, '_optimize_reduce', optimize_reduce),
        mock.patch.object(reduction.SegmentSum, 'any_version', convert_sum),
        mock.patch.object(transpose_optimizer.TransposeOptimizer, 'post_optimize_action')):
    yield
