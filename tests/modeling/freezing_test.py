"""Frozen stages keep all their variables in a step; the others change theirs."""
import numpy as np
from official.vision.modeling.backbones import efficientnet
from official.vision.modeling.backbones import resnet
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling import freezing

# Two convolutions and norms for each of the two blocks, and in the first block of a stage a
# projection with its norm; a convolution has one variable, a norm four.
BLOCK = 2 * (1 + 4)
STAGES = {'stem': 5, **{f'conv{level}_x': 2 * BLOCK + 5 for level in range(2, 6)}}


def test_frozen_stages_keep_their_variables():
  backbone = resnet.ResNet(
      18, tf_keras.layers.InputSpec(shape=[None, 64, 64, 3]),
      kernel_regularizer=tf_keras.regularizers.l2(0.1))
  frozen = ['stem', 'conv2_x', 'conv4_x']
  freezing.freeze_stages(backbone, frozen)
  assert len(backbone.variables) == sum(STAGES.values())
  before = {variable.name: variable.numpy() for variable in backbone.variables}
  with tf.GradientTape() as tape:
    outputs = backbone(tf.random.normal([2, 64, 64, 3]), training=True)
    loss = sum(tf.reduce_mean(output ** 2) for output in outputs.values())
    loss += tf.add_n(backbone.losses)
  gradients = tape.gradient(loss, backbone.trainable_variables)
  tf_keras.optimizers.legacy.SGD(0.1).apply_gradients(zip(gradients, backbone.trainable_variables))
  changed = sum(np.any(before[variable.name] != variable) for variable in backbone.variables)
  assert changed == sum(count for stage, count in STAGES.items() if stage not in frozen)


def test_frozen_stages_of_an_efficientnet_are_what_comes_before_their_levels():
  backbone = efficientnet.EfficientNet(
      'b0', tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), se_ratio=0.0)
  freezing.freeze_stages(backbone, ['stem', 'conv2_x'])
  groups = [layer for layer in backbone.layers if layer.variables]
  # The convolution and norm of the stem; block groups 0 (one block) and 1 (two) give level 2.
  assert [layer.trainable for layer in groups] == [False] * 5 + [True] * (len(groups) - 5)
  frozen = tf_keras.Model(backbone.input, backbone.output['2'])
  assert {id(layer) for layer in groups[:5]} == {id(one) for one in frozen.layers if one.variables}


def test_wrong_stages_and_backbones_are_named():
  freezing.freeze_stages(None, [])
  with pytest.raises(ValueError, match='has layer1; allowed are stem, conv2_x'):
    freezing.freeze_stages(None, ['stem', 'layer1'])
  with pytest.raises(ValueError, match=r"frozen_stages is 'stem', .* such as \[stem\]"):
    freezing.freeze_stages(None, 'stem')
  with pytest.raises(ValueError, match=r'frozen_stages is 2, .* such as \[stem\]; .* conv5_x'):
    freezing.freeze_stages(None, 2)
  with pytest.raises(ValueError, match='frozen_stages has 2; allowed are stem'):
    freezing.freeze_stages(None, [2])
  inputs = tf_keras.Input([8, 8, 3])
  model = tf_keras.Model(inputs, {'2': tf_keras.layers.Conv2D(2, 1)(inputs)})
  with pytest.raises(ValueError, match=r'of a ResNet or EfficientNet; Functional .*=\[\]'):
    freezing.freeze_stages(model, ['stem'])
