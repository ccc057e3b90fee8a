"""The overrides that convert_dataset writes make an experiment use the data set."""
import json
import sys

from PIL import Image
import pytest

from official_ext import registry_imports
from official_ext.tools import convert_dataset
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


@pytest.fixture(scope='module')
def crowded_records(tmp_path_factory):
  """Records whose images of training have 130 objects and one."""
  folder, output = (tmp_path_factory.mktemp(name) for name in ('crowded', 'records'))
  lines = ['filename,width,height,class,xmin,ymin,xmax,ymax']
  for name, count in (('many', 130), ('one', 1)):
    Image.new('RGB', (150, 40)).save(folder / f'{name}.png')
    lines += [f'{name}.png,150,40,dot,{left},2,{left + 4},9' for left in range(count)]
  Image.new('RGB', (150, 40)).save(folder / 'held.png')
  (folder / 'train_labels.csv').write_text('\n'.join(lines))
  (folder / 'test_labels.csv').write_text(f'{lines[0]}\nheld.png,150,40,dot,1,1,9,9')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', ['convert_dataset', f'--input={folder}',
                                f'--output_dir={output}/records'])
    convert_dataset.main()
  return output / 'records'


@pytest.mark.parametrize('name', [
    'retinanet_dyfpn_efficientnetlite0_sample', 'fcos_fpn_efficientnetlite0_sample',
    'maskrcnn_drfpn_resnet50_coco'])
def test_no_object_of_a_crowded_image_is_left_out(name, crowded_records):
  task = experiment.resolve(name, [f'{crowded_records}/overrides.yaml']).task
  assert task.train_data.parser.max_num_instances == 130
  assert task.validation_data.parser.max_num_instances == 100
