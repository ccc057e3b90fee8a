"""The implicit pyramid: the common checks, exact counts, its solve, cost, and what it records."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import ifpn
from official_ext.modeling.decoders.ifpn import maps
from official_ext.ops import multiply_adds
from official_ext.ops import routing
import component
import harness
import ifpn_reference
import reference
import spies

CHANNELS = {'3': 6, '4': 5}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 5, 'num_filters': 8}
NAMES = (r'part/((lateral_[34]|coarser_[567])/(kernel|bias)'
         r'|(norm|basis_norm)_[34567]/(gamma|beta|moving_mean|moving_variance)'
         r'|map/([a-z_0-9]+/)*(kernel|scale|bias|gamma|beta|moving_mean|moving_variance|\w+_weights)'
         r'|part_dropout/step_counter):0')

# Two laterals, a coarser level, and the scale and shift of three levels' batch norm.
BASE = 8 * (6 + 1) + 8 * (5 + 1) + 8 * (9 * 8 + 1) + 3 * 2 * 8
CONV, NORM = 9 * 8 * 8 + 8, 2 * 8  # a 3x3 kernel and its scale, without bias
BLOCKS = 3 * 2 * (CONV + NORM)
FEW = {'training_evaluations': 3, 'inference_evaluations': 3}
UNROLLED = {**FEW, 'solver': 'unroll', 'gradient': 'unroll'}


def _part(trainable, non_trainable=0, max_level=5, **options):
  return component.Component(
      ifpn.ImplicitFPN,
      {**OPTIONS, 'norm': 'batch_norm', 'solver': FEW, 'max_level': max_level, **options}, CHANNELS,
      BASE + trainable, 2 * 3 * 8 + non_trainable, NAMES,
      ''.join(str(level) for level in range(3, max_level + 1)), idle=r'lateral_\d/bias', wrong={
          'cross_scale': 'panet', 'injection': 'none', 'block_norm': 'layer_norm', 'dropout': 1.0,
          'output_norm_scale': 0.0, 'solver': {'solver': 'newton'}})


PARTS = {
    'default': _part(BLOCKS + 3 * (CONV + 8) + NORM, 1),
    'tolerance': _part(BLOCKS + 3 * (CONV + 8) + NORM, dropout=0.0,
                       solver={**FEW, 'tolerance': 0.2}),
    'batch norm': _part(BLOCKS + 3 * (CONV + 8) + NORM, 7 * NORM, dropout=0.0,
                        block_norm='batch_norm'),
}


def _each(checks, slow):
  return [pytest.param(check, id=check.__name__, marks=[pytest.mark.slow] * (check in slow))
          for check in checks]


SLOW = [check for check in harness.DECODER_CHECKS if check not in (
    harness.check_config, harness.check_call_modes, harness.check_weights)]


@pytest.mark.parametrize('check', _each(harness.DECODER_CHECKS, SLOW))
@pytest.mark.parametrize('name', PARTS)
def test_decoder(name, check, tmp_path):
  check(PARTS[name], tmp_path)


def _build(num_filters=256, levels=5, **options):
  layer = ifpn.ImplicitFPN({'3': [None, None, None, 4]}, min_level=3, max_level=2 + levels,
                           num_filters=num_filters, **options)
  # In a graph variables take no memory.
  with tf.Graph().as_default():
    layer.build({'3': tf.TensorShape([None, None, None, 4])})
  return layer


@pytest.mark.parametrize('options, without_scales, scales', [
    ({'cross_scale': 'none'}, 5_903_872, 10), ({'cross_scale': 'dense'}, 18_692_352, 10 + 35),
    ({}, 7_674_112, 13), ({'deformable_kernels': True}, 7_674_112 + 3 * 62_235, 13),
    ({'shared': False}, 13_574_912, 10 + 13),
    ({'cross_scale': 'bifpn'}, 6_450_195, 10 + 16), ({'cross_scale': 'nasfpn'}, 10_037_504, 17)])
def test_parameters_of_the_paper(options, without_scales, scales):
  """Kernels, biases and norms as in the paper's figures, and a scale per filter on top."""
  variables = _build(**options).map.trainable_variables
  count = sum(v.shape.num_elements() for v in variables if '/scale' not in v.name)
  assert count == without_scales
  assert sum(v.shape.num_elements() for v in variables) == without_scales + 256 * scales


def test_default_has_7677440_weights_beside_the_basis():
  layer = _build()
  assert sum(v.shape.num_elements() for v in layer.map.trainable_variables) == 7_677_440


def _count(call, *specs):
  graph = tf.function(call, autograph=False).get_concrete_function(*specs).graph
  return multiply_adds.count_graph(graph)


VARIANTS = [{}, {'cross_scale': 'none'}, {'cross_scale': 'dense'}, {'shared': False},
            {'cross_scale': 'bifpn'}, {'cross_scale': 'nasfpn'}, {'residual': False},
            {'injection': 'mdeq'}, {'deformable_kernels': True}]


@pytest.mark.parametrize('options', VARIANTS, ids=str)
def test_multiply_adds_equal_those_of_the_graph(options):
  # Two levels have all kinds of deformable kernels, which take long to trace.
  max_level = 4 if 'deformable_kernels' in options else 7
  layer = ifpn.ImplicitFPN({'3': [None, None, None, 4]}, min_level=3, max_level=max_level,
                           num_filters=16, **options)
  layer.build({'3': tf.TensorShape([None, None, None, 4])})
  sizes = [(10, 13), (5, 7), (3, 4), (2, 2), (1, 1)][:max_level - 2]
  levels = [tf.TensorSpec([1, *size, 16]) for size in sizes]
  counted = _count(lambda *x: layer.map(maps.MapInputs(x, x)), *levels)
  assert float(layer.map.multiply_adds([tf.constant(size) for size in sizes])) == counted > 0


def test_one_evaluation_at_800x1344_is_46_2_gmac():
  layer = _build()
  sizes = [tf.constant(size) for size in [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]]
  np.testing.assert_allclose(float(layer.map.multiply_adds(sizes)) / 1e9, 46.2, atol=0.05)


def _inputs(size=(32, 40), batch=2, seed=0):
  return reference.pyramid_inputs(CHANNELS, size, batch, seed)


def _recorded(layer, inputs, **options):
  with routing.RoutingTape() as tape:
    outputs = layer(inputs, **options)
  return outputs, tape.records()[layer.name]


SOLVERS = {
    'anderson': (FEW, 3, 4), 'phantom': ({**FEW, 'gradient': 'phantom'}, 3, 6),
    'jacobian_free': ({**FEW, 'gradient': 'jacobian_free'}, 3, 4),
    'broyden': ({'solver': 'broyden', 'training_evaluations': 4, 'inference_evaluations': 3}, 3, 5),
    'unroll': ({'solver': 'unroll', 'gradient': 'unroll', 'training_evaluations': 2,
                'inference_evaluations': 2}, 2, 2),
    'basis alone': ({'solver': 'unroll', 'gradient': 'unroll', 'training_evaluations': 0,
                     'inference_evaluations': 0}, 0, 0),
}


@pytest.mark.parametrize('name', SOLVERS)
def test_cost_counts_the_evaluations_really_run(name):
  """At a fixed budget every image costs the evaluations of the map in the graph, and no more."""
  solver, at_inference, in_training = SOLVERS[name]
  layer = ifpn.ImplicitFPN(**OPTIONS, solver=solver, name='part')
  inputs = _inputs(batch=1)
  layer(inputs)
  blocks = 2 * 9 * 64 * (20 + 6 + 2)
  pyramid = 9 * 64 * (20 + 6 + 2 + 6 + 2 + 6 + 2)
  basis = 20 * 6 * 8 + 6 * 5 * 8 + 2 * 9 * 64
  for training, evaluations in ((False, at_inference), (True, in_training)):
    def run(inputs, training=training):
      _, record = _recorded(layer, inputs, training=training)
      return record.executed, record.minimum, record.maximum, record.all_branches

    function = tf.function(run, autograph=False).get_concrete_function(
        {level: tf.TensorSpec(x.shape) for level, x in inputs.items()})
    cost = evaluations * (blocks + pyramid)
    recorded = function(*map(tf.constant, inputs.values()))
    assert [float(tf.squeeze(x)) for x in recorded] == [cost] * 4
    # The graph also has the solver's products of matrices, which are as large as its memory.
    assert 0 <= multiply_adds.count_graph(function.graph) - cost - basis <= 16 * evaluations


def test_tolerance_stops_images_one_by_one():
  layer = ifpn.ImplicitFPN(**OPTIONS, solver={'tolerance': 0.05, 'inference_evaluations': 12},
                           name='part')
  easy, hard = _inputs(batch=1), _inputs(batch=1, seed=1)
  # The larger the basis, the more the map contracts.
  easy = {level: 30 * features for level, features in easy.items()}
  both = {level: np.concatenate([easy[level], hard[level]]) for level in easy}
  outputs, record = _recorded(layer, both)
  steps = record.metrics['evaluations'].numpy()
  assert 1 <= steps[0] < steps[1] <= 12
  assert np.all(record.metrics['residual'] <= 0.05)
  one = float(record.maximum) / 12
  np.testing.assert_allclose(record.executed, steps * one, 1e-6)
  np.testing.assert_allclose(record.minimum, one, 1e-6)
  for row, alone in enumerate((easy, hard)):
    single, own = _recorded(layer, alone)
    assert float(own.metrics['evaluations'][0]) == steps[row]
    component.same({level: x[row:row + 1] for level, x in outputs.items()}, single, 1e-5)


def test_warm_start_saves_evaluations_and_says_so():
  layer = ifpn.ImplicitFPN(**OPTIONS, solver={'tolerance': 0.02, 'inference_evaluations': 20},
                           name='part')
  frame, following = _inputs(), _inputs(seed=1)
  following = {level: 0.98 * frame[level] + 0.02 * following[level] for level in frame}
  cold, cold_record = _recorded(layer, following)
  warm, warm_record = _recorded(layer, following, initial=layer(frame))
  assert np.all(warm_record.metrics['evaluations'] < cold_record.metrics['evaluations'])
  assert np.all(warm_record.executed < cold_record.executed)
  component.same(warm, cold, 0.05)
  with pytest.raises(ValueError, match=r"\['5'\] are missing"):
    layer(frame, initial={level: warm[level] for level in '34'})


def test_converges_at_the_start_if_the_basis_has_unit_deviation():
  """Five evaluations by Anderson leave a relative residual below 3e-2."""
  layer = ifpn.ImplicitFPN({'3': [None, None, None, 4]}, min_level=3, max_level=7, num_filters=64,
                           coarse_levels='max_pool', dropout=0.0, name='part')
  basis = np.random.default_rng(0).normal(size=[2, 24, 24, 64]).astype(np.float32)
  layer.build({'3': tf.TensorShape([None, None, None, 4])})
  layer.basis = lambda inputs, training: {
      str(3 + i): tf.constant(basis[:, ::2**i, ::2**i]) for i in range(5)}
  _, record = _recorded(layer, {'3': tf.zeros([2, 24, 24, 4])})
  np.testing.assert_allclose(record.metrics['basis_std/3'], 1, atol=0.02)
  assert np.all(record.metrics['residual'] < 3e-2)
  assert sorted(record.metrics) == sorted(layer.metric_names)


def test_spectral_radius_is_recorded_for_a_tape_that_diagnoses():
  layer = ifpn.ImplicitFPN(**OPTIONS, name='part')
  inputs = _inputs()
  with routing.RoutingTape(diagnose=True) as tape:
    layer(inputs)
  radius = tape.routing().metrics['part/spectral_radius']
  assert radius.shape == (2,)
  assert np.all((radius > 0) & (radius < 3))
  assert 'spectral_radius' not in _recorded(layer, inputs)[1].metrics


@pytest.mark.parametrize('solver', ['anderson', 'broyden', 'unroll'])
@pytest.mark.parametrize('gradient', ['implicit', 'phantom', 'jacobian_free', 'unroll'])
def test_every_weight_learns(solver, gradient):
  """Also the offsets of deformable kernels, with Anderson's method."""
  options = {'solver': solver, 'gradient': gradient, **FEW, 'backward_evaluations': 2}
  if gradient == 'unroll' and solver != 'unroll':
    with pytest.raises(ValueError, match='gradient'):
      ifpn.ImplicitFPN(**OPTIONS, solver=options)
    return
  layer = ifpn.ImplicitFPN(**OPTIONS, solver=options, name='part',
                           deformable_kernels=(solver, gradient) == ('anderson', 'implicit'))
  layer(_inputs())
  spies.randomize(layer)
  with tf.GradientTape() as tape:
    outputs = layer(_inputs(), training=True)
    loss = tf.add_n([tf.reduce_sum(x**3) for x in outputs.values()])
  variables = layer.trainable_variables
  for variable, gradient_ in zip(variables, tape.gradient(loss, variables)):
    assert np.all(np.isfinite(gradient_)) and np.any(gradient_ != 0), variable.name


def test_one_mask_per_step_for_all_evaluations(monkeypatch):
  seen = []
  original = maps.ResidualBlock.run

  def run(self, weights, features, mask=None):
    seen.append((self.name, mask))
    return original(self, weights, features, mask)

  monkeypatch.setattr(maps.ResidualBlock, 'run', run)
  layer = ifpn.ImplicitFPN(**OPTIONS, solver={**FEW, 'gradient': 'phantom'}, dropout=0.5,
                           name='part')
  inputs = _inputs()
  steps = []
  for _ in range(2):
    seen.clear()
    layer(inputs, training=True)
    assert len(seen) == 3 * (3 + 3)
    masks = {name: [mask.numpy() for other, mask in seen if other == name] for name, _ in seen}
    for values in masks.values():
      assert all(np.array_equal(value, values[0]) for value in values)
    steps.append(np.concatenate([values[0].ravel() for values in masks.values()]))
  assert not np.array_equal(*steps)
  seen.clear()
  layer(inputs, training=False)
  assert {mask for _, mask in seen} == {None}


def test_warm_up_is_unrolled_and_ends():
  options = {'warmup_unroll_steps': 2, 'warmup_evaluations': 2, **FEW, 'backward_evaluations': 1}
  layer = ifpn.ImplicitFPN(**OPTIONS, solver=options, dropout=0.0, name='part')
  layer(_inputs())

  @tf.function(autograph=False)
  def step(inputs):
    with tf.GradientTape() as tape:
      outputs, record = _recorded(layer, inputs, training=True)
      loss = tf.add_n([tf.reduce_sum(x**3) for x in outputs.values()])
    gradients = tape.gradient(loss, layer.trainable_variables)
    return record.metrics['evaluations'], record.executed, record.maximum, gradients

  for expected in (2, 2, 3, 3):
    evaluations, executed, maximum, gradients = step(_inputs())
    np.testing.assert_array_equal(evaluations, [expected] * 2)
    more = expected == 3  # the evaluation that is differentiated
    np.testing.assert_allclose(executed / maximum, (expected + more) / 4, 1e-6)
    assert all(np.all(np.isfinite(x)) and np.any(x != 0) for x in gradients)


@pytest.mark.parametrize('size', [(32, 40), (75, 101)])
def test_basis_equals_numpy(size):
  layer = ifpn.ImplicitFPN(**{**OPTIONS, 'max_level': 6}, dtype='float64', name='part')
  inputs = reference.pyramid_inputs(CHANNELS, size, dtype=np.float64)
  layer(inputs)
  spies.randomize(layer)
  w = {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}

  def conv(x, name, stride=1):
    return ifpn_reference.conv(x, w[f'{name}/kernel'], stride) + w[f'{name}/bias']

  expected = {level: conv(x, f'lateral_{level}') for level, x in inputs.items()}
  expected['5'] = conv(expected['4'], 'coarser_5', 2)
  expected['6'] = conv(ifpn_reference.relu(expected['5']), 'coarser_6', 2)
  basis = layer.basis(inputs)
  component.same(basis, expected, 1e-10)
  pooled = ifpn.ImplicitFPN(**OPTIONS, coarse_levels='max_pool', name='part')
  pooled(inputs)
  values = pooled.basis(inputs)
  np.testing.assert_array_equal(values['5'], values['4'][:, ::2, ::2])
  normal = ifpn.ImplicitFPN(**OPTIONS, normalize_basis=True, name='part')
  normal(inputs)
  for features in normal.basis(inputs).values():
    np.testing.assert_allclose(np.std(features, axis=(1, 2, 3)), 1, atol=0.02)


def test_unrolled_equals_numpy():
  """The pyramid is the last of T applications that start from zero."""
  layer = ifpn.ImplicitFPN(**OPTIONS, solver=UNROLLED, dtype='float64', name='part')
  inputs = reference.pyramid_inputs(CHANNELS, (20, 24), dtype=np.float64)
  layer(inputs)
  spies.randomize(layer)
  weights = {v.name.split('map/')[1][:-2]: v.numpy() for v in layer.map.variables}
  network = ifpn_reference.Map(weights, 3)
  basis = [x.numpy() for x in layer.basis(inputs).values()]
  state = [np.zeros_like(x) for x in basis]
  for _ in range(3):
    state = network.sum_injection(state, basis, 'pyramid')
  component.same(layer(inputs), dict(zip('345', state)), 1e-9)


@pytest.mark.parametrize('policy', ['float16', 'bfloat16'])
def test_trains_without_any_float32_variable(policy):
  layer = PARTS['default'].make(dtype=policy, norm='none')
  with tf.GradientTape() as tape:
    outputs = layer(_inputs((16, 16)), training=True)
    loss = tf.add_n([tf.reduce_mean(tf.cast(x, tf.float32)**2) for x in outputs.values()])
  assert {x.dtype for x in [*outputs.values(), *layer.trainable_variables]} == {
      tf.as_dtype(policy)}
  for gradient in tape.gradient(loss, layer.trainable_variables):
    assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))


@pytest.mark.slow
def test_another_process_loads_every_map_and_trains_on_two_replicas(tmp_path):
  maps_ = [_part(0, cross_scale=kind, solver=UNROLLED) for kind in ('none', 'dense', 'bifpn')]
  solver = {'training_evaluations': 2, 'backward_evaluations': 1}
  options = {**OPTIONS, 'dropout': 0.0, 'solver': solver}
  harness.check_other_process([PARTS['default'], *maps_], [{
      'cls': f'{ifpn.__name__}:ImplicitFPN', 'options': options, 'channels': CHANNELS}], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('tolerance, most', [(0.0, 3), (0.05, 12)])
def test_exported_pyramid_equals_the_model_and_stops_early(tolerance, most, tmp_path):
  layer = ifpn.ImplicitFPN(
      **OPTIONS, solver={'tolerance': tolerance, 'inference_evaluations': most}, name='part')
  easy, hard = _inputs(batch=4), _inputs(batch=1, seed=1)
  easy = {level: 30 * features for level, features in easy.items()}
  layer(easy)

  @tf.function(autograph=False, input_signature=[{
      level: tf.TensorSpec([None, None, None, depth]) for level, depth in CHANNELS.items()}])
  def serve(inputs):
    outputs, record = _recorded(layer, inputs)
    return {**outputs, 'evaluations': record.metrics['evaluations']}

  module = tf.Module()
  module.layer, module.serve = layer, serve
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  reloaded = tf.saved_model.load(str(tmp_path / 'exported'))
  both = {level: np.concatenate([easy[level], hard[level]]) for level in easy}
  for inputs in (hard, both):
    answer = dict(reloaded.serve(inputs))
    evaluations = answer.pop('evaluations').numpy()
    outputs, record = _recorded(layer, inputs)
    component.same(answer, outputs, 1e-5)
    np.testing.assert_array_equal(evaluations, record.metrics['evaluations'])
  assert np.all(evaluations[:4] < evaluations[4]) == bool(tolerance)


@pytest.mark.parametrize('solver, has_gradient', [
    ({}, False),
    ({'solver': 'unroll', 'gradient': 'unroll', 'training_evaluations': 2,
      'inference_evaluations': 2}, True)])
def test_only_an_unrolled_solver_has_a_gradient_at_inference(solver, has_gradient):
  layer, inputs = ifpn.ImplicitFPN(
      **{**OPTIONS, 'num_filters': 8, 'max_level': 4, 'solver': solver}), _inputs()
  layer(inputs)
  for training, expected in ((True, True), (False, has_gradient)):
    with tf.GradientTape() as tape:
      loss = tf.add_n([tf.reduce_sum(x**2) for x in layer(inputs, training=training).values()])
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert {gradient is not None for gradient in gradients} == {expected}
