"""Overrides apply in order and strictly, and one sentence says what is wrong."""
import subprocess
import sys

import pytest

from official_ext import registry_imports
from official_ext.utils import command_line
from official_ext.utils import experiment

NAME = 'retinanet_dyfpn_efficientnetlite0_sample'
# A backbone that is built in a second; it has levels 2 to 5.
SMALL = 'task: {model: {backbone: {type: resnet, resnet: {model_id: 18}}}}'

SAMPLE = 'fcos_fpn_efficientnetlite0_sample'


def write(path, text):
  path.write_text(text, encoding='utf-8')
  return str(path)


def test_later_overrides_win(tmp_path):
  files = [write(tmp_path / 'a.yaml', 'trainer: {train_steps: 1, steps_per_loop: 1}'),
           write(tmp_path / 'b.yaml', 'trainer: {train_steps: 2, validation_steps: 2}')]
  trainer = experiment.resolve(NAME, files, 'trainer.validation_steps=3').trainer
  assert (trainer.steps_per_loop, trainer.train_steps, trainer.validation_steps) == (1, 2, 3)


def test_scientific_notation_is_a_number(tmp_path):
  file = write(tmp_path / 'a.yaml', 'task: {losses: {l2_weight_decay: 1e-4}}')
  assert experiment.resolve(NAME, [file]).task.losses.l2_weight_decay == 0.0001
  params = experiment.resolve(NAME, params_override='task.losses.l2_weight_decay=2e-5')
  assert params.task.losses.l2_weight_decay == 0.00002


@pytest.mark.parametrize('text', ['', '# only a comment\n', '{}'])
def test_empty_file_overrides_nothing(tmp_path, text):
  file = write(tmp_path / 'a.yaml', text)
  assert experiment.resolve(NAME, [file]).as_dict() == experiment.resolve(NAME).as_dict()


def test_lock():
  locked = experiment.resolve(NAME)
  with pytest.raises(ValueError):
    locked.override({'trainer': {'train_steps': 1}})
  free = experiment.resolve(NAME, lock=False)
  free.override({'trainer': {'train_steps': 1}})
  assert free.trainer.train_steps == 1


@pytest.mark.parametrize('name, expected', [
    ('retinanet_dyfpn_efficientnetlite0_sampl', f'did you mean {NAME}'),
    ('zzz', 'show_config')])
def test_unknown_experiment(name, expected):
  with pytest.raises(command_line.CommandError, match=expected):
    experiment.resolve(name)


@pytest.mark.parametrize('override, expected', [
    ('task.model.no_such_field=1', 'no_such_field'),
    ('task: {model: {decoder: {dyfpn: {blok: A}}}}', 'blok'),
    ('nonsense', "holds 'nonsense', not fields"),
    ('[1, 2]', 'not fields with values'),
    ('{a: [', 'not valid YAML'),
])
def test_bad_override(tmp_path, override, expected):
  with pytest.raises(command_line.CommandError, match=f'--params_override.*{expected}'):
    experiment.resolve(NAME, params_override=override)
  file = write(tmp_path / 'a.yaml', override if '=' not in override else 'no_such_field: 1')
  with pytest.raises(command_line.CommandError, match=f'--config_file={file}.*{expected}'):
    experiment.resolve(NAME, [file])


@pytest.mark.parametrize('override, expected', [
    ('task.train_data.globalbatch_size=2',
     r'task.train_data.globalbatch_size is no field \(did you mean global_batch_size\?\); those of '
     r'task.train_data are .*, is_training, '),
    ('trainer={steps: 2}', r'trainer.steps is no field.*; those of trainer are .*, train_steps, '),
    ('modle.x=1', 'modle is no field; those of an experiment are runtime, task, trainer')])
def test_an_unknown_field_is_named_with_those_that_are_there(override, expected):
  with pytest.raises(command_line.CommandError, match=f'--params_override: {expected}'):
    experiment.resolve(NAME, params_override=override)


@pytest.mark.parametrize('override, expected', [
    ('task.model.decoder=fpn', "task.model.decoder is 'fpn'; it is a record: .*decoder.type"),
    ('task.model.head=3', 'task.model.head is 3; it is a record'),
    ('task.model.head.tower=null', 'task.model.head.tower is null; it is a record'),
    ('trainer.optimizer_config.ema=true', 'optimizer_config.ema is True; it is a record'),
    ('trainer.optimizer_config.warmup=null', 'optimizer_config.warmup is null; it is a record'),
    ('trainer.optimizer_config.learning_rate=0.01', 'learning_rate is 0.01; it is a record'),
    ('trainer.optimizer_config.optimizer.type=adamm',
     "trainer.optimizer_config.optimizer.type is 'adamm'; allowed are sgd, .* Did you mean adam?"),
    ('task.train_data.decoder.type=foo',
     "task.train_data.decoder.type is 'foo'; allowed are simple_decoder, label_map_decoder")])
def test_records_and_choices_hold_nothing_else(override, expected):
  with pytest.raises(command_line.CommandError, match=expected):
    experiment.resolve(NAME, params_override=override)


@pytest.mark.parametrize('field', [
    'task.freeze_backbone', 'task.model.norm_activation.use_sync_bn', 'task.per_category_metrics',
    'task.train_data.parser.aug_rand_hflip', 'task.validation_data.drop_remainder'])
def test_a_text_is_not_true(field):
  for value in ('maybe', '2'):
    params = experiment.resolve(NAME, params_override=f'{field}={value}')
    with pytest.raises(command_line.CommandError, match=f'{field} is .*; it must be true or false'):
      experiment.check_training(params)
  for value in ('false', 'True', 'yes', '1'):
    experiment.check_training(experiment.resolve(NAME, params_override=f'{field}={value}'))


@pytest.mark.parametrize('name', ['slide', 'adafactor'])
def test_optimizers_without_code_are_refused(name):
  params = experiment.resolve(
      NAME, params_override=f'trainer.optimizer_config.optimizer.type={name}')
  with pytest.raises(command_line.CommandError, match=f"type is '{name}', which .* adamw"):
    experiment.check_training(params)


def test_unknown_decoder():
  with pytest.raises(command_line.CommandError, match='dyfpm.*inception_fpn.*Did you mean .dyfpn.'):
    experiment.resolve(NAME, params_override='task.model.decoder.type=dyfpm')


def test_missing_file():
  with pytest.raises(command_line.CommandError, match='--config_file=nowhere.yaml: no such file'):
    experiment.resolve(NAME, ['nowhere.yaml'])


def test_broken_restriction():
  with pytest.raises(command_line.CommandError, match='task.train_data.is_training'):
    experiment.resolve(NAME, params_override='task.train_data.is_training=null')


@pytest.mark.parametrize('override, expected', [
    ('task.model.min_level=7', 'min_level is 7 and max_level 6'),
    ('task.model.min_level=6', r'min_level is 6; the backbone gives levels \[2, 3, 4, 5\]'),
    ('task.model.min_level=1', r'min_level is 1; the backbone gives levels \[2, 3, 4, 5\]'),
    ('task.model.decoder.dyfpn.block=C', "block is 'C'"),
    ('task.model.decoder.dyfpn.gate.type=cnn', "gate.type is 'cnn'"),
    ('task: {model: {decoder: {dyfpn: {branches: [4x4]}}}}', '4x4'),
])
def test_decoder_that_does_not_fit(tmp_path, override, expected):
  small = write(tmp_path / 'small.yaml', SMALL)
  params = experiment.resolve(NAME, [small], override)
  with pytest.raises(command_line.CommandError, match=expected):
    experiment.build_decoder(params.task.model)


def test_decoder_that_fits():
  decoder = experiment.build_decoder(experiment.resolve(NAME).task.model)
  assert decoder.backbone_levels == ['3', '4', '5']


def test_import(tmp_path, monkeypatch):
  write(tmp_path / 'outside_experiment.py', (
      'from official.core import exp_factory\n'
      '@exp_factory.register_config_factory("outside")\n'
      'def outside():\n'
      f'  return exp_factory.get_exp_config("{NAME}")\n'))
  monkeypatch.syspath_prepend(tmp_path)
  experiment.import_modules(['outside_experiment'])
  assert experiment.resolve('outside').as_dict() == experiment.resolve(NAME).as_dict()
  with pytest.raises(command_line.CommandError, match='--import=no_such_module: No module'):
    experiment.import_modules(['no_such_module'])


def test_reading_arguments_loads_nothing_heavy():
  code = ('import argparse, sys; from official_ext.utils import experiment; '
          'experiment.add_arguments(argparse.ArgumentParser()); '
          'sys.exit(sum(name in sys.modules for name in ("tensorflow", "official", "numpy")))')
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@pytest.mark.parametrize('name, override, said', [
    (SAMPLE, 'runtime.mixed_precision_dtype=mixed_float16',
     "'mixed_float16'; allowed are float32, bfloat16, float16 and null; did you mean float16"),
    (SAMPLE, 'runtime.mixed_precision_dtype=mixed_bfloat16', 'did you mean bfloat16'),
    (SAMPLE, 'runtime.mixed_precision_dtype=fp16', 'did you mean float16'),
    (SAMPLE, 'runtime.mixed_precision_dtype=int8', 'allowed are .* and null[.]'),
    (SAMPLE, 'runtime.mixed_precision_dtype=float16', None),
    (SAMPLE, 'runtime.mixed_precision_dtype=null', None),
    (SAMPLE, 'task.model.max_level=6,task.model.input_size=[480,640,3]',
     r'multiples of 64, .*max_level=6. The nearest sizes are \[448,640,3\] or \[512,640,3\]'),
    (SAMPLE, 'task.model.max_level=6,task.model.input_size=[40,100,3]',
     r'are \[64,64,3\] or \[64,128,3\];'),
    (SAMPLE, 'task.model.max_level=5,task.model.input_size=[480,640,3]', None),
    # Neither the reader without padding nor this backbone needs it.
    (SAMPLE, 'task: {model: {max_level: 6, input_size: [480, 640, 3]}, train_data: {parser: '
     '{pad: false}}, validation_data: {parser: {pad: false}}}', None),
    ('fcos_caddet_sample', 'task.model.input_size=[75,101,3]', None),
])
def test_options_that_cannot_be_trained(name, override, said):
  params = experiment.resolve(name, params_override=override)
  if said is None:
    experiment.check_training(params)
  else:
    with pytest.raises(command_line.CommandError, match=said):
      experiment.check_training(params)


def test_a_file_that_is_no_text_is_named(tmp_path):
  path = tmp_path / 'a.yaml'
  path.write_bytes('task: {name: "\u00fc"}'.encode('cp1252'))
  with pytest.raises(command_line.CommandError, match='--config_file=.*a.yaml is not text in UTF'):
    experiment.resolve(NAME, [str(path)])
