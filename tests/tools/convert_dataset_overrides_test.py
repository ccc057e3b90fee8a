"""The overrides that convert_dataset writes make an experiment use the data set."""
import json

from official_ext import registry_imports
from official_ext.utils import experiment
from official_ext.utils import input_checks


def test_overrides_resolve_and_name_files_that_fit_together(sample_records):
  config = experiment.resolve(
      'retinanet_dyfpn_efficientnetlite0_sample', [f'{sample_records}/overrides.yaml'])
  dataset = json.loads((sample_records / 'dataset.json').read_text())
  assert config.task.model.num_classes == dataset['num_classes'] == 11
  input_checks.check_task(config.task, 'train_and_eval')
  files = input_checks.matching_files(config.task.train_data.input_path, 'train')
  assert len(files) == dataset['splits']['train']['num_files']
