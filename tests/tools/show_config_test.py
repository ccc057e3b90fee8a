"""The show_config command lists experiments, prints one as YAML, and names mistakes in it."""
import json
import pathlib
import subprocess
import sys

import pytest
import yaml

from official_ext import registry_imports
from official_ext.tools import show_config
from official_ext.utils import command_line
from official_ext.utils import experiment

NAME = 'fasterrcnn_dyfpn_resnet50_coco'
CONFIG = (pathlib.Path(__file__).resolve().parents[2] / 'configs' / 'fasterrcnn' /
          'dyfpn_resnet50_1x.yaml')


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs the command and returns what it prints."""

  def call(*arguments):
    monkeypatch.setattr(sys, 'argv', ['show_config', *arguments])
    show_config.main()
    return capsys.readouterr().out

  return call


@pytest.mark.parametrize('tool', ['show_config', 'profile'])
def test_help_loads_nothing_heavy(tool):
  code = f"""
import sys
from official_ext.tools import {tool}
sys.argv = ["{tool}", "--help"]
try:
  {tool}.main()
except SystemExit:
  sys.exit(sum(name in sys.modules for name in ("tensorflow", "official", "numpy")))
"""
  done = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert '--params_override' in done.stdout and 'example' in done.stdout


def test_list(run):
  lines = run().splitlines()
  row = next(line for line in lines if f' {NAME} ' in line)
  assert row.split() == [NAME, 'Faster', 'R-CNN', 'dyfpn', 'resnet', '50']
  assert any(line.split() == ['retinanet_fpn_efficientnetlite0_sample', 'RetinaNet', 'fpn',
                              'efficientnet', 'b0'] for line in lines)
  assert 'retinanet_resnetfpn_coco' not in ' '.join(lines)


def test_list_of_all(run):
  rows = {row['name']: row for row in json.loads(run('--all', '--json'))}
  assert set(rows) == set(experiment.names())
  names = list(rows)
  assert names.index(NAME) < names.index('fasterrcnn_resnetfpn_coco')
  assert {name: rows[name]['detector'] for name in (
      'maskrcnn_fpn_resnet50_coco', 'cascadercnn_fpn_resnet50_coco', 'cascadercnn_spinenet_coco',
      'resnet_imagenet')} == {
          'maskrcnn_fpn_resnet50_coco': 'Mask R-CNN',
          'cascadercnn_fpn_resnet50_coco': 'Cascade R-CNN',
          'cascadercnn_spinenet_coco': 'Cascade Mask R-CNN',
          'resnet_imagenet': 'ImageClassification'}


def test_printed_yaml_is_the_experiment(run, tmp_path):
  override = 'task.model.decoder.dyfpn.block=A,task.losses.l2_weight_decay=1e-5'
  printed = run(f'--experiment={NAME}', f'--params_override={override}')
  params = experiment.resolve(NAME, params_override=override)
  assert yaml.safe_load(printed) == params.as_dict()
  assert params.task.model.decoder.dyfpn.block == 'A'
  file = tmp_path / 'printed.yaml'
  file.write_text(printed, encoding='utf-8')
  # The printed YAML can be used as a config file.
  as_json = run(f'--experiment={NAME}', f'--config_file={file}', '--json')
  assert json.loads(as_json) == params.as_dict()


def test_card_quotes_the_config_file(run):
  printed = json.loads(run('--card', '--experiment=fasterrcnn_dyfpn_resnet50_coco',
                           f'--config_file={CONFIG}'))
  assert printed['result']['published'][0].startswith('Published, COCO test-dev: AP 39.0')
  assert printed['recipe']['batch_size'] == 8 and printed['experiment'] == NAME
  without = json.loads(run('--card', f'--experiment={NAME}'))
  assert not without['result']['published'] and without['recipe']['batch_size'] == 8


def test_experiment_without_decoder(run):
  assert yaml.safe_load(run('--experiment=resnet_imagenet'))['task']['model']['num_classes'] == 1001


@pytest.mark.parametrize('override, expected', [
    ('task.model.nek=1', 'nek'),
    ('task.model.decoder.type=panet', "'panet'; known are"),
    ('task.model.min_level=7', 'min_level is 7 and max_level 6'),
    ('task.model.min_level=1', r'the backbone gives levels \[2, 3, 4, 5\]'),
    ('task.model.decoder.dyfpn.norm=group', "norm is 'group'"),
    ('runtime.mixed_precision_dtype=mixed_float16', 'did you mean float16'),
    ('task.model.input_size=[480,650,3]', r'input_size is \[480, 650, 3\].*multiples of 64'),
])
def test_mistakes_are_named(run, override, expected):
  with pytest.raises(command_line.CommandError, match=expected):
    run(f'--experiment={NAME}', f'--params_override={override}')


@pytest.mark.parametrize('flag', ['--params_override=task.model.min_level=3', '--card'])
def test_overrides_and_cards_need_an_experiment(run, capsys, flag):
  with pytest.raises(SystemExit):
    run(flag)
  assert 'name it with --experiment' in capsys.readouterr().err
