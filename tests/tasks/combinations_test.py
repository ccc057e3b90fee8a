"""Backbones, decoders and heads of the package together: trained, evaluated and exported.

Both backbones run with every decoder.  All of these give maps of one form, so that a row with every
decoder and every head tells of all combinations.  Those train too, in half an hour, with

    .venv/bin/python -m pytest tests/tasks/combinations_test.py --all_combinations
"""
import dataclasses
import itertools

import numpy as np
from official.core import task_factory
from official.vision.modeling.backbones import factory as backbone_factory
from official.vision.modeling.decoders import factory as decoder_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.backbones import imported
from official_ext.serving import detection
from official_ext.serving import export_saved_model
import small_detectors

BACKBONES = {
    'caddet': {'num_layers': 2, 'channels': [4, 8, 12]},
    'imported': {'network': 'mobilenet_v1', 'source': 'keras'}}
# Model Garden's that dense detectors take, and all of the package.
DECODERS = {
    'fpn': {}, 'inception_fpn': {'branches': ['1x1', '3x3d2']},
    'dyfpn': {'branches': ['1x1', '3x3d2']}, 'drfpn': {}, 'fpn_lite': {},
    'ifpn': {'solver': small_detectors.SHORT_SOLVER},
    'pafpn': {}, 'deformable_fpn': {}, 'bifpn': {'num_repeats': 1},
    'carafe': {'compressed_filters': 8},
    'caddet_projection': {}, 'nasfpn': {'num_repeats': 1}}
PLAIN = {'type': 'plain', 'plain': {'num_convs': 1}}
DYNAMIC = {'type': 'dynamic', 'dynamic': {'num_blocks': 1}}
SEPARABLE = {'type': 'separable', 'separable': {'num_convs': 1}}
# Name -> detector and tower.
HEADS = {
    'fcos': ('fcos', PLAIN), 'fcos_dynamic': ('fcos', DYNAMIC),
    'atss': ('atss', PLAIN), 'autoassign': ('autoassign', PLAIN),
    'freeanchor_dynamic': ('freeanchor', DYNAMIC),
    'retinanet': ('retinanet', {'type': None}), 'retinanet_plain': ('retinanet', PLAIN),
    'retinanet_dynamic': ('retinanet', DYNAMIC), 'efficientdet': ('retinanet', SEPARABLE),
    'fasterrcnn': ('fasterrcnn', None)}
TRAINED = [
    ('imported', 'fpn', 'fcos_dynamic'), ('caddet', 'inception_fpn', 'freeanchor_dynamic'),
    ('imported', 'dyfpn', 'retinanet_dynamic'), ('caddet', 'drfpn', 'fcos'),
    ('caddet', 'ifpn', 'retinanet_plain'), ('imported', 'fpn_lite', 'fasterrcnn'),
    ('caddet', 'caddet_projection', 'retinanet'), ('imported', 'nasfpn', 'atss'),
    ('imported', 'bifpn', 'efficientdet'), ('imported', 'fpn', 'autoassign')]
# Every decoder with every head, each of them with both backbones.
ALL = [(list(BACKBONES)[(first + second) % len(BACKBONES)], decoder, head)
       for (first, decoder), (second, head) in itertools.product(
           enumerate(DECODERS), enumerate(HEADS))]
# They differ from `drfpn` and `fpn_lite` in `build_pyramid` alone; their own tests train them.
NOT_TRAINED = {'pafpn', 'deformable_fpn', 'carafe'}


def pytest_generate_tests(metafunc):
  if 'row' in metafunc.fixturenames:
    rows = ALL if metafunc.config.getoption('--all_combinations') else TRAINED
    metafunc.parametrize('row', rows, ids='-'.join)


def _levels(decoder):
  """Returns the first level, the last one, which is one position, and the side of images."""
  # The cells of Model Garden's NAS-FPN name levels 3 to 7.
  return (3, 7, 128) if decoder == 'nasfpn' else (4, 6, 64)


def _experiment(backbone, decoder, head):
  detector, tower = HEADS[head]
  first, last, side = _levels(decoder)
  own = {'head': {'num_filters': 16, 'tower': tower,
                  'use_separable_conv': head == 'efficientdet'}} if tower else {
      'rpn_head': {'num_filters': 16}, 'detection_head': {'fc_dims': 16}}
  is_routed = backbone == 'caddet' or decoder == 'dyfpn' or 'dynamic' in head
  budget = {'weight': 0.1, 'target': 0.0, 'distance': 'absolute'} if is_routed else {}
  return small_detectors.small_experiment(
      f'{detector}_fpn_efficientnetlite0_sample', init_checkpoint=None, budget=budget, model={
          'min_level': first, 'max_level': last, 'input_size': [side, side, 3],
          'backbone': {'type': backbone, backbone: BACKBONES[backbone]},
          'decoder': {'type': decoder, decoder: {'num_filters': 16, **DECODERS[decoder]}}, **own,
          # New weights give scores near 0.01, and without detections exports would agree anyway.
          'detection_generator': {'pre_nms_score_threshold': 0.0},
          'norm_activation': {'activation': 'relu'}})


def _of_package(config):
  """Returns the types of components, of those that a config has, that the package adds."""
  return {field.name for field in dataclasses.fields(config)
          if getattr(field.type, '__module__', '').startswith('official_ext.')}


def test_no_component_is_left_out():
  # tests/tasks/named_backbones_test.py trains those with the name of their network.
  assert _of_package(components.backbone()) == set(BACKBONES) | set(imported.NAMED)
  assert _of_package(components.decoder()) == set(DECODERS) - {'fpn', 'nasfpn'}
  assert _of_package(components.tower()) == {'plain', 'dynamic', 'separable'}
  assert {row[1] for row in TRAINED} == set(DECODERS) - NOT_TRAINED
  assert {row[2] for row in TRAINED} == set(HEADS)


@pytest.mark.slow
@pytest.mark.parametrize('backbone', BACKBONES)
def test_all_decoders_give_heads_the_same_maps(backbone):
  """So a head that runs on the maps of one of them runs on those of all."""
  features = {}
  for decoder in DECODERS:
    config = _experiment(backbone, decoder, 'fcos').task.model
    first, last, side = _levels(decoder)
    if side not in features:
      network = backbone_factory.build_backbone(
          tf_keras.layers.InputSpec(shape=[None, side, side, 3]), config.backbone,
          config.norm_activation)
      features[side] = network.output_specs, network(tf.zeros([2, side, side, 3]))
    specs, maps = features[side]
    outputs = decoder_factory.build_decoder(specs, config)(maps)
    assert {level: x.shape for level, x in outputs.items()} == {
        str(level): (2, side >> level, side >> level, 16) for level in range(first, last + 1)}


@pytest.fixture(scope='module')
def batches(sample_records):
  """Returns a function for a batch of a detector's task, which does not depend on the network."""
  made = {}

  def batch(detector, task, decoder):
    # All dense detectors have one parser.
    kind = detector if detector in ('retinanet', 'fasterrcnn') else 'dense'
    key = kind, _levels(decoder)
    if key not in made:
      made[key] = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord', size=2)
    return made[key]

  return batch


@pytest.mark.slow
def test_a_combination_trains_evaluates_and_exports(row, batches, tmp_path):
  config = _experiment(*row)
  task = task_factory.get_task(config.task, logging_dir=None)
  model = task.build_model()
  inputs = batches(HEADS[row[2]][0], task, row[1])
  optimizer = tf_keras.optimizers.legacy.SGD(0.01, 0.9)
  before = [variable.numpy() for variable in model.trainable_variables]
  for _ in range(2):
    logs = task.train_step(inputs, model, optimizer, metrics=None)
    assert np.isfinite(logs['loss'])
  still = [variable.name for old, variable in zip(before, model.trainable_variables)
           if np.all(old == variable)]
  # In two steps the scalar that weights the scale step moves from 0, its kernels not yet.
  assert len(still) < 0.3 * len(before), still
  size = config.task.model.input_size[:2]
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=size)
  # The signature that is saved is the graph that evaluates.
  differences = export_saved_model.save(module, tmp_path, 'image_tensor', size)
  assert {'detection_boxes', 'detection_scores', 'multiply_adds'} <= set(differences)
  assert not any(differences.values()), differences
