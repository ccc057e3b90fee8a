"""Named backbones: what each name stands for, published weights, frozen norms and stages."""
import dataclasses
import functools

import numpy as np
from official.vision.configs import common
from official.vision.modeling.backbones import factory
from official.vision.modeling.backbones import resnet
import pytest
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.configs import components
from official_ext.configs import experiments
from official_ext.modeling import freezing
from official_ext.modeling.backbones import imported
from official_ext.modeling.backbones.imported import blocks
from official_ext.modeling.backbones.imported import conventions
from official_ext.modeling.layers import deformable
from official_ext.ops import multiply_adds
from official_ext.tasks import initialization
import spies

# Name -> network, deformable stages, weights without those of the classifier.
NAMES = {
    'resnext50_32x4d': ('resnext50_32x4d', [], 22_979_904),
    'resnext101_32x4d': ('resnext101_32x4d', [], 42_128_704),
    'resnext101_32x8d': ('resnext101_32x8d', [], 86_742_336),
    'resnext101_64x4d': ('resnext101_64x4d', [], 81_406_272),
    'resnext152_32x8d': ('resnext152_32x8d', [], 120_323_392),
    'resnet50_dcn': ('resnet50', [3, 4, 5], 24_379_295),
    'resnet101_dcn': ('resnet101', [3, 4, 5], 44_429_418),
    'resnet152_dcn': ('resnet152', [3, 4, 5], None),
    'resnext50_32x4d_dcn': ('resnext50_32x4d', [3, 4, 5], None),
    'resnext101_32x4d_dcn': ('resnext101_32x4d', [3, 4, 5], None),
    'resnext101_32x8d_dcn': ('resnext101_32x8d', [3, 4, 5], None),
    'resnext101_64x4d_dcn': ('resnext101_64x4d', [4, 5], 88_623_102),
    'resnext152_32x8d_dcn': ('resnext152_32x8d', [3, 4, 5], 131_770_933),
}


def built(name, **options):
  """A backbone as an experiment builds it."""
  config = components.backbone(type=name)
  config.override({name: options})
  return factory.build_backbone(
      tf_keras.layers.InputSpec(shape=[None, 64, 64, 3]), config,
      common.NormActivation(use_sync_bn=False, norm_momentum=0.9))


def test_every_name_is_known():
  assert set(imported.NAMED) == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_a_name_stands_for_its_network(name, monkeypatch):
  given = {}
  monkeypatch.setattr(imported.ImportedBackbone, '__init__', lambda self, network, **options:
                      given.update(options, network=network))
  built(name, bn_trainable=False)
  network, stages, _ = NAMES[name]
  assert (given['network'], given.get('deformable_stages', [])) == (network, stages)
  assert given.get('modulated', False) == bool(stages)
  assert (given['bn_trainable'], given['norm_momentum'], given['name']) == (False, 0.9, name)
  backbone = experiments.FROZEN_NORM['task']['model']['backbone']
  assert backbone[name] == backbone['imported'] == backbone['resnet'] == {'bn_trainable': False}


@functools.cache
def block_weights(cardinality, filters, channels, is_first, deformed):
  """Weights of a block whose layers are built, but not called, in a graph: without memory."""
  convention = dataclasses.replace(
      conventions.convention('resnet50', 'torchvision'), cardinality=cardinality)
  block = blocks.Bottleneck(convention, deformed, filters=filters, strides=1,
                            use_projection=is_first)
  with tf.Graph().as_default():
    block.build([1, 1, 1, channels])
    layers = block.weighted_layers()
    for index, (conv, norm) in enumerate(zip(layers[::2], layers[1::2])):
      depth = layers[2 * index - 2].filters if index in (1, 2) else channels
      for layer in (conv, *filter(None, [getattr(conv, 'offset', None)])):
        layer.build([1, 1, 1, depth])
      norm.build([1, 1, 1, conv.filters])
  return sum(v.shape.num_elements() for v in block.trainable_variables)


@pytest.mark.parametrize('network, stages, weights, modulated', [
    ('resnet50', [], 23_508_032, False), ('resnet50', [3, 4, 5], 24_088_874, False),
    *((*row, True) for row in NAMES.values() if row[2])])
def test_published_weights_without_classifier(network, stages, weights, modulated):
  """The first convolution with its norm, and the blocks of every stage."""
  total = 7 * 7 * 3 * 64 + 2 * 64
  channels = 64
  for _, filters, repeats in resnet.RESNET_SPECS[conventions.NETWORKS[network][1]]:
    for count, is_first in ((1, True), (repeats - 1, False)):
      total += count * block_weights(
          imported.CARDINALITIES.get(network), filters, channels, is_first,
          blocks.Deformable(tuple(stages), modulated))
      channels = 4 * filters
  assert total == weights


def multiply_adds_by_hand(groups, channels, deformable_levels):
  """Counts a backbone of one block in each stage, with offsets, for images of 64 pixels."""
  total, depth, positions = 32 * 32 * 7 * 7 * 3 * 64, 64, 16 * 16
  for level, filters in ((2, 64), (3, 128), (4, 256), (5, 512)):
    width, before = groups * channels * 2**(level - 2), positions
    positions = (64 >> level)**2
    offsets = 9 * width * 18 if level in deformable_levels else 0
    total += before * depth * width + positions * (
        9 * width * width // groups + offsets + width * 4 * filters + depth * 4 * filters)
    depth = 4 * filters
  return total


@pytest.fixture(name='shallow')
def fixture_shallow(monkeypatch):
  """One block in each stage."""
  monkeypatch.setitem(
      resnet.RESNET_SPECS, 50, [('bottleneck', filters, 1) for filters in (64, 128, 256, 512)])


def test_frozen_norms_frozen_stages_and_a_plain_checkpoint(shallow, tmp_path):
  """A deformable ResNeXt: its norms never train, nor do its first stages, offsets do."""
  plain = built('resnext50_32x4d')
  spies.randomize(plain)
  path = tf.train.Checkpoint(backbone=plain).save(str(tmp_path / 'ckpt'))
  backbone = built('resnext50_32x4d_dcn', bn_trainable=False, modulated=False)
  initialization.load({'backbone': backbone}, path, 'backbone')
  images = tf.random.stateless_normal([1, 64, 64, 3], [1, 2])
  traced = tf.function(backbone, autograph=False).get_concrete_function(images, training=False)
  assert multiply_adds.count_graph(traced.graph) == multiply_adds_by_hand(32, 4, (3, 4, 5))
  found = [traced(images), backbone(images, training=True)]
  for level, features in plain(images, training=False).items():
    for training in (False, True):
      np.testing.assert_allclose(
          found[training][level], features, 0, 1e-5 * np.max(features))
  deformed = [layer for layer in backbone.submodules
              if isinstance(layer, deformable.DeformableConv2D)]
  assert [layer.filters for layer in deformed] == [256, 512, 1024]

  freezing.freeze_stages(backbone, ['stem', 'conv2_x'])
  norms = [variable.ref() for layer in backbone.submodules for variable in layer.variables
           if isinstance(layer, tf_keras.layers.BatchNormalization)]
  free = {variable.ref() for variable in backbone.trainable_variables}
  assert len(norms) == 4 * (1 + 4 * 4) and not free & set(norms)
  # Three stages of four kernels, and an offset's kernel and bias in each.
  assert len(free) == 3 * (4 + 2)
  assert {variable.ref() for layer in deformed for variable in layer.offset.variables} <= free
