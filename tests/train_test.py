"""Whole trainings: resuming, overfitting a few real images, a golden run, wrong input."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import commands
import small_detectors
import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras
import yaml

from official_ext import train
from official_ext.datasets import truth as truth_lib
from official_ext.serving import coco_results
from official_ext.tasks import training
from official_ext.utils import command_line
from official_ext.utils import experiment

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
# Detector -> steps that overfit ten images.
OVERFITTED = {
    'retinanet_drfpn': 110, 'retinanet_ifpn': 120, 'fcos_dyfpn': 240, 'atss_fpn': 75,
    'autoassign_fpn': 120, 'freeanchor_fpn': 50, 'efficientdet_bifpn': 130}
# Separable convolutions learn boxes at the rate of their paper; others at 0.04.
RATES = {'efficientdet_bifpn': 0.16}
# Options of the decoders that make a step shorter.
SHORT = {'ifpn': {'solver': small_detectors.SHORT_SOLVER},
         'dyfpn': {'branches': ['1x1', '3x3', '3x3d2']}, 'bifpn': {'num_repeats': 1}}
SMALL = {'input_size': [128, 128, 3], 'max_level': 6, 'decoder': SHORT}
# On smaller images, or with larger anchors, ATSS assigns no location to some of the 61 boxes.
SMALL_ATSS = {'input_size': [160, 160, 3], 'max_level': 5, 'anchor': {'anchor_size': 2.0}}
# One detector shows that the whole backbone learns.
WITH_BACKBONE = 'atss_fpn'


def _few_records(records, folder, count: int) -> str:
  """Writes the first training records to one file, and returns its name."""
  path = str(folder / 'few-00000-of-00001.tfrecord')
  dataset = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(f'{records}/train-*.tfrecord')))
  with tf.io.TFRecordWriter(path) as writer:
    for record in dataset.take(count):
      writer.write(record.numpy())
  return path


def _experiment(neck: str, records: str, steps: int, **task):
  """Returns a seeded experiment in which every step sees the same images, unchanged."""
  config = small_detectors.small_experiment(f'retinanet_{neck}_efficientnetlite0_sample', **task)
  config.override({
      'task': {'train_data': {
          'input_path': records, 'global_batch_size': 4, 'shuffle_buffer_size': 1, 'seed': 1}},
      'trainer': {'train_steps': steps, 'steps_per_loop': 1, 'checkpoint_interval': 3,
                  'summary_interval': 1, 'validation_interval': steps},
  })
  return config


def _train(config, model_dir):
  tf_keras.utils.set_random_seed(5)
  task = task_factory.get_task(config.task, logging_dir=str(model_dir))
  runner = training.Runner(
      tf.distribute.get_strategy(), task, 'train', config, str(model_dir))
  tf.config.run_functions_eagerly(True)  # A few steps take less time than to trace one.
  try:
    return runner.run()[0]
  finally:
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
# Both have counters in their state: for the noise of gates, and for the masks of dropout.
@pytest.mark.parametrize('neck, options', [
    ('dyfpn', {}), ('ifpn', {'solver': small_detectors.SHORT_SOLVER})])
def test_a_stopped_and_resumed_run_ends_where_the_unbroken_one_ends(
    neck, options, sample_records, tmp_path):
  config = _experiment(neck, _few_records(sample_records, tmp_path, 4), 6,
                       model={'decoder': {neck: options}})
  unbroken = _train(config, tmp_path / 'unbroken')
  # A process that was killed after step 4 leaves the files of that checkpoint.
  (tmp_path / 'broken').mkdir()
  for path in (tmp_path / 'unbroken').glob('ckpt-4.*'):
    shutil.copy(path, tmp_path / 'broken')
  (tmp_path / 'broken' / 'checkpoint').write_text('model_checkpoint_path: "ckpt-4"\n')
  tf_keras.utils.set_random_seed(99)  # Only what is in the checkpoint may matter.
  resumed = _train(config, tmp_path / 'broken')
  for one, other in zip(unbroken.variables, resumed.variables):
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=5e-4,
                               err_msg=one.name)
  counters = [v.numpy() for v in resumed.variables
              if v.name.endswith(('noise_counter:0', 'step_counter:0'))]
  assert counters == [6]


@pytest.mark.slow
def test_golden_run(sample_records, tmp_path):
  """Twenty seeded steps have the losses and costs that were stored in `golden_run.json`."""
  records = _few_records(sample_records, tmp_path, 4)
  output = subprocess.run(
      [sys.executable, str(CHECKOUT / 'tests' / 'processes' / 'golden_run.py'), records],
      cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout
  values = json.loads(output.strip().splitlines()[-1])
  golden = json.loads((CHECKOUT / 'tests' / 'golden_run.json').read_text())
  for name, expected in golden.items():
    assert values[name] == pytest.approx(expected, rel=0.01), name


@pytest.mark.slow
@pytest.mark.parametrize('name', OVERFITTED)
def test_every_neck_and_detector_can_overfit_ten_real_photographs(name, sample_records, tmp_path):
  """AP50 is above 0.9 on the ten images of the training."""
  tf_keras.utils.set_random_seed(3)
  config = small_detectors.pretrained_experiment(f'{name}_efficientnetlite0_sample')
  config.override({'task': {'model': SMALL_ATSS if name == 'atss_fpn' else SMALL}})
  steps = OVERFITTED[name]
  records = _few_records(sample_records, tmp_path, 10)
  task = task_factory.get_task(config.task)
  model = task.build_model()
  task.initialize(model)
  images, labels = small_detectors.batch(task, records, size=10)
  backbone = model.backbone
  if name != WITH_BACKBONE:
    # Frozen, it would give these features in every step.
    features = backbone(images, training=False)
    model._backbone = lambda _: features
  rate = RATES.get(name, 0.04)
  schedule = tf_keras.optimizers.schedules.CosineDecay(rate / 2, steps - 20, warmup_target=rate,
                                                       warmup_steps=20)
  optimizer = tf_keras.optimizers.legacy.SGD(schedule, momentum=0.9, clipnorm=10.0)
  step = small_detectors.traced_step(task, model, optimizer)
  for _ in range(steps):
    step((images, labels))
  model._backbone = backbone
  inputs = small_detectors.batch(task, records, size=10, training=False)
  assert _average_precision_50(model, inputs, tmp_path) > 0.9


def _average_precision_50(model, inputs, folder) -> float:
  """Returns AP50 of a model on a batch, by pycocotools, in pixels of the resized images."""
  images, labels = inputs
  outputs = model(images, image_shape=labels['image_info'][:, 1, :], training=False)
  truth = {'images': [], 'annotations': [], 'categories': [
      {'id': number, 'name': f'class {number}'} for number in range(1, 11)]}
  results = []
  scale = labels['image_info'][:, 2].numpy()
  for index in range(len(images)):
    truth['images'].append({'id': index, 'file_name': f'{index}.png'})
    boxes = labels['groundtruths']['boxes'][index].numpy()
    for box, category in zip(boxes, labels['groundtruths']['classes'][index].numpy()):
      if category > 0:
        y1, x1, y2, x2 = (float(v) for v in box)
        truth['annotations'].append({
            'id': len(truth['annotations']) + 1, 'image_id': index, 'category_id': int(category),
            'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1), 'iscrowd': 0})
    factor = np.tile(scale[index], 2)
    for box, category, score in zip(outputs['detection_boxes'][index].numpy() / factor,
                                    outputs['detection_classes'][index].numpy(),
                                    outputs['detection_scores'][index].numpy()):
      y1, x1, y2, x2 = (float(v) for v in box)
      results.append({'image_id': index, 'category_id': int(category), 'score': float(score),
                      'bbox': [x1, y1, x2 - x1, y2 - y1]})
  (folder / 'truth.json').write_text(json.dumps(truth))
  return coco_results.average_precision(
      truth_lib.Truth(folder / 'truth.json'), results, range(len(images)))['ap50']


def test_an_evaluation_may_change_what_only_inference_reads(tmp_path):
  """And training must not, because its last evaluation would be of another detector."""
  params = experiment.resolve('fcos_caddet_sample', lock=False)
  (tmp_path / 'params.yaml').write_text(yaml.safe_dump(params.as_dict()))
  tf.train.Checkpoint(weight=tf.Variable(0.0)).save(f'{tmp_path}/ckpt')
  params.task.model.backbone.caddet.hard_gates = True
  params.task.model.detection_generator.nms_iou_threshold = 0.3
  train._check_model_dir(params, str(tmp_path), 'eval')
  with pytest.raises(command_line.CommandError, match='a run of another model'):
    train._check_model_dir(params, str(tmp_path), 'train_and_eval')
  params.task.model.backbone.caddet.num_layers += 1
  with pytest.raises(command_line.CommandError, match='a run of another model'):
    train._check_model_dir(params, str(tmp_path), 'eval')


@pytest.mark.parametrize('text', ['', 'task: [', 'task: 3', '{}', '\udcff'])
def test_damaged_options_of_an_earlier_run_are_named(tmp_path, text):
  params = experiment.resolve('fcos_caddet_sample')
  (tmp_path / 'params.yaml').write_bytes(text.encode('utf-8', 'surrogateescape'))
  train._check_model_dir(params, str(tmp_path), 'train')  # Without a checkpoint nothing is lost.
  tf.train.Checkpoint(weight=tf.Variable(0.0)).save(f'{tmp_path}/ckpt')
  with pytest.raises(command_line.CommandError, match='params.yaml is damaged'):
    train._check_model_dir(params, str(tmp_path), 'train')


@pytest.mark.parametrize('train_steps, says', [(3, True), (4, True), (5, False)])
def test_a_training_without_a_step_left_says_so(train_steps, says, tmp_path, capsys):
  tf.train.Checkpoint(weight=tf.Variable(0.0)).write(f'{tmp_path}/ckpt-4')
  tf.compat.v1.train.update_checkpoint_state(str(tmp_path), f'{tmp_path}/ckpt-4')
  train._say_if_done(train_steps, str(tmp_path))
  text = capsys.readouterr().out
  assert ('a checkpoint of step 4' in text and 'no step is left' in text) == says == bool(text)


def test_a_training_needs_a_folder_that_can_be_made(tmp_path):
  (tmp_path / 'file').touch()
  params = experiment.resolve('fcos_caddet_sample')
  for place in (tmp_path / 'file', tmp_path / 'file/run'):
    with pytest.raises(command_line.CommandError, match='--model_dir=.* is no folder'):
      train._check_model_dir(params, str(place), 'train_and_eval')


@pytest.fixture(name='processes', scope='module')
def fixture_processes():
  with commands.Commands('official_ext.train', cwd=CHECKOUT, env={
      **os.environ, 'PYTHONPATH': str(CHECKOUT), 'TF_CPP_MIN_LOG_LEVEL': '3'}) as processes:
    yield processes


@pytest.mark.slow
@pytest.mark.parametrize('name, override, said', [
    ('retinanet_dyfpn_sample', '', 'did you mean'),
    ('retinanet_dyfpn_efficientnetlite0_sample', 'task.model.decoder.type=dyfnp',
     "Did you mean 'dyfpn'?"),
    ('retinanet_dyfpn_efficientnetlite0_sample', 'task.train_data.input_path=nothing-*.tfrecord',
     'matches no file'),
    ('retinanet_dyfpn_efficientnetlite0_sample', 'task.init_checkpoint=nothing,'
     'task.model.input_size=[64,64,3],task.model.max_level=5,task.model.backbone.type=resnet,'
     'task.model.backbone.resnet.model_id=10', 'task.init_checkpoint'),
])
def test_bad_input_ends_in_one_sentence(
    processes, name, override, said, sample_records, tmp_path):
  data = f'task.train_data.input_path={sample_records}/train-*.tfrecord'
  result = processes.run('official_ext.train', '--mode=train', f'--experiment={name}',
                         f'--model_dir={tmp_path}/run',
                         f'--params_override={",".join(filter(None, [data, override]))}')
  assert result.returncode == 2
  last = result.stderr.strip().splitlines()[-1]
  assert last.startswith('error: ') and said in last
  assert 'Traceback' not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['train_and_validate', 'continuous_train_and_eval'])
def test_a_mode_that_the_trainer_lacks_is_refused_at_once(mode, processes, tmp_path):
  result = processes.run(
      'official_ext.train', f'--mode={mode}', f'--model_dir={tmp_path}/run',
      '--experiment=retinanet_dyfpn_efficientnetlite0_sample')
  assert result.returncode == 2 and result.stderr.strip().splitlines()[-1] == (
      f'error: --mode={mode}: the trainer does not have it; allowed are train, eval, '
      'train_and_eval, continuous_eval, train_and_post_eval.')


@pytest.mark.slow
@pytest.mark.parametrize('arguments, said', [
    (['--mode=trian'], '--mode=trian: the trainer does not have it; allowed are train, eval, '),
    (['--mode=eval', '--param_override=a=1'], 'Did you mean: params_override'),
    ([], 'flag --mode=None: Flag --mode must have a value other than None'),
    (['--mode=eval', '--config_file', 'a.yaml', 'b.yaml'], 'b.yaml: a flag has two hyphens')])
def test_wrong_flags_end_in_one_sentence(arguments, said, processes, tmp_path):
  result = processes.run(
      'official_ext.train', f'--model_dir={tmp_path}/run',
      '--experiment=retinanet_dyfpn_efficientnetlite0_sample', *arguments)
  last = result.stderr.strip().splitlines()[-1]
  assert result.returncode == 2 and last.startswith('error: ') and said in last


def test_a_continuous_evaluation_says_what_it_waits_for(tmp_path, capsys):
  """Model Garden's timeout ends no evaluation before the last step, so none is promised."""
  params = experiment.resolve('retinanet_fpn_efficientnetlite0_sample', params_override=(
      'trainer.train_steps=40,trainer.continuous_eval_timeout=3'))
  train._check_model_dir(params, str(tmp_path), 'continuous_eval')
  said = capsys.readouterr().out
  assert 'waits for those of a training, however long that takes, up to step 40' in said
  assert '3 s' not in said
