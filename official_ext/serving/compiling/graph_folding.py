"""Folds norms into the convolutions before them, in the graph of an export.

A graph has no names of layers, so this takes every backbone, neck and head alike.  After a
convolution come operations that multiply or shift each channel by a constant: a batch norm at
inference, fused or written out, a bias.  All of them become one kernel and one bias.

These stay: norms whose input is not a convolution alone (before it, after a sum, after a matrix
product), whose statistics are of the features (group norm), and whose kernel is computed at run
time.  Where levels share a kernel but not the norm, every level gets a kernel of its own.
"""
import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.serving.compiling import graph_constants
from official_ext.serving.compiling import graph_fourier
from official_ext.serving.compiling import graph_halves
from official_ext.serving.compiling import graph_pruning
from official_ext.serving.compiling import graph_sums
from official_ext.serving.compiling import graph_values
from official_ext.serving.compiling import graph_winograd

_CONVOLUTIONS = ('Conv2D', 'DepthwiseConv2dNative')
_NORMS = ('FusedBatchNorm', 'FusedBatchNormV2', 'FusedBatchNormV3')
_SHIFTS = ('BiasAdd', 'AddV2', 'Add', 'Sub')
_OUTPUT = 'output'  # how a function calls the first result of a BiasAdd


class Folding(NamedTuple):
  """The result of a folding.

  Attributes:
    graph_def: the new graph.
    folded: number of norms that are in kernels now.
    kept: number of batch norms that are left.
    merged: number of convolutions that others have taken in, see `graph_sums`.
    bytes: size of the new kernels.
    fourier: number of sums of convolutions in the Fourier domain, see `graph_fourier`.
    winograd: number of convolutions with fewer multiplications, see `graph_winograd`.
  """
  graph_def: Any
  folded: int
  kept: int
  merged: int
  bytes: int
  fourier: int
  winograd: int


class _Chain(NamedTuple):
  """A convolution and what follows it.

  Attributes:
    convolution: its node.
    kernel: its kernel.
    last: the last node of the chain.
    scale: what the kernel is multiplied by, float64 `[channels]`.
    shift: the bias of the whole chain, float64 `[channels]`.
    norms: number of multiplications that it has.
    reshapes: nodes in it that reshape and keep the channels; they stay.
  """
  convolution: Any
  kernel: np.ndarray
  last: Any
  scale: np.ndarray
  shift: np.ndarray
  norms: int
  reshapes: tuple[Any, ...] = ()

  def folded_kernel(self) -> np.ndarray:
    """Returns the kernel times the scale."""
    is_depthwise = self.convolution.op == _CONVOLUTIONS[1]
    scale = self.scale.reshape(self.kernel.shape[-2:]) if is_depthwise else self.scale
    return (self.kernel * scale).astype(np.float32)


def fold(graph_def: Any, outputs: Iterable[str], fourier_bytes: float = 0,
         constant_bytes: float = 0, winograd_bytes: float = 0) -> Folding:
  """Folds all norms of a graph without variables, and merges sums of convolutions.

  Args:
    graph_def: a `GraphDef` with its functions, the branches of conditionals among them.
    outputs: names of the nodes that are returned.
    fourier_bytes: size that weights for the Fourier domain may have; 0: no sum is moved there.
    constant_bytes: size of all constants up to which functions get constants of their own, see
      `graph_constants`.
    winograd_bytes: size of all constants up to which convolutions get weights for fewer
      multiplications, see `graph_winograd`; 0: no convolution does.
  """
  result = type(graph_def)()
  result.CopyFrom(graph_def)
  outputs = list(outputs)
  joined = graph_halves.join(result, outputs)
  merged = graph_sums.merge(result, outputs)
  graph = graph_values.Graph(result, outputs)
  # All values are read before anything changes.
  chains = [(scope, chain) for scope in graph.scopes() for chain in _chains(graph, scope)]
  uses, by_kernel = graph.uses(), collections.defaultdict(list)
  for place in chains:
    by_kernel[id(place[1].kernel)].append(place)
  size = sum(_fold_kernel(graph, places, uses) for places in by_kernel.values())
  for scope, chain in chains:
    _make_bias(scope, chain)
  graph_pruning.prune(result, outputs)
  kept = sum(node.op in _NORMS for scope in graph.scopes() for node in scope.nodes.values())
  fourier = graph_fourier.replace(result, outputs, fourier_bytes) if fourier_bytes else 0
  fewer = graph_winograd.replace(result, outputs, winograd_bytes) if winograd_bytes else 0
  if joined:
    graph_halves.split(result, outputs)
  graph_constants.move_into_functions(result, outputs, constant_bytes)
  return Folding(
      result, sum(chain.norms for _, chain in chains), kept, merged, size, fourier, fewer)


def _chains(graph: graph_values.Graph, scope: graph_values.Scope) -> Iterator[_Chain]:
  """Yields the chains of a graph or function that have a norm."""
  for node in list(scope.nodes.values()):
    if node.op not in _CONVOLUTIONS or node.attr['data_format'].s != b'NHWC' or (
        node.attr['T'].type != tf.float32.as_datatype_enum):
      continue
    kernel = graph.value(scope, node.input[1])
    if kernel is None:
      continue
    channels = kernel.shape[-1] * (kernel.shape[-2] if node.op == _CONVOLUTIONS[1] else 1)
    chain = _Chain(node, kernel, node, np.ones(channels), np.zeros(channels), 0)
    longest = chain
    while following := _extend(graph, scope, chain):
      chain = following
      # The last node becomes the bias.
      longest = chain if chain.norms and chain.last.op not in graph_values.RESHAPES else longest
    if longest.norms:
      yield longest


def _extend(graph: graph_values.Graph, scope: graph_values.Scope, chain: _Chain) -> _Chain | None:
  """Returns a chain with the next node, or None if that is no constant scale or shift."""
  users = scope.users(chain.last.name)
  if len(users) != 1 or users[0] is None:
    return None
  node, channels = users[0], len(chain.scale)
  if node.op in _NORMS:
    return _with_norm(graph, scope, chain, node)
  if node.op in graph_values.RESHAPES:
    return chain._replace(last=node, reshapes=(*chain.reshapes, node)) if (
        graph.keeps_last_axis(scope, node, channels)) else None
  if node.op not in ('Mul', *_SHIFTS) or scope.producer(node.input[1]) is chain.last and (
      node.op in ('Sub', 'BiasAdd')):
    return None
  own = 0 if scope.producer(node.input[0]) is chain.last else 1
  value = graph.value(scope, node.input[1 - own])
  if value is None or value.size not in (1, channels) or (value.size > 1 and (
      value.shape[-1] != channels)):
    return None
  value = np.broadcast_to(value.reshape(-1), [channels]).astype(np.float64)
  if node.op == 'Mul':
    return chain._replace(last=node, scale=chain.scale * value, shift=chain.shift * value,
                          norms=chain.norms + 1)
  return chain._replace(
      last=node, shift=chain.shift - value if node.op == 'Sub' else chain.shift + value)


def _with_norm(graph: graph_values.Graph, scope: graph_values.Scope, chain: _Chain, node: Any
               ) -> _Chain | None:
  """Returns a chain with a fused batch norm, or None if its numbers are not constant."""
  values = [graph.value(scope, name) for name in node.input[1:5]]
  known = [value.astype(np.float64) for value in values if value is not None]
  if node.attr['is_training'].b or len(known) < len(values) or (
      scope.producer(node.input[0]) is not chain.last):
    return None
  gamma, beta, mean, variance = known
  scale = gamma / np.sqrt(variance + node.attr['epsilon'].f)
  return chain._replace(last=node, scale=chain.scale * scale,
                        shift=(chain.shift - mean) * scale + beta, norms=chain.norms + 1)


def _fold_kernel(graph: graph_values.Graph, places: Sequence[tuple[graph_values.Scope, _Chain]],
                 uses: Mapping[int, int]) -> int:
  """Gives the convolutions with one kernel their new one.

  Args:
    graph: the graph.
    places: the scopes and chains of the convolutions.
    uses: what `graph.uses` returned.

  Returns:
    The bytes of new constants.
  """
  kernel, scale = places[0][1].kernel, places[0][1].scale
  # A constant that branches get is changed once, where it is.
  if uses[id(kernel)] == len(places) and all(
      np.array_equal(chain.scale, scale) for _, chain in places) and (
          graph.replace(kernel, places[0][1].folded_kernel())):
    return 0
  size = 0
  for scope, chain in places:
    convolution = chain.convolution
    convolution.input[1], is_new = scope.constant(
        f'{convolution.name}/folded_kernel', chain.folded_kernel())
    size += kernel.nbytes * is_new
  return size


def _make_bias(scope: graph_values.Scope, chain: _Chain) -> None:
  """Makes the last node of a chain the bias of its convolution."""
  convolution, last = chain.convolution, chain.last
  bias, _ = scope.constant(f'{last.name}/folded_bias', chain.shift.astype(np.float32))
  controls = [name for name in last.input if name.startswith('^')]
  scope.rename_output(last.name, _OUTPUT)
  del last.input[:]
  previous = convolution
  for reshape in chain.reshapes:
    reshape.input[0] = scope.tensor(previous.name, _OUTPUT)
    previous = reshape
  last.input.extend([scope.tensor(previous.name, _OUTPUT), bias, *controls])
  last.op = 'BiasAdd'
  last.attr.clear()
  last.attr['T'].type = tf.float32.as_datatype_enum
  last.attr['data_format'].s = b'NHWC'
