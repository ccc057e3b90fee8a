"""Runs begin in the right order, and end with a checkpoint or with one sentence."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import types

import commands
import numpy as np
from official.core import config_definitions
from official.vision.configs import retinanet
import pytest
import record_files
import tensorflow as tf

from official_ext.datasets import category_files
from official_ext.tasks import training

TESTS = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': '',
               'PYTHONPATH': os.pathsep.join(filter(None, [
                   str(TESTS), str(TESTS.parent), os.environ.get('PYTHONPATH')]))}


def command(model_dir, override='', mode='train_and_eval'):
  """Returns the command that trains one weight toward 3; each step takes a quarter of the way."""
  return [sys.executable, '-m', 'official_ext.train', '--import=tiny_task', '--experiment=tiny',
          f'--mode={mode}', f'--model_dir={model_dir}',
          f'--params_override={override or "trainer.train_steps=4"}']


def error_of(done):
  """Returns the one line that a command wrote at its end, after checking that it is one."""
  assert done.returncode == 2, done.stderr[-2000:]
  assert 'Traceback' not in done.stderr
  return done.stderr.strip().splitlines()[-1]


def weight(model_dir):
  """Returns the weight in the latest checkpoint of a run, and its step."""
  checkpoint = tf.train.latest_checkpoint(str(model_dir))
  reader = tf.train.load_checkpoint(checkpoint)
  name, = (name for name in reader.get_variable_to_shape_map()
           if name.startswith('model/') and name.endswith('kernel/.ATTRIBUTES/VARIABLE_VALUE'))
  return float(reader.get_tensor(name).item()), int(checkpoint.rpartition('-')[2])


@pytest.fixture(name='run')
def fixture_run():
  """Runs the command that trains, in a process of its own."""
  with commands.Commands('official_ext.train', env=ENVIRONMENT) as processes:
    yield lambda *arguments, **options: processes.run(*command(*arguments, **options)[2:])


@pytest.mark.slow
def test_life_of_a_run(run, tmp_path):
  """Evaluating nothing, a failed start, NaN after good steps, going on, evaluating."""
  folder = tmp_path / 'run'
  for path, what in ((folder, 'does not exist'), (tmp_path, 'has no checkpoint')):
    assert f'--model_dir={path} {what}' in error_of(run(path, mode='eval'))
  assert not folder.exists()

  # A start that fails leaves nothing that stops the corrected command.
  folder.mkdir()
  (folder / 'params.yaml').write_text('task: {model: {initial: 7.0}}')
  done = run(folder)
  assert done.returncode == 0 and done.stdout.count('The training step is traced.') == 1
  # 3 * (1 - 0.75 ** 4)
  assert weight(folder) == (pytest.approx(2.05078125), 4)

  # The rate and the momentum of the command count, not those of the checkpoint.
  message = error_of(run(folder, 'trainer.train_steps=8,trainer.optimizer_config.learning_rate.'
                         'constant.learning_rate=1.0e+30'))
  assert re.search(r'loss is (nan|inf) at step 6, with learning rate 1e\+30; .*ckpt-4', message)
  assert 'check_dataset' in message
  assert weight(folder) == (pytest.approx(2.05078125), 4)

  assert run(folder, 'trainer.train_steps=8').returncode == 0
  assert weight(folder) == (pytest.approx(3 * (1 - 0.75 ** 8)), 8)
  # The last result is kept for the model card.
  kept = json.loads((folder / 'evaluation.json').read_text())
  assert (kept['step'], kept['seen']) == (8, 8)
  message = error_of(run(folder, 'task.model.initial=1.0', mode='eval'))
  assert 'holds a run of another model' in message
  done = run(folder, 'trainer.train_steps=8', mode='eval')
  assert done.returncode == 0 and re.search(
      r"(?s) eval . step: +8 .*'seen': 8", done.stderr), done.stderr[-2000:]


@pytest.mark.slow
def test_zeros_are_not_evaluated_as_averages_of_weights(run, tmp_path):
  ema = 'trainer.optimizer_config.ema.average_decay=0.9'
  assert run(tmp_path / 'without', '').returncode == 0
  for mode in ('eval', 'train_and_eval'):
    assert 'has no averages of weights' in error_of(run(tmp_path / 'without', ema, mode=mode))
  done = run(tmp_path / 'with', ema)
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'has averages of weights' in error_of(run(tmp_path / 'with', ''))
  assert run(tmp_path / 'with', ema, mode='eval').returncode == 0
  message = error_of(run(tmp_path / 'with/ema_checkpoints', ema, mode='eval'))
  assert 'has averages in the place of weights' in message
  assert run(tmp_path / 'with/ema_checkpoints', '', mode='eval').returncode == 0


@pytest.mark.slow
def test_a_metric_that_evaluation_does_not_give_is_named(run, tmp_path):
  message = error_of(run(tmp_path / 'run', 'trainer.best_checkpoint_eval_metric=AP'))
  assert "best_checkpoint_eval_metric is 'AP', which evaluation does not give" in message
  assert 'it gives different, seen, ' in message


def test_the_numbers_of_an_evaluation_are_kept(tmp_path):
  keeper = training._ResultKeeper(str(tmp_path))
  keeper.trainer = types.SimpleNamespace(global_step=tf.Variable(7))
  keeper({'AP': tf.constant(0.5), 'APl': float('nan'), 'images': {'a': 1.0}, 'name': 'x',
          'per_class': [0.1, 0.2], 'seen': np.int64(3)})
  kept = json.loads((tmp_path / 'evaluation.json').read_text())
  assert kept == {'step': 7, 'AP': 0.5, 'seen': 3}


@pytest.mark.slow
def test_nothing_runs_before_the_strategy(tmp_path):
  """TensorFlow's runtime is not started yet when Model Garden makes the strategy."""
  records = record_files.write(tmp_path / 'a', [record_files.example()])
  code = """
import sys
from absl import flags
import gin
from official.common import distribute_utils
from tensorflow.python.eager import context
from official_ext import train

class Reached(Exception):
  pass

def strategy(**options):
  raise Reached(options['distribution_strategy'], context.context()._initialized)

distribute_utils.get_distribution_strategy = strategy
train._define_flags()
name = 'fcos_fpn_efficientnetlite0_sample'
flags.FLAGS(['train', f'--experiment={name}', '--mode=train_and_eval', '--model_dir=absent'])
records = sys.argv[1]
for kind in ('tpu', 'parameter_server', 'multi_worker_mirrored'):
  flags.FLAGS.params_override = (
      f'runtime.distribution_strategy={kind},task.train_data.input_path={records},'
      f'task.validation_data.input_path={records},task.annotation_file=null')
  try:
    train.main([])
  except Reached as reached:
    print(*reached.args)
  gin.clear_config()
"""
  done = subprocess.run([sys.executable, '-c', code, records], env=ENVIRONMENT, capture_output=True,
                        text=True, check=False)
  assert done.stdout.split() == ['tpu', 'False', 'parameter_server', 'False',
                                 'multi_worker_mirrored', 'False'], done.stderr


@pytest.mark.parametrize('saves', [True, False])
def test_the_worker_that_saves_checkpoints_writes_the_classes(tmp_path, monkeypatch, saves):
  """Several workers would write one file at the same time."""

  def runner(*_):
    raise InterruptedError

  annotations = tmp_path / 'val.json'
  annotations.write_text('{"categories": [{"id": 1, "name": "cat"}]}')
  params = config_definitions.ExperimentConfig(
      task=retinanet.RetinaNetTask(
          annotation_file=str(annotations), model=retinanet.RetinaNet(num_classes=2)),
      runtime=config_definitions.RuntimeConfig(mixed_precision_dtype=None))
  strategy = types.SimpleNamespace(extended=types.SimpleNamespace(should_checkpoint=saves))
  monkeypatch.setattr(training.gin, 'parse_config_files_and_bindings', lambda *_: None)
  monkeypatch.setattr(training.train_utils, 'parse_configuration', lambda *_, **__: params)
  monkeypatch.setattr(training.devices, 'strategy', lambda _: strategy)
  monkeypatch.setattr(training, '_runner', runner)
  with pytest.raises(InterruptedError):
    training.run(types.SimpleNamespace(
        gin_file=None, gin_params=None, mode='train', model_dir=str(tmp_path / 'run')))
  assert (tmp_path / 'run' / category_files.NAME).exists() == saves


def _free_ports(count):
  sockets = [socket.socket() for _ in range(count)]
  for one in sockets:
    one.bind(('127.0.0.1', 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports


def start_workers(model_dir, logs, override):
  """Starts two workers of one run on this machine, which write to two log files."""
  workers = [f'127.0.0.1:{port}' for port in _free_ports(2)]
  processes = []
  for index, log in enumerate(logs):
    cluster = {'cluster': {'worker': workers}, 'task': {'type': 'worker', 'index': index}}
    with log.open('w') as file:
      processes.append(subprocess.Popen(
          command(model_dir, f'runtime.distribution_strategy=multi_worker_mirrored,{override}'),
          env={**ENVIRONMENT, 'TF_CONFIG': json.dumps(cluster)}, stdout=file,
          stderr=subprocess.STDOUT))
  return processes


@pytest.mark.slow
def test_two_workers_train_and_go_on_after_one_was_killed(tmp_path):
  folder, logs = tmp_path / 'run', [tmp_path / 'log0', tmp_path / 'log1']
  processes = start_workers(folder, logs, 'trainer.train_steps=1000000,trainer.validation_interval'
                            '=1000000,trainer.max_to_keep=2')
  try:
    end = time.monotonic() + 300
    while tf.train.latest_checkpoint(str(folder)) is None and time.monotonic() < end:
      time.sleep(0.5)
    processes[1].send_signal(signal.SIGKILL)
    time.sleep(1)
  finally:
    for process in processes:
      process.kill()
      process.wait()
  steps = weight(folder)[1]
  for process in start_workers(folder, logs, f'trainer.train_steps={steps + 4}'):
    assert process.wait(timeout=300) == 0, [log.read_text()[-2000:] for log in logs]
  assert weight(folder) == (pytest.approx(3 * (1 - 0.75 ** (steps + 4))), steps + 4)
  for log in logs:
    text = log.read_text()
    # Each has begun where both were stopped, and has evaluated every example once.
    assert f'train | step: {steps: 6d} |' in text
    assert "'seen': 8" in text and "'different': 8" in text
  assert (folder / 'best' / 'info.json').exists()
  assert len(list((folder / 'train').iterdir())) == 2, 'one file of summaries for each start'
