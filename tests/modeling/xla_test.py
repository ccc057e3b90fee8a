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
from official_ext.ops import assigners
import accelerated_networks

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope='module', params=accelerated_networks.ADAPTERS)
def network(request):
  return accelerated_networks.build(request.param)


def _check(text):
  assert text.startswith('HloModule')
  assert not re.findall('custom_call_target="[^"]*"', text)
  assert not re.findall(r'\[[\d,]*<=[^\]]*\]', text)


def test_training_lowers_for_accelerators(network):
  adapter, layer, inputs = network
  _check(_hlo(accelerated_networks.gradients(adapter, layer), inputs))


def test_inference_lowers_for_accelerators(network):
  adapter, layer, inputs = network
  for mode in accelerated_networks.modes(adapter):
    if mode:
      layer.inference = mode
    _check(_hlo(accelerated_networks.inference(adapter, layer), inputs))


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


def _compiled_and_eager(function, inputs):
  """Returns what XLA computes on the processor, and what TensorFlow's kernels do."""
  compiled = tf.function(function, autograph=False, jit_compile=True)(inputs)
  return zip(tf.nest.flatten(compiled), tf.nest.flatten(function(inputs)), strict=True)


def test_compiled_inference_equals_eager(network):
  adapter, layer, inputs = network
  for mode in accelerated_networks.modes(adapter):
    if mode:
      layer.inference = mode
    for compiled, eager in _compiled_and_eager(
        accelerated_networks.inference(adapter, layer), inputs):
      np.testing.assert_allclose(compiled, eager, 1e-4, 1e-4)


def test_compiled_gradients_equal_eager(network):
  adapter, layer, inputs = network
  pairs = list(_compiled_and_eager(accelerated_networks.gradients(adapter, layer), inputs))
  # The gradient of a bias in front of a norm is 0 but for rounding, which the largest one bounds.
  largest = max(np.max(np.abs(eager)) for _, eager in pairs)
  for compiled, eager in pairs:
    np.testing.assert_allclose(compiled, eager, 1e-4, 1e-4 * largest)
