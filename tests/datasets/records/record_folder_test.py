"""The description of a folder of records is read back, and damage is named."""
import dataclasses
import json
import os

from official.core import input_reader
from official.modeling import hyperparams
import pytest
import yaml

from official_ext.datasets.records import record_folder
from official_ext.utils import command_line


def dataset() -> record_folder.Dataset:
  split = record_folder.SplitRecords(5, 9, 'train-*.tfrecord', 2, 'annotations/train.json')
  val = record_folder.SplitRecords(1, 0, 'val-*.tfrecord', 1, 'annotations/val.json')
  return record_folder.Dataset(8, True, {1: 'cat', 7: 'dog'}, dict(train=split, val=val),
                               {1: 0, 7: 'seven'})


def test_what_is_written_is_read_back(tmp_path):
  record_folder.write(dataset(), tmp_path, '/final')
  assert record_folder.read(tmp_path) == dataset()
  assert json.loads((tmp_path / 'dataset.json').read_text())['class_names'] == {
      '1': 'cat', '7': 'dog'}
  assert (tmp_path / 'classes.txt').read_text() == '1 cat\n7 dog\n'


def test_overrides_name_the_files_of_the_final_folder(tmp_path):
  record_folder.write(dataset(), tmp_path, '/final')
  text = (tmp_path / 'overrides.yaml').read_text()
  assert text.startswith('# Makes an experiment use this data set: --config_file=<this file>\n')
  assert yaml.safe_load(text) == dict(task=dict(
      annotation_file='/final/annotations/val.json', model=dict(num_classes=8),
      train_data=dict(input_path='/final/train-*.tfrecord'),
      validation_data=dict(input_path='/final/val-*.tfrecord')))
  assert '#   1 cat, category id 0\n#   7 dog, category id "seven"\n' in text


@pytest.mark.parametrize('most', [(100, 7), (101, 7), (12, 1000)])
def test_overrides_make_room_for_all_boxes_of_an_image(most, tmp_path):
  content = dataset()
  splits = {name: dataclasses.replace(split, max_boxes=count)
            for (name, split), count in zip(content.splits.items(), most)}
  record_folder.write(dataclasses.replace(content, splits=splits), tmp_path, tmp_path)
  assert record_folder.read(tmp_path).splits == splits
  task = yaml.safe_load((tmp_path / 'overrides.yaml').read_text())['task']
  for field, count in zip(('train_data', 'validation_data'), most):
    assert task[field].get('parser') == ({'max_num_instances': count} if count > 100 else None)


def test_folders_of_earlier_versions_do_not_say_the_most_boxes(tmp_path):
  record_folder.write(dataset(), tmp_path, tmp_path)
  path = tmp_path / 'dataset.json'
  content = json.loads(path.read_text())
  for split in content['splits'].values():
    del split['max_boxes']
  path.write_text(json.dumps(content))
  assert record_folder.read(tmp_path) == dataset()


def test_folders_of_earlier_versions_say_no_original_ids(tmp_path):
  record_folder.write(dataset(), tmp_path, tmp_path)
  path = tmp_path / 'dataset.json'
  content = json.loads(path.read_text())
  del content['original_ids']
  path.write_text(json.dumps(content))
  assert record_folder.read(tmp_path).original_ids == {}


ODD_NAMES = (
    'with space', "John's", '"quoted"', 'data[v2]', '[', ']', '[!a]', 'a,b', 'a,,b,', 'no#1',
    'Pr\u00fcfung', 'Pru\u0308fung', '\u65e5\u672c', 'a{b}', 'q?', 'x*y', 'c: d', '100% done',
    'back\\slash', '\\', 'x\\*', ' ends ', '- dash', '~',
    '$HOME', 'null', '&a', '!tag', 'tab\there')


def test_overrides_name_only_the_files_of_their_folder_whatever_its_name(tmp_path):
  # Folders that patterns of the odd names would match, if they were taken as patterns.
  decoys = ('data2', 'datav', 'a', '^', 'aXb', 'a-b', 'a+b', 'a b', 'qq', 'xzy', 'backslash', 'x*')
  for name in (*ODD_NAMES, *decoys):
    folder = tmp_path / name / 'records'
    folder.mkdir(parents=True)
    (folder / 'train-00000-of-00002.tfrecord').touch()
    record_folder.write(dataset(), folder, folder)
  for name in ODD_NAMES:
    folder = tmp_path / name / 'records'
    task = hyperparams.read_yaml_to_params_dict(str(folder / 'overrides.yaml')).as_dict()['task']
    assert task['annotation_file'] == f'{folder}/annotations/val.json'
    assert input_reader.match_files(task['train_data']['input_path']) == [
        f'{folder}/train-00000-of-00002.tfrecord'], name


def test_overrides_of_a_relative_folder_hold_from_everywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  record_folder.write(dataset(), tmp_path, 'runs/mine')
  task = yaml.safe_load((tmp_path / 'overrides.yaml').read_text())['task']
  assert task['annotation_file'] == os.path.join(os.getcwd(), 'runs/mine/annotations/val.json')
  assert task['train_data']['input_path'] == os.path.join(
      os.getcwd(), 'runs/mine/train-*.tfrecord')


def test_a_folder_without_description_is_refused_with_advice(tmp_path):
  with pytest.raises(command_line.CommandError, match='no dataset.json.*convert_dataset wrote, x'):
    record_folder.read(tmp_path, alternative=', x')


@pytest.mark.parametrize('change, message', [
    (lambda content: '{', 'JSONDecodeError'), (lambda content: '[]', 'TypeError'),
    (lambda content: json.dumps(dict(content, class_names={'a': 'cat'})), "'a'"),
    (lambda content: json.dumps(dict(content, splits=dict(train={}))), 'num_images')])
def test_a_damaged_description_is_named(tmp_path, change, message):
  record_folder.write(dataset(), tmp_path, tmp_path)
  path = tmp_path / 'dataset.json'
  path.write_text(change(json.loads(path.read_text())))
  with pytest.raises(command_line.CommandError, match=f'dataset.json is damaged .*{message}'):
    record_folder.read(tmp_path)
