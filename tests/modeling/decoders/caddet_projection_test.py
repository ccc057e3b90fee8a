"""CADDet's projections against NumPy, and their cost at the paper's sizes."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import caddet_projection
from official_ext.ops import multiply_adds
import component
import harness
import reference

CHANNELS = {'3': 4, '4': 8, '5': 16}
PART = component.Component(
    caddet_projection.CADDetProjection,
    {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
     'min_level': 3, 'max_level': 7, 'num_filters': 4},
    CHANNELS, 4 * (4 + 8 + 16 + 3) + 2 * 4 * (9 * 4 + 1), 0,
    r'part/((projection_[345]|coarser_[67])/(kernel|bias)'
    r'|norm_[3-7]/(gamma|beta|moving_mean|moving_variance)):0', '34567',
    idle=r'projection_\d/bias')


@pytest.mark.parametrize('size', [(64, 80), (75, 101)])
def test_equals_numpy(size):
  """Coarser levels come from the activated level before, with zeros on all sides."""
  layer = PART.make(dtype='float64')
  inputs = {level: 20 * (x - 0.5) for level, x in PART.inputs(size, dtype=np.float64).items()}
  weights = {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}
  expected = {}
  for level in '34567':
    name, conv = f'projection_{level}', reference.conv2d
    source = inputs.get(level)
    if source is None:
      name, conv = f'coarser_{level}', reference.symmetric_conv2d
      source = np.maximum(expected[str(int(level) - 1)], 0)
    expected[level] = conv(source, weights[f'{name}/kernel'], weights[f'{name}/bias'])
  assert np.any(expected['5'] < 0)
  component.same(layer(inputs), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('size, millions', [((640, 800), 267.1), ((800, 1200), 504.6)])
def test_the_papers_costs(size, millions):
  with tf.Graph().as_default() as graph:
    inputs = {
        str(level): tf.zeros([1, *(-(-length // 2**level) for length in size), 8 * 2**level])
        for level in (3, 4, 5, 6)}
    layer = caddet_projection.CADDetProjection(
        input_specs={level: x.shape for level, x in inputs.items()}, min_level=3, max_level=7)
    layer(inputs)
  assert multiply_adds.count_graph(graph) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.slow
def test_decoder(tmp_path):
  harness.run_decoder_checks(PART, tmp_path)
