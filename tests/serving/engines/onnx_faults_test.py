"""tf2onnx converts what it gets wrong by itself: repeated results, tiny maps, choices and more."""
import logging

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import group_norm
from official_ext.serving.engines import onnx_faults

KERNEL = np.random.default_rng(0).normal(size=[3, 3, 4, 4]).astype(np.float32)


def _one_tensor_twice(maps):
  one, other = tf.cond(tf.reduce_sum(maps) > 0, lambda: (maps + 1, maps),
                       lambda: (tf.nn.relu(maps),) * 2)
  return one - 2 * other


def _norm_of_one_pixel(maps):
  ones = np.ones([4], np.float32)
  maps = tf.nn.conv2d(maps, KERNEL, 1, 'SAME')
  return tf.nn.conv2d(group_norm.group_norm(maps, ones, ones, 2), KERNEL, 1, 'SAME')


def _exact_maximum(maps):
  return tf.cast(2 * tf.reduce_max(tf.cast(maps[:, 0], tf.float64), 2), tf.float32)


def _choice_beside_infinity(maps):
  infinite = tf.fill([tf.shape(maps)[0]], float('inf'))
  first = maps[:, 0, 0, 0]
  logarithm = tf.math.log(first)  # NaN of negative values
  found = tf.where(tf.reduce_min(infinite) < 0, infinite, first)
  counts = tf.where(first > 0, tf.range(tf.shape(maps)[0]), -2)
  return tf.where(first > 0, logarithm, found) + tf.cast(counts, tf.float32)


@pytest.mark.parametrize('function', [
    _one_tensor_twice, _norm_of_one_pixel, _exact_maximum, _choice_beside_infinity])
def test_conversions_are_equal(function, caplog):
  caplog.set_level(logging.CRITICAL, 'tf2onnx')
  tf2onnx, onnxruntime = (pytest.importorskip(name) for name in ('tf2onnx', 'onnxruntime'))
  specs = [tf.TensorSpec([None, 1, 1, 4], name='maps')]
  run = tf.function(lambda maps: {'result': function(maps)}, specs, autograph=False)
  with onnx_faults.mended():
    model, _ = tf2onnx.convert.from_function(run, specs, opset=17)
  session = onnxruntime.InferenceSession(model.SerializeToString())
  for sign in (1, -1):
    maps = sign * np.random.default_rng(1).uniform(0.5, 2, [3, 1, 1, 4]).astype(np.float32)
    np.testing.assert_allclose(
        session.run(None, {'maps': maps})[0], run(maps)['result'], 1e-5, 1e-5)
