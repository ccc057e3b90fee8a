"""Networks as they run on accelerators: without `skip`, for tests that trace them for XLA."""
import tensorflow as tf

from official_ext.modeling.decoders import bifpn
from official_ext.modeling.decoders import carafe
from official_ext.modeling.decoders import deformable_fpn
from official_ext.modeling.decoders import drfpn
from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.heads import separable_tower
from official_ext.ops import routing
import component
import routed_adapters

_CHANNELS = {'3': 6, '4': 5, '5': 7}


class UnroutedAdapter:
  """A layer without gates, as the adapters of routed networks are."""
  inference_modes = ()

  def __init__(self, cls, channels=_CHANNELS, **options):
    self._part = component.Component(
        cls=cls, channels=channels, trainable=0, non_trainable=0, names='', output_levels='345',
        options={'num_filters': 16, **options})

  def make(self):
    return self._part.make()

  def inputs(self):
    return self._part.inputs()

  def call(self, layer, inputs, training=False):
    return layer(inputs, training=training)


def _neck(cls, **options):
  specs = {level: [None, None, None, depth] for level, depth in _CHANNELS.items()}
  return UnroutedAdapter(
      cls, **{'input_specs': specs, 'min_level': 3, 'max_level': 5, **options})


# A coarse head differs from the other one in the gates alone, and all blocks and all deformable
# convolutions are alike.
ADAPTERS = {
    'inception_fpn': _neck(dyfpn.InceptionFPN),
    'drfpn': _neck(drfpn.DRFPN),
    'bifpn': _neck(bifpn.BiFPN, num_repeats=1),
    'carafe': _neck(carafe.CARAFE, compressed_filters=4),
    'deformable_fpn': _neck(deformable_fpn.DeformableFPN, min_level=5),
    'separable_tower': UnroutedAdapter(
        separable_tower.SeparableTower, dict.fromkeys('345', 6), num_convs=1),
    **{name: adapter for name, adapter in routed_adapters.ADAPTERS.items()
       if not name.startswith('dynamic_head')},
    'dynamic_head': routed_adapters.DynamicTowerAdapter(num_blocks=1)}


def build(name):
  """Returns a network's adapter, its layer set to a mode for accelerators, and its inputs."""
  adapter = ADAPTERS[name]
  layer = adapter.make()
  if 'skip' in adapter.inference_modes:
    layer.inference = 'mask'
  return adapter, layer, tf.nest.map_structure(tf.constant, adapter.inputs())


def modes(adapter):
  """Returns the modes of inference for accelerators; [None] if a network always runs alike."""
  return [mode for mode in adapter.inference_modes if mode != 'skip'] or [None]


def inference(adapter, layer):
  """Returns a function of the inputs that gives outputs and cost."""

  def infer(inputs):
    with routing.RoutingTape() as tape:
      outputs = adapter.call(layer, inputs)
    record = tape.routing()
    return dict(outputs), record.executed if record else tf.zeros([])

  return infer


def gradients(adapter, layer):
  """Returns a function of the inputs that gives the gradients of all weights."""

  def train(inputs):
    with tf.GradientTape() as tape_of_gradients, routing.RoutingTape() as tape:
      outputs = adapter.call(layer, inputs, training=True)
      loss = tf.add_n([tf.reduce_sum(tf.square(x)) for x in tf.nest.flatten(outputs)])
      record = tape.routing()
      if record:
        loss += tf.cast(1e-6 * tf.reduce_sum(record.expected), loss.dtype)
    return tape_of_gradients.gradient(loss, layer.trainable_variables,
                                      unconnected_gradients=tf.UnconnectedGradients.ZERO)

  return train
