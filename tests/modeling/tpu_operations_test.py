"""Networks ask TPUs for operations of a written list alone, in training and at inference.

Nothing is compiled: a graph that is traced for XLA names its operations.
"""
import json
import pathlib
import re
import zipfile

import pytest
import tensorboard
import tensorflow as tf, tf_keras
from tensorflow.python.framework import kernels

import accelerated_networks
import tpu_operations

pytestmark = pytest.mark.slow


def _not_for_tpus(function, inputs, for_xla=True) -> set[str]:
  """Returns the operations of a function, and of all functions in it, that the list lacks."""
  specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), inputs)
  graph = tf.function(function, autograph=False, jit_compile=for_xla or None).get_concrete_function(
      specs).graph.as_graph_def()
  nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
  assert len(nodes) > 50
  return {node.op for node in nodes} - tpu_operations.TPU_OPERATIONS


def _training_step(adapter, layer):
  """Returns a function of the inputs that moves all weights."""
  gradients = accelerated_networks.gradients(adapter, layer)
  optimizer = tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9)
  optimizer._create_all_weights(layer.trainable_variables)

  def step(inputs):
    optimizer.apply_gradients(zip(gradients(inputs), layer.trainable_variables))

  return step


@pytest.fixture(scope='module', params=accelerated_networks.ADAPTERS)
def network(request):
  return request.param, *accelerated_networks.build(request.param)


def test_tpus_take_every_operation_of_a_training_step(network):
  name, adapter, layer, inputs = network
  wrong = _not_for_tpus(_training_step(adapter, layer), inputs)
  assert not wrong, f'{name} trains with {sorted(wrong)}, which the list lacks'


def test_tpus_take_every_operation_of_inference(network):
  name, adapter, layer, inputs = network
  for mode in accelerated_networks.modes(adapter):
    if mode:
      layer.inference = mode
    wrong = _not_for_tpus(accelerated_networks.inference(adapter, layer), inputs)
    assert not wrong, f'{name} infers ({mode}) with {sorted(wrong)}, which the list lacks'


def test_skipping_is_not_for_tpus():
  adapter, layer, inputs = accelerated_networks.build('dyfpn_b')
  layer.inference = 'skip'
  assert 'Where' in _not_for_tpus(accelerated_networks.inference(adapter, layer), inputs)


def test_graphs_that_are_not_for_xla_have_kernels_that_tpus_lack():
  adapter, layer, inputs = accelerated_networks.build('drfpn')
  assert 'CropAndResize' in _not_for_tpus(
      accelerated_networks.inference(adapter, layer), inputs, for_xla=False)


def test_the_list_is_of_its_source():
  """TensorBoard, which TensorFlow installs, and TensorFlow's own kernels for XLA."""
  path = pathlib.Path(tensorboard.__file__).parent / 'webfiles.zip'
  with zipfile.ZipFile(path) as files:
    script = files.read('index.js').decode()
  published = json.loads(re.search(r'WHITELIST=(\[.*?\])', script)[1])
  assert len(published) > 400
  assert not tpu_operations.TPU_OPERATIONS - set(published)

  tf.function(lambda: 1 + tf.ones([]), jit_compile=True)()  # Registers XLA's kernels.
  without = [name for name in tpu_operations.TPU_OPERATIONS - {tpu_operations.ARGUMENT}
             if not any(kernel.device_type == 'XLA_GPU_JIT' for kernel in
                        kernels.get_registered_kernels_for_op(name).kernel)]
  assert not without
