"""FPNLite against NumPy, and the cost of the baselines that have it as their neck."""
import numpy as np
from official.vision.modeling.backbones import mobilenet
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import fpn_lite
from official_ext.ops import multiply_adds
import component
import harness
import reference

CHANNELS = {'3': 6, '4': 5, '5': 7}
PART = component.Component(
    fpn_lite.FPNLite,
    {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
     'min_level': 3, 'max_level': 7, 'num_filters': 4},
    CHANNELS, 4 * (6 + 5 + 7 + 3) + 3 * 4 * (9 + 4 + 1) + 2 * 4 * (9 * 4 + 1) + 40, 40,
    r'part/((lateral_[345]|coarser_[67])/(kernel|bias)'
    r'|output_[345]/(depthwise_kernel|pointwise_kernel|bias)'
    r'|norm_[3-7]/(gamma|beta|moving_mean|moving_variance)):0', '34567')


@pytest.mark.parametrize('size', [(64, 80), (75, 101)])
def test_equals_numpy(size):
  layer = PART.make(dtype='float64', norm='none')
  inputs = {level: 20 * (x - 0.5) for level, x in PART.inputs(size, dtype=np.float64).items()}
  weights = {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}
  merged = {}
  for level in '543':
    name = f'lateral_{level}'
    merged[level] = reference.conv2d(
        inputs[level], weights[f'{name}/kernel'], weights[f'{name}/bias'])
    if level != '5':
      merged[level] += reference.resize_nearest(
          merged[str(int(level) + 1)], merged[level].shape[1:3])
  expected = {}
  for level, x in merged.items():
    depthwise = weights[f'output_{level}/depthwise_kernel']
    x = np.concatenate([reference.conv2d(x[..., c:c + 1], depthwise[:, :, c:c + 1])
                        for c in range(4)], -1)
    expected[level] = reference.conv2d(
        x, weights[f'output_{level}/pointwise_kernel'], weights[f'output_{level}/bias'])
  for level in '67':
    expected[level] = reference.symmetric_conv2d(
        np.maximum(expected[str(int(level) - 1)], 0), weights[f'coarser_{level}/kernel'],
        weights[f'coarser_{level}/bias'])
  assert np.any(expected['5'] < 0)
  component.same(layer(inputs), expected, 1e-10, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize('model_id, width, gmac, channels', [
    ('MobileNetV1', 96, 11.75, 1024), ('MobileNetV2', 256, 7.80, 1280)])
def test_costs_of_the_papers_baselines(model_id, width, gmac, channels):
  """Backbone and neck of Table 4, at 800x1200.

  The input of the paper's coarsest lateral is the last convolution of MobileNetV2; Model Garden's
  coarsest level is the block before it.
  """
  backbone = mobilenet.MobileNet(
      model_id, input_specs=tf_keras.layers.InputSpec(shape=[None, 800, 1200, 3]))
  decoder = fpn_lite.FPNLite(
      input_specs={level: backbone.output_specs[level] for level in '345'}, min_level=3,
      max_level=7, num_filters=width)
  graph = tf.function(lambda images: decoder(backbone(images)), autograph=False)
  graph = graph.get_concrete_function(tf.TensorSpec([1, 800, 1200, 3])).graph
  missing = 25 * 38 * width * (channels - backbone.output_specs['5'][-1])
  count = multiply_adds.count_graph(graph) + missing
  assert count / 1e9 == pytest.approx(gmac, abs=0.005)


@pytest.mark.slow
def test_decoder(tmp_path):
  harness.run_decoder_checks(PART, tmp_path)
