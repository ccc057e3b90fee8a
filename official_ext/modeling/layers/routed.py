"""The protocol of layers that decide, for each image or position, what they run.

Tasks, losses, profiling and serving use routed layers by these two classes alone.
"""
from collections.abc import Iterator, Mapping
import contextlib
from typing import Any

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.ops import checks
from official_ext.ops import routing

# The value above which a task warns, and the reason that the warning gives.
Limit = tuple[float, str]
# The parts of a detector; `head` is everything that is not in the others.
PARTS = ('backbone', 'decoder', 'head')


class RoutedLayer(tf_keras.layers.Layer):
  """Base of layers that record on a routing tape what they decided and what it cost.

  A subclass calls `record` once, at the end of its own `call`.  Its `gate_names` and
  `metric_names` list what it will record, so that a task can create its Keras metrics before the
  first step.

  Attributes:
    samples_gates: whether training draws gates at random, while inference takes the most
      probable ones.  Evaluation warns if the two costs drift apart.
    has_soft_cost: whether the layer records `soft_cost` and has a `total_cost`, of which a
      budget may be a share.
    uncounted_parts: in words, what the tables of the layer's paper do not count.
    decides_for_images: whether its gates decide for whole images, not for positions of a map.
  """

  samples_gates = False
  has_soft_cost = False
  decides_for_images = True
  uncounted_parts = ''

  @property
  def is_routed(self) -> bool:
    """Whether the layer, with its options, records anything."""
    return True

  @property
  def has_gate_threshold(self) -> bool:
    """Whether `routing.shutting_gates` shuts gates of the layer."""
    return False

  @property
  def has_budget_input(self) -> bool:
    """Whether gates of the layer follow `routing.wanted_budget`."""
    return False

  @property
  def learns_gates(self) -> bool:
    """Whether training changes what gates of the layer decide."""
    return True

  @property
  def gate_names(self) -> list[str]:
    """Names of the gates that the built layer records."""
    return []

  @property
  def metric_names(self) -> list[str]:
    """Names of the per-image metrics that the layer records in training."""
    return []

  @property
  def metric_limits(self) -> Mapping[str, Limit]:
    """Name of a metric -> its limit."""
    return {}

  @property
  def router_variables(self) -> list[tf.Variable]:
    """Variables that a checkpoint of the same layer without routing does not have.

    A task may start from such a checkpoint; these variables then keep their initial values.
    """
    return self.budget_variables

  @property
  def budget_variables(self) -> list[tf.Variable]:
    """Those of `router_variables` that a checkpoint of the layer without a budget input lacks."""
    return []

  @property
  def calibrates_budget(self) -> bool:
    """Whether `budget_logits` and `calibrate_budget` set what gates do at each budget."""
    return False

  @property
  def controls_budget(self) -> bool:
    """Whether inference moves what gates do at a budget in `budget_control.calibrating`."""
    return False

  def budget_logits(self, inputs: Any) -> tf.Tensor:
    """Returns what `calibrate_budget` needs of a batch of inputs, `[batch, ...]`."""
    raise NotImplementedError

  def calibrate_budget(self, logits: np.ndarray) -> None:
    """Sets what gates do at each budget so that images with these logits spend it.

    Args:
      logits: what `budget_logits` returned, of images as inference gets them.
    """
    raise NotImplementedError

  def total_cost(self, height: int, width: int) -> float:
    """Returns the multiply-adds of one image with every gate open, unrouted parts included.

    Args:
      height: height of the image in pixels.
      width: width of the image in pixels.
    """
    raise NotImplementedError(f'{self.name} has no soft cost.')

  def record(self, *, gates: Mapping[str, tf.Tensor], executed: tf.Tensor, expected: tf.Tensor,
             minimum: tf.Tensor, maximum: tf.Tensor, all_branches: tf.Tensor,
             metrics: Mapping[str, tf.Tensor] | None = None,
             soft_cost: tf.Tensor | None = None,
             uncounted: routing.Uncounted | None = None,
             probabilities: Mapping[str, tf.Tensor] | None = None) -> None:
    """Records what one call did, if a routing tape is open; costs are cast to float32.

    Args:
      gates: as in `routing.Routing`; names are those of `gate_names`.
      executed: multiply-adds `[batch]`, of any floating dtype, as all costs.
      expected: multiply-adds `[batch]`.
      minimum: multiply-adds, scalar.
      maximum: multiply-adds, scalar.
      all_branches: multiply-adds, scalar.
      metrics: name -> float32 `[batch]`; names are those of `metric_names`, and more under a
        tape that diagnoses.
      soft_cost: multiply-adds `[batch]`; None without soft gates.
      uncounted: multiply-adds that the paper's tables do not count; None if they count all.
      probabilities: as in `routing.Routing`; None if no gate is sampled.
    """
    tape = routing.RoutingTape.current()
    if tape is None:
      return
    costs = {'executed': executed, 'expected': expected, 'minimum': minimum, 'maximum': maximum,
             'all_branches': all_branches}
    if soft_cost is not None:
      costs['soft_cost'] = soft_cost
    if uncounted is not None:
      uncounted = routing.Uncounted(*(tf.cast(cost, tf.float32) for cost in uncounted))
    tape.record(self.name, routing.Routing(
        gates=gates, metrics=metrics or {}, uncounted=uncounted,
        probabilities=probabilities or {},
        **{name: tf.cast(cost, tf.float32) for name, cost in costs.items()}))


class SkippingLayer(RoutedLayer):
  """Base of routed layers that do not compute at inference what no image selected.

  In training every branch is computed and multiplied by its gate, so that gradients flow and
  shapes are static.  At inference the mode `inference` decides:

  * `skip`: compute only what is selected;
  * `mask`: compute everything and multiply by the gates, which gives the same numbers on XLA and
    TPU, where shapes must be static.

  Attributes:
    inference_modes: allowed values of `inference`.
  """

  inference_modes: tuple[str, ...] = ('skip', 'mask')

  def __init__(self, inference: str = 'skip', **kwargs):
    """Initializes the layer.

    Args:
      inference: one of `inference_modes`.
      **kwargs: arguments of the next base class.

    Raises:
      ArgumentError: unknown inference mode.
    """
    checks.check_one_of('inference', inference, self.inference_modes)
    super().__init__(**kwargs)
    self._inference = inference

  @property
  def inference(self) -> str:
    """How the layer runs at inference, one of `inference_modes`; may be changed at any time."""
    return self._inference

  @inference.setter
  def inference(self, inference: str) -> None:
    checks.check_one_of('inference', inference, self.inference_modes)
    self._inference = inference

  def skips(self, training: bool | None) -> bool:
    """Returns whether a call computes only what is selected."""
    return not training and self._inference == 'skip'

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'inference': self._inference}


def routed_layers(model: tf.Module) -> list[RoutedLayer]:
  """Returns the layers of a model that route, the model itself included."""
  modules = (model, *model.submodules)
  return [module for module in modules if isinstance(module, RoutedLayer) and module.is_routed]


def has_gate_threshold(model: tf.Module) -> bool:
  """Returns whether `routing.shutting_gates` shuts any gates of a model."""
  return any(layer.has_gate_threshold for layer in routed_layers(model))


def has_budget_input(model: tf.Module) -> bool:
  """Returns whether any gates of a model follow the budget of `routing.spending`."""
  return any(layer.has_budget_input for layer in routed_layers(model))


def layers_by_part(model: tf.Module) -> dict[str, list[RoutedLayer]]:
  """Returns the routed layers of each of the `PARTS` of a detector; a part may have none.

  Args:
    model: a detector; without a `backbone` or a `decoder` these parts have no layers.
  """
  layers: dict[str, list[RoutedLayer]] = {}
  for part in ('backbone', 'decoder'):
    module = getattr(model, part, None)
    layers[part] = routed_layers(module) if module is not None else []
  others = {id(layer) for layer in [*layers['backbone'], *layers['decoder']]}
  return {**layers, 'head': [layer for layer in routed_layers(model) if id(layer) not in others]}


def set_inference(model: tf.Module, inference: str) -> None:
  """Sets the inference mode of all skipping layers of a model, such as `mask`."""
  for layer in routed_layers(model):
    if isinstance(layer, SkippingLayer):
      layer.inference = inference


@contextlib.contextmanager
def inference_as(model: tf.Module, inference: str) -> Iterator[None]:
  """Sets an inference mode as `set_inference` does, until the context ends."""
  layers = [layer for layer in routed_layers(model) if isinstance(layer, SkippingLayer)]
  kept = [layer.inference for layer in layers]
  set_inference(model, inference)
  try:
    yield
  finally:
    for layer, previous in zip(layers, kept):
      layer.inference = previous


def check_complete(tape: routing.RoutingTape, model: tf.Module) -> None:
  """Checks that every routed layer of a model recorded on a tape.

  The check finds two mistakes that leave a tape empty: a function was traced before the tape was
  opened, or the tape was opened in another thread.

  Args:
    tape: the tape under which the model was called.
    model: the model.

  Raises:
    ValueError: names the layers that recorded nothing.
  """
  missing = [layer.name for layer in routed_layers(model) if layer.name not in tape.records()]
  if missing:
    raise ValueError(
        f'Routed layers {missing} recorded nothing: open the tape inside the replica function, '
        'around the call of the model, and before the function that calls it is traced.')
