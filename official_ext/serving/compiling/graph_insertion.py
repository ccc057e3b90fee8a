"""Adds operations that TensorFlow traces to a graph."""
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from official_ext.serving.compiling import graph_values


def insert(scope: graph_values.Scope, name: str, run: Callable[..., tf.Tensor],
           inputs: Sequence[tuple[str, Sequence[int | None]]], node: Any | None = None) -> str:
  """Adds the operations of a function.

  Args:
    scope: the graph or function that gets them.
    name: what the names of the nodes begin with.
    run: maps float32 tensors to one tensor, which the last operation returns.
    inputs: names of the tensors, and their shapes.
    node: the node whose place the last operation takes, and whose name it keeps; None: it is added
      too.

  Returns:
    The tensor of the result.
  """
  with tf.Graph().as_default() as traced:
    placeholders = [tf.compat.v1.placeholder(tf.float32, shape) for _, shape in inputs]
    last = run(*placeholders).op
  names = {each.op.name: tensor for each, (tensor, _) in zip(placeholders, inputs)}
  for operation in traced.get_operations():
    if operation.name in names:
      continue
    own = f'{name}/{operation.name}'
    passed = [names[each.op.name] for each in operation.inputs]
    output = operation.op_def.output_arg[0].name
    if operation is last and node is not None:
      _replace(node, operation, passed)
      return scope.tensor(node.name, output)
    names[operation.name] = scope.tensor(own, output)
    scope.copy(operation.node_def, own, passed)
  return names[last.name]


def _replace(node: Any, operation: tf.Operation, inputs: Sequence[str]) -> None:
  """Makes a node another operation, with its own name."""
  node.op = operation.type
  node.attr.clear()
  for key, value in operation.node_def.attr.items():
    node.attr[key].CopyFrom(value)
  del node.input[:]
  node.input.extend(inputs)
