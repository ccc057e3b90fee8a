"""Every network compiles under XLA, for GPUs and TPUs too, which no test needs to have.

TensorFlow lowers a function to XLA's operations (HLO) for a platform without such a device.  TPU
kernels are not registered in TensorFlow's packages, so that the HLO for GPUs stands for both: an
operation of HLO means the same on every platform, but a custom call is code of one platform, and
TPUs take no shapes that are known only at run time.
"""
import re
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants
from tensorflow.python.ops import resource_variable_ops

from official_ext.losses import autoassign
from official_ext.losses import free_anchor
from official_ext.modeling.decoders import bifpn
from official_ext.modeling.decoders import carafe
from official_ext.modeling.decoders import deformable_fpn
from official_ext.modeling.decoders import drfpn
from official_ext.modeling.heads import separable_tower
from official_ext.ops import assigners
from official_ext.ops import routing
import component
import routed_adapters

pytestmark = pytest.mark.slow

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
    'drfpn': _neck(drfpn.DRFPN),
    'bifpn': _neck(bifpn.BiFPN, num_repeats=1),
    'carafe': _neck(carafe.CARAFE, compressed_filters=4),
    'deformable_fpn': _neck(deformable_fpn.DeformableFPN, min_level=5),
    'separable_tower': UnroutedAdapter(
        separable_tower.SeparableTower, dict.fromkeys('345', 6), num_convs=1),
    **{name: adapter for name, adapter in routed_adapters.ADAPTERS.items()
       if not name.startswith('dynamic_head')},
    'dynamic_head': routed_adapters.DynamicTowerAdapter(num_blocks=1)}


def _inference(adapter, layer):
  """Returns a function of the inputs that gives outputs and cost."""

  def infer(inputs):
    with routing.RoutingTape() as tape:
      outputs = adapter.call(layer, inputs)
    record = tape.routing()
    return dict(outputs), record.executed if record else tf.zeros([])

  return infer


def _gradients(adapter, layer):
  """Returns a function of the inputs that gives the gradients of all weights."""

  def train(inputs):
    with tf.GradientTape() as gradients, routing.RoutingTape() as tape:
      outputs = adapter.call(layer, inputs, training=True)
      loss = tf.add_n([tf.reduce_sum(tf.square(x)) for x in tf.nest.flatten(outputs)])
      record = tape.routing()
      if record:
        loss += tf.cast(1e-6 * tf.reduce_sum(record.expected), loss.dtype)
    return gradients.gradient(loss, layer.trainable_variables,
                              unconnected_gradients=tf.UnconnectedGradients.ZERO)

  return train


def _hlo(function, inputs):
  """Lowers a function for GPUs, its variables as constants: variables would need such a device.

  Updates of moving statistics are left out.
  """
  specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), inputs)
  with mock.patch.multiple(resource_variable_ops.gen_resource_variable_ops, **{
      f'{name}_variable_op': lambda *_, **__: tf.no_op()
      for name in ('assign', 'assign_add', 'assign_sub')}):
    traced = tf.function(function, autograph=False, jit_compile=True).get_concrete_function(specs)
  frozen = convert_to_constants.convert_variables_to_constants_v2(
      traced, lower_control_flow=False)
  compiled = tf.function(lambda *values: frozen(*values), autograph=False, jit_compile=True)
  return compiled.experimental_get_compiler_ir(*tf.nest.flatten(inputs))(
      stage='hlo', platform_name='GPU')


@pytest.fixture(scope='module', params=ADAPTERS)
def network(request):
  adapter = ADAPTERS[request.param]
  layer = adapter.make()
  if 'skip' in adapter.inference_modes:
    layer.inference = 'mask'
  return adapter, layer, tf.nest.map_structure(tf.constant, adapter.inputs())


def _check(text):
  assert text.startswith('HloModule')
  assert not re.findall('custom_call_target="[^"]*"', text)
  assert not re.findall(r'\[[\d,]*<=[^\]]*\]', text)


def test_training_lowers_for_accelerators(network):
  adapter, layer, inputs = network
  _check(_hlo(_gradients(adapter, layer), inputs))


def test_inference_lowers_for_accelerators(network):
  adapter, layer, inputs = network
  for mode in [mode for mode in adapter.inference_modes if mode != 'skip'] or [None]:
    if mode:
      layer.inference = mode
    _check(_hlo(_inference(adapter, layer), inputs))


@pytest.mark.parametrize('name, losses, anchors', [
    ('autoassign', autoassign.losses, 1), ('freeanchor', free_anchor.losses, 2)])
def test_losses_that_assign_lower_for_accelerators(name, losses, anchors):
  options = {'aspect_ratios': [0.5, 2.0]} if anchors == 2 else {}
  random = np.random.default_rng(0)
  maps = {key: {level: random.normal(1, 1, [2, size, size, depth]).astype(np.float32)
                for level, size in (('3', 6), ('4', 3))}
          for key, depth in (('cls_outputs', 3 * anchors), ('box_outputs', 4 * anchors),
                             ('objectness', 1))}
  inputs = {**maps, 'offsets': np.zeros([3, 2], np.float32),
            'spreads': np.ones([3, 2], np.float32),
            'boxes': np.array([[[4, 4, 30, 40], [-1] * 4]] * 2, np.float32),
            'classes': np.array([[2, -1], [-1, -1]])}

  def train(inputs):
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      outputs = {**inputs, 'attribute_outputs': inputs,
                 'center_prior': (inputs['offsets'], inputs['spreads'])}
      total = tf.add_n(losses(outputs, inputs, assigners.assigner(name, **options)))
    sources = tf.nest.flatten([inputs[key] for key in maps])
    return tape.gradient(total, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)

  _check(_hlo(train, tf.nest.map_structure(tf.constant, inputs)))


@pytest.mark.parametrize('name', ['dyfpn_a', 'dyfpn_b', 'caddet'])  # others: beside their tests
def test_compiled_equals_eager(name):
  adapter = ADAPTERS[name]
  layer, inputs = adapter.make(), tf.nest.map_structure(tf.constant, adapter.inputs())
  layer.inference = 'mask'
  infer = _inference(adapter, layer)
  compiled = tf.function(infer, autograph=False, jit_compile=True)(inputs)
  for one, other in zip(tf.nest.flatten(compiled), tf.nest.flatten(infer(inputs))):
    np.testing.assert_allclose(one, other, 1e-4, 1e-4)
