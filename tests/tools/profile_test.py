"""The profile command: figures of a detector against counts by hand."""
import json
import sys
import types

import numpy as np
from official.core import task_factory
from PIL import Image
import pytest
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.modeling import network_cost
from official_ext.serving import converted_detectors
from official_ext.tools import profile
from official_ext.utils import command_line
from official_ext.utils import experiment
import small_detectors

NAME = 'retinanet_{}_efficientnetlite0_sample'
SMALL = ('task.model.backbone.type=resnet,task.model.backbone.resnet.model_id=10,'
         'task.model.backbone.resnet.depth_multiplier=0.25,task.model.head.num_convs=1,'
         'task.model.head.num_filters=8,task.model.detection_generator.pre_nms_top_k=10')
CHANNELS = [channels for _, channels in small_detectors.MAPS.values()]
# The sum over the backbone's levels 3 to 5, for images of 64 x 96 pixels.
CHANNELS_TIMES_POSITIONS = np.dot(CHANNELS, [8 * 12, 4 * 6, 2 * 3])


@pytest.fixture
def run(monkeypatch, tmp_path):
  """Runs the command on a small detector and returns what it writes as JSON.

  A run that is given a model counts it, instead of one that it builds, and does not time it.
  """
  def call(*arguments, decoder='dyfpn', override='', image_size='64,96', model=None):
    if model is not None:
      monkeypatch.setattr(profile, 'build_model', lambda *unused: model)
      monkeypatch.setattr(profile, '_latency', lambda *unused: {'p50': 1.0, 'p95': 1.0})
    file = tmp_path / 'figures.json'
    monkeypatch.setattr(sys, 'argv', [
        'profile', f'--experiment={NAME.format(decoder)}', '--num_runs=2', f'--json={file}',
        *([f'--image_size={image_size}'] if image_size else []), *arguments, '--params_override',
        ','.join(filter(None, [SMALL, f'task.model.decoder.{decoder}.num_filters=8', override]))])
    profile.main()
    return json.loads(file.read_text())

  return call


@pytest.fixture
def built(monkeypatch):
  """Returns the list of the models that the command builds."""
  models, build = [], profile.build_model

  def build_model(*arguments):
    models.append(build(*arguments))
    return models[-1]

  monkeypatch.setattr(profile, 'build_model', build_model)
  return models


def write_image(path, height, width, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 256, [height, width, 3], np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def test_parameters_are_counted_as_in_papers():
  norm = tf_keras.layers.BatchNormalization()
  backbone = tf_keras.Sequential([tf_keras.layers.Dense(5), norm])
  backbone.build([None, 3])
  backbone.trainable = False
  decoder = tf_keras.layers.Dense(2)
  decoder.build([None, 5])
  decoder.add_weight('noise_counter', shape=(), dtype=tf.int64, trainable=False)
  head = tf_keras.layers.Dense(7, use_bias=False)
  head.build([None, 2])
  model = types.SimpleNamespace(
      backbone=backbone, decoder=decoder,
      variables=backbone.variables + decoder.variables + head.variables + decoder.variables)
  assert profile.count_parameters(model) == {
      'backbone': 3 * 5 + 5 + 2 * 5, 'decoder': 5 * 2 + 2, 'head': 14, 'total': 30 + 12 + 14}
  model.decoder = None
  assert profile.count_parameters(model)['head'] == 26


@pytest.mark.slow
def test_figures_of_a_dynamic_detector(run, built, tmp_path, capsys):
  for index, size in enumerate([(64, 96), (30, 50), (80, 80)]):
    write_image(tmp_path / f'{index}.png', *size, seed=index)
  (tmp_path / 'notes.txt').write_text('no image')
  config = tmp_path / 'bias.yaml'
  config.write_text('task: {model: {decoder: {dyfpn: {gate: {initial_bias: [0, 50]}}}}}')
  figures = run(f'--data={tmp_path}', f'--config_file={config}', '--batch_size=2')
  gmac = figures['gmac']
  branches = 103 * 8 * CHANNELS_TIMES_POSITIONS / 1e9
  gate = sum(c * (c // 4) + c // 4 * 2 for c in CHANNELS) / 1e9
  np.testing.assert_allclose(gmac['maximum'] - gmac['minimum'], branches, rtol=1e-5)
  np.testing.assert_allclose(gmac['minimum'] - gmac['static'], gate, rtol=1e-3)
  np.testing.assert_allclose(gmac['mean'], gmac['maximum'], rtol=1e-6)
  by_part = figures['gmac_maximum_by_part']
  assert set(by_part) == {'backbone', 'decoder', 'head'}
  np.testing.assert_allclose(sum(by_part.values()), gmac['maximum'], rtol=1e-9)
  parameters = figures['parameters']
  assert parameters['total'] == sum(parameters[part] for part in by_part)
  assert figures['images'] == 3
  assert 0 < figures['latency_ms']['p50'] <= figures['latency_ms']['p95']
  printed = capsys.readouterr().out
  assert 'GMAC per image of 3 images, untrained weights' in printed
  executed = figures['gmac_by_scope']['whole network']['executed']
  assert executed['mean'] == gmac['mean'] and executed['std'] == pytest.approx(0, abs=1e-6)
  assert f'whole network, executed {executed["mean"]:.3f}' in ' '.join(printed.split())
  small_detectors.set_gate_bias(built[0], -50.0)
  shut = run(f'--data={tmp_path}', '--batch_size=2', '--twins', model=built[0])
  np.testing.assert_allclose(shut['gmac']['mean'], gmac['minimum'], rtol=1e-6)
  assert shut['twins_gmac'].keys() == shut['twins_ms'].keys()
  costs = [shut['twins_gmac'][name] for name in ('cheapest image', 'dearest image', 'FPN')]
  np.testing.assert_allclose(costs[:2], gmac['minimum'], rtol=1e-6)
  assert costs[2] < gmac['minimum']
  assert f'FPN {costs[2]:.3f} GMAC, median' in ' '.join(capsys.readouterr().out.split())
  small_detectors.set_gate_bias(built[0], 5.0)
  for threshold, bound in ((0.9, 'maximum'), (1, 'minimum')):
    found = run(f'--data={tmp_path}', f'--gate_threshold={threshold}', model=built[0])['gmac']
    np.testing.assert_allclose(found['mean'], gmac[bound], rtol=1e-6)


@pytest.mark.slow
def test_twins_are_compared_at_the_size_of_the_network(run, tmp_path):
  for index, size in enumerate([(16, 96), (24, 96)]):
    write_image(tmp_path / f'{index}.png', *size, seed=index)
  override = 'task.model.input_size=[64,96,3]'
  figures = run(f'--data={tmp_path}', '--twins', image_size='', override=override)
  assert figures['image_size'] == [32, 96]  # Costs are those of images at their own sizes.
  whole = run('--image_size=64,96', image_size='', override=override)['gmac']
  costs = figures['twins_gmac']
  assert whole['minimum'] <= costs['cheapest image'] <= costs['dearest image']
  np.testing.assert_allclose(costs['inception FPN'], whole['maximum'], rtol=0.05)
  assert figures['gmac']['maximum'] < 0.8 * whole['minimum']


@pytest.mark.slow
def test_a_budget_bounds_the_cost_of_networks_that_take_one(run, built, tmp_path):
  write_image(tmp_path / '0.png', 64, 96)
  options = {'override': 'task.budget.kind=drawn,'
                         'task.model.decoder.dyfpn.gate.budget_input=true'}
  figures = run(f'--data={tmp_path}', '--budget=0', **options)
  assert figures['budget'] == 0
  np.testing.assert_allclose(figures['gmac']['mean'], figures['gmac']['minimum'], rtol=1e-6)
  gmac = run(f'--data={tmp_path}', model=built[0], **options)['gmac']
  np.testing.assert_allclose(gmac['mean'], gmac['maximum'], rtol=1e-6)


@pytest.mark.slow
def test_images_of_both_orientations_at_their_own_sizes(run, tmp_path, capsys):
  for index, size in enumerate([(64, 96), (96, 64), (64, 64)]):
    write_image(tmp_path / f'{index}.png', *size, seed=index)
  figures = run(f'--data={tmp_path}', '--sides=64,96', '--count=paper', '--count_only',
                image_size=None)
  assert figures['image_size'] is None and 'latency_ms' not in figures
  assert figures['mean_pixels'] == (2 * 64 * 96 + 64 * 64) / 3
  shut = figures['gmac_by_scope']['backbone and neck']['minimum']
  # Landscape and upright images cost the same, the square one two thirds of that.
  assert shut['min'] < shut['mean'] < shut['max']
  assert shut['mean'] == pytest.approx((2 * shut['max'] + shut['min']) / 3, rel=1e-3)
  assert 'left out, as in the paper: nothing' in capsys.readouterr().out


@pytest.mark.slow
def test_figures_of_a_static_detector_are_all_equal(run):
  gmac = run(decoder='fpn')['gmac']
  assert gmac['static'] == gmac['minimum'] == gmac['maximum'] == gmac['mean'] > 0


@pytest.mark.slow
def test_metrics_of_a_solver(run, built, capsys):
  override = ('task.model.max_level=4,task.model.decoder.ifpn.solver.inference_evaluations=3,'
              'task.model.decoder.ifpn.solver.training_evaluations=2')
  plain = run(decoder='ifpn', override=override)
  assert 'ifpn/spectral_radius' not in plain['metrics']
  assert 'ifpn/spectral_radius' not in capsys.readouterr().out
  figures = run('--diagnose', decoder='ifpn', override=override, model=built[0])
  metrics, gmac, printed = figures['metrics'], figures['gmac'], capsys.readouterr().out
  assert metrics['ifpn/evaluations'] == 3
  assert 0 < metrics['ifpn/residual'] < 1
  assert 'ifpn/spectral_radius' in metrics and 'ifpn/spectral_radius' in printed
  assert gmac['static'] < gmac['minimum'] == gmac['mean'] == pytest.approx(gmac['maximum'])
  assert gmac == plain['gmac']
  assert f'ifpn/residual {metrics["ifpn/residual"]:.3g}' in printed


@pytest.mark.slow
def test_published_bounds():
  """DyFPN's tables say 184.6 GMAC and, for block B, 903.2: 800 x 1135 pixels, 1000 proposals.

  The test of DyFPN counts the neck with block A.
  """
  params = experiment.resolve('fasterrcnn_dyfpn_resnet50_coco', params_override=(
      'task: {model: {input_size: [800, 1135, 3]}}'))
  model = task_factory.get_task(params.task).build_model()
  cost = network_cost.whole_network_cost(model, (800, 1135))
  np.testing.assert_allclose(cost.minimum / 1e9, 184.6, rtol=0.01)
  np.testing.assert_allclose(cost.maximum / 1e9, 903.2, rtol=0.01)
  np.testing.assert_allclose(profile.count_parameters(model)['total'], 144.4e6, rtol=0.002)


def test_experiment_that_is_no_detector():
  with pytest.raises(command_line.CommandError, match='trains ImageClassificationTask; '):
    profile.build_model(experiment.resolve('resnet_imagenet'), None)


@pytest.mark.slow
def test_checkpoints(tmp_path):
  override = (f'{SMALL},task.model.decoder.fpn.num_filters=8,'
              'task.model.input_size=null')
  params = experiment.resolve(NAME.format('fpn'), params_override=override, lock=False)
  params.task.model.input_size = [64, 64, 3]
  model = profile.build_model(params, None)
  for variable in model.decoder.trainable_variables:
    variable.assign(tf.fill(variable.shape, 0.25))
  saved = tf.train.Checkpoint(model=model).save(str(tmp_path / 'ckpt'))
  for path in (saved, str(tmp_path)):
    loaded = profile.build_model(params, path)
    assert all(np.all(v == 0.25) for v in loaded.decoder.trainable_variables)
  with pytest.raises(command_line.CommandError, match='there is no such checkpoint'):
    profile.build_model(params, str(tmp_path / 'absent'))
  params.task.model.decoder.fpn.num_filters = 16
  with pytest.raises(command_line.CommandError, match='is of another model'):
    profile.build_model(params, saved)


@pytest.mark.parametrize('arguments', [
    ['--image_size=64'], ['--image_size=0,5'], ['--batch_size=0'], ['--num_runs=-1'],
    ['--count_only', '--twins'], ['--count_only', '--saved_model=x'],
    ['--sides=8,9', '--image_size=64,64'], ['--json=.']])
def test_arguments_out_of_range(monkeypatch, capsys, arguments):
  monkeypatch.setattr(sys, 'argv', ['profile', '--experiment=x', *arguments])
  with pytest.raises(SystemExit) as caught:
    command_line.run(profile.main)
  assert caught.value.code == 2
  assert arguments[0].split('=')[0] in capsys.readouterr().err


@pytest.mark.parametrize('input_type, threshold, expected', [
    ('image_tensor', 0, None), ('image_tensor', 0.5, 'takes no threshold'),
    ('image_bytes', 0, 'takes image_bytes, not images: export it with')])
def test_only_exports_that_take_what_is_given_are_timed(
    monkeypatch, input_type, threshold, expected):
  checked = []
  saved = types.SimpleNamespace(input_type=input_type, set_gate_threshold=lambda value: False,
                                set_budget=lambda value: False, check_batch_size=checked.append,
                                description={'experiment': 'mine', 'default_budget': 0.25})
  monkeypatch.setattr(converted_detectors, 'load', lambda path: saved)
  given = types.SimpleNamespace(
      experiment='mine', saved_model='folder', gate_threshold=threshold, budget=None, batch_size=3)
  if expected is None:
    assert profile._load_saved_model(given) is saved
    # The multiply-adds are counted at the default budget of the export, because it is timed at it.
    assert given.budget == 0.25 and checked == [3]
    given.experiment = 'other'
    with pytest.raises(command_line.CommandError, match='of the experiment mine, and --experiment'):
      profile._load_saved_model(given)
  else:
    with pytest.raises(command_line.CommandError, match=f'--saved_model=folder {expected}'):
      profile._load_saved_model(given)
  if expected is None:
    with pytest.raises(command_line.CommandError, match='--saved_model=folder takes no budget'):
      profile._load_saved_model(types.SimpleNamespace(
          experiment='mine', saved_model='folder', gate_threshold=0, budget=0.5, batch_size=1))
