"""The export command writes a SavedModel that answers as the model does, or nothing."""
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
from scipy import optimize
import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.serving import detectors
from official_ext.serving import export_modules
from official_ext.serving import export_saved_model
from official_ext.serving.compiling import frozen
from official_ext.utils import command_line
from official_ext.utils import experiment
import mixed_detector
import spies
import small_detectors

pytestmark = pytest.mark.slow

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
CATEGORIES = [{'id': 1, 'name': 'nought', 'original_id': 0},
              {'id': 10, 'name': 'nine', 'original_id': 'IX'}]
# What a training leaves for the model card.
KEPT = {'dataset.json': {'class_names': {'1': 'nought', '10': 'nine'}, 'licence': 'CC0 1.0',
                         'splits': {'train': {'num_images': 7, 'num_boxes': 9}}},
        'evaluation.json': {'step': 1, 'AP': 0.25}}
LEVELS, BRANCHES, FOLDED_BRANCHES = ('3', '4', '5'), 7, 3
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Exported:
  """A detector with mixed decisions: in memory, as a checkpoint, and exported by the command."""

  def __init__(self, folder: pathlib.Path):
    self.config, self.model, self.module = mixed_detector.build(DYFPN)
    trained = tf.train.Checkpoint(
        model=self.model, optimizer=tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9),
        **self.model.checkpoint_items)
    trained.save(folder / 'run' / 'ckpt')
    (folder / 'run' / 'categories.json').write_text(json.dumps(CATEGORIES), encoding='utf-8')
    for name, content in KEPT.items():
      (folder / 'run' / name).write_text(json.dumps(content), encoding='utf-8')
    self.arguments = [
        f'--experiment={DYFPN}', small_detectors.write_overrides(DYFPN, folder),
        f'--checkpoint_path={folder}/run']
    self.path = folder / 'exported'
    export_saved_model.main([*self.arguments, f'--export_dir={self.path}'])
    self.detector = detectors.SavedDetector(self.path)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  return Exported(tmp_path_factory.mktemp('export'))


def _assert_same(actual, expected):
  """Compares outputs: costs and gates exactly, scores and boxes up to rounding.

  Detections whose scores are equal up to rounding may be in any order.
  """
  assert set(actual) == set(expected)
  for name in set(expected) - {'detection_boxes', 'detection_classes'}:
    tolerance = 1e-5 if name == 'detection_scores' else 0
    np.testing.assert_allclose(actual[name], expected[name], atol=tolerance, rtol=0, err_msg=name)
  for image, score in enumerate(np.asarray(expected['detection_scores'])):
    found, wanted = (
        np.concatenate([outputs['detection_boxes'][image],
                        1e3 * np.asarray(outputs['detection_classes'])[image, :, None]], axis=-1)
        for outputs in (actual, expected))
    same = np.abs(found[:, None] - wanted).max(axis=-1) <= 1e-3
    same &= np.abs(score[:, None] - score) <= 2e-5
    rows, columns = optimize.linear_sum_assignment(-same.astype(int))
    assert same[rows, columns].all(), f'image {image}: detections {rows[~same[rows, columns]]}'


@pytest.mark.parametrize('size', [(64, 64), (50, 91)])
def test_reloaded_equals_eager(exported, size):
  images = mixed_detector.images(3, size)
  expected = exported.module.serve(tf.constant(images))
  assert 0 < expected['detection_scores'].numpy().std()
  _assert_same(exported.detector(images), expected)


def test_decisions_and_costs_are_mixed(exported):
  outputs = exported.detector(mixed_detector.images())
  assert all(set(outputs[f'gate_dyfpn_{level}']) == {0.0, 1.0} for level in LEVELS)
  assert len(set(outputs['multiply_adds'])) == 4


def test_a_threshold_shuts_gates_of_the_export(exported):
  images = mixed_detector.images()
  detector, cost = detectors.SavedDetector(exported.path), exported.module.cost
  means = []
  for threshold in (0.0, 0.5, 1.0):
    assert detector.set_gate_threshold(threshold)
    with routing.shutting_gates(threshold):
      expected = exported.module.serve(tf.constant(images))
    _assert_same(detector(images), expected)
    means.append(np.mean(expected['multiply_adds']))
  assert means[0] > means[-1] == np.float32(cost.minimum)


def test_an_answer_does_not_depend_on_the_batch(exported):
  images = mixed_detector.images(7)
  together = exported.detector(images)
  alone = [exported.detector(image[None]) for image in images]
  _assert_same(together, {
      name: np.concatenate([one[name] for one in alone]) for name in together})


@pytest.mark.parametrize('input_type', ['image_bytes', 'tf_example'])
def test_other_input_types_answer_alike(exported, tmp_path, input_type):
  differences = export_saved_model.save(exported.module, tmp_path, input_type, (64, 64))
  assert max(differences.values()) <= 1e-3
  (tmp_path / 'export.json').write_text(json.dumps({'input_type': input_type}), encoding='utf-8')
  images = mixed_detector.images(3)
  _assert_same(detectors.SavedDetector(tmp_path)(images), exported.detector(images))


def test_tensorflow_alone_loads_it(exported, tmp_path):
  images = mixed_detector.images(2)
  np.save(tmp_path / 'images.npy', images)
  environment = {n: v for n, v in os.environ.items() if n != 'TF_USE_LEGACY_KERAS'}
  script = ROOT / 'tests' / 'processes' / 'load_without_package.py'
  result = subprocess.run(
      [sys.executable, '-I', script, exported.path, tmp_path / 'images.npy',
       tmp_path / 'outputs.npz'], check=True, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
  assert json.loads(result.stdout) == CATEGORIES
  with np.load(tmp_path / 'outputs.npz') as outputs:
    _assert_same(dict(outputs), exported.detector(images))


def test_what_is_written_beside_the_model(exported):
  description = json.loads((exported.path / 'export.json').read_text(encoding='utf-8'))
  assert description['experiment'] == DYFPN
  assert description['input_type'] == 'image_tensor'
  assert description['input_image_size'] == [64, 64]
  assert description['num_classes'] == 11
  assert description['categories'] == CATEGORIES == exported.detector.categories.to_coco()
  assert description['max_abs_diff'] <= 1e-3
  assert description['seconds'] > 0
  norms = [layer for layer in exported.model.submodules
           if isinstance(layer, tf_keras.layers.BatchNormalization)]
  assert description['folded_norms'] == len(norms) and description['kept_norms'] <= 2
  for name in ('static', 'minimum', 'maximum'):
    assert description['gmac'][name] == getattr(exported.module.cost, name) / 1e9
  params = exported.path / 'params.yaml'
  assert str(ROOT) not in params.read_text(encoding='utf-8')
  card = json.loads((exported.path / 'model_card.json').read_text(encoding='utf-8'))
  assert card['data'] == {'classes': ['nought', 'nine'], 'licence': 'CC0 1.0',
                          'train': {'num_images': 7, 'num_boxes': 9}}
  assert card['result']['measured'] == KEPT['evaluation.json']
  resolved = experiment.resolve(DYFPN, [str(params)])
  assert resolved.task.model.as_dict() == exported.config.task.model.as_dict()


def _lateral_convolutions(function):
  """Counts the convolutions of gated branches: is inside a conditional -> number."""
  graph = function.graph.as_graph_def()
  library = {body.signature.name: body.node_def for body in graph.library.function}
  counts = {True: 0, False: 0}

  def walk(nodes, is_inside):
    for node in nodes:
      if node.op == 'Conv2D' and '/conv_' in node.name:
        counts[is_inside] += 1
      for attribute in node.attr.values():
        for value in (attribute.func, *attribute.list.func):
          if value.name:
            walk(library[value.name], is_inside or node.op in spies.CONDITIONALS)

  walk(graph.node, False)
  return counts


def test_branches_run_only_inside_conditionals(exported):
  loaded = tf.saved_model.load(str(exported.path)).signatures['serving_default']
  # A conditional holds each convolution twice: for some images, and for all of them.
  assert _lateral_convolutions(loaded) == {True: 2 * len(LEVELS) * FOLDED_BRANCHES, False: 0}


def test_masked_branches_are_seen_outside_of_conditionals(exported):
  # The control of the test before: the same walk finds convolutions that are not skipped.
  routed.set_inference(exported.model, 'mask')
  try:
    function = tf.function(exported.module.serve).get_concrete_function(
        tf.TensorSpec([None, None, None, 3], tf.uint8))
  finally:
    routed.set_inference(exported.model, 'skip')
  assert _lateral_convolutions(function) == {True: 0, False: len(LEVELS) * BRANCHES}


def test_nan_in_a_branch_reaches_only_images_that_select_it(exported, tmp_path):
  kernel = exported.model.decoder.laterals['5'].convs[3].kernel
  healthy_kernel = kernel.numpy()
  kernel.assign(np.full_like(healthy_kernel, np.nan))
  signature = exported.module.get_inference_signatures({'image_tensor': 'serving_default'})
  saved = tf.Module()
  saved.variables_of_model = exported.model.variables
  tf.saved_model.save(saved, str(tmp_path), signatures=signature)
  kernel.assign(healthy_kernel)
  poisoned = detectors.SavedDetector(tmp_path)

  images = mixed_detector.images()
  healthy, sick = exported.detector(images), poisoned(images)
  selects = healthy['gate_dyfpn_5'] == 1
  assert 0 < selects.sum() < len(images)
  _assert_same({name: value[~selects] for name, value in sick.items()},
               {name: value[~selects] for name, value in healthy.items()})
  for row in np.flatnonzero(selects):
    assert not np.array_equal(sick['detection_scores'][row], healthy['detection_scores'][row])
  shut = images[~selects]
  _assert_same(poisoned(shut), exported.detector(shut))


def _half_written(error):
  def save(unused_module, path, **unused):
    (pathlib.Path(path) / 'saved_model.pb').write_bytes(b'half')
    raise error
  return save


@pytest.fixture
def ready(exported, monkeypatch):
  """An export whose model is built already, to save time."""
  monkeypatch.setattr(export_modules, 'build_module', lambda *_, **unused: exported.module)
  return exported


@pytest.mark.parametrize('error, expected', [
    (tf.errors.ResourceExhaustedError(None, None, 'No space left on device'),
     command_line.CommandError),
    (KeyboardInterrupt(), KeyboardInterrupt),
])
def test_a_failed_write_leaves_nothing(ready, monkeypatch, tmp_path, error, expected):
  monkeypatch.setattr(tf.saved_model, 'save', _half_written(error))
  with pytest.raises(expected):
    export_saved_model.main([*ready.arguments, f'--export_dir={tmp_path}/new'])
  assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_earlier_export(ready, tmp_path):
  target = tmp_path / 'saved'
  target.mkdir()
  (target / 'export.json').write_text('{"earlier": true}', encoding='utf-8')
  kept = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, kept[1]))  # The weights are larger.
  try:
    with pytest.raises(command_line.CommandError, match='free some space'):
      export_saved_model.main([*ready.arguments, f'--export_dir={target}'])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, kept)
  assert [path.name for path in tmp_path.iterdir()] == ['saved']
  assert [path.name for path in target.iterdir()] == ['export.json']


def test_a_saved_model_that_answers_otherwise_is_not_kept(ready, monkeypatch, tmp_path):
  original = tf.saved_model.save
  bias, = (v for v in ready.model.head.trainable_variables if v.name.endswith('scores/bias:0'))

  def save(*args, **kwargs):
    value = bias.numpy()
    bias.assign(value + 0.5)
    original(*args, **kwargs)
    bias.assign(value)

  monkeypatch.setattr(tf.saved_model, 'save', save)
  with pytest.raises(command_line.CommandError, match='differs .* detection_boxes by'):
    export_saved_model.main([*ready.arguments, f'--export_dir={tmp_path}/new', '--no-freeze'])
  assert not list(tmp_path.iterdir())


def test_constants_that_answer_otherwise_are_kept_nowhere(ready, monkeypatch, tmp_path):
  freeze, load, found = frozen.freeze, tf.saved_model.load, []
  bias, = (v for v in ready.model.head.trainable_variables if v.name.endswith('scores/bias:0'))

  def freeze_another(*args):
    value = bias.numpy()
    bias.assign(value + 0.5)
    result = freeze(*args)
    bias.assign(value)
    found.append(weakref.ref(result[0]))
    return result

  monkeypatch.setattr(frozen, 'freeze', freeze_another)
  monkeypatch.setattr(tf.saved_model, 'load', lambda path: found.append(found[0]()) or load(path))
  with pytest.raises(command_line.CommandError,
                     match='differs .* detection_boxes by .* --no-freeze writes the network'):
    export_saved_model.main([*ready.arguments, f'--export_dir={tmp_path}/new'])
  assert found[1:] == [None]
  assert not list(tmp_path.iterdir())


def test_a_killed_export_leaves_nothing_under_its_name(exported, tmp_path):
  code = f"""
import os, pathlib, signal, sys
from official_ext.serving import export_modules, export_saved_model, signatures
def save(module, path, *unused):
  (pathlib.Path(path) / 'saved_model.pb').write_bytes(b'half')
  os.kill(os.getpid(), signal.SIGKILL)
class Module:
  image_size, cost = (64, 64), None
export_saved_model.save, export_modules.build_module = save, lambda *_, **unused: Module
signatures.network_function = lambda *unused: None
export_saved_model.main({[*exported.arguments, f'--export_dir={tmp_path}/new', '--no-freeze']!r})
"""
  process = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False)
  assert process.returncode == -signal.SIGKILL
  assert not (tmp_path / 'new').exists()
  assert all(path.name.startswith('.') for path in tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused_in_one_sentence(exported, tmp_path):
  other = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(2,), name='other')])
  path = tf.train.Checkpoint(model=other).save(tmp_path / 'ckpt')
  arguments = [a for a in exported.arguments if not a.startswith('--checkpoint')]
  with pytest.raises(command_line.CommandError) as caught:
    export_saved_model.main(
        [*arguments, f'--checkpoint_path={path}', f'--export_dir={tmp_path}/new'])
  text = str(caught.value)
  assert f'{len(exported.model.variables)} variables of this model are not in it' in text
  assert '2 of its variables are not in this model, such as other/kernel' in text
  assert not (tmp_path / 'new').exists()


def test_a_default_budget_is_of_networks_that_take_one(exported, tmp_path):
  with pytest.raises(command_line.CommandError, match='0.4: this network takes no budget'):
    export_saved_model.main(
        [*exported.arguments, f'--export_dir={tmp_path}/new', '--default_budget=0.4'])
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('arguments, sentence', [
    (['--checkpoint_path=nowhere/ckpt-1'], 'nowhere/ckpt-1: there is no such checkpoint'),
    (['--checkpoint_path=.'], 'a folder without a checkpoint'),
    (['--experiment=resnet_imagenet'], 'trains ImageClassificationTask; .* knows RetinaNet'),
    ([f'--export_dir={ROOT / "tests"}'], 'exists and was not written by this command'),
])
def test_mistakes_cost_seconds(exported, tmp_path, monkeypatch, arguments, sentence):
  monkeypatch.chdir(tmp_path)
  fitting = [a for a in exported.arguments if not a.startswith('--config_file')]
  with pytest.raises(command_line.CommandError, match=sentence):
    export_saved_model.main([*fitting, '--export_dir=new', *arguments])
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('arguments', [
    ['--input_image_size=64'], ['--input_image_size=0,64'], ['--batch_size=0'],
    ['--input_type=tflite'], ['--batch=2'], ['--default_budget=1.5'],
])
def test_malformed_arguments_are_named(arguments, capsys):
  required = ['--experiment=e', '--checkpoint_path=c', '--export_dir=d']
  with pytest.raises(SystemExit):
    export_saved_model.main([*required, *arguments])
  assert arguments[0].split('=')[0] in capsys.readouterr().err
