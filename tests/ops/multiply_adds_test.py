"""Multiply-adds of a graph, against counts by hand."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import multiply_adds
from official_ext.ops import sampling


def _count(function, *shapes):
  specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
  graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
  return multiply_adds.count_graph(graph)


@pytest.mark.parametrize('function, shapes, by_hand', [
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 5, 4, 6]), 1, 'SAME'), [[2, 7, 9, 4]],
     2 * 7 * 9 * 6 * 3 * 5 * 4),
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 3, 4, 6]), 2, 'SAME'), [[2, 7, 9, 4]],
     2 * 4 * 5 * 6 * 9 * 4),
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 3, 4, 6]), 1, 'VALID'), [[2, 7, 9, 4]],
     2 * 5 * 7 * 6 * 9 * 4),
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 3, 2, 6]), 1, 'SAME'), [[2, 7, 9, 4]],
     2 * 7 * 9 * 6 * 9 * 2),  # two groups: a filter sees two of four channels
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 3, 4, 6]), 1, 'SAME', dilations=2), [[2, 7, 9, 4]],
     2 * 7 * 9 * 6 * 9 * 4),
    (lambda x: tf.nn.convolution(x, tf.zeros([5, 5, 4, 6]), 1, 'SAME', dilations=3),
     [[2, 7, 10, 4]], 2 * 7 * 10 * 6 * 25 * 4),  # runs on interleaved, padded rows
    (lambda x: tf.nn.depthwise_conv2d(x, tf.zeros([3, 3, 4, 2]), [1, 1, 1, 1], 'SAME'),
     [[2, 7, 9, 4]], 2 * 7 * 9 * 4 * 2 * 9),
    (lambda x: tf.nn.depthwise_conv2d(
        x, tf.zeros([3, 3, 4, 2]), [1, 1, 1, 1], 'SAME', dilations=[2, 2]),
     [[2, 7, 9, 4]], 2 * 7 * 9 * 4 * 2 * 9),
    (lambda x: tf.nn.conv2d_transpose(x, tf.zeros([2, 2, 6, 4]), [2, 14, 18, 6], 2),
     [[2, 7, 9, 4]], 2 * 7 * 9 * 4 * 2 * 2 * 6),
    (tf.matmul, [[3, 4], [4, 5]], 3 * 4 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_a=True), [[4, 3], [4, 5]], 3 * 4 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_b=True), [[3, 4], [5, 4]], 3 * 4 * 5),
    (tf.matmul, [[2, 7, 3, 4], [2, 7, 4, 5]], 2 * 7 * 3 * 4 * 5),
    (lambda a, b: tf.matmul(a, b, transpose_a=True), [[2, 4, 3], [2, 4, 5]], 2 * 3 * 4 * 5),
    (lambda a, b: tf.einsum('bij,bjk->bik', a, b), [[2, 3, 4], [2, 4, 5]], 2 * 3 * 4 * 5),
    (lambda a, b: tf.einsum('...i,ij->...j', a, b), [[2, 7, 3], [3, 4]], 2 * 7 * 3 * 4),
    (lambda a, b: tf.einsum('...ij,...jk->...ik', a, b), [[7, 2, 3, 4], [2, 4, 5]],
     7 * 2 * 3 * 4 * 5),
    (lambda a, b: tf.einsum('...ij,...jk->...ik', a, b), [[2, 3, 4], [1, 4, 5]], 2 * 3 * 4 * 5),
    (lambda a: tf.einsum('bij->bji', a), [[2, 3, 4]], 0),
    (lambda x: tf.nn.relu(x + 1), [[2, 7, 9, 4]], 0),
    # Interpolation is not counted, although it is written as products of matrices.
    (lambda x: sampling.resize_bilinear(x, tf.zeros([2, 5, 5, 1])), [[2, 7, 9, 4]], 0),
])
def test_operations(function, shapes, by_hand):
  assert _count(function, *shapes) == by_hand


ONE = 3 * 4 * 4


def _matmul(x):
  return tf.matmul(x, tf.zeros([4, 4]))


def _while(x):
  return tf.while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, _matmul(x)), [0, x])[1]


@pytest.mark.parametrize('function, by_hand', [
    (lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: _matmul(x), lambda: x), ONE),
    (lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: _matmul(x), lambda: _matmul(_matmul(x))),
     3 * ONE),
    (_while, ONE),
    (lambda x: tf.function(_matmul, autograph=False)(x) + _matmul(x), 2 * ONE),
    (lambda x: tf.function(_while, autograph=False)(_matmul(x)), 2 * ONE),
    (lambda x: tf.map_fn(lambda row: _matmul(row[None])[0], x), 4 * 4),
    (lambda x: tf.switch_case(tf.constant(1), [lambda: _matmul(x), lambda: _matmul(_matmul(x))]),
     3 * ONE),
])
def test_bodies_are_counted_once(function, by_hand):
  assert _count(function, [3, 4]) == by_hand


@pytest.mark.parametrize('function, shapes', [
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 3, 4, 6]), 1, 'SAME'), [[None, 7, 9, 4]]),
    (lambda x: tf.nn.conv2d(x, tf.zeros([3, 3, 4, 6]), 1, 'SAME'), [[1, None, None, 4]]),
    (tf.matmul, [[3, None], [None, 5]]),
    (tf.matmul, [[2, 3, None], [2, None, 5]]),
    (lambda a, b: tf.einsum('ij,jk->ik', a, b), [[3, None], [None, 5]]),
])
def test_unknown_sizes_are_refused_with_advice(function, shapes):
  with pytest.raises(ValueError, match='known sizes only.*inference: mask'):
    _count(function, *shapes)


def test_conv2d_cost_counts_each_convolution_of_one_image():
  cost = multiply_adds.conv2d_cost(tf.zeros([5, 7, 9, 4]), [1, 9, 25], 6)
  assert cost.dtype == tf.float32
  np.testing.assert_array_equal(cost, [7 * 9 * 4 * 6 * tap for tap in (1, 9, 25)])
