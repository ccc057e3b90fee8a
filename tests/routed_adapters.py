"""How the routed checks talk to each routed network: one adapter for each."""
from collections.abc import Mapping, Sequence
import contextlib
import itertools
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.decoders import ifpn
from official_ext.ops import routing
from official_ext.ops import sparse_conv
import dynamic_towers
import reference
import spies
import supernets

Outputs = dict[str, np.ndarray]


class Adapter:
  """Makes and runs one routed network for the checks; each subclass knows one kind of network.

  Attributes:
    inference_modes: the modes that must agree; empty: the network always runs in the same way.
    same_in_training: whether training gives the outputs of inference for the same gates.
    has_hard_gates: whether gates are 0 or 1 at inference.
    sizes: of the inputs, as the network takes them.
    convolutions_outside: convolutions and products of the exported graph that no conditional
      decides about; None: not counted.
  """
  inference_modes: Sequence[str] = ('skip', 'mask')
  same_in_training = True
  has_hard_gates = True
  sizes: Sequence[tuple[int, int]] = ((32, 40), (75, 101))
  convolutions_outside: Any = None

  def make(self) -> Any:
    """Makes the layer, built, with weights for which images decide differently."""
    raise NotImplementedError

  def inputs(self, size=None) -> Any:
    """Returns a nested structure of arrays `[batch, ...]`; the images differ."""
    raise NotImplementedError

  def signature(self) -> Any:
    """Returns the structure of `inputs` as tensor specs of any batch and image size."""
    raise NotImplementedError

  def call(self, layer, inputs, training=False) -> Mapping[str, tf.Tensor]:
    """Calls the layer under whatever makes its gates decide as the inputs say."""
    return layer(inputs, training=training)

  def all_gates(self, layer, is_open: bool) -> Any:
    """Returns a context in which every gate is open, or shut."""
    raise NotImplementedError

  def poison(self, layer, inputs, row: int) -> int:
    """Writes NaN into weights that an image does not need; returns how many variables."""
    raise NotImplementedError

  def poisoned_rows(self) -> Sequence[int]:
    """Returns the images for which `poison` is tried."""
    return (0,)

  def poisonable(self) -> Any:
    """Returns a context in which these images leave something out."""
    return contextlib.nullcontext()

  def always_skips(self) -> Any:
    """Returns a context in which `skip` never runs everything because that is faster."""
    return contextlib.nullcontext()

  def run(self, layer, inputs, training=False) -> tuple[Outputs, routing.Routing]:
    """Returns the outputs as arrays, and the record of the call."""
    outputs, record = self.run_tensors(layer, inputs, training)
    return {level: np.asarray(x) for level, x in outputs.items()}, record

  def run_tensors(self, layer, inputs, training=False):
    """Returns the outputs, through which a gradient flows, and the record of the call."""
    with routing.RoutingTape() as tape:
      outputs = self.call(layer, inputs, training)
    return outputs, tape.routing()

  def take(self, inputs, rows) -> Any:
    """Returns some of the images."""
    return tf.nest.map_structure(lambda x: x[np.asarray(rows)], inputs)

  def batch(self, inputs) -> int:
    return len(tf.nest.flatten(inputs)[0])


def poison(variables) -> int:
  """Writes NaN into variables; returns how many there are."""
  for variable in variables:
    variable.assign(np.full(variable.shape, np.nan))
  return len(variables)


def dyfpn_patterns(block: str) -> np.ndarray:
  """Returns hard gates `[patterns, levels, paths]`, the cheapest first, the most expensive last."""
  if block == 'B':
    return np.array([np.eye(2)[list(bits)] for bits in itertools.product([0, 1], repeat=3)])
  chosen = [*([path] * 3 for path in range(6)), [6, 0, 3], [1, 5, 2], [4, 6, 0], [6, 6, 6]]
  return np.array([np.eye(7)[paths] for paths in chosen])


class DyFPNAdapter(Adapter):
  """DyFPN with forced gates: the inputs are features and hard gates `[batch, levels, paths]`."""

  CHANNELS = {'3': 6, '4': 5, '5': 7}

  def __init__(self, block: str, gate: str = 'random'):
    self._block = block
    self._gate = {'type': gate}
    self.convolutions_outside = {'A': 4, 'B': 7}[block]  # outputs, a coarser level, skips

  def make(self):
    layer = dyfpn.DyFPN(
        input_specs={level: [None, None, None, depth] for level, depth in self.CHANNELS.items()},
        min_level=3, max_level=6, num_filters=4, norm='none', block=self._block,
        gate=self._gate, name='part')
    layer(reference.pyramid_inputs(self.CHANNELS, batch=1))
    spies.randomize(layer)
    return layer

  def inputs(self, size=None):
    gates = dyfpn_patterns(self._block).astype(np.float32)
    features = reference.pyramid_inputs(self.CHANNELS, size or self.sizes[0], len(gates))
    return tf.nest.map_structure(np.asarray, dict(features)), gates

  def signature(self):
    features = {level: tf.TensorSpec([None, None, None, depth])
                for level, depth in self.CHANNELS.items()}
    return features, tf.TensorSpec([None, *dyfpn_patterns(self._block).shape[1:]])

  def call(self, layer, inputs, training=False):
    features, gates = inputs
    with spies.forced_gates(gates):
      return layer(features, training=training)

  @contextlib.contextmanager
  def all_gates(self, layer, is_open):
    row = -1 if is_open else 0
    original = DyFPNAdapter.call

    def forced(self, layer, inputs, training=False):
      features, gates = inputs
      gates = 0 * gates + dyfpn_patterns(self._block)[row]
      return original(self, layer, (features, gates), training)

    DyFPNAdapter.call = forced
    try:
      yield
    finally:
      DyFPNAdapter.call = original

  def poison(self, layer, inputs, row):
    """An image alone reads only the kernels of the branches that it selects."""
    with tf.GradientTape() as tape:
      self.run(layer, self.take(inputs, [row]))
    used = {variable.ref() for variable in tape.watched_variables()}
    return poison([v for v in layer.trainable_variables if v.ref() not in used])

  def poisoned_rows(self):
    return range(7) if self._block == 'B' else (0, 3, 6)


class CADDetAdapter(Adapter):
  """CADDet, whose routers are set so that images of different contrast take different paths."""

  same_in_training = False  # Batch norm uses the batch.
  has_hard_gates = False
  sizes = (supernets.SIZE, supernets.ODD)
  convolutions_outside = 3  # the stem's

  def make(self):
    return supernets.make()

  def inputs(self, size=None):
    return supernets.images(size or self.sizes[0])

  def signature(self):
    return tf.TensorSpec([None, None, None, 3])

  @contextlib.contextmanager
  def all_gates(self, layer, is_open):
    kept = layer.get_weights()
    supernets.set_gates(layer, 5.0 if is_open else -5.0)
    yield
    layer.set_weights(kept)

  def poison(self, layer, inputs, row):
    _, record = self.run(layer, inputs)
    needed = supernets.needed_parts(record, row)
    return poison([
        variable for variable in layer.variables if '/layer_' in variable.name
        and '/'.join(variable.name.split('/')[1:3]) not in needed])

  def poisoned_rows(self):
    return (0, 3)


class DynamicTowerAdapter(Adapter):
  """The dynamic head, whose gates decide by the features of each position."""

  inference_modes = ('skip', 'mask', 'tiles')
  has_hard_gates = False
  sizes = ((60, 84), (33, 47))
  _SHUT = 1  # the image whose depth gates are all shut where `poison` is tried

  def __init__(self, **options):
    self._options = options
    self._forced = False

  def make(self):
    return dynamic_towers.make(self.inputs(), **self._options)

  def inputs(self, size=None):
    return dynamic_towers.features(batch=4, size=size or self.sizes[0])

  def signature(self):
    return {level: tf.TensorSpec([None, None, None, dynamic_towers.CHANNELS], tf.float64)
            for level in '345'}

  def call(self, layer, inputs, training=False):
    if not self._forced:
      return layer(inputs, training=training)

    def decide(name, features):
      shut = [self._SHUT] if name == 'depth_gate' else []
      return dynamic_towers.random_gates(name, features, shut=shut)

    with dynamic_towers.forced_gates(decide):
      return layer(inputs, training=training)

  def all_gates(self, layer, is_open):
    del layer
    return dynamic_towers.forced_gates(
        lambda name, features: np.full([*features.shape[:3], 1], float(is_open)))

  def always_skips(self):
    return mock.patch.object(sparse_conv, 'default_break_even', return_value=1.0)

  def poison(self, layer, inputs, row):
    assert row == self._SHUT
    return poison([v for block in layer.blocks for v in block.depth.variables])

  def poisoned_rows(self):
    return (self._SHUT,)

  @contextlib.contextmanager
  def poisonable(self):
    self._forced = True
    yield
    self._forced = False


class ImplicitFPNAdapter(Adapter):
  """i-FPN with a tolerance: images stop after different numbers of evaluations."""

  inference_modes = ()
  same_in_training = False  # Training evaluates the map once more, for the gradient.
  CHANNELS = {'3': 6, '4': 5}

  def make(self):
    layer = ifpn.ImplicitFPN(
        input_specs={level: [None, None, None, depth] for level, depth in self.CHANNELS.items()},
        min_level=3, max_level=5, num_filters=8, dropout=0.0, name='part',
        solver={'tolerance': 0.02, 'inference_evaluations': 12})
    layer(reference.pyramid_inputs(self.CHANNELS, batch=1))
    return layer

  def inputs(self, size=None):
    features = reference.pyramid_inputs(self.CHANNELS, size or self.sizes[0], 5)
    contrast = np.array([0.0, 0.3, 1.0, 5.0, 20.0], np.float32)[:, None, None, None]
    return {level: np.asarray(x) * contrast for level, x in features.items()}

  def signature(self):
    return {level: tf.TensorSpec([None, None, None, depth])
            for level, depth in self.CHANNELS.items()}


ADAPTERS = {
    'dyfpn_a': DyFPNAdapter('A'), 'dyfpn_b': DyFPNAdapter('B'), 'caddet': CADDetAdapter(),
    'dynamic_head': DynamicTowerAdapter(),
    'dynamic_head_coarse': DynamicTowerAdapter(coarse=True, num_blocks=1),
    'ifpn': ImplicitFPNAdapter(),
}
