"""Reads a TensorFlow graph with its functions: who uses a result, and which results are constant.

An argument of a function, such as the branch of a conditional, is constant if the graph that calls
the function passes a constant.
"""
import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

RESHAPES = ('Reshape', 'Squeeze')
SAME = ('Identity', 'StopGradient', 'Snapshot')
_COMPUTED: dict[str, Callable[..., np.ndarray]] = {
    'Add': np.add, 'AddV2': np.add, 'Sub': np.subtract, 'Mul': np.multiply,
    'RealDiv': np.divide, 'Neg': np.negative, 'Sqrt': np.sqrt,
    'Rsqrt': lambda value: 1 / np.sqrt(value), 'Reshape': np.reshape}
# Attribute with functions -> number of inputs before those that the functions get.
_CALLS = {'then_branch': 1, 'else_branch': 1, 'branches': 1, 'f': 0, 'body': 0, 'cond': 0}
_CALLERS = ('If', 'StatelessIf', 'Case', 'StatelessCase', 'While', 'StatelessWhile',
            'PartitionedCall', 'StatefulPartitionedCall')


class Scope:
  """The nodes of a graph, or of one of its functions.

  Attributes:
    name: of the function; empty for the graph.
    nodes: name -> `NodeDef`.
    arguments: names of the arguments of the function.
    returned: the tensors that the function or the graph returns.
    awaited: names of the nodes that run before a function returns.
  """

  def __init__(self, nodes: Any, function: Any | None = None, outputs: Iterable[str] = ()):
    """Initializes the scope.

    Args:
      nodes: the repeated field of `NodeDef`s.
      function: its `FunctionDef`; None for the graph.
      outputs: names of the nodes that a graph returns.
    """
    self._field, self._function = nodes, function
    self.name = function.signature.name if function else ''
    self.nodes = {node.name: node for node in nodes}
    self.arguments = [argument.name for argument in function.signature.input_arg] if (
        function) else []
    self.returned = [function.ret[output.name] for output in function.signature.output_arg] if (
        function) else list(outputs)
    self.awaited = list(function.control_ret.values()) if function else []
    self._users: dict[str, list[Any]] | None = None
    self._constants: dict[tuple, str] = {}

  def producer(self, tensor: str) -> Any | None:
    """Returns the node of a tensor; None for an argument."""
    return self.nodes.get(tensor.split(':')[0])

  def users(self, name: str) -> Sequence[Any | None]:
    """Returns the nodes that use results of a node, once for each use; None: it is returned."""
    if self._users is None:
      self._users = {}
      for node in self.nodes.values():
        for tensor in node.input:
          if not tensor.startswith('^'):
            self._users.setdefault(tensor.split(':')[0], []).append(node)
      for tensor in self.returned:
        self._users.setdefault(tensor.split(':')[0], []).append(None)
    return self._users.get(name, ())

  def tensor(self, name: str, output: str) -> str:
    """Returns how inputs name the first result of a node, which the operation calls `output`."""
    return f'{name}:{output}:0' if self._function else name

  def add(self, name: str, operation: str, inputs: Iterable[str], output: str, **types: int) -> str:
    """Adds a node.

    Args:
      name: of the node.
      operation: its operation.
      inputs: the tensors that it gets.
      output: what the operation calls its first result.
      **types: attributes that are types.

    Returns:
      The tensor of its first result.
    """
    node = self._field.add(name=name, op=operation, input=inputs)
    for attribute, kind in types.items():
      node.attr[attribute].type = kind
    return self.tensor(name, output)

  def copy(self, node: Any, name: str, inputs: Iterable[str]) -> None:
    """Adds a node of another function under a name of its own and with other inputs."""
    copied = self._field.add()
    copied.CopyFrom(node)
    copied.name = name
    del copied.input[:]
    copied.input.extend(inputs)

  def keep(self, names: set[str]) -> None:
    """Removes all other nodes."""
    for index in reversed(range(len(self._field))):
      if self._field[index].name not in names:
        del self._field[index]
    self.nodes = {node.name: node for node in self._field}
    self._users = None

  def constant(self, name: str, value: np.ndarray) -> tuple[str, bool]:
    """Adds a constant, unless the scope has got the same one before.

    Args:
      name: of the node; if there was one of this name before, it gets another.
      value: float32.

    Returns:
      The tensor, and whether it is new.
    """
    key = (value.shape, value.tobytes())
    is_new = key not in self._constants
    if is_new:
      while name in self.nodes:
        name += '_'
      node = self._field.add(name=name, op='Const')
      node.attr['dtype'].type = tf.float32.as_datatype_enum
      node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(value))
      self._constants[key] = self.tensor(name, 'output')
    return self._constants[key], is_new

  def rename_output(self, name: str, output: str) -> None:
    """Makes all users of a function's node use its first result under another name."""
    if not self._function:
      return
    new = self.tensor(name, output)
    for node in self.nodes.values():
      for index, tensor in enumerate(node.input):
        if tensor.split(':')[0] == name:
          node.input[index] = new
    for key, tensor in self._function.ret.items():
      if tensor.split(':')[0] == name:
        self._function.ret[key] = new


class Graph:
  """A graph and all its functions."""

  def __init__(self, graph_def: Any, outputs: Iterable[str] = ()):
    """Reads a graph.

    Args:
      graph_def: the `GraphDef`, which stays the one that scopes change.
      outputs: names of the nodes that are returned.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    self._scopes = {'': Scope(graph_def.node, outputs=outputs)}
    self._scopes.update({name: Scope(function.node_def, function)
                         for name, function in functions.items()})
    # Node that calls -> the functions, and the number of inputs that they do not get.
    self._called: dict[tuple[str, str], list[tuple[str, int]]] = {}
    self._calls: dict[str, list[tuple[Scope, Sequence[str]]]] = {}
    for scope in self._scopes.values():
      for node in scope.nodes.values():
        if node.op in _CALLERS:
          self._add_calls(scope, node)
    self._values: dict[tuple[str, str], np.ndarray | None] = {}
    self._constants: dict[int, Any] = {}

  def scopes(self) -> Iterator[Scope]:
    """Yields the graph and all functions."""
    yield from self._scopes.values()

  def called(self, scope: Scope, node: Any, index: int) -> list[tuple[str, int]]:
    """Returns which functions get an input of a node, and the number of their argument.

    Args:
      scope: of the node.
      node: the node.
      index: of the input.
    """
    return [(name, index - skipped)
            for name, skipped in self._called.get((scope.name, node.name), ())]

  def calls(self, scope: Scope) -> Sequence[tuple[Scope, Sequence[str]]]:
    """Returns who calls a function and what it gets, '' for what the body of a loop changes."""
    return self._calls.get(scope.name, ())

  def _add_calls(self, scope: Scope, node: Any) -> None:
    inputs = [tensor for tensor in node.input if not tensor.startswith('^')]
    for attribute, skipped in _CALLS.items():
      if attribute in node.attr:
        for function in (node.attr[attribute].func, *node.attr[attribute].list.func):
          if function.name:
            self._called.setdefault((scope.name, node.name), []).append((function.name, skipped))
            passed = inputs[skipped:]
            if node.op.endswith('While'):
              passed = self._unchanged(node.attr['body'].func.name, passed)
            self._calls.setdefault(function.name, []).append((scope, passed))

  def _unchanged(self, body: str, passed: Sequence[str]) -> list[str]:
    """Returns the inputs of a loop, with '' for those that its body changes."""
    scope = self._scopes[body]
    return [tensor if _source(scope, result) == argument else ''
            for tensor, result, argument in zip(passed, scope.returned, scope.arguments)]

  def value(self, scope: Scope, tensor: str) -> np.ndarray | None:
    """Returns the value of a tensor, or None if it is not known before the graph runs."""
    key = (scope.name, tensor)
    if key not in self._values:
      self._values[key] = None  # A function that calls itself is not constant.
      self._values[key] = self._compute(scope, tensor)
    return self._values[key]

  def uses(self) -> collections.Counter[int]:
    """Returns how many operations of all scopes use a constant, by the id of its value."""
    return collections.Counter(
        id(value) for scope in self.scopes() for node in scope.nodes.values()
        if node.op not in (*SAME, *_CALLERS) for tensor in node.input
        if not tensor.startswith('^') and (value := self.value(scope, tensor)) is not None)

  def is_constant(self, value: np.ndarray) -> bool:
    """Returns whether a value is that of a constant, and not computed from some."""
    return id(value) in self._constants

  def replace(self, value: np.ndarray, new: np.ndarray) -> bool:
    """Gives a constant a new value; returns False if `value` is not that of a constant."""
    node = self._constants.get(id(value))
    if node is not None:
      node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(new))
    return node is not None

  def keeps_last_axis(self, scope: Scope, node: Any, size: int) -> bool:
    """Returns whether one of `RESHAPES` surely keeps a last axis of some size."""
    if node.op == 'Squeeze':
      before, axes = scope.producer(node.input[0]), node.attr['squeeze_dims'].list.i
      return before is not None and before.op == 'Reshape' and list(axes) == [3]
    shape = self.value(scope, node.input[1])
    if shape is not None:
      return bool(shape.size and shape.flat[-1] == size)
    packed = scope.producer(node.input[1])
    if packed is None or packed.op != 'Pack':
      return False
    last = self.value(scope, [name for name in packed.input if not name.startswith('^')][-1])
    return last is not None and last.item() == size

  def _compute(self, scope: Scope, tensor: str) -> np.ndarray | None:
    node = scope.producer(tensor)
    if node is None:
      return self._argument(scope, tensor)
    if node.op == 'Const':
      value = tf.make_ndarray(node.attr['value'].tensor)
      self._constants[id(value)] = node  # `_values` keeps the array, so that its id is its own.
      return value
    if node.op in SAME:
      return self.value(scope, node.input[0])
    if node.op not in _COMPUTED:
      return None
    values = [self.value(scope, own) for own in node.input if not own.startswith('^')]
    known = [value for value in values if value is not None]
    return _COMPUTED[node.op](*known) if len(known) == len(values) else None

  def _argument(self, scope: Scope, name: str) -> np.ndarray | None:
    """Returns the value of an argument, if all calls pass the same constant."""
    calls = self._calls.get(scope.name, [])
    if name not in scope.arguments or not calls:
      return None
    index = scope.arguments.index(name)
    values = [self.value(caller, passed[index]) if passed[index] else None
              for caller, passed in calls]
    return values[0] if all(value is values[0] for value in values) else None


def rename_functions(graph_def: Any, suffix: str) -> None:
  """Appends a text to the names of all functions of a graph.

  TensorFlow knows each function of a process by its name, and a changed one needs a new name.

  Args:
    graph_def: the `GraphDef`, which is changed.
    suffix: the text.
  """
  known = {function.signature.name for function in graph_def.library.function}
  bodies = [function.node_def for function in graph_def.library.function]
  for node in itertools.chain(graph_def.node, *bodies):
    for attribute in node.attr.values():
      for function in (attribute.func, *attribute.list.func):
        if function.name in known:
          function.name += suffix
  for function in graph_def.library.function:
    function.signature.name += suffix


def _source(scope: Scope, tensor: str) -> str:
  """Returns the argument or node that a tensor is equal to."""
  node = scope.producer(tensor)
  while node is not None and node.op in SAME:
    tensor = node.input[0]
    node = scope.producer(tensor)
  return tensor
