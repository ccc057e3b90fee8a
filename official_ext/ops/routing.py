"""What a network decided, per image, and what that cost.

    with RoutingTape() as tape:
      outputs = model(images)
    tape.routing().executed      # multiply-adds that each image needed

While a tape is open, in this thread and in this graph, routed layers record their
gates and costs on it, as operations do on a `tf.GradientTape`; without a tape they
record nothing.
"""
import threading
import types
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import tensorflow as tf, tf_keras


class Routing(NamedTuple):
  """Decisions and cost of the routed parts of a network, in multiply-adds.

  Attributes:
    gates: name -> float32 `[batch]` for an open-or-shut gate, `[batch, paths]` for a
      choice of one of several paths, both hard (0 or 1) at inference;
      `[batch, height, width, 1]` for a gate per position, in [0, 1], and 0 where nothing
      need run.
    executed: float32 `[batch]`, what each image needs when only selected parts run,
      gates included.
    expected: float32 `[batch]`, the differentiable stand-in that a budget pulls on: in
      training the sampled gates with their straight-through gradient, at inference
      the mean over what the gates' probabilities would sample.
    minimum: float32 scalar, every gate shut.
    maximum: float32 scalar, every gate open; of a choice, the dearest path.
    dense: float32 scalar, what is counted on the graph that computes every branch.
      Equals `maximum` unless paths exclude each other, or in a loop, whose body is
      counted once.
    measures: name -> float32 `[batch]`, what else is known of each image, such as how far a
      solver got.
  """
  gates: Mapping[str, tf.Tensor]
  executed: tf.Tensor
  expected: tf.Tensor
  minimum: tf.Tensor
  maximum: tf.Tensor
  dense: tf.Tensor
  measures: Mapping[str, tf.Tensor] = types.MappingProxyType({})


_open = threading.local()


def _graph() -> Optional[tf.Graph]:
  return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


class RoutingTape:
  """Collects what routed layers record while it is open, in this thread and graph.

  Open it around a call of a model, inside the replica function under
  `tf.distribute`: every replica has its own thread and so needs its own tape.
  """

  def __init__(self, sample_gates: bool = False, diagnose: bool = False):
    """Initializes a tape.

    Args:
      sample_gates: gates are sampled at inference too, as they are in training,
        instead of deciding for the most probable path.  Budgets are met by sampled
        gates.
      diagnose: layers also record measures that cost as much as the layer itself.
    """
    self.sample_gates = sample_gates
    self.diagnose = diagnose
    self._records: Dict[str, Routing] = {}
    self._graph = None

  def __enter__(self) -> 'RoutingTape':
    self._graph = _graph()
    self._records = {}
    if not hasattr(_open, 'tapes'):
      _open.tapes = []
    _open.tapes.append(self)
    return self

  def __exit__(self, *unused) -> None:
    _open.tapes.remove(self)

  @staticmethod
  def current() -> Optional['RoutingTape']:
    """Returns the innermost open tape of this thread, or None."""
    tapes: List[RoutingTape] = getattr(_open, 'tapes', None) or [None]
    return tapes[-1]

  def record(self, name: str, routing: Routing) -> None:
    """Records what one layer did.

    Args:
      name: unique on the tape; the layer's name, with `/part` behind it for a layer
        that records several times.
      routing: the layer's decisions and costs.

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

  def routing(self) -> Optional[Routing]:
    """Returns the sum over all layers, gates under `layer/gate`; None if nothing was routed."""
    if not self._records:
      return None
    records = self._records.values()
    gates, measures = (
        {f'{name}/{key}' if key else name: value
         for name, record in self._records.items()
         for key, value in getattr(record, field).items()} for field in ('gates', 'measures'))
    # In float64 the sums are exact in any order: TensorFlow may reorder those of a graph.
    costs = [
        tf.cast(sum(tf.cast(cost, tf.float64) for cost in costs), tf.float32)
        for costs in zip(*(record[1:6] for record in records))]
    return Routing(gates, *costs, measures)

  def check_complete(self, model: tf.Module) -> None:
    """Checks that every routed layer of a model is on the tape.

    It guards against what records nothing without an error: a function traced before
    the tape was opened, or a tape opened in another thread.

    Args:
      model: the model that was called under the tape.

    Raises:
      ValueError: names the layers that recorded nothing.
    """
    missing = [
        layer.name for layer in routed_layers(model)
        if not any(f'{name}/'.startswith(f'{layer.name}/') for name in self._records)
    ]
    if missing:
      raise ValueError(
          f'Routed layers {missing} recorded nothing: open the tape inside the replica function, '
          'around the call of the model, and before the function that calls it is traced.')


def routed_layers(model: tf.Module) -> List[tf_keras.layers.Layer]:
  """Returns the layers of a model that route: those with a true `is_routed`."""
  modules = (model, *model.submodules)
  return [module for module in modules if getattr(module, 'is_routed', False)]


def set_inference(model: tf.Module, inference: str) -> None:
  """Makes all routed layers of a model `skip` or `mask` at inference.

  Args:
    model: any module.
    inference: `skip` or `mask`.
  """
  check_inference(inference)
  for layer in routed_layers(model):
    layer.inference = inference


def check_inference(inference: str) -> None:
  """Raises a ValueError unless the argument is `skip` or `mask`."""
  if inference not in ('skip', 'mask'):
    raise ValueError(
        f'inference is {inference!r}; allowed are `skip` (run only what is selected) and `mask` '
        '(run everything and multiply by the gates, for XLA and TPU).')


def check_budget(target: float, reduction: str, distance: str = 'squared') -> None:
  """Raises a ValueError for a target outside [0, 1], an unknown reduction or distance."""
  if not 0 <= target <= 1:
    raise ValueError(f'budget target is {target}; it is a share of the cost that can be saved, '
                     'between 0 (all shut) and 1 (all open): change task.budget.target.')
  if reduction not in ('mean', 'sum'):
    raise ValueError(f'budget reduction is {reduction!r}; allowed are `mean` and `sum`: change '
                     'task.budget.reduction.')
  if distance not in ('squared', 'absolute'):
    raise ValueError(f'budget distance is {distance!r}; allowed are `squared` and `absolute`: '
                     'change task.budget.distance.')


def budget_loss(routing: Routing, target: float, reduction: str = 'mean',
                distance: str = 'squared') -> tf.Tensor:
  """Distance of the cost from a budget, per image.

  Squared it is the loss of DyFPN (eqs. 6-8); absolute, with a target of 0, the share itself, it
  is that of the dynamic head (eqs. 4-5).

  Args:
    routing: what a tape returned.
    target: the wanted share of what gates can save (alpha), in [0, 1].
    reduction: `mean` or `sum` over the images.
    distance: `squared` or `absolute`.

  Returns:
    A float32 scalar.
  """
  check_budget(target, reduction, distance)
  share = tf.math.divide_no_nan(routing.expected - routing.minimum,
                                routing.maximum - routing.minimum)
  loss = tf.square(share - target) if distance == 'squared' else tf.abs(share - target)
  return tf.reduce_mean(loss) if reduction == 'mean' else tf.reduce_sum(loss)


def record_on_tape(name: str, **fields: Any) -> None:
  """Records on the open tape, if there is one: the last act of a routed layer's `call`."""
  tape = RoutingTape.current()
  if tape is not None:
    tape.record(name, Routing(**fields))
