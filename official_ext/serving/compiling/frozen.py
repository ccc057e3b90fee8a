"""Turns a function with variables into one with constants, its norms folded."""
from collections.abc import Callable, Iterable, Mapping, Sequence
import gc
import itertools
import math
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import convert_to_constants

from official_ext.serving.compiling import graph_folding
from official_ext.serving.compiling import graph_values
from official_ext.serving import signatures
from official_ext.utils import command_line

_NUMBERS = itertools.count()
# A graph may have 2**31 bytes, also while kernels are there before and after folding.
_LARGEST = 9e8
# TensorFlow copies constants while it optimizes a graph: a first run of 0.6 * 10^9 bytes of them
# took 11 * 10^9 bytes of memory.
_ADVISABLE = 3e8
_ASSIGNMENTS = ('Assign', 'ResourceScatter')
_CONTROL_FLOW = ('If', 'StatelessIf', 'Case', 'StatelessCase', 'While', 'StatelessWhile')


def _size(variables: Iterable[tf.Variable]) -> int:
  """Returns the number of bytes of variables."""
  return sum(math.prod(variable.shape) * variable.dtype.size for variable in variables)


def is_advisable(model: tf.Module, more: int = 0) -> bool:
  """Returns whether the weights of a model are few enough for constants to be worth it.

  A graph with many constants takes many times their size of memory to load and to run first.

  Args:
    model: the model.
    more: bytes of constants beside its weights.
  """
  return _size(model.variables) + more <= _ADVISABLE


def changes_variables(function: Any) -> bool:
  """Returns whether a concrete function assigns to variables: random gates count their draws."""
  graph_def = function.graph.as_graph_def()
  bodies = [each.node_def for each in graph_def.library.function]
  return any(node.op.startswith(_ASSIGNMENTS)
             for node in itertools.chain(graph_def.node, *bodies))


def freeze(function: Any, fourier: bool = False, winograd: bool = True,
           largest_stay: bool = False) -> tuple[Any, graph_folding.Folding]:
  """Returns a function whose weights are constants, with norms folded into kernels.

  Args:
    function: a concrete function of tensors that returns a dictionary of tensors.
    fourier: whether sums of convolutions run in the Fourier domain where that is worth it, see
      `graph_fourier`.  All weights together stay within what is advisable, or, if they are more
      already, within what fits into a graph.
    winograd: whether large convolutions get fewer multiplications and more weights, see
      `graph_winograd`; all weights stay within what is advisable.
    largest_stay: whether the largest weights are variables, if all together are more than is
      advisable; the function refers to them.  With `winograd` all weights then stay within twice
      their size.

  Returns:
    A concrete function of the same signature, and what was folded.

  Raises:
    CommandError: the weights are too large for a graph, or the function changes variables.
  """
  if changes_variables(function):
    raise command_line.CommandError(
        'the network changes variables at every call, as random gates do, which count their draws: '
        'no constants can take their place, so leave --freeze and --laterals=fourier out.')
  size = _size(function.variables)
  if size > _LARGEST:
    raise command_line.CommandError(
        f'the weights have {size / 1e9:.1f} * 10^9 bytes, too many for constants of a graph '
        f'({_LARGEST / 1e9:g} * 10^9): give --no-freeze.')
  has_variables = largest_stay and size > _ADVISABLE
  left = ((_ADVISABLE if size <= _ADVISABLE else _LARGEST) - size) if fourier else 0
  most = min(2 * size, _LARGEST) if has_variables else _ADVISABLE
  foldings = []

  def change(graph_def: Any, outputs: list[str]) -> Any:
    foldings.append(graph_folding.fold(
        graph_def, outputs, left, _ADVISABLE, most if winograd else 0))
    return foldings[0].graph_def

  return rewrite(function, change, _ADVISABLE / 2 if has_variables else math.inf), foldings[0]


def freeze_as_told(function: Any, module: Any, freeze_it: bool | None, fourier: bool,
                   winograd: bool = True) -> tuple[Any | None, dict[str, int]]:
  """Freezes a network, if that is wanted.

  Args:
    function: of the network, as for `freeze`.
    module: the export module, with the network as its `model`.
    freeze_it: whether to; None: if the network changes no variables, and then the largest weights
      stay variables if that is advisable.
    fourier: as for `freeze`.
    winograd: as for `freeze`.

  Returns:
    The frozen function, or None; and what was folded, as `export.json` has it.

  Raises:
    CommandError: as `freeze`, or there are no constants for `fourier`.
  """
  largest_stay = freeze_it is None
  if freeze_it is None:
    # With `fourier` the error of `freeze` says why there are no constants.
    freeze_it = _size(module.model.variables) <= _LARGEST and (
        fourier or not changes_variables(function))
  if not freeze_it:
    return None, {}
  frozen, folding = freeze(function, fourier, winograd, largest_stay)
  return frozen, {'folded_norms': folding.folded, 'kept_norms': folding.kept,
                  'merged_convolutions': folding.merged, 'fourier_laterals': folding.fourier,
                  'winograd_convolutions': folding.winograd}


def rewrite(function: Any, change: Callable[[Any, list[str]], Any], limit: float = math.inf
            ) -> Any:
  """Returns a function whose weights are constants, with a changed graph.

  Args:
    function: a concrete function of tensors that returns a dictionary of tensors.
    change: maps the `GraphDef`, which it may change, and the names of the nodes that it returns to
      the `GraphDef` to use.
    limit: the bytes that constants may have after the change; of more the largest become
      variables, to which the function refers.

  Returns:
    A concrete function of the same signature.
  """
  graph_def, inputs, outputs = _with_constants(function)
  gc.collect()  # The graph that it was made from holds all constants too.
  graph_def = change(graph_def, [name.split(':')[0] for name in outputs])
  variables = _largest_variables(graph_def, limit)
  for nodes in (graph_def.node, *(each.node_def for each in graph_def.library.function)):
    _forget_gradients(nodes)
    _lower_control_flow(nodes)
  _share_constants(graph_def, outputs)
  graph_values.rename_functions(graph_def, f'_rewritten_{next(_NUMBERS)}')
  names = sorted(function.structured_outputs)
  placeholders = [f'{name}:0' for name in (*(spec.name for spec in inputs), *variables)]

  def run(*values):
    given = [*values, *(variable.read_value() for variable in variables.values())]
    return dict(zip(names, _import(graph_def, dict(zip(placeholders, given)), outputs)))

  result = signatures.with_names(run, inputs)
  result.variables_of_graph = [*variables.values()]  # A function does not keep what it captures.
  return result


def _with_constants(function: Any) -> tuple[Any, list[tf.TensorSpec], list[str]]:
  """Returns a function's graph with constants, its inputs, and the names of its outputs."""
  # With calls of functions left in functions, TensorFlow would specialize the callers for their
  # constants under their old names, and then refuse two functions of one name.  The loop over the
  # images has assertions, for whose sake it leaves calls unless told otherwise.
  constant = convert_to_constants.convert_variables_to_constants_v2(
      function, lower_control_flow=False, aggressive_inlining=True)
  return (constant.graph.as_graph_def(),
          [tf.TensorSpec(each.shape, each.dtype, each.op.name) for each in constant.inputs],
          [output.name for output in constant.outputs])


def _largest_variables(graph_def: Any, limit: float) -> dict[str, tf.Variable]:
  """Makes placeholders of the largest kernels of a graph, until all other constants fit.

  Args:
    graph_def: the `GraphDef`, which is changed.
    limit: the bytes that constants may have.

  Returns:
    Name of a placeholder -> the variable with its value.
  """
  nodes = {node.name: node.attr['value'].tensor for node in graph_def.node if node.op == 'Const'}
  left = sum(tensor.ByteSize() for tensor in nodes.values())
  kernels = [node for node in graph_def.node if node.name in nodes and not node.input
             and node.attr['dtype'].type == tf.float32.as_datatype_enum
             and len(nodes[node.name].tensor_shape.dim) > 1]
  variables: dict[str, tf.Variable] = {}
  for node in sorted(kernels, key=lambda node: -nodes[node.name].ByteSize()):
    if left <= limit:
      break
    left -= nodes[node.name].ByteSize()
    value = tf.make_ndarray(nodes[node.name])
    variables[node.name] = tf.Variable(value, trainable=False, name=node.name)
    kind = node.attr['dtype'].type
    node.attr.clear()
    node.op = 'Placeholder'
    node.attr['dtype'].type = kind
    node.attr['shape'].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
  return variables


def _import(graph_def: Any, given: Mapping[str, tf.Tensor], outputs: Sequence[str]
            ) -> list[tf.Tensor]:
  """Adds a graph to the one that is traced.

  Args:
    graph_def: what is added.
    given: name of a placeholder's tensor -> the tensor that takes its place.
    outputs: names of the tensors to return.
  """
  # The call of a function is found only where TensorFlow knows it outside of the graph too.
  for function in graph_def.library.function:
    context.context().add_function_def(function)
  placeholders = {name.split(':')[0] for name in given}
  without = type(graph_def)(versions=graph_def.versions, library=graph_def.library, node=[
      node for node in graph_def.node if node.name not in placeholders])
  return tf.graph_util.import_graph_def(without, dict(given), outputs, name='')


def _share_constants(graph_def: Any, outputs: Sequence[str]) -> None:
  """Makes one of equal constants, for the graph and for each function.

  Half of the nodes of a dynamic head are small constants, axes and sizes, and what loads, runs
  first and converts an export takes longer for every node.

  Args:
    graph_def: the `GraphDef`, which is changed.
    outputs: names of the tensors that the graph returns.
  """
  _share_constants_of(graph_def.node, {name.split(':')[0] for name in outputs})
  for function in graph_def.library.function:
    _share_constants_of(function.node_def, {name.split(':')[0] for name in function.ret.values()})


def _share_constants_of(nodes: Any, returned: set[str]) -> None:
  """Makes one of equal constants of a graph, but for those that it returns."""
  first: dict[tuple[int, bytes], str] = {}
  replaced: dict[str, str] = {}
  for node in nodes:
    if node.op == 'Const' and not node.input and node.name not in returned:
      key = node.attr['dtype'].type, node.attr['value'].SerializeToString(deterministic=True)
      if first.setdefault(key, node.name) != node.name:
        replaced[node.name] = first[key]
  kept = [node for node in nodes if node.name not in replaced]
  for node in kept:
    for index, name in enumerate(node.input):
      control, own = ('^', name[1:]) if name.startswith('^') else ('', name)
      producer, *rest = own.split(':')
      if producer in replaced:
        node.input[index] = control + ':'.join([replaced[producer], *rest])
  copies = [type(node).FromString(node.SerializeToString()) for node in kept]
  del nodes[:]
  nodes.extend(copies)


def _forget_gradients(nodes: Iterable[Any]) -> None:
  """Removes the names of custom gradients, whose functions read tensors of the old graph.

  TensorFlow would trace and save them with the graph, and fail.  An export has no gradients.
  """
  for node in nodes:
    if '_gradient_op_type' in node.attr:
      del node.attr['_gradient_op_type']


def _lower_control_flow(nodes: Iterable[Any]) -> None:
  """Lets TensorFlow take the branches of conditionals, and the bodies of loops, into the graph.

  The conversion to constants switches this off.  A branch that stays a function of its own is not
  optimized: its convolutions and biases are not fused and do not run in oneDNN.
  """
  for node in nodes:
    if node.op in _CONTROL_FLOW:
      node.attr['_lower_using_switch_merge'].b = True
