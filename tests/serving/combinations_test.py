"""Backbones, decoders and heads in every combination: built, trained, evaluated and exported.

All pairs of a decoder and a head are built, with one of the backbones.  Some combinations are
trained, evaluated in a graph and exported, so that both backbones meet every decoder and every
head: all of them would take many minutes.
"""
import numpy as np
from official.core import task_factory
import pytest
import tf_keras

from official_ext.serving import detection
from official_ext.serving import export_saved_model
import small_detectors

SIZE = (64, 64)
LEVELS = {'min_level': 3, 'max_level': 6}  # level 6 is a single position
BACKBONES = {
    'caddet': {'num_layers': 3, 'channels': [8, 12, 16]},
    'mobilenet': {'model_id': 'MobileNetV1', 'filter_size_scale': 0.25}}
DECODERS = {
    'fpn': {}, 'inception_fpn': {'branches': ['1x1', '3x3d2']},
    'dyfpn': {'branches': ['1x1', '3x3d2']}, 'drfpn': {}, 'ifpn': {}, 'fpn_lite': {},
    'caddet_projection': {}}
PLAIN = {'type': 'plain', 'plain': {'num_convs': 1}}
DYNAMIC = {'type': 'dynamic', 'dynamic': {'num_blocks': 1}}
HEADS = {
    'fcos': ('fcos', PLAIN), 'fcos_dynamic': ('fcos', DYNAMIC), 'atss': ('atss', PLAIN),
    'atss_dynamic': ('atss', DYNAMIC), 'retinanet': ('retinanet', {'type': None}),
    'retinanet_plain': ('retinanet', PLAIN), 'retinanet_dynamic': ('retinanet', DYNAMIC)}


# Over each row and column the backbones take turns.
BUILT = [(list(BACKBONES)[(i + j) % 2], decoder, head)
         for i, decoder in enumerate(DECODERS) for j, head in enumerate(HEADS)]
TRAINED = [(backbone, decoder, list(HEADS)[(3 * i + j) % len(HEADS)])
           for i, backbone in enumerate(BACKBONES) for j, decoder in enumerate(DECODERS)]


def _experiment(backbone, decoder, head):
  detector, tower = HEADS[head]
  budget = {}
  if backbone == 'caddet' or decoder == 'dyfpn' or 'dynamic' in head:
    budget = {'budget': {'weight': 0.1, 'target': 0.0, 'distance': 'absolute'}}
  return small_detectors.small_experiment(
      f'{detector}_fpn_efficientnetlite0_sample', init_checkpoint=None, **budget, model={
          **LEVELS, 'backbone': {'type': backbone, backbone: BACKBONES[backbone]},
          'decoder': {'type': decoder, decoder: {'num_filters': 16, **DECODERS[decoder]}},
          'head': {'num_filters': 16, 'tower': tower},
          # New weights give scores near 0.01, and without detections exports would agree anyway.
          'detection_generator': {'pre_nms_score_threshold': 0.0},
          'norm_activation': {'activation': 'relu'}})


def test_both_backbones_meet_every_decoder_and_every_head():
  for rows, part in ((BUILT, 1), (BUILT, 2), (TRAINED, 1), (TRAINED, 2)):
    pairs = {(row[0], row[part]) for row in rows}
    assert len(pairs) == 2 * len((DECODERS, HEADS)[part - 1])
  assert len({row[1:] for row in BUILT}) == len(DECODERS) * len(HEADS)
  assert len(TRAINED) == 14 == len(set(TRAINED))


@pytest.mark.slow
def test_every_decoder_and_head_builds():
  for row in BUILT:
    model = task_factory.get_task(_experiment(*row).task).build_model()
    outputs = model(tf_keras.Input([*SIZE, 3]), training=True)
    sizes = {level: tuple(x.shape[1:3]) for level, x in outputs['box_outputs'].items()}
    assert sizes == {'3': (8, 8), '4': (4, 4), '5': (2, 2), '6': (1, 1)}, row


@pytest.fixture(scope='module')
def batches(sample_records):
  """The first batch of each detector, which does not depend on the network."""
  result = {}
  for detector in ('fcos', 'atss', 'retinanet'):
    config = small_detectors.small_experiment(
        f'{detector}_fpn_efficientnetlite0_sample', init_checkpoint=None, model=LEVELS)
    result[detector] = small_detectors.batch(
        task_factory.get_task(config.task), f'{sample_records}/train-*.tfrecord', size=2)
  return result


@pytest.mark.slow
@pytest.mark.parametrize('row', TRAINED, ids='-'.join)
def test_a_combination_trains_evaluates_and_exports(row, batches, tmp_path):
  config = _experiment(*row)
  task = task_factory.get_task(config.task, logging_dir=None)
  model = task.build_model()
  optimizer = tf_keras.optimizers.legacy.SGD(0.01, 0.9)
  before = [variable.numpy() for variable in model.trainable_variables]
  for _ in range(2):
    logs = task.train_step(batches[HEADS[row[2]][0]], model, optimizer, metrics=None)
    assert np.isfinite(logs['loss'])
  # In two steps the scalar that weights the scale step moves from 0, its kernels not yet.
  moved = [np.any(old != variable) for old, variable in zip(before, model.trainable_variables)]
  assert np.mean(moved) > 0.7, [
      variable.name for variable, has in zip(model.trainable_variables, moved) if not has]
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=SIZE)
  # The signature that is saved is the graph that evaluates.
  differences = export_saved_model.save(module, tmp_path, 'image_tensor', SIZE)
  assert {'detection_boxes', 'detection_scores'} <= set(differences)
  assert not any(differences.values()), differences
