"""Sizes are numbers where a graph knows them, and right where it does not."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import group_norm
from official_ext.ops import narrow_conv
from official_ext.ops import shapes


def test_known_sizes_are_numbers_and_others_are_computed():
  found = {}

  @tf.function(input_signature=[tf.TensorSpec([None, 3, None, 5])])
  def function(x):
    found['sizes'] = shapes.sizes(x, 0, 1, 2, 3)
    found['known'] = shapes.sizes(x, 3, 1)
    return tf.stack(found['sizes']), shapes.num_positions(x)

  sizes, positions = function(tf.zeros([2, 3, 4, 5]))
  assert sizes.numpy().tolist() == [2, 3, 4, 5] and positions == 12
  assert found['known'] == [5, 3]
  assert [tf.is_tensor(size) for size in found['sizes']] == [True, False, True, False]


def test_num_positions_of_a_known_map_is_a_number():
  assert shapes.num_positions(tf.zeros([2, 3, 4, 5])) == 12
  assert isinstance(shapes.num_positions(tf.zeros([2, 3, 4, 5])), int)


@pytest.mark.parametrize('sizes', [[None, 6, 7, 8], [None, None, None, 8]])
def test_layers_read_shapes_only_where_these_are_unknown(sizes):
  random = np.random.default_rng(0)
  x = tf.constant(random.normal(size=[2, 6, 7, 8]), tf.float32)
  kernel = tf.constant(random.normal(size=[3, 3, 8, 2]), tf.float32)

  @tf.function(input_signature=[tf.TensorSpec(sizes)])
  def function(x):
    return (group_norm.group_norm(x, tf.ones([8]), tf.zeros([8]), 4),
            tf.concat(narrow_conv.conv2d([x], kernel, tf.zeros([2]))[0], axis=-1))

  kinds = [op.type for op in function.get_concrete_function().graph.get_operations()]
  assert ('Shape' in kinds) == (sizes[1] is None)
  grouped = x.numpy().reshape(2, 42, 4, 2)
  mean, deviation = (value(grouped, axis=(1, 3), keepdims=True) for value in (np.mean, np.std))
  normed, convolved = function(x)
  np.testing.assert_allclose(
      normed, ((grouped - mean) / np.sqrt(deviation**2 + 1e-5)).reshape(x.shape), 0, 1e-5)
  np.testing.assert_allclose(convolved, tf.nn.conv2d(x, kernel, 1, 'SAME'), 0, 1e-4)
