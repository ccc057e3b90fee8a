"""BiFPN against NumPy, the reference cell of constant maps, and EfficientDet's published counts."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import bifpn
from official_ext.ops import multiply_adds
import component
import harness
import reference

CHANNELS = {'3': 6, '4': 5, '5': 7}
WIDTH = 4
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 7, 'num_filters': WIDTH, 'num_repeats': 1}
# C3 enters one node, C4 and C5 two, and C5 level 6 too; each 1x1 with bias and norm.
EDGES = {'out_3_in_3': '3', 'down_4_in_4': '4', 'out_4_in_4': '4', 'down_5_in_5': '5',
         'out_5_in_5': '5', 'coarser_6': '5'}
CELL = 8 * (9 * WIDTH + WIDTH**2 + 3 * WIDTH) + 19
PART = component.Component(
    bifpn.BiFPN, OPTIONS, CHANNELS,
    sum((CHANNELS[level] + 3) * WIDTH for level in EDGES.values()) + CELL,
    2 * WIDTH * (len(EDGES) + 8),
    rf'part/(({"|".join(EDGES)})/(kernel|bias)'
    rf'|({"|".join(EDGES)})_norm/(gamma|beta|moving_mean|moving_variance)'
    r'|cell_0_(down_[456]|out_[34567])/(fusion_weights|norm/(gamma|beta|moving_mean'
    r'|moving_variance)|conv/(depthwise_kernel|pointwise_kernel|bias))):0', '34567',
    # A norm takes away what a bias before it adds, and equal maps of one pixel have no best share.
    idle=r'/bias|fusion_weights',
    wrong={'fusion': 'attention', 'num_repeats': 0, 'min_level': ('max_level', 7)})


def _weights(layer):
  return {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}


def _norm(weights, name, x):
  """Batch norm by moving averages; without its weights nothing."""
  if f'{name}/gamma' not in weights:
    return x
  gamma, beta, mean, variance = (
      weights[f'{name}/{part}'] for part in ('gamma', 'beta', 'moving_mean', 'moving_variance'))
  return reference.batch_norm(x, gamma, beta, mean, variance)


def _max_pool(x):
  """Maxima of 3x3 pixels at stride 2; an even size is padded at its end only."""
  batch, height, width, depth = x.shape
  size = -(-height // 2), -(-width // 2)
  result = np.full([batch, *size, depth], -np.inf)
  for row, column in np.ndindex(*size):
    top, left = 2 * row - height % 2, 2 * column - width % 2
    result[:, row, column] = x[:, max(top, 0):top + 3, max(left, 0):left + 3].max((1, 2))
  return result


def _shares(weights, fusion):
  if fusion == 'softmax':
    return reference.softmax(weights)
  positive = np.maximum(weights, 0)
  return positive / (positive.sum() + 1e-4)


def _node(weights, name, maps, fusion):
  """Fusion, swish, separable convolution, norm."""
  if fusion == 'sum':
    fused = sum(maps)
  else:
    fused = sum(a * x for a, x in zip(_shares(weights[f'{name}/fusion_weights'], fusion), maps))
  x = fused * reference.sigmoid(fused)
  x = reference.separable_conv2d(x, *(
      weights[f'{name}/conv/{part}'] for part in ('depthwise_kernel', 'pointwise_kernel', 'bias')))
  return _norm(weights, f'{name}/norm', x)


def _enter(weights, name, x):
  """A map of the backbone behind its 1x1 convolution and norm, if it has them."""
  if f'{name}/kernel' not in weights:
    return x
  x = reference.conv2d(x, weights[f'{name}/kernel'], weights[f'{name}/bias'])
  return _norm(weights, f'{name}_norm', x)


def _cell(weights, cell, p, fusion):
  """The eight nodes, written out."""

  def fuse(node, level, *maps):
    entered = p[level] if cell else _enter(weights, f'{node}_in_{level}', p[level])
    return _node(weights, f'cell_{cell}_{node}', [entered, *maps], fusion)

  def up(x, level):
    return reference.resize_nearest(x, p[level].shape[1:3])

  t6 = fuse('down_6', '6', up(p['7'], '6'))
  t5 = fuse('down_5', '5', up(t6, '5'))
  t4 = fuse('down_4', '4', up(t5, '4'))
  o3 = fuse('out_3', '3', up(t4, '3'))
  o4 = fuse('out_4', '4', t4, _max_pool(o3))
  o5 = fuse('out_5', '5', t5, _max_pool(o4))
  o6 = fuse('out_6', '6', t6, _max_pool(o5))
  o7 = fuse('out_7', '7', _max_pool(o6))
  return {'3': o3, '4': o4, '5': o5, '6': o6, '7': o7}


def _expected(layer, inputs, fusion):
  weights, p = _weights(layer), dict(inputs)
  p['6'] = _max_pool(_enter(weights, 'coarser_6', p['5']))
  p['7'] = _max_pool(p['6'])
  for cell in range(layer.get_config()['num_repeats']):
    p = _cell(weights, cell, p, fusion)
  return p


@pytest.mark.parametrize('fusion, norm, size', [
    ('fast_normalized', 'batch_norm', (75, 101)), ('fast_normalized', 'none', (64, 80)),
    ('softmax', 'batch_norm', (64, 80)), ('sum', 'batch_norm', (75, 101))])
def test_equals_numpy(fusion, norm, size):
  layer = PART.make(dtype='float64', norm=norm, fusion=fusion, num_repeats=2)
  if fusion != 'sum':
    for name in ('cell_0_out_4', 'cell_1_down_5'):  # A negative weight counts as 0, if not softmax.
      variable = next(v for v in layer.variables if v.name == f'part/{name}/fusion_weights:0')
      variable.assign([-0.5] + variable.numpy()[1:].tolist())
  inputs = {level: 4 * (x - 0.5) for level, x in PART.inputs(size, dtype=np.float64).items()}
  component.same(layer(inputs), _expected(layer, inputs, fusion), 1e-9, 1e-9)


def test_inputs_of_the_right_width_enter_as_they_are():
  channels = dict.fromkeys('345', WIDTH)
  layer = bifpn.BiFPN(**{**OPTIONS, 'input_specs': {
      level: [None, None, None, WIDTH] for level in '345'}}, dtype='float64', name='part')
  inputs = reference.pyramid_inputs(channels, (75, 101), dtype=np.float64)
  outputs = layer(inputs)
  assert not [v.name for v in layer.variables if '_in_' in v.name or 'coarser' in v.name]
  component.same(outputs, _expected(layer, inputs, 'fast_normalized'), 1e-9, 1e-9)


@pytest.mark.parametrize('levels, expected', [
    ([3, 4], [('out_3', 3, ['in_3', 'in_4']), ('out_4', 4, ['in_4', 'out_3'])]),
    ([2, 3, 4], [('down_3', 3, ['in_3', 'in_4']), ('out_2', 2, ['in_2', 'down_3']),
                 ('out_3', 3, ['in_3', 'down_3', 'out_2']), ('out_4', 4, ['in_4', 'out_3'])])])
def test_nodes_of_few_levels(levels, expected):
  assert bifpn.cell_nodes(levels) == expected


@pytest.mark.parametrize('fusion, weights, shares', [
    ('fast_normalized', [1, 1], [0.499975] * 2),
    ('fast_normalized', [0.5, -1, 2], [0.199992, 0, 0.799968]),
    ('softmax', [0, np.log(3)], [0.25, 0.75])])
def test_shares(fusion, weights, shares):
  node = bifpn.FusionNode(1, fusion, 'swish', None)
  node([tf.ones([1, 1, 1, 1])] * len(weights))
  node.fusion_weights.assign(weights)
  np.testing.assert_allclose(node.shares(), shares, atol=1e-6)


def test_equals_the_reference_cell_on_constant_maps():
  """Numbers that the cell of `google/automl` gives, with convolutions and norms that do nothing."""
  layer = bifpn.BiFPN(input_specs={level: [None, None, None, 1] for level in '34567'},
                      num_filters=1, num_repeats=1, norm='none', dtype='float64')
  inputs = {level: np.full([1, size, size, 1], float(level) - 2)
            for level, size in zip('34567', (16, 8, 4, 2, 1))}
  layer(inputs)
  for variable in layer.variables:
    if 'kernel' in variable.name:
      value = np.zeros(variable.shape)
      value[value.shape[0] // 2, value.shape[1] // 2] = 1
      variable.assign(value)
  for level, number in zip('34567', (1.576774, 1.847648, 2.670345, 3.617922, 4.251560)):
    np.testing.assert_allclose(layer(inputs)[level], np.full(inputs[level].shape, number), 1e-6)


def test_counts_of_efficientdet_d1():
  """Published: 390,972 weights, 0.451 G multiply-adds at 640 pixels; the latter here by hand."""
  channels, sides = {'3': 40, '4': 112, '5': 320}, dict(zip('34567', (80, 40, 20, 10, 5)))
  specs = {level: [1, sides[level], sides[level], depth] for level, depth in channels.items()}
  layer = bifpn.BiFPN(input_specs=specs, num_filters=88, num_repeats=4)
  graph = tf.function(layer, autograph=False).get_concrete_function(
      {level: tf.TensorSpec(shape) for level, shape in specs.items()}).graph
  assert sum(np.prod(v.shape) for v in layer.trainable_variables) == 390_972
  edges = sum(sides[level]**2 * channels[level] * 88 for level in EDGES.values())
  nodes = 4 * (9 * 88 + 88**2) * sum(
      (1 if level in '37' else 2) * side**2 for level, side in sides.items())
  assert multiply_adds.count_graph(graph) == edges + nodes
  assert round((edges + nodes) / 1e9, 3) == 0.451


def test_fusion_weights_stay_float32_in_half_precision():
  layer = PART.make(dtype='mixed_bfloat16')
  node = layer._fusion_nodes['cell_0_out_5']
  node.fusion_weights.assign([1.0, 1.0078125 / 2**9, 0.0])
  shares = node.shares()
  assert shares.dtype == tf.float32
  np.testing.assert_allclose(tf.reduce_sum(shares), 1 / (1 + 1e-4 / 1.00197), 1e-5)


@pytest.mark.parametrize('norm', ['batch_norm', 'none'])
def test_every_weight_has_a_gradient(norm):
  layer = PART.make(dtype='float64', norm=norm, num_repeats=2)
  with tf.GradientTape() as tape:
    outputs = layer(PART.inputs((160, 192), dtype=np.float64), training=True)
    loss = tf.add_n([
        tf.reduce_sum(x * tf.random.stateless_normal(x.shape, [1, 2], dtype=tf.float64))
        for x in outputs.values()])
  still = [variable.name for variable, gradient in zip(
      layer.trainable_variables, tape.gradient(loss, layer.trainable_variables))
           if not np.any(np.abs(gradient) > 1e-9)]
  # A norm takes away what a bias before it adds.
  assert all('bias' in name and norm == 'batch_norm' for name in still), still


@pytest.mark.slow
def test_decoder(tmp_path):
  harness.run_decoder_checks(PART, tmp_path)
