"""ResNeXt and deformable ResNets, by their names, in every detector: they train.

All names stand for one class of backbone with other options (`named_test.py`), whose levels have
the same channels, so that one row for every kind and every detector tells of all pairs.  A step
fails if a routed layer records nothing.  Only the last stage is deformable here, for speed.
"""
import numpy as np
from official.core import task_factory
from official.vision.modeling.backbones import resnet
import pytest
import tf_keras

import small_detectors

pytestmark = pytest.mark.slow

DEFORMABLE_TOWER = {'num_filters': 16, 'tower': {
    'type': 'plain', 'plain': {'num_convs': 1, 'deformable': True}}}
TWO_STAGE = {'rpn_head': {'num_filters': 16}, 'detection_head': {'fc_dims': 16}}
# Backbone, detector, decoder with its options, and options of the model.
ROWS = [
    ('resnext101_64x4d_dcn', 'atss', ('ifpn', {'solver': small_detectors.SHORT_SOLVER}),
     {'head': DEFORMABLE_TOWER}),
    ('resnext50_32x4d', 'fcos', ('pafpn', {}), {'head': {'num_filters': 16}}),
    ('resnext101_32x8d', 'retinanet', ('carafe', {'upsample': 'deconv'}), {
        'head': {'num_filters': 16}}),
    ('resnet50_dcn', 'fasterrcnn', ('drfpn', {}), TWO_STAGE),
]


@pytest.fixture(name='shallow', autouse=True)
def fixture_shallow(monkeypatch):
  """One block in each stage."""
  for depth in (50, 101):
    monkeypatch.setitem(resnet.RESNET_SPECS, depth, [
        ('bottleneck', filters, 1) for filters in (64, 128, 256, 512)])


def small_task(backbone, detector, decoder, model):
  """Returns the task of a row, and its model for images of 64 pixels."""
  name, options = decoder
  own = {'deformable_stages': [5]} if backbone.endswith('_dcn') else {}
  config = small_detectors.small_experiment(
      f'{detector}_fpn_efficientnetlite0_sample', init_checkpoint=None,
      frozen_stages=['stem', 'conv2_x'], model={
          'min_level': 4, 'max_level': 5,
          'backbone': {'type': backbone, backbone: {'bn_trainable': False, **own}},
          'decoder': {'type': name, name: {'num_filters': 16, **options}}, **model})
  task = task_factory.get_task(config.task, logging_dir=None)
  return task, task.build_model()


@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'{row[0]}-{row[1]}')
def test_trains(row, sample_records):
  """Kernels and offsets of stages that are not frozen move, and nothing else of the backbone."""
  task, model = small_task(*row)
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord', size=2)
  optimizer = tf_keras.optimizers.legacy.SGD(0.01, 0.9)
  before = {variable.ref(): variable.numpy() for variable in model.backbone.variables}
  for _ in range(2):
    logs = task.train_step(inputs, model, optimizer, metrics=None)
    assert np.isfinite(logs['loss'])
  moved = {variable.ref() for variable in model.backbone.variables
           if np.any(before[variable.ref()] != variable)}
  # Three blocks of four kernels, and the kernel and the bias of offsets.
  assert len(moved) == 3 * 4 + (2 if row[0].endswith('_dcn') else 0)
  assert moved == {variable.ref() for variable in model.backbone.trainable_variables}
