"""An export is timed beside the cost of its own network only."""
import sys

import pytest
import yaml

from official_ext import registry_imports
from official_ext.serving import export_saved_model
from official_ext.tools import exported_options
from official_ext.tools import profile
from official_ext.utils import command_line
from official_ext.utils import experiment

NAME = 'retinanet_dyfpn_efficientnetlite0_sample'
FILTERS = 'task.model.decoder.dyfpn.num_filters'


@pytest.fixture(name='folder')
def fixture_folder(tmp_path):
  """A folder with what an export writes of an experiment with options of its own."""
  params = experiment.resolve(NAME, params_override=f'{FILTERS}=24', lock=False)
  params.task.model.detection_generator.nms_version = 'portable'
  values = export_saved_model.without_local_paths(params.as_dict())
  (tmp_path / 'params.yaml').write_text(yaml.safe_dump(values), encoding='utf-8')
  return tmp_path


def resolve(override):
  return experiment.resolve(NAME, params_override=override)


@pytest.mark.parametrize('override, has_own_size, field', [
    (f'{FILTERS}=24', False, None),
    ('', False, FILTERS),
    (f'{FILTERS}=24,task.model.detection_generator.nms_version=batched', False, None),
    (f'{FILTERS}=24,task.model.input_size=[64,64,3]', False, 'task.model.input_size'),
    (f'{FILTERS}=24,task.model.input_size=[64,64,3]', True, None),
    (f'{FILTERS}=24,task.resize.rule=paper,task.model.input_size=[null,null,3]', False,
     'task.model.input_size'),
    (f'{FILTERS}=24,task.resize.short_side=90', False, 'task.resize.short_side'),
    (f'{FILTERS}=24,task.model.decoder.dyfpn.block=A', True, 'task.model.decoder.dyfpn.block')])
def test_the_option_that_differs_is_named(folder, override, has_own_size, field):
  if field is None:
    exported_options.check(resolve(override), folder, has_own_size)
    return
  with pytest.raises(command_line.CommandError, match=(
      f'not of this network.* has another {field}. Give --config_file={folder}/params.yaml')):
    exported_options.check(resolve(override), folder, has_own_size)


def test_its_own_options_are_accepted(folder):
  params = experiment.resolve(NAME, [str(folder / 'params.yaml')])
  exported_options.check(params, folder, False)


def test_an_export_without_its_options_is_not_checked(tmp_path):
  exported_options.check(resolve(''), tmp_path, False)


@pytest.mark.parametrize('text', ['', 'task: [', 'task: 3', '{}', '\udcff'])
def test_damaged_options_are_named(tmp_path, text):
  (tmp_path / 'params.yaml').write_bytes(text.encode('utf-8', 'surrogateescape'))
  with pytest.raises(command_line.CommandError, match='params.yaml is damaged'):
    exported_options.check(resolve(''), tmp_path, False)


def test_profile_refuses_the_export_of_another_network(folder, monkeypatch, capsys):
  monkeypatch.setattr(profile, '_load_saved_model', lambda arguments: None)
  monkeypatch.setattr(
      sys, 'argv', ['profile', f'--experiment={NAME}', f'--saved_model={folder}'])
  with pytest.raises(SystemExit):
    command_line.run(profile.main)
  assert f'has another {FILTERS}' in capsys.readouterr().err
