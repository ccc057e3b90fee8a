"""The cost of every image of a data set, against counts by hand."""
import functools
import math

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.serving import image_costs

SIDES = (64, 96)
GATE = 50.0


class Gated(routed.RoutedLayer):
  """Adds a convolution to bright images, of the cost that it records; its gate costs 50."""
  gate_names = ['only']
  uncounted_parts = 'a gate'

  def __init__(self):
    super().__init__(name='gated')
    self.conv = tf_keras.layers.Conv2D(4, 1, use_bias=False)

  def call(self, features, training=None):
    size = tf.cast(tf.shape(features)[1] * tf.shape(features)[2], tf.float32)
    cost = 16 * size
    gate = tf.cast(tf.reduce_mean(features, [1, 2, 3]) > 0, tf.float32)
    with tf.name_scope('gated'):
      result = features + gate[:, None, None, None] * self.conv(features)
    executed = gate * cost + GATE
    self.record(gates={'only': gate}, executed=executed, expected=executed,
                minimum=tf.constant(GATE), maximum=cost + GATE, all_branches=cost,
                metrics={'brightness': gate},
                uncounted=routing.Uncounted(0 * gate + GATE, tf.constant(GATE), tf.constant(GATE)))
    return result


class Detector(tf_keras.Model):
  """A backbone of stride 2, a decoder, and a head of one convolution."""

  def __init__(self, decoder):
    super().__init__()
    ones = tf_keras.initializers.Ones()
    self.backbone = tf_keras.layers.Conv2D(
        4, 2, strides=2, padding='same', use_bias=False, kernel_initializer=ones)
    self.decoder = decoder
    self.head = tf_keras.layers.Conv2D(2, 3, padding='same', use_bias=False)

  def call(self, images, image_shape=None, training=None):
    return self.head(self.decoder(self.backbone(images), training=training))


def by_rule(height, width, short=64, long=96):
  """Short side, or else long side, of the image; then up to the next multiple of 32."""
  scale = short / min(height, width)
  if max(height, width) * scale > long:
    scale = long / max(height, width)
  content = [int(math.floor(side * scale + 0.5)) for side in (height, width)]
  return content, [32 * math.ceil(side / 32) for side in content]


@pytest.mark.parametrize('shape', [
    (100, 120), (120, 100), (64, 64), (50, 200), (200, 50), (10, 7), (96, 64), (1, 500)])
def test_own_size_is_the_same_for_both_orientations(shape):
  size = image_costs.own_size(*shape, SIDES)
  content, padded = by_rule(*shape)
  assert list(size.content) == [max(1, side) for side in content]
  assert list(size.padded) == [max(32, side) for side in padded]
  turned = image_costs.own_size(*shape[::-1], SIDES)
  assert turned == (size.content[::-1], size.padded[::-1])


def image(height, width, value):
  return np.full([height, width, 3], value, np.uint8)


@pytest.mark.parametrize('as_paper', [False, True])
def test_costs_of_images_by_hand(as_paper):
  meter = image_costs.CostMeter(
      Detector(Gated()), functools.partial(image_costs.own_size, sides=SIDES), as_paper=as_paper)
  images = [image(64, 96, 255), image(96, 64, 255), image(64, 64, 0)]
  costs = [meter.measure(one) for one in images]
  assert meter.left_out == ('a gate' if as_paper else '')
  gate = 0 if as_paper else GATE
  for cost, (height, width), is_open in zip(costs, [(64, 96), (96, 64), (64, 64)], [1, 1, 0]):
    positions = height * width // 4
    backbone, branch, head = (positions * weights for weights in (2 * 2 * 3 * 4, 16, 9 * 4 * 2))
    assert cost.size == (height, width)
    by_field = {'executed': gate + is_open * branch, 'static': 0, 'minimum': gate,
                'maximum': gate + branch}
    for field, decoder in by_field.items():
      for scope, expected in zip(image_costs.SCOPES, np.cumsum([backbone, decoder, head])):
        assert cost.costs[scope, field] == pytest.approx(expected), (scope, field)
    assert cost.uncounted['executed'] == cost.uncounted['maximum'] == GATE - gate
    assert cost.metrics == {'gated/brightness': is_open}
  statistics = image_costs.statistics(costs)
  for scope in image_costs.SCOPES:
    values = [cost.costs[scope, 'executed'] for cost in costs]
    assert statistics[scope]['executed'] == pytest.approx(
        {'mean': np.mean(values), 'min': min(values), 'max': max(values), 'std': np.std(values)})


def test_bounds_without_a_run_and_a_network_without_gates():
  rule = functools.partial(image_costs.canvas_size, canvas=(32, 64))
  cost = image_costs.CostMeter(Detector(Gated()), rule, runs=False).measure(image(10, 10, 255))
  assert ('whole network', 'executed') not in cost.costs and not cost.metrics
  assert cost.costs['whole network', 'minimum'] < cost.costs['whole network', 'maximum']
  assert 'executed' not in image_costs.statistics([cost])['whole network']
  plain = image_costs.CostMeter(
      Detector(tf_keras.layers.Conv2D(4, 1, use_bias=False)), rule, as_paper=True, runs=False)
  cost = plain.measure(image(10, 10, 255))
  positions = 32 * 64 // 4
  assert {value for (scope, _), value in cost.costs.items() if scope == 'whole network'} == {
      positions * (48 + 16 + 72)}
  assert rule(10, 10) == ((32, 32), (32, 64))
