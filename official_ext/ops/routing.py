"""The record of what a network decided for each image and what that cost, and the tape for it.

    with RoutingTape() as tape:
      outputs = model(images)
    tape.routing().executed      # multiply-adds that each image needed

While a tape is open in this thread and in this graph, routed layers record their gates and costs
on it, as operations do on a `tf.GradientTape`.  Without a tape they record nothing.
"""
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import threading
import types
from typing import NamedTuple, TypeVar

import tensorflow as tf

Tape = TypeVar('Tape', bound='RoutingTape')


class Uncounted(NamedTuple):
  """Multiply-adds that a layer runs, but that the tables of its paper leave out.

  Attributes:
    executed: float32 `[batch]`, part of `Routing.executed`.
    minimum: float32 scalar, part of `Routing.minimum`.
    maximum: float32 scalar, part of `Routing.maximum`.
  """
  executed: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor


class Routing(NamedTuple):
  """Decisions and cost of the routed parts of a network, in multiply-adds.

  Attributes:
    gates: name -> float32 `[batch]` for an open-or-shut gate, `[batch, paths]` for a choice of
      one of several paths, both hard (0 or 1) at inference; `[batch, height, width, 1]` for a
      gate per position, in [0, 1], which is 0 where nothing has to run.
    executed: float32 `[batch]`, the cost of each image when only selected parts run, gates
      included.
    expected: float32 `[batch]`, the differentiable cost that a budget pulls on: in training that
      of the sampled gates, with their straight-through gradient; at inference the mean cost of
      what the gates' probabilities would sample.
    minimum: float32 scalar, the cost with every gate shut.
    maximum: float32 scalar, the cost with every gate open; a choice counts with its most
      expensive path.
    all_branches: float32 scalar, the cost that is counted on the graph that computes every
      branch.  It equals `maximum` except for paths that exclude each other, and for loops, whose
      body the graph has once.
    metrics: name -> float32 `[batch]`, further values of each image, such as the residual of a
      solver.
    soft_cost: float32 `[batch]`, the cost with every part weighted by its soft gate (C_net of
      CADDet, eq. 4), differentiable; None without such gates.
    uncounted: what the paper's tables do not count; None if they count everything.
    probabilities: name of a gate that is sampled -> the probabilities that it is sampled from, of
      the shape of the gate, float32 and differentiable.
  """
  gates: Mapping[str, tf.Tensor]
  executed: tf.Tensor
  expected: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor
  all_branches: tf.Tensor
  metrics: Mapping[str, tf.Tensor] = types.MappingProxyType({})
  soft_cost: tf.Tensor | None = None
  uncounted: Uncounted | None = None
  probabilities: Mapping[str, tf.Tensor] = types.MappingProxyType({})


def is_per_position(gate: tf.Tensor) -> bool:
  """Returns whether a gate of a `Routing` decides for each position, not for the image."""
  return gate.shape.rank == 4


_COSTS = ('executed', 'expected', 'minimum', 'maximum', 'all_branches')


class _Open(threading.local):
  """The tapes, thresholds of gates and budgets that are open in a thread, innermost last."""

  def __init__(self):
    self.tapes: list[RoutingTape] = []
    self.thresholds: list[tf.Tensor] = []
    self.budgets: list[tf.Tensor] = []


_open = _Open()


@contextlib.contextmanager
def shutting_gates(threshold: tf.Tensor | float) -> Iterator[None]:
  """Shuts gates up to a threshold in what models run at inference in this thread.

  Gates are values up to 1: those of a dynamic head and of CADDet as they are; the choice of DyFPN
  between two paths as the hyperbolic tangent of half the difference of their logits.

  Args:
    threshold: float32 scalar, perhaps a tensor of a graph.  0 and less, and NaN, leave gates as
      they are; 1 and more shut all.
  """
  threshold = tf.convert_to_tensor(threshold, tf.float32)
  _open.thresholds.append(tf.where(threshold > 0, tf.minimum(threshold, 1.0), 0.0))
  try:
    yield
  finally:
    _open.thresholds.pop()


def gate_threshold() -> tf.Tensor | None:
  """Returns the threshold of the innermost `shutting_gates`, in [0, 1]; None without one."""
  return _open.thresholds[-1] if _open.thresholds else None


@contextlib.contextmanager
def spending(budget: tf.Tensor | float) -> Iterator[None]:
  """Gives a budget to the layers with `budget_input` that run in this thread.

  They read it in training and at inference.

  Args:
    budget: wanted share of what gates can save, float32, a scalar or one for each image, perhaps
      a tensor of a graph: 0 shuts every gate, 1 opens all.  Less than 0 counts as 0; more than 1,
      and NaN, as 1.
  """
  budget = tf.convert_to_tensor(budget, tf.float32)
  _open.budgets.append(tf.where(budget < 1, tf.maximum(budget, 0.0), 1.0))
  try:
    yield
  finally:
    _open.budgets.pop()


def wanted_budget() -> tf.Tensor:
  """Returns the budget of the innermost `spending`, in [0, 1]; 1, every gate open, without one."""
  return _open.budgets[-1] if _open.budgets else tf.constant(1.0)


def _graph() -> tf.Graph | None:
  return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


class RoutingTape:
  """Collects what routed layers record while it is open, in this thread and graph.

  Open it around a call of a model, inside the replica function under
  `tf.distribute`: every replica has its own thread and so needs its own tape.

  Attributes:
    sample_gates: whether gates are sampled at inference too.
    diagnose: whether layers also record expensive metrics.
  """

  def __init__(self, sample_gates: bool = False, diagnose: bool = False):
    """Initializes a tape.

    Args:
      sample_gates: whether gates are sampled at inference too, as in training, instead of
        taking the most probable path.  Training pulls the cost of sampled gates to a budget.
      diagnose: whether layers also record metrics that cost as much as the layer itself.
    """
    self.sample_gates = sample_gates
    self.diagnose = diagnose
    self._records: dict[str, Routing] = {}
    self._graph: tf.Graph | None = None

  def __enter__(self: Tape) -> Tape:
    self._graph = _graph()
    self._records = {}
    _open.tapes.append(self)
    return self

  def __exit__(self, *unused) -> None:
    _open.tapes.remove(self)

  @classmethod
  def current(cls: type[Tape]) -> Tape | None:
    """Returns the innermost open tape of this thread that is of this class, or None."""
    return next((tape for tape in reversed(_open.tapes) if isinstance(tape, cls)), None)

  def record(self, name: str, routing: Routing) -> None:
    """Records what one layer decided and what that cost.

    Args:
      name: name of the layer, unique on the tape.
      routing: decisions and costs of the layer.

    Raises:
      ValueError: the tape was opened in another graph, or `name` is on it already.
    """
    if _graph() is not self._graph:
      raise ValueError(
          f'{name!r} records in graph {getattr(_graph(), "name", "eager")!r}, the tape was opened '
          f'in {getattr(self._graph, "name", "eager")!r}: return the values from inner functions '
          'and record them outside, and build models before opening a tape.')
    if name in self._records:
      raise ValueError(
          f'{name!r} is recorded twice on one tape: give each call a name of its own; a layer '
          'inside tf.recompute_grad cannot be recorded.')
    self._records[name] = routing

  def records(self) -> Mapping[str, Routing]:
    """Returns what each layer recorded, by name."""
    return dict(self._records)

  def routing(self) -> Routing | None:
    """Returns the sum over all layers, gates under `layer/gate`; None if nothing was routed."""
    return merge(self._records) if self._records else None


def merge(records: Mapping[str, Routing]) -> Routing:
  """Returns the sum of what several layers recorded, with names `layer/gate` and `layer/metric`.

  Args:
    records: name of the layer -> its record; not empty.
  """
  gates, metrics, probabilities = (
      {f'{name}/{key}': value for name, record in records.items()
       for key, value in getattr(record, field).items()}
      for field in ('gates', 'metrics', 'probabilities'))
  soft_costs = [record.soft_cost for record in records.values() if record.soft_cost is not None]
  uncounted = [record.uncounted for record in records.values() if record.uncounted is not None]
  return Routing(
      gates, metrics=metrics, probabilities=probabilities,
      soft_cost=_sum(soft_costs) if soft_costs else None,
      uncounted=Uncounted(*(_sum(costs) for costs in zip(*uncounted))) if uncounted else None,
      **{field: _sum([getattr(record, field) for record in records.values()])
         for field in _COSTS})


def _sum(costs: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns the float32 sum of costs, the same in any order.

  TensorFlow may reorder the sum; float64 holds multiply-adds exactly, so that changes nothing.
  """
  return tf.cast(tf.add_n([tf.cast(cost, tf.float64) for cost in costs]), tf.float32)
