"""Functions whose variables became constants can be saved, whatever gradients they had."""
import numpy as np
import tensorflow as tf

from official_ext.ops import reassembly
from official_ext.ops import sampling
from official_ext.serving import frozen


def test_a_function_with_custom_gradients_can_be_saved(tmp_path):
  kernels = tf.Variable(tf.random.stateless_normal([1, 3, 4, 4, 9], [1, 2]))
  positions = tf.Variable(tf.random.stateless_uniform([1, 2, 2, 2], [3, 4], 0, 3))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, 3, 4, 5], name='images')])
  def network(images):
    upsampled = reassembly.reassemble(2 * images, tf.convert_to_tensor(kernels), 2)
    return {'output': sampling.sample_bilinear(
        upsampled, tf.convert_to_tensor(positions), one_sided=True)}

  images = tf.random.stateless_normal([1, 3, 4, 5], [5, 6])
  function, _ = frozen.freeze(network.get_concrete_function())
  tf.saved_model.save(tf.Module(), str(tmp_path), signatures={'serving_default': function})
  loaded = tf.saved_model.load(str(tmp_path)).signatures['serving_default']
  np.testing.assert_allclose(
      loaded(images=images)['output'], network(images)['output'], 1e-5, 1e-6)


def test_branches_of_conditionals_are_fused_as_the_rest_is():
  """A conditional that is not lowered runs its branches as they are, without oneDNN."""
  kernel = tf.Variable(tf.random.stateless_normal([3, 3, 8, 8], [1, 2]))

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, 8, 8, 8], name='images')])
  def network(images):
    return {'output': tf.cond(
        tf.reduce_sum(images) > 0, lambda: tf.nn.conv2d(images, kernel, 1, 'SAME'),
        lambda: images)}

  concrete = network.get_concrete_function()
  function, _ = frozen.freeze(concrete)
  nodes = [node for library in function.graph.as_graph_def().library.function
           for node in library.node_def if node.op in ('If', 'StatelessIf')]
  assert nodes and all(node.attr['_lower_using_switch_merge'].b for node in nodes)
  images = tf.random.stateless_normal([1, 8, 8, 8], [3, 4])
  for values in (images + 1, images - 1):
    np.testing.assert_allclose(
        function(values)['output'], network(values)['output'], 1e-5, 1e-5)
