"""Each crop has the class of its object, and a classification experiment reads the crops."""
import json
import sys

import dataset_files
import numpy as np
from official.core import task_factory
import pytest

from official_ext import registry_imports
from official_ext.tools import convert_dataset
from official_ext.tools import make_crops
from official_ext.utils import command_line
from official_ext.utils import experiment

IMAGE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def test_a_crop_is_the_square_around_its_box():
  np.testing.assert_array_equal(make_crops.crop(IMAGE, (1, 2, 5, 6), 1.0), IMAGE[1:5, 2:6])
  np.testing.assert_array_equal(make_crops.crop(IMAGE, (2, 3, 4, 5), 2.0), IMAGE[1:5, 2:6])
  # A box that is wider than high is centered, and rows beyond the image repeat its edge.
  wide = make_crops.crop(IMAGE, (0, 1, 2, 7), 1.0)
  np.testing.assert_array_equal(wide, IMAGE[[0, 0, 0, 1, 2, 3], 1:7])


def run(monkeypatch, records, folder, *options):
  monkeypatch.setattr(sys, 'argv', [
      'make_crops', f'--data={records}', f'--output_dir={folder}', *options])
  make_crops.main()


@pytest.mark.slow
def test_every_object_is_cut_out_once_under_its_class(monkeypatch, sample_records, tmp_path):
  folder = tmp_path / 'crops'
  run(monkeypatch, sample_records, folder)
  annotations = json.loads((sample_records / 'annotations/train.json').read_text())['annotations']
  kept = [item['category_id'] for item in annotations
          if not item['iscrowd'] and max(item['bbox'][2:]) >= 8]
  described = json.loads((folder / 'crops.json').read_text())
  assert described['class_names'] == [str(digit) for digit in range(10)]
  # Categories of the sample are digit + 1.
  expected = np.bincount(np.array(kept) - 1, minlength=10)
  np.testing.assert_array_equal(described['counts']['train'], expected)
  params = experiment.resolve('caddet_crops', [str(folder / 'overrides.yaml')], lock=False)
  assert params.task.model.num_classes == 10
  task = task_factory.get_task(params.task)
  data = params.task.validation_data.replace(
      input_path=str(folder / 'train-*.tfrecord'), global_batch_size=len(kept))
  images, labels = next(iter(task.build_inputs(data)))
  assert images.shape == (len(kept), 64, 64, 3)
  np.testing.assert_array_equal(np.bincount(labels, minlength=10), expected)
  with pytest.raises(command_line.CommandError, match='--min_size'):
    run(monkeypatch, sample_records, folder, '--min_size=1000')


def test_a_folder_without_data_is_refused(monkeypatch, tmp_path):
  with pytest.raises(command_line.CommandError, match='convert_dataset'):
    run(monkeypatch, tmp_path, tmp_path / 'crops')


def test_damaged_records_are_refused(monkeypatch, tmp_path):
  source, records, output = (tmp_path / name for name in ('in', 'records', 'out'))
  dataset_files.write_image(source / 'images/a.jpg')
  dataset_files.write_coco(source, [dataset_files.coco_image(1, 'a.jpg')],
                           [dataset_files.coco_annotation(1, 1, [1, 2, 9, 9])])
  monkeypatch.setattr(sys, 'argv', ['c', f'--input={source}', f'--output_dir={records}'])
  convert_dataset.main()
  run(monkeypatch, records, output, '--min_size=0')
  assert json.loads((output / 'crops.json').read_text())['counts'] == {
      'train': [1, 0], 'val': [1, 0]}
  dataset = records / 'dataset.json'
  described = json.loads(dataset.read_text())
  dataset.write_text(json.dumps({**described, 'class_names': {'5': 'a'}}))
  with pytest.raises(command_line.CommandError, match='record of train has the class id 1, which'):
    run(monkeypatch, records, output)
  dataset.write_text(json.dumps(described))
  file, = records.glob('train*.tfrecord')
  file.write_bytes(file.read_bytes()[:-9])
  with pytest.raises(command_line.CommandError, match='is damaged .*run convert_dataset again'):
    run(monkeypatch, records, output)
  file.unlink()
  with pytest.raises(command_line.CommandError, match='--data is .* matches no file'):
    run(monkeypatch, records, output)
  assert (output / 'crops.json').is_file()


def test_crops_of_little_else_than_context_are_refused(monkeypatch, tmp_path):
  with pytest.raises(command_line.CommandError, match='--context=1e.09 is above 10'):
    run(monkeypatch, tmp_path, tmp_path / 'crops', '--context=1e9')
