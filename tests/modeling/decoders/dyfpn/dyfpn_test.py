"""Inception FPN and DyFPN: the common checks and the paper's equations in NumPy."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.configs import options as configs
from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.ops import checks
from official_ext.ops import routing
import component
import harness
import reference
import routed_adapters
import spies

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 6, 'num_filters': 4}
KERNELS = {'1x1': (1, 1), '3x3': (3, 1), '3x3d2': (3, 2), '3x3d3': (3, 3), '5x5': (5, 1),
           '5x5d2': (5, 2), '5x5d3': (5, 3)}
BRANCHES = '|'.join(KERNELS)
GATES = {
    'channel': {'type': 'channel'},
    'upward': {'type': 'recurrent', 'direction': 'upward'},
    'downward': {'type': 'recurrent', 'direction': 'downward'},
    'random': {'type': 'random'},
    'budget': {'type': 'channel', 'budget_input': True},
}
NAMES = (r'part/((output|skip)_[345]|coarser_6)/(kernel|bias):0'
         r'|part/norm_[3456]/(gamma|beta|moving_mean|moving_variance):0'
         rf'|part/lateral_[345]/conv_({BRANCHES})/(kernel|bias):0'
         r'|part/gate/((hidden|output)_[345]|embed_[345]|cell|output)/(recurrent_)?(kernel|bias):0'
         r'|part/part_selection/noise_counter:0'
         r'|part/gate_budget/(shifts|norm/moving_(mean|variance)):0')

# Output convolutions of three levels and a coarser one, and their batch norm's scale and shift.
BASE = 4 * (9 * 4 * 4 + 4) + 4 * 2 * 4
SKIPS = 4 * (6 + 5 + 7 + 3)


def _laterals(branches):
  return sum(4 * (KERNELS[branch][0]**2 * depth + 1)
             for branch in branches for depth in CHANNELS.values())


def _gate_weights(kind, paths):
  if kind == 'random':
    return 0
  if kind in ('channel', 'budget'):
    shifts = 6 * 3 * (paths - 1) if kind == 'budget' else 0
    return shifts + sum(c * (c // 4) + c // 4 + (c // 4 + 1) * paths for c in CHANNELS.values())
  return 16 * (6 + 5 + 7 + 3) + 3 * 16 * (16 + 16 + 2) + 17 * paths


def _inception(branches=tuple(KERNELS)):
  return component.Component(
      dyfpn.InceptionFPN, {**OPTIONS, 'branches': list(branches), 'branch_init_scale': 0.5},
      CHANNELS, BASE + _laterals(branches), 4 * 2 * 4, NAMES, '3456', wrong={
          'branches': ['2x2'], 'branch_init_scale': 0.0, 'max_level': ('min_level', 1)})


def _dyfpn(block, kind, branches=tuple(KERNELS), **options):
  paths = len(branches) if block == 'A' else 2
  gate = {**configs.GateConfig().as_dict(), **GATES[kind]}
  # A step with a budget of 1 leaves the gates alone.
  idle, moving = (r'/(lateral_|gate)', 6 * (paths - 1)) if kind == 'budget' else (
      '/lateral_', 0)
  return component.Component(
      dyfpn.DyFPN,
      {**OPTIONS, 'block': block, 'gate': gate, 'branches': list(branches), **options}, CHANNELS,
      BASE + _laterals(branches) + (SKIPS if block == 'B' else 0) + _gate_weights(kind, paths),
      4 * 2 * 4 + 1 + moving, NAMES, '3456', idle=idle, wrong={
          'block': 'C', 'inference': 'fast', 'branches': [],
          'gate': ('gate.type', {'type': 'spatial'})})


SOME = (('A', 'channel'), ('A', 'random'), ('B', 'downward'), ('A', 'budget'))
FEW = ('1x1', '3x3d3', '5x5')
FAST = [_inception(FEW), _dyfpn('B', 'channel', FEW)]


def _each(checks, slow):
  return [pytest.param(check, id=check.__name__, marks=[pytest.mark.slow] * (check in slow))
          for check in checks]


@pytest.mark.parametrize('check', _each(harness.DECODER_CHECKS, [harness.check_saving]))
@pytest.mark.parametrize('part', FAST, ids=['inception', 'B-channel'])
def test_decoder(part, check, tmp_path):
  check(part, tmp_path)


@pytest.mark.slow
def test_inception_with_every_branch(tmp_path):
  harness.run_decoder_checks(_inception(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('block, kind', SOME)
def test_decoder_with_every_kind_of_gate(block, kind, tmp_path, monkeypatch):
  if kind == 'random':
    # Without noise the signal always takes the first path, so that calls repeat their results.
    monkeypatch.setattr(gumbel_selection.GumbelSelection, '_gumbel',
                        lambda self, shape: tf.zeros(shape))
  for check in (harness.check_saving, harness.check_call_modes, harness.check_training_step,
                harness.check_precision):
    check(_dyfpn(block, kind, FEW), tmp_path)


@pytest.mark.slow
def test_another_process_loads_every_block_and_gate_and_trains_on_two_replicas(tmp_path):
  parts = [_inception(FEW), *(_dyfpn(*pair, FEW) for pair in zip('ABABB', GATES)),
           _dyfpn('A', 'channel', FEW, dtype='mixed_bfloat16')]
  options = {**OPTIONS, 'branches': list(FEW), 'norm': 'none'}
  base, name = {'channels': CHANNELS}, f'{dyfpn.__name__}:'
  trained = [{**base, 'cls': name + 'InceptionFPN', 'options': options}]
  for block, bias, gate in [
      ('A', [-60.0, 60.0, -60.0], 'channel'), ('B', [-60.0, 60.0], 'upward')]:
    trained.append({**base, 'cls': name + 'DyFPN', 'gate_bias': bias,
                    'options': {**options, 'block': block, 'gate': GATES[gate]}})
  harness.check_other_process(parts, trained, tmp_path)


def _expected(layer, inputs, block, gate):
  """Sections 3.1 and 3.2.1 in NumPy, for hard gates `[batch, levels, paths]`."""
  weights = {v.name[len('part/'):-2]: v.numpy() for v in layer.variables}

  def conv(features, name, **options):
    return reference.conv2d(
        features, weights[f'{name}/kernel'], weights[f'{name}/bias'], **options)

  merged = {}
  for index, level in enumerate(CHANNELS):
    branches = [conv(inputs[level], f'lateral_{level}/conv_{branch}', dilation=dilation)
                for branch, (_, dilation) in KERNELS.items()]
    if block == 'inception':
      merged[level] = sum(branches)
    elif block == 'A':
      merged[level] = sum(
          gate[:, index, path, None, None, None] * branch for path, branch in enumerate(branches))
    else:
      merged[level] = (conv(inputs[level], f'skip_{level}')
                       + gate[:, index, 1, None, None, None] * sum(branches))
  for fine, coarse in (('4', '5'), ('3', '4')):
    merged[fine] = merged[fine] + reference.resize_nearest(merged[coarse], merged[fine].shape[1:3])
  outputs = {level: conv(x, f'output_{level}') for level, x in merged.items()}
  outputs['6'] = conv(outputs['5'], 'coarser_6', stride=2)
  return outputs


@pytest.mark.parametrize('size', [(32, 40), (75, 101), (8, 8)])
@pytest.mark.parametrize('block', ['inception', 'A', 'B'])
def test_equals_numpy(block, size):
  """Training and inference agree with NumPy on odd sizes and on maps of one pixel."""
  if block == 'inception':
    part, patterns = _inception(), np.zeros([2, 3, 2])
  else:
    part, patterns = _dyfpn(block, 'random'), routed_adapters.dyfpn_patterns(block)
  layer = part.make(norm='none', dtype='float64')
  inputs = part.inputs(size, len(patterns), dtype=np.float64)
  expected = _expected(layer, inputs, block, patterns)
  for training in (False, True):
    with spies.forced_gates(patterns):
      component.same(layer(inputs, training=training), expected, 1e-10, 1e-10)


@pytest.mark.parametrize('branches', [
    tuple(KERNELS), ('5x5', '1x1'), ('3x3d2',), ('3x3d3', '7x7', '5x5d3', '3x3')])
def test_training_adds_kernels_before_it_convolves(branches):
  """One convolution for each dilation rate has the values and all gradients of the branches."""
  lateral = dyfpn.InceptionLateral(4, branches, ['glorot_normal'] * len(branches), dtype='float64')
  features = tf.Variable(np.random.default_rng(0).normal(size=[2, 9, 12, 5]))
  lateral(features)
  for conv in lateral.convs:
    conv.bias.assign(tf.random.stateless_normal([4], [0, conv.kernel_size[0]], dtype='float64'))
  weight = tf.random.stateless_normal([2, 9, 12, 4], [0, 0], dtype='float64')
  found = {}
  for training in (False, True):
    with spies.OperationSpy() as spy, tf.GradientTape() as tape:
      outputs = lateral(features, training=training)
      loss = tf.reduce_sum(weight * outputs**2)
    rates = {dyfpn.parse_branch(branch)[1] for branch in branches}
    assert len(spy.rows) == len(rates if training else branches)
    found[training] = [outputs, *tape.gradient(loss, [features, *lateral.trainable_variables])]
  assert len(found[True]) == 2 + 2 * len(branches)
  for merged, separate in zip(found[True], found[False]):
    np.testing.assert_allclose(merged, separate, 1e-10, 1e-10)


@pytest.mark.parametrize('block', ['A', 'B'])
def test_training_multiplies_by_the_sampled_gate_and_learns_through_it(block):
  """The gradient of a gate is the inner product of its branch with the incoming gradient."""
  part, patterns = _dyfpn(block, 'random'), routed_adapters.dyfpn_patterns(block)
  layer = part.make(norm='none', dtype='float64')
  inputs = part.inputs((16, 24), len(patterns), dtype=np.float64)
  gate = tf.Variable(patterns, dtype=tf.float32)

  def loss(gate):
    outputs = _expected(layer, inputs, block, gate)
    return sum(np.sum(x**2) for x in outputs.values())

  def fake(self, logits, training=None):
    return gumbel_selection.Choice(*[tf.identity(gate)] * 3)

  with pytest.MonkeyPatch.context() as patch, tf.GradientTape() as tape:
    patch.setattr(gumbel_selection.GumbelSelection, 'call', fake)
    ours = tf.add_n([tf.reduce_sum(x**2) for x in layer(inputs, training=True).values()])
  gradient = tape.gradient(ours, gate).numpy()
  for index in [(0, 0, 1), (0, 2, 0), (3, 1, 1), (5, 0, 0), (5, 2, 1)]:
    step = np.zeros(patterns.shape)
    step[index] = 1e-4
    numeric = (loss(patterns + step) - loss(patterns - step)) / 2e-4
    np.testing.assert_allclose(gradient[index], numeric, 1e-4, 1e-4)


@pytest.mark.parametrize('block', ['A', 'B'])
def test_records_the_probabilities_of_its_choices(block):
  part = _dyfpn(block, 'channel')
  layer, inputs = part.make(), part.inputs((16, 24), 3)
  for training in (True, False):
    with routing.RoutingTape() as tape, tf.GradientTape() as gradients:
      layer(inputs, training=training)
      record = tape.routing()
      total = tf.add_n([tf.reduce_sum(value**2) for value in record.probabilities.values()])
    logits = layer.gate(inputs).numpy()
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for index, level in enumerate(layer.gate_names):
      own = expected[:, index] if block == 'A' else expected[:, index, 1]
      np.testing.assert_allclose(record.probabilities[f'{layer.name}/{level}'], own, rtol=1e-5)
    found = gradients.gradient(total, layer.gate.trainable_variables)
    assert any(np.any(gradient) for gradient in map(tf.convert_to_tensor, found))


@pytest.mark.parametrize('inference', ['skip', 'mask'])
def test_images_of_one_batch_decide_for_themselves(inference):
  """Biases at the median of the images' logits give mixed decisions without forced gates."""
  part = _dyfpn('B', 'channel', norm='none', inference=inference)
  layer, inputs = part.make(), part.inputs(batch=6)
  inputs = {level: x * np.linspace(0.2, 3, 6, dtype=np.float32)[:, None, None, None]
            for level, x in inputs.items()}
  logits = layer.gate(inputs).numpy()
  for variable in layer.variables:
    for index, level in enumerate(CHANNELS):
      if variable.name == f'part/gate/output_{level}/bias:0':
        variable.assign_add([0, np.median(logits[:, index, 0] - logits[:, index, 1])])
  with routing.RoutingTape() as tape:
    together = layer(inputs)
  open_gates = np.stack([tape.routing().gates[f'part/{level}'] for level in CHANNELS], 1)
  assert sorted(open_gates.sum(0)) == [3, 3, 3]
  decisions = np.stack([1 - open_gates, open_gates], -1)
  component.same(together, _expected(layer, inputs, 'B', decisions), 1e-5)
  for row in range(6):
    with routing.RoutingTape() as alone_tape:
      alone = layer({level: x[row:row + 1] for level, x in inputs.items()})
    component.same({level: x[row:row + 1] for level, x in together.items()}, alone, 1e-5)
    assert alone_tape.routing().executed[0] == tape.routing().executed[row]


def test_a_threshold_shuts_branches_by_the_margin_of_their_logits():
  """Block B: branches run where tanh of half the logits' difference is above the threshold."""
  part = _dyfpn('B', 'channel', norm='none')
  layer, inputs = part.make(), part.inputs(batch=6)
  logits = layer.gate(inputs).numpy().astype(np.float64)
  values = np.tanh((logits[..., 1] - logits[..., 0]) / 2)
  ordered = np.sort(values[values > 0])
  between = ((ordered[1:] + ordered[:-1]) / 2)[np.diff(ordered) > 1e-4]
  assert len(between) > 2
  for threshold in (0.0, *between, 1.0):
    with routing.RoutingTape() as tape, routing.shutting_gates(threshold):
      outputs = layer(inputs)
    gates = np.stack([tape.routing().gates[f'part/{level}'] for level in CHANNELS], 1)
    np.testing.assert_array_equal(gates, values > threshold)
    component.same(outputs, _expected(layer, inputs, 'B', np.stack([1 - gates, gates], -1)), 1e-5)
  with routing.RoutingTape() as tape, routing.shutting_gates(1.0):
    layer(inputs, training=True)  # Training leaves the logits alone, whose gates start open.
  assert np.sum([tape.routing().gates[f'part/{level}'] for level in CHANNELS]) > 0


def test_a_higher_threshold_never_chooses_a_dearer_branch():
  """Block A: from the choice of the gate down to the cheapest branch."""
  part = _dyfpn('A', 'channel', norm='none')
  layer, inputs = part.make(), part.inputs(batch=8)
  costs = []
  for threshold in (0.0, 0.2, 0.5, 0.8, 1.0):
    with routing.RoutingTape() as tape, routing.shutting_gates(threshold):
      layer(inputs)
    costs.append(tape.routing().executed)
  assert np.all(np.diff(costs, axis=0) <= 0) and np.any(costs[0] > costs[-1])
  np.testing.assert_array_equal(costs[-1], np.full(8, tape.routing().minimum))


def test_convolutions_receive_the_selected_images_only():
  part, patterns = _dyfpn('B', 'random', norm='none'), routed_adapters.dyfpn_patterns('B')
  layer, inputs = part.make(), part.inputs(batch=8)
  with spies.forced_gates(patterns), spies.OperationSpy() as spy:
    layer(inputs)
  # Per level: the skip with all images, seven branches with four of eight; then the outputs.
  assert spy.rows == 3 * ([8] + 7 * [4]) + 4 * [8]
  with spies.forced_gates(patterns[:1].repeat(8, 0)), spies.OperationSpy() as spy:
    layer(inputs)
  assert spy.rows == 7 * [8]


@pytest.mark.parametrize('probability', [None, 0.25])
def test_a_random_signal_is_drawn_at_inference_and_after_export(probability, tmp_path):
  """Every call draws anew, with the stated probability of the last path."""
  part = _dyfpn('B', 'random', FEW, gate={'type': 'random', 'random_probability': probability})
  layer = part.make()

  @tf.function(autograph=False, input_signature=[{
      level: tf.TensorSpec([None, None, None, depth]) for level, depth in CHANNELS.items()}])
  def serve(inputs):
    with routing.RoutingTape() as tape:
      layer(inputs, training=False)
    return tf.stack([tape.routing().gates[f'part/{level}'] for level in CHANNELS])

  module = tf.Module()
  module.layer, module.serve = layer, serve
  tf.saved_model.save(module, str(tmp_path / 'exported'))
  restored = tf.saved_model.load(str(tmp_path / 'exported'))
  inputs = part.inputs((8, 8), batch=500)
  for call in (serve, restored.serve):
    draws = np.stack([call(inputs), call(inputs)])
    assert np.any(draws[0] != draws[1])
    # 3000 draws: three standard deviations of a share of 1/2 are 0.03.
    np.testing.assert_allclose(draws.mean(), probability or 0.5, atol=0.03)


@pytest.mark.parametrize('block, kind, expected', [
    ('A', 'channel', None), ('B', 'channel', 0.87), ('B', 'upward', None)])
def test_gates_start_as_the_reference_does(block, kind, expected):
  layer = dyfpn.DyFPN(block=block, gate=GATES[kind], **OPTIONS)
  inputs = reference.pyramid_inputs(CHANNELS)
  layer(inputs)
  biases = [v for v in layer.gate.variables if 'output' in v.name and 'bias' in v.name]
  if expected:
    assert all(abs(reference.sigmoid(b[1] - b[0]) - expected) < 0.001 for b in np.array(biases))
  else:
    assert all(np.max(np.abs(b)) <= 1 for b in biases)
  given = dyfpn.DyFPN(block='B', gate={**GATES[kind], 'initial_bias': [1.5, -1.5]}, **OPTIONS)
  given(inputs)
  for variable in given.gate.variables:
    if 'output' in variable.name and 'bias' in variable.name:
      np.testing.assert_array_equal(variable, [1.5, -1.5])


@pytest.mark.parametrize('branch, expected', [('1x1', (1, 1)), ('5x5d3', (5, 3)), ('7x7', (7, 1))])
def test_branches_are_read(branch, expected):
  assert dyfpn.parse_branch(branch) == expected


@pytest.mark.parametrize('branch', ['2x2', '3x5', '3x3d0', '3', 'd2', '3x3d', ' 3x3', '0x0'])
def test_unreadable_branches_are_refused(branch):
  with pytest.raises(checks.ArgumentError, match=f'branches has {branch!r}') as caught:
    dyfpn.parse_branch(branch)
  assert caught.value.argument == 'branches'


@pytest.mark.parametrize('branches, initializers, text', [
    ([], [], 'branches is empty'),
    (['1x1', '3x3', '3x3'], ['zeros'] * 3, 'branches has 3x3 more than once'),
    (['1x1', '3x3'], ['zeros'], 'kernel_initializers has 1 values; .*each of the 2 branches'),
    (['1x1'], ['zeros'] * 2, 'kernel_initializers has 2 values')])
def test_a_lateral_needs_different_branches_with_an_initializer_each(branches, initializers, text):
  """Branches without one would be left out, and branches alike have variables of one name."""
  with pytest.raises(checks.ArgumentError, match=text):
    dyfpn.InceptionLateral(4, branches, initializers)


def test_branches_that_are_there_twice_are_refused():
  with pytest.raises(checks.ArgumentError, match='branches has 1x1, 3x3 more than once'):
    dyfpn.InceptionFPN(
        **{**OPTIONS, 'branches': ['1x1', '3x3', '5x5', '3x3', '1x1']})
