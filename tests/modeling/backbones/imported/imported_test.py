"""Imported backbones compute what torchvision computes, and are backbones of Model Garden."""
import dataclasses
import types

import numpy as np
from official.vision.modeling.backbones import factory
import pytest
import reference
import source_networks
import slow_offsets
import spies
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.backbones import imported
from official_ext.modeling.backbones.imported import blocks
from official_ext.modeling.backbones.imported import conventions
from official_ext.modeling.backbones.imported import paddings
from official_ext.ops import checks
from official_ext.tasks import initialization
from official_ext.utils import command_line
from official_ext.utils.source_weights import conversion
from official_ext.utils.source_weights import layer_names


def build(network, source, **options):
  """A backbone as an experiment builds it."""
  config = components.backbone(type='imported')
  config.imported.override({'network': network, 'source': source, **options})
  norm = types.SimpleNamespace(use_sync_bn=False, norm_momentum=0.9, norm_epsilon=0.5,
                               activation='tanh')
  return factory.build_backbone(
      tf_keras.layers.InputSpec(shape=[None, None, None, 3]), config, norm)


@pytest.mark.parametrize('kernel_size', [3, 5, 7])
@pytest.mark.parametrize('size', [1, 2, 5, 8])
def test_paddings(size, kernel_size):
  maps = tf.ones([1, size, size + 1, 1])
  kernel = np.random.default_rng(0).normal(size=(kernel_size, kernel_size, 1, 1))
  same = tf.nn.conv2d(paddings.pad(maps, kernel_size, 'same'), kernel, 2, 'VALID')
  np.testing.assert_allclose(same, tf.nn.conv2d(maps, kernel, 2, 'SAME'), rtol=1e-5)
  half = kernel_size // 2
  for padding, before in (('symmetric', half), ('end', half - 1)):
    np.testing.assert_array_equal(
        paddings.pad(maps, kernel_size, padding)[0, ..., 0],
        np.pad(np.ones((size, size + 1)), ((before, half), (before, half))))


@pytest.mark.parametrize('network', ['mobilenet_v2', pytest.param(
    'resnet50', marks=pytest.mark.slow)])
def test_features_are_those_of_torchvision(network):
  backbone = build(network, 'torchvision')
  state = source_networks.torch_state(
      backbone, layer_names.of_network(network, 'torchvision')) | {'fc.bias': np.zeros(3)}
  origin = conversion.recognize(state, 'torchvision', 'x.pth')
  assert origin == (network, 'torchvision')
  assert conversion.put(state, origin, backbone, 'x.pth') == ['fc.bias']
  reference = getattr(source_networks.TorchNetwork(state, 1e-5), network)
  for size in ((64, 32), (45, 71)):
    images = np.random.default_rng(2).normal(size=(2, *size, 3)).astype(np.float32)
    wanted, found = reference(images), backbone(images, training=False)
    assert set(wanted) == set(backbone.output_specs) == {'2', '3', '4', '5'}
    for level, values in wanted.items():
      np.testing.assert_allclose(
          found[level], values, rtol=0, atol=1e-5 * np.abs(values).max())
  copy = type(backbone).from_config(backbone.get_config())
  copy.set_weights(backbone.get_weights())
  np.testing.assert_array_equal(copy(images)['5'], found['5'])


@pytest.mark.parametrize('network, source, expected', [
    ('resnet101', 'torchvision', (1e-5, 'symmetric', 'symmetric', False)),
    ('resnet50', 'keras', (1.001e-5, 'symmetric', 'symmetric', True)),
    ('mobilenet_v1', 'keras', (1e-3, 'same', 'end', False)),
    ('mobilenet_v2', 'keras', (1e-3, 'same', 'same', False)),
    ('efficientnet_b4', 'torchvision', (1e-5, 'symmetric', 'symmetric', False)),
    ('efficientnet_b5', 'torchvision', (1e-3, 'symmetric', 'symmetric', False)),
    ('efficientnet_b0', 'keras', (1e-3, 'same', 'same', False))])
def test_conventions(network, source, expected):
  found = conventions.convention(network, source)
  assert (found.epsilon, found.stem_padding, found.padding, found.stride_in_first) == expected
  pixels = np.array([0.0, 100.0, 255.0])  # red, green, blue
  own = source_networks.normalized(pixels)
  wanted = {'pixel - (123.68, 116.779, 103.939)': pixels - (123.68, 116.779, 103.939),
            'pixel / 127.5 - 1': pixels / 127.5 - 1}.get(found.normalization, own)
  np.testing.assert_allclose(own * found.scale + found.offset, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('network, source, message', [
    ('resnet18', 'keras', 'network'), ('resnet50', 'caffe', 'source'),
    ('mobilenet_v1', 'torchvision', 'has no mobilenet_v1'),
    ('resnext50_32x4d', 'keras', 'has no resnext50_32x4d')])
def test_unknown_networks_are_errors(network, source, message):
  with pytest.raises(checks.ArgumentError, match=message):
    imported.ImportedBackbone(network, source)


def _bottleneck(filters, deformed, strides=1, source='torchvision'):
  """A block of ResNet as the backbone makes it, built for an input of 8 channels."""
  block = blocks.Bottleneck(
      conventions.convention('resnet50', source), deformed, filters=filters, strides=strides,
      use_projection=True)
  block(tf.zeros([1, 5, 7, 8]))
  return block


@pytest.mark.parametrize('source', ['torchvision', 'keras'])
@pytest.mark.parametrize('strides', [1, 2])
def test_deformable_block_starts_as_the_plain_one_with_its_checkpoint(source, strides, tmp_path):
  plain = _bottleneck(128, blocks.Deformable(), strides, source)
  path = tf.train.Checkpoint(backbone=plain).save(str(tmp_path / 'ckpt'))
  ours = _bottleneck(128, blocks.Deformable((3,)), strides, source)
  initialization.load({'backbone': ours}, path, 'backbone')
  x = tf.random.stateless_normal([2, 5, 7, 8], [1, 2])
  np.testing.assert_allclose(ours(x), plain(x), 1e-4, 1e-5)
  ours._conv2.offset.bias.assign(tf.ones(18))
  assert np.max(np.abs(ours(x) - plain(x))) > 1e-3


def test_offsets_of_a_block_learn_at_their_rate():
  x = tf.random.stateless_normal([1, 5, 7, 8], [1, 2])
  slow_offsets.check(lambda rate: _bottleneck(128, blocks.Deformable((3,), True, rate)),
                     lambda block, inputs: tf.reduce_sum(block(inputs[0]) ** 2), [x], 2)


def _grouped(x, kernel, groups, stride):
  """A convolution for each group of channels, padded on all sides."""
  depth, filters = kernel.shape[2], kernel.shape[3] // groups
  return np.concatenate([
      reference.symmetric_conv2d(
          x[..., group * depth:(group + 1) * depth],
          kernel[..., group * filters:(group + 1) * filters], stride=stride)
      for group in range(groups)], -1)


@pytest.mark.parametrize('strides', [1, 2])
def test_block_of_resnext_equals_numpy(strides):
  convention = dataclasses.replace(
      conventions.convention('resnext50_32x4d', 'torchvision'), cardinality=(4, 2))
  block = blocks.Bottleneck(convention, blocks.Deformable(), filters=128, strides=strides,
                            use_projection=True, norm_epsilon=1e-5)
  x = np.random.default_rng(0).normal(size=[2, 6, 7, 5]).astype(np.float32)
  block(x)
  spies.randomize(block)

  def norm(layer, x):
    gamma, beta, mean, variance = (weight.numpy() for weight in layer.weights)
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

  convs, norms = block.weighted_layers()[::2], block.weighted_layers()[1::2]
  assert [conv.filters for conv in convs] == [16, 16, 512, 512]
  kernels = [conv.kernel.numpy() for conv in convs]
  assert kernels[1].shape == (3, 3, 4, 16)
  y = np.maximum(norm(norms[0], reference.conv2d(x, kernels[0])), 0)
  y = np.maximum(norm(norms[1], _grouped(y, kernels[1], 4, strides)), 0)
  y = norm(norms[2], reference.conv2d(y, kernels[2]))
  shortcut = norm(norms[3], reference.conv2d(x, kernels[3])[:, ::strides, ::strides])
  np.testing.assert_allclose(block(x), np.maximum(y + shortcut, 0), 1e-4, 1e-5)


@pytest.mark.parametrize('network', ['resnet50', 'resnext50_32x4d', 'resnext101_32x8d',
                                     'resnext101_64x4d'])
def test_a_file_of_torchvision_is_recognized_by_its_first_block(network):
  names = layer_names.of_network(network, 'torchvision')
  state = {f'{name}.weight': np.zeros([1, 1, 1, 1]) for name in names}
  groups, channels = conventions.CARDINALITIES.get(network, (1, 64))
  state['layer1.0.conv2.weight'] = np.zeros([groups * channels, channels, 3, 3])
  assert conversion.recognize(state, 'torchvision', 'x.pth').network == network
  state['layer1.0.conv2.weight'] = np.zeros([96, 3, 3, 3])
  with pytest.raises(command_line.CommandError, match='widths other than'):
    conversion.recognize(state, 'torchvision', 'x.pth')


@pytest.mark.parametrize('network, stages, text', [
    ('resnet50', [3, 6], 'any of'), ('mobilenet_v2', [3], 'no ResNet')])
def test_stages_that_a_network_has_not_are_errors(network, stages, text):
  with pytest.raises(checks.ArgumentError, match=text):
    imported.ImportedBackbone(network, deformable_stages=stages)
