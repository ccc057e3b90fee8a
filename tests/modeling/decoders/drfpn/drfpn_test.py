"""DRFPN: the common checks, the paper's numbers, and its data flow in NumPy."""
import itertools

import numpy as np
from official.vision.modeling.decoders import fpn
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import drfpn
from official_ext.ops import multiply_adds
import component
import harness
import reference
import refinement_reference

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 6, 'num_filters': 8}
LAYERS = ('compress_source|compress_target|resample|offset_hidden|offset|weight_hidden|weight'
          '|output|target|source|weights/channels|weights/context|weights/merge')
NAMES = (rf'part/((lateral|output|strided|coarser|bottom_up_output)_[3456]'
         rf'|(top_down|bottom_up)_[345]/({LAYERS})|ppm/bins_[1236]'
         rf'|non_local/(theta|phi|value|output)|dense_aspp/(reduce|dilated)_\d+)/(kernel|bias):0'
         r'|part/norm_[3456]/(gamma|beta|moving_mean|moving_variance):0')
WRONG = {'top_down': 'panet', 'bottom_up': 'fpn', 'context': 'aspp', 'srb_context': 'both',
         'crb_context': 'source', 'weight_activation': 'relu', 'padding': 'same',
         'max_level': ('min_level', 1)}
TOP_DOWN, BOTTOM_UP = ('fpn', 'srb', 'crb', 'srb_crb'), ('none', 'panet', 'crb', 'srb')
CONTEXT = ('none', 'ppm', 'non_local', 'dense_aspp')
PATHS = list(itertools.product(TOP_DOWN, BOTTOM_UP))


def _conv(kernel, depth, filters=8):
  return (kernel**2 * depth + 1) * filters


SRB = 2 * _conv(1, 8, 2) + _conv(3, 2, 2) + 2 * _conv(3, 4, 2) + _conv(3, 2, 2) + _conv(3, 2, 1) + (
    _conv(3, 8))
CRB = _conv(1, 8) + 3 * _conv(3, 8)
TOP_DOWN_WEIGHTS = {
    'fpn': 3 * _conv(3, 8), 'srb': _conv(3, 8) + 2 * SRB, 'crb': _conv(3, 8) + 2 * CRB,
    'srb_crb': _conv(3, 8) + 2 * (SRB + _conv(1, 8) + _conv(3, 8))}
BOTTOM_UP_WEIGHTS = {
    'none': 0, 'panet': 4 * _conv(3, 8), 'crb': _conv(1, 8) + 2 * CRB,
    'srb': _conv(1, 8) + 2 * SRB}
CONTEXT_WEIGHTS = {
    'none': 0, 'ppm': 4 * _conv(1, 7, 2) + 8 * 8, 'non_local': 3 * _conv(1, 7) + _conv(1, 8, 7),
    'dense_aspp': sum(_conv(1, 7 + 8 * i, 16) for i in range(5)) + 5 * _conv(3, 16) + (
        (5 * 8 - 7) * 8)}


def _part(top_down='srb', bottom_up='crb', context='ppm', idle=r'(?!)', **options):
  trainable = (sum(_conv(1, depth) for depth in CHANNELS.values()) + TOP_DOWN_WEIGHTS[top_down]
               + BOTTOM_UP_WEIGHTS[bottom_up] + CONTEXT_WEIGHTS[context] + _conv(3, 8) + 4 * 2 * 8)
  options = {'top_down': top_down, 'bottom_up': bottom_up, 'context': context, **options}
  return component.Component(
      drfpn.DRFPN, {**OPTIONS, **options}, CHANNELS, trainable, 4 * 2 * 8, NAMES, '3456',
      idle=idle, wrong=WRONG)


@pytest.mark.parametrize('check', [
    pytest.param(check, id=check.__name__,
                 marks=[pytest.mark.slow] * (check == harness.check_saving))
    for check in harness.DECODER_CHECKS])
def test_decoder(check, tmp_path):
  check(_part(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('top_down, bottom_up', PATHS)
def test_every_pair_of_paths(top_down, bottom_up, tmp_path):
  # Random offsets may all point outside of a map so small, where they have no gradient.
  part = _part(top_down, bottom_up, 'none', idle='offset')
  harness.check_config(part, tmp_path)
  harness.check_training_step(part, tmp_path)
  if top_down == 'srb_crb':  # It has the blocks of the others.
    harness.check_call_modes(part, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('context', [each for each in CONTEXT if each != 'ppm'])
def test_every_context(context, tmp_path):
  # The bias of phi adds the same number to the similarities of all positions, which softmax drops.
  part = _part(context=context, idle='non_local/phi/bias')
  for check in (harness.check_saving, harness.check_training_step, harness.check_precision):
    check(part, tmp_path)


@pytest.mark.parametrize('top_down, bottom_up', PATHS)
def test_every_pair_has_its_weights_and_any_size(top_down, bottom_up):
  part = _part(top_down, bottom_up, 'none')
  harness.check_weights(part, None)
  layer = part.make(norm='none')
  outputs = layer(part.inputs((75, 101)))
  assert {level: x.shape[1:3] for level, x in outputs.items()} == {
      '3': (10, 13), '4': (5, 7), '5': (3, 4), '6': (2, 2)}


@pytest.mark.slow
def test_another_process_loads_every_path_and_context_and_trains_on_two_replicas(tmp_path):
  parts = [_part(*options) for options in zip(TOP_DOWN, BOTTOM_UP, CONTEXT)]
  harness.check_other_process([*parts, _part(dtype='mixed_bfloat16')], [{
      'cls': f'{drfpn.__name__}:DRFPN', 'channels': CHANNELS,
      'options': {**OPTIONS, 'norm': 'none'}}], tmp_path)


def _block(kind, weights, source, target, direction, options):
  """Returns the output of a block and the source of the next block."""
  roles = {'low': 'target', 'high': 'source'}
  if direction == 'up':
    roles = {'low': 'source', 'high': 'target'}
  activation = {'sigmoid': reference.sigmoid, 'linear': lambda x: x}[options['weight_activation']]
  srb_context, crb_context = (
      roles.get(options[name], options[name]) for name in ('srb_context', 'crb_context'))
  spatial = {'direction': direction, 'context': srb_context, 'activation': activation,
             **{name: options[name] for name in ('use_offset', 'use_weight', 'padding')}}
  if kind == 'crb':
    return refinement_reference.crb(weights, source, target, direction, crb_context, activation)
  if kind == 'srb_crb':
    result = refinement_reference.srb_crb(
        weights, source, target, channel_context=crb_context, **spatial)
  else:
    result = refinement_reference.srb(weights, source, target, **spatial)
  return result, result


def _expected(layer, inputs, options):
  """Laterals, top-down path, bottom-up path and coarser level in NumPy."""
  weights, conv = refinement_reference.weights_of(layer), refinement_reference.conv
  below = refinement_reference.weights_below
  context, down, up = (options[name] for name in ('context', 'top_down', 'bottom_up'))
  if context != 'none':
    module = getattr(refinement_reference, context)
    inputs = {**inputs, '5': module(below(weights, context), inputs['5'])}
  laterals = {level: conv(weights, f'lateral_{level}', x) for level, x in inputs.items()}
  outputs = {}
  source = laterals['5']
  outputs['5'] = conv(weights, 'output_5', source)
  for level in ('4', '3'):
    if down == 'fpn':
      source = laterals[level] + reference.resize_nearest(source, laterals[level].shape[1:3])
      outputs[level] = conv(weights, f'output_{level}', source)
    else:
      outputs[level], source = _block(
          down, below(weights, f'top_down_{level}'), source, laterals[level], 'down', options)
  if up != 'none':
    source = outputs['3']
    if up != 'panet':
      outputs['3'] = conv(weights, 'bottom_up_output_3', source)
    for level in ('4', '5'):
      if up == 'panet':
        strided = conv(weights, f'strided_{level}', source, reference.symmetric_conv2d)
        outputs[level] = source = conv(
            weights, f'bottom_up_output_{level}', strided + outputs[level])
      else:
        outputs[level], source = _block(
            up, below(weights, f'bottom_up_{level}'), source, outputs[level], 'up', options)
  outputs['6'] = (outputs['5'][:, ::2, ::2] if options['coarse_levels'] == 'max_pool' else
                  conv(weights, 'coarser_6', outputs['5'], reference.symmetric_conv2d))
  return outputs


def _numbers():
  for paths in PATHS:
    yield {'top_down': paths[0], 'bottom_up': paths[1]}
  for name, values in (
      ('context', CONTEXT[1:]), ('srb_context', ('low', 'high', 'add')),
      ('crb_context', ('high', 'add', 'cat')), ('use_offset', [False]), ('use_weight', [False]),
      ('weight_activation', ['linear']), ('padding', ['border']), ('coarse_levels', ['max_pool'])):
    for value in values:
      yield {name: value}
  yield {'bottom_up': 'srb', 'srb_context': 'low'}
  yield {'top_down': 'crb', 'crb_context': 'low'}
  yield {'top_down': 'srb_crb', 'srb_context': 'high', 'crb_context': 'high'}


@pytest.mark.parametrize('options', list(_numbers()), ids=lambda options: '-'.join(
    map(str, options.values())))
def test_equals_numpy(options):
  options = {'context': 'none', **options}
  layer = _part(**options).make(norm='none', dtype='float64')
  for size in ((32, 40), (75, 101), (8, 8)):
    inputs = reference.pyramid_inputs(CHANNELS, size, dtype=np.float64)
    component.same(
        layer(inputs), _expected(layer, inputs, layer.get_config()), 1e-10, 1e-10)


def test_levels_of_unusual_sizes_are_resized():
  """A backbone's levels need not halve: each block resizes to the size of its target."""
  options = {'context': 'none'}
  layer = _part(**options).make(norm='none', dtype='float64')
  rng = np.random.default_rng(0)
  inputs = {level: rng.normal(size=[2, *size, CHANNELS[level]])
            for level, size in (('3', (9, 7)), ('4', (3, 4)), ('5', (3, 4)))}
  component.same(layer(inputs), _expected(layer, inputs, layer.get_config()), 1e-10, 1e-10)


def test_without_refinement_and_context_it_is_model_gardens_fpn():
  """Weights have the same shapes, and outputs are equal."""
  specs = {level: tf.TensorShape([None, 32 // 2**int(level), 64 // 2**int(level), depth])
           for level, depth in CHANNELS.items()}
  stock = fpn.FPN(specs, min_level=3, max_level=5, num_filters=8)
  ours = drfpn.DRFPN(input_specs=specs, min_level=3, max_level=5, num_filters=8, top_down='fpn',
                     bottom_up='none', context='none')
  inputs = reference.pyramid_inputs(CHANNELS, (32, 64))
  ours(inputs), stock(inputs)

  def shapes(layer):
    return sorted(tuple(v.shape) for v in layer.trainable_variables)

  assert shapes(ours) == shapes(stock)
  kernels = {v.name.split('/')[-2]: v for v in stock.trainable_variables if 'kernel' in v.name}
  for level in '345':
    for kind, index in (('lateral', 1), ('output', 3)):
      variable = next(v for v in ours.trainable_variables if f'{kind}_{level}/kernel' in v.name)
      matching = [v for v in kernels.values() if v.shape == variable.shape]
      if index == 3:
        matching = [matching['345'.index(level)]]
      variable.assign(matching[0])
  for level, output in stock(inputs).items():
    np.testing.assert_allclose(ours(inputs)[level], output, 1e-5, 1e-5)


RESNET = {'2': 256, '3': 512, '4': 1024, '5': 2048}
# Other weights that the paper's detectors train: ResNet-50 without stem and conv2_x, region
# proposals, and a box head of two layers of 1024 for 80 classes and background.
OTHERS = 23_282_688 + 593_935 + 14_306_705


def _paper_size(levels='2345', **options):
  """Returns the number of weights of a neck, and its multiply-adds at 800x1280."""
  with tf.Graph().as_default() as graph:
    inputs = {level: tf.zeros([1, 800 // 2**int(level), 1280 // 2**int(level), RESNET[level]])
              for level in levels}
    layer = drfpn.DRFPN(
        input_specs={level: x.shape for level, x in inputs.items()}, min_level=int(levels[0]),
        norm='none', **{'max_level': 6, 'coarse_levels': 'max_pool', 'context': 'none', **options})
    layer(inputs)
  weights = sum(v.shape.num_elements() for v in layer.trainable_variables)
  return weights, multiply_adds.count_graph(graph)


FPN = {'top_down': 'fpn', 'bottom_up': 'none'}


@pytest.mark.parametrize('options, weights, published', [
    (FPN, 3_344_384, 41.53),
    ({}, 9_575_689, 47.79),
    ({'context': 'ppm'}, 9_575_689 + 590_080, 48.38),
    ({'context': 'non_local'}, 9_575_689 + 2_099_968, 49.95),
    ({'context': 'dense_aspp'}, 9_575_689 + 12_259_072, 60.05),
])
def test_number_of_weights_of_table_7(options, weights, published):
  counted, _ = _paper_size(**options)
  assert counted == weights
  assert counted + OTHERS == pytest.approx(published * 1e6, rel=0.002)


def test_number_of_weights_of_faster_rcnn_and_of_one_stage_levels():
  assert _paper_size()[0] + OTHERS == 47_759_017
  assert _paper_size('345')[0] == 6_864_646
  assert _paper_size('345', max_level=7, coarse_levels='conv')[0] == 8_044_806


# Multiply-adds at 800x1280 of the rest of Faster R-CNN: ResNet-50; a 3x3 convolution and
# predictors of 3 anchors on P2 to P6; the box head on 1000 proposals.
POSITIONS = sum(-(-800 // 2**level) * -(-1280 // 2**level) for level in range(2, 7))
REST = 83_410_944_000 + POSITIONS * 256 * (9 * 256 + 3 + 12) + 1000 * 1024 * (
    49 * 256 + 1024 + 81 + 320)


@pytest.mark.parametrize('options, published', [
    (FPN, 207), ({}, 263), ({'context': 'ppm'}, 263), ({'context': 'non_local'}, 265),
    ({'context': 'dense_aspp'}, 275)])
def test_multiply_adds_of_table_7(options, published):
  """Plain multiply-adds; the paper's tool adds biases, normalization and activations, 0.3 %."""
  _, counted = _paper_size(**options)
  assert counted + REST == pytest.approx(published * 1e9, rel=0.01)


def test_srb_and_crb_contexts_are_named_by_level_not_by_role():
  """`low` is the finer map on both paths: the target on the way down, the source on the way up."""
  layer = drfpn.DRFPN(**OPTIONS, top_down='srb_crb', bottom_up='crb', srb_context='low',
                      crb_context='high')
  down, up = layer._top_down['3'].get_config(), layer._bottom_up['4'].get_config()
  assert (down['context'], down['channel_context'], up['context']) == ('target', 'source', 'target')


@pytest.mark.slow
@pytest.mark.parametrize('context', CONTEXT)
def test_saved_model_and_compiled_function_equal_the_layer(context, tmp_path):
  """Export keeps batch and sizes open; XLA uses other operations for the same numbers."""
  part = _part(context=context)
  layer = part.make()
  serve = tf.function(lambda inputs: layer(inputs, training=False), autograph=False,
                      input_signature=[{level: tf.TensorSpec([None, None, None, depth])
                                        for level, depth in CHANNELS.items()}])
  tf.saved_model.save(layer, str(tmp_path / 'saved'), signatures=serve)
  loaded = tf.saved_model.load(str(tmp_path / 'saved')).signatures['serving_default']
  for size, batch in (((32, 40), 5), ((75, 101), 1), ((32, 40), 0)):
    inputs = part.inputs(size, batch)
    outputs = loaded(**{key: tf.constant(inputs[level]) for key, level in zip(
        sorted(loaded.structured_input_signature[1]), sorted(inputs))})
    component.same(outputs, layer(inputs, training=False), 1e-5, 1e-5)
  compiled = tf.function(
      lambda inputs: layer(inputs, training=False), autograph=False, jit_compile=True)
  inputs = part.inputs()
  component.same(compiled(inputs), layer(inputs, training=False), 1e-3, 1e-3)
