"""Merges convolutions of one map whose results are summed, in the graph of an export.

A sum of convolutions with one dilation rate is one convolution: smaller kernels are padded with
zeros to the largest and added.  A 1x1 kernel has no dilation and joins any other.  DyFPN's lateral,
seven convolutions of 103 weights for each pair of channels, becomes three of 75.

Reference: the identity is used in Xiaohan Ding et al., RepVGG, https://arxiv.org/abs/2101.03697.
"""
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving.compiling import graph_values


class Term(NamedTuple):
  """A summand that is a convolution, perhaps with a bias.

  Attributes:
    tensor: its name among the inputs of the sum.
    convolution: its node.
    kernel: float32 `[height, width, channels, filters]`.
    bias: the node that adds a bias, or None.
    shift: the bias; zeros without one.
  """
  tensor: str
  convolution: Any
  kernel: np.ndarray
  bias: Any | None
  shift: np.ndarray

  @property
  def source(self) -> tuple:
    """The key of terms that convolve one map, and have a bias or have not."""
    return self.convolution.input[0], self.bias is None

  @property
  def dilations(self) -> tuple[int, ...]:
    """The dilation rates of height and width; of a 1x1 kernel ()."""
    return () if self.kernel.shape[:2] == (1, 1) else tuple(
        self.convolution.attr['dilations'].list.i[1:3])


def merge(graph_def: Any, outputs: Any) -> int:
  """Merges the summed convolutions of a graph without variables, which is changed.

  Args:
    graph_def: a `GraphDef` with its functions.
    outputs: names of the nodes that are returned.

  Returns:
    The number of convolutions that are no longer there; those of several branches count once.
  """
  graph = graph_values.Graph(graph_def, outputs)
  found: dict[tuple, list[tuple]] = {}
  for scope in graph.scopes():
    for node in list(scope.nodes.values()):
      if node.op == 'AddN':
        for terms in _groups(graph, scope, node):
          # The branches of a conditional, for some images and for all, have the same kernels.
          key = tuple(id(term.kernel) for term in terms)
          found.setdefault(key, []).append((scope, node, terms))
  uses = graph.uses() if found else {}
  for places in found.values():
    terms = places[0][2]
    kept = max(range(len(terms)), key=lambda index: terms[index].kernel[..., 0, 0].size)
    kernel, own = _sum(terms), terms[kept].kernel
    # A constant that branches get is changed once, where it is.
    is_changed = kernel.shape == own.shape and uses[id(own)] == len(places) and (
        graph.replace(own, kernel))
    for scope, node, terms in places:
      if not is_changed:
        convolution = terms[kept].convolution
        convolution.input[1], _ = scope.constant(f'{convolution.name}/merged_kernel', kernel)
      keep_one(scope, node, terms, terms[kept])
  return sum(len(terms) - 1 for places in found.values() for _, _, terms in places[:1])


def convolutions(graph: graph_values.Graph, scope: graph_values.Scope, node: Any
                 ) -> list[list[Term]]:
  """Returns the summands of a sum that are convolutions; those of one map are together."""
  found: dict[tuple, list[Term]] = {}
  for tensor in node.input:
    term = None if tensor.startswith('^') else _term(graph, scope, tensor)
    if term:
      found.setdefault(term.source, []).append(term)
  return list(found.values())


def keep_one(scope: graph_values.Scope, node: Any, terms: Sequence[Term], kept: Term) -> None:
  """Leaves one convolution of several in a sum, with the sum of their biases.

  Args:
    scope: of the sum.
    node: the sum.
    terms: the convolutions.
    kept: the one that stays.
  """
  if kept.bias is not None:
    shift = np.sum([term.shift for term in terms], 0)
    kept.bias.input[1], _ = scope.constant(
        f'{kept.bias.name}/merged_bias', np.asarray(shift, np.float32))
  gone = {term.tensor for term in terms if term is not kept}
  inputs = [tensor for tensor in node.input if tensor not in gone]
  del node.input[:]
  node.input.extend(inputs)
  node.attr['N'].i = sum(not tensor.startswith('^') for tensor in inputs)


def _groups(graph: graph_values.Graph, scope: graph_values.Scope, node: Any
            ) -> Iterator[list[Term]]:
  """Yields the summands of a sum that can be one convolution, two or more of them."""
  for terms in convolutions(graph, scope, node):
    by_rate: dict[tuple, list[Term]] = {}
    for term in terms:
      by_rate.setdefault(term.dilations, []).append(term)
    points = by_rate.pop((), [])
    groups = list(by_rate.values()) or [[]]
    # The largest kernel of the smallest rate takes in those of 1x1.
    groups[0] = points + groups[0]
    yield from (group for group in groups if len(group) > 1)


def _term(graph: graph_values.Graph, scope: graph_values.Scope, tensor: str) -> Term | None:
  """Returns a summand, or None if it is no convolution that only the sum uses."""
  node, bias = scope.producer(tensor), None
  while node is not None and len(scope.users(node.name)) == 1:
    if node.op == 'Conv2D':
      break
    if node.op == 'BiasAdd' and bias is None:
      bias = node
    elif node.op not in graph_values.RESHAPES:
      return None
    node = scope.producer(node.input[0])
  else:
    return None
  kernel = graph.value(scope, node.input[1])
  shift = graph.value(scope, bias.input[1]) if bias is not None else np.zeros(1, np.float32)
  if kernel is None or shift is None or kernel.dtype != np.float32 or not _is_plain(node, kernel):
    return None
  return Term(tensor, node, kernel, bias, shift)


def _is_plain(node: Any, kernel: np.ndarray) -> bool:
  """Returns whether a convolution has an odd kernel, stride 1 and zeros on all sides."""
  return (node.attr['padding'].s == b'SAME' and node.attr['data_format'].s == b'NHWC'
          and set(node.attr['strides'].list.i) == {1}
          and all(size % 2 for size in kernel.shape[:2]))


def _sum(terms: list[Term]) -> np.ndarray:
  """Returns the sum of kernels, all as large as the largest."""
  height, width = (max(term.kernel.shape[axis] for term in terms) for axis in (0, 1))
  return np.sum([_padded(term.kernel.astype(np.float64), height, width) for term in terms], 0
                ).astype(np.float32)


def _padded(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
  rows, columns = (height - kernel.shape[0]) // 2, (width - kernel.shape[1]) // 2
  return np.pad(kernel, [(rows, rows), (columns, columns), (0, 0), (0, 0)])
