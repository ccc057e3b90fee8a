"""Families of backbones and detectors together: trained, evaluated and exported.

Every family trains with every detector, in a quarter of an hour, with

    .venv/bin/python -m pytest tests/tasks/backbones_test.py --all_combinations

Decoders take turns; `combinations_test.py` trains every decoder with every head.
"""
import itertools

from official.vision.modeling.backbones import efficientnet
from official.vision.modeling.backbones import resnet
from official.vision.modeling.backbones import spinenet
import pytest

import combined_detectors
import small_detectors

pytestmark = pytest.mark.slow

# Name -> type and options.  `shrunk` makes those of them small that have no option for it.
FAMILIES = {
    'resnet': ('resnet', small_detectors.SMALL_BACKBONE['model']['backbone']['resnet']),
    'resnext': ('resnext50_32x4d', {}),
    'dcn': ('resnet50_dcn', {'deformable_stages': [4, 5]}),
    'efficientnet_lite': ('efficientnet', {'model_id': 'b0', 'se_ratio': 0.0}),
    'efficientnet': ('efficientnet', {'model_id': 'b0', 'se_ratio': 0.25}),
    'mobilenet': ('mobilenet', {'model_id': 'MobileNetV2', 'filter_size_scale': 0.25}),
    'spinenet': ('spinenet', {'model_id': '49S', 'min_level': 3, 'max_level': 7}),
    'caddet': ('caddet', {'num_layers': 2, 'channels': [4, 8, 12]}),
}
DETECTORS = ('fcos', 'atss', 'autoassign', 'freeanchor_dynamic', 'retinanet', 'efficientdet',
             'fasterrcnn')
_DECODERS = ('fpn', 'pafpn', 'bifpn', 'dyfpn', 'carafe', 'drfpn', 'ifpn', 'deformable_fpn',
             'fpn_lite')
ALL = [(family, 'identity' if family == 'spinenet' else _DECODERS[number % len(_DECODERS)],
        detector)
       for number, (family, detector) in enumerate(itertools.product(FAMILIES, DETECTORS))]
TRAINED = [('mobilenet', 'fpn', 'autoassign'), ('efficientnet', 'bifpn', 'fcos')]


def pytest_generate_tests(metafunc):
  if 'row' in metafunc.fixturenames:
    rows = ALL if metafunc.config.getoption('--all_combinations') else TRAINED
    metafunc.parametrize('row', rows, ids='-'.join)


@pytest.fixture(name='shrunk', autouse=True)
def fixture_shrunk(monkeypatch):
  """One block in each stage of ResNet and EfficientNet, and narrow networks."""
  monkeypatch.setitem(resnet.RESNET_SPECS, 50, [
      ('bottleneck', filters, 1) for filters in (64, 128, 256, 512)])
  monkeypatch.setitem(efficientnet.SCALING_MAP, 'b0', {'width_scale': 0.25, 'depth_scale': 0.1})
  monkeypatch.setitem(spinenet.SCALING_MAP, '49S', {
      'endpoints_num_filters': 16, 'filter_size_scale': 0.125, 'resample_alpha': 0.5,
      'block_repeats': 1})


@pytest.fixture(name='batches', scope='module')
def fixture_batches(sample_records):
  return combined_detectors.Batches(sample_records)


def test_a_pair_trains_evaluates_and_exports(row, batches, sample_records, tmp_path):
  family, decoder, detector = row
  config = combined_detectors.experiment(*FAMILIES[family], decoder, detector)
  task, model = combined_detectors.check(config, batches, decoder, detector, tmp_path)
  combined_detectors.check_evaluates(task, model, sample_records)
