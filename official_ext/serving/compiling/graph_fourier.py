"""Runs sums of convolutions with large kernels in the Fourier domain, in the graph of an export.

A sum of convolutions of one map, whatever their dilation rates, is one convolution with a large and
mostly empty kernel, such as DyFPN's lateral of 13x13 with 75 weights for each pair of channels.
`ops.fourier_conv` computes it with products by far fewer numbers for each position, and from many
more weights.  A sum becomes that where `best_tiling` expects it to be worth it.
"""
from collections.abc import Iterator, Sequence
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.ops import fourier_conv
from official_ext.serving.compiling import graph_insertion
from official_ext.serving.compiling import graph_pruning
from official_ext.serving.compiling import graph_shapes
from official_ext.serving.compiling import graph_sums
from official_ext.serving.compiling import graph_values

# The time of a multiply-add of the products, of one of the transforms, and of reading a weight,
# each in multiply-adds of a convolution; benchmarks/laterals.py measured them on an AVX-512 core.
_PRODUCT, _TRANSFORM, _WEIGHT = 1.3, 2.7, 18
# Share of the convolutions' time that is expected at most.
_WORTH = 2 / 3
_SMALLEST_TILE, _LARGEST_TILE = 16, 36


class _Place(NamedTuple):
  """A sum of convolutions of one map.

  Attributes:
    scope: the graph or function that it is in.
    node: the sum.
    terms: its convolutions of the map.
    shape: of the map, for one image where the batch is not fixed.
  """
  scope: graph_values.Scope
  node: Any
  terms: Sequence[graph_sums.Term]
  shape: tf.TensorShape


class _Plan(NamedTuple):
  """How sums with the same kernels are computed.

  Attributes:
    places: the sums: the branches of a conditional have one for some images and one for all.
    tiling: of their maps.
    bytes: of the transformed kernel.
    saving: expected, in multiply-adds of a convolution.
  """
  places: Sequence[_Place]
  tiling: fourier_conv.Tiling
  bytes: int
  saving: float


def replace(graph_def: Any, outputs: Sequence[str], limit: float) -> int:
  """Replaces sums of convolutions in a graph without variables, which is changed.

  Args:
    graph_def: a `GraphDef` with its functions.
    outputs: names of the nodes that are returned.
    limit: the bytes that weights may have in total; the sums that save most come first.

  Returns:
    The number of sums; those of several branches count once.
  """
  graph = graph_values.Graph(graph_def, outputs)
  shapes = graph_shapes.Shapes(graph_def, graph)
  found: dict[tuple, list[_Place]] = {}
  for place in _places(graph, shapes):
    key = tuple(id(term.kernel) for term in place.terms), tuple(place.shape[1:])
    found.setdefault(key, []).append(place)
  plans = [plan for places in found.values() if (plan := _plan(places))]
  uses = graph.uses() if plans else {}
  size, sums = 0, 0
  for plan in sorted(plans, key=lambda plan: -plan.saving):
    if size + plan.bytes <= limit:
      size, sums = size + plan.bytes, sums + 1
      _apply(graph, plan, uses)
  if sums:
    graph_pruning.forget_shapes(graph_def)  # They may be those of a kernel.
    graph_pruning.prune(graph_def, outputs)
  return sums


def best_tiling(shape: Sequence[int], taps: int, reaches: Sequence[int], filters: int
                ) -> tuple[fourier_conv.Tiling, float] | None:
  """Returns the tiling that is expected to be the fastest for a map, if it is worth it.

  Args:
    shape: batch, height, width and channels of the map; one image stands for an unknown batch.
    taps: number of weights for each pair of channels of the convolutions.
    reaches: positions that the kernels reach to either side, along rows and columns.
    filters: number of filters.

  Returns:
    The tiling and the multiply-adds that are saved; None where convolutions are expected to take
    less than one and a half times as long.
  """
  batch, height, width, channels = shape
  axes = [[fourier_conv.Axis(size, reach, tile)
           for tile in range(max(4 * reach, _SMALLEST_TILE), _LARGEST_TILE + 1, 4)]
          for size, reach in zip((height, width), reaches)]

  def expected(tiling: fourier_conv.Tiling) -> float:
    tiles = batch * tiling.rows.tiles * tiling.columns.tiles
    transforms = tiling.transform / filters + tiling.inverse / channels
    return channels * filters * (
        tiles * (_PRODUCT * tiling.products + _TRANSFORM * transforms) + _WEIGHT * tiling.products)

  tilings = list(itertools.starmap(fourier_conv.Tiling, itertools.product(*axes)))
  best = min(tilings, key=expected, default=None)
  direct = batch * height * width * taps * channels * filters
  return (best, direct - expected(best)) if best and expected(best) <= _WORTH * direct else None


def _places(graph: graph_values.Graph, shapes: graph_shapes.Shapes) -> Iterator[_Place]:
  """Yields the sums whose map has a known height and width."""
  for scope in graph.scopes():
    for node in list(scope.nodes.values()):
      if node.op == 'AddN':
        for terms in graph_sums.convolutions(graph, scope, node):
          shape = shapes.shape(scope, terms[0].convolution.input[0])
          if shape.rank == 4 and None not in shape[1:]:
            yield _Place(scope, node, terms, shape)


def _plan(places: Sequence[_Place]) -> _Plan | None:
  """Returns how to compute sums with the same kernels, or None if it is not worth it."""
  terms = places[0].terms
  batch = min(place.shape[0] or 1 for place in places)
  channels, filters = terms[0].kernel.shape[2:]
  taps = sum(math.prod(term.kernel.shape[:2]) for term in terms)
  best = best_tiling([batch, *places[0].shape[1:]], taps, _reaches(terms), filters)
  return _Plan(places, best[0], 4 * best[0].products * channels * filters, best[1]) if (
      best and channels == places[0].shape[-1]) else None


def _apply(graph: graph_values.Graph, plan: _Plan, uses: Any) -> None:
  """Makes sums one convolution in the Fourier domain."""
  terms = plan.places[0].terms
  weights = fourier_conv.weights(_kernel(terms), plan.tiling)
  own = terms[0].kernel
  # A constant that branches get is changed once, where it is.
  is_changed = uses[id(own)] == len(plan.places) and graph.replace(own, weights)
  for scope, node, own_terms, shape in plan.places:
    kept = own_terms[0]
    convolution = kept.convolution
    tensor = convolution.input[1] if is_changed else scope.constant(
        f'{convolution.name}/fourier_weights', weights)[0]
    graph_sums.keep_one(scope, node, own_terms, kept)
    graph_insertion.insert(
        scope, f'{convolution.name}/fourier',
        lambda x, kernel: fourier_conv.convolve(x, kernel, plan.tiling),
        [(convolution.input[0], [None, *shape[1:]]), (tensor, weights.shape)], convolution)


def _reaches(terms: Sequence[graph_sums.Term]) -> list[int]:
  """Returns how far kernels reach along rows and columns."""
  return [max((term.dilations or (1, 1))[axis] * (term.kernel.shape[axis] // 2)
              for term in terms) for axis in (0, 1)]


def _kernel(terms: Sequence[graph_sums.Term]) -> np.ndarray:
  """Returns the sum of kernels with their dilation rates, float64."""
  rows, columns = _reaches(terms)
  result = np.zeros([2 * rows + 1, 2 * columns + 1, *terms[0].kernel.shape[2:]])
  for term in terms:
    places = [slice(reach - rate * (size // 2), reach + rate * (size // 2) + 1, rate)
              for reach, rate, size in zip(
                  (rows, columns), term.dilations or (1, 1), term.kernel.shape)]
    result[tuple(places)] += term.kernel
  return result
