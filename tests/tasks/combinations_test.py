"""Backbones, decoders and heads of the package together: trained, evaluated and exported.

Both backbones run with every decoder.  All of these give maps of one form, so that a row with every
decoder and every head tells of all combinations.  Those train too, in half an hour, with

    .venv/bin/python -m pytest tests/tasks/combinations_test.py --all_combinations
"""
import dataclasses
import itertools

from official.vision.modeling.backbones import factory as backbone_factory
from official.vision.modeling.decoders import factory as decoder_factory
import pytest
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.backbones import imported
import combined_detectors

BACKBONES = {
    'caddet': {'num_layers': 2, 'channels': [4, 8, 12]},
    'imported': {'network': 'mobilenet_v1', 'source': 'keras'}}
TRAINED = [
    ('imported', 'fpn', 'fcos_dynamic'), ('caddet', 'inception_fpn', 'freeanchor_dynamic'),
    ('imported', 'dyfpn', 'retinanet_dynamic'), ('caddet', 'drfpn', 'fcos'),
    ('caddet', 'ifpn', 'retinanet_plain'), ('imported', 'fpn_lite', 'fasterrcnn'),
    ('caddet', 'caddet_projection', 'retinanet'), ('imported', 'nasfpn', 'atss'),
    ('imported', 'bifpn', 'efficientdet'), ('imported', 'fpn', 'autoassign')]
# Every decoder with every head, each of them with both backbones.
ALL = [(list(BACKBONES)[(first + second) % len(BACKBONES)], decoder, head)
       for (first, decoder), (second, head) in itertools.product(
           enumerate(combined_detectors.DECODERS), enumerate(combined_detectors.HEADS))]
# They differ from `drfpn` and `fpn_lite` in `build_pyramid` alone; their own tests train them.
NOT_TRAINED = {'pafpn', 'deformable_fpn', 'carafe'}


def pytest_generate_tests(metafunc):
  if 'row' in metafunc.fixturenames:
    rows = ALL if metafunc.config.getoption('--all_combinations') else TRAINED
    metafunc.parametrize('row', rows, ids='-'.join)


def _experiment(backbone, decoder, head):
  return combined_detectors.experiment(backbone, BACKBONES[backbone], decoder, head)


def _of_package(config):
  """Returns the types of components, of those that a config has, that the package adds."""
  return {field.name for field in dataclasses.fields(config)
          if getattr(field.type, '__module__', '').startswith('official_ext.')}


def test_no_component_is_left_out():
  # tests/tasks/named_backbones_test.py trains those with the name of their network.
  assert _of_package(components.backbone()) == set(BACKBONES) | set(imported.NAMED)
  assert _of_package(components.decoder()) == set(combined_detectors.DECODERS) - {'fpn', 'nasfpn'}
  assert _of_package(components.tower()) == {'plain', 'dynamic', 'separable'}
  assert {row[1] for row in TRAINED} == set(combined_detectors.DECODERS) - NOT_TRAINED
  assert {row[2] for row in TRAINED} == set(combined_detectors.HEADS)


@pytest.mark.slow
@pytest.mark.parametrize('backbone', BACKBONES)
def test_all_decoders_give_heads_the_same_maps(backbone):
  """So a head that runs on the maps of one of them runs on those of all."""
  features = {}
  for decoder in combined_detectors.DECODERS:
    config = _experiment(backbone, decoder, 'fcos').task.model
    first, last, side = combined_detectors.levels(decoder)
    if side not in features:
      network = backbone_factory.build_backbone(
          tf_keras.layers.InputSpec(shape=[None, side, side, 3]), config.backbone,
          config.norm_activation)
      features[side] = network.output_specs, network(tf.zeros([2, side, side, 3]))
    specs, maps = features[side]
    outputs = decoder_factory.build_decoder(specs, config)(maps)
    assert {level: x.shape for level, x in outputs.items()} == {
        str(level): (2, side >> level, side >> level, 16) for level in range(first, last + 1)}


@pytest.fixture(name='batches', scope='module')
def fixture_batches(sample_records):
  return combined_detectors.Batches(sample_records)


@pytest.mark.slow
def test_a_combination_trains_evaluates_and_exports(row, batches, tmp_path):
  _, decoder, head = row
  combined_detectors.check(_experiment(*row), batches, decoder, head, tmp_path)
