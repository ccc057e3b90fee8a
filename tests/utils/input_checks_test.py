"""Errors name a wrong file and its field before anything is built."""
import json
import types

import pytest
import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import input_checks


def write_records(path, image_ids):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for image_id in image_ids:
      feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(image_id).encode()]))
      writer.write(tf.train.Example(features=tf.train.Features(
          feature={'image/source_id': feature})).SerializeToString())
  return str(path)


def write_annotations(path, image_ids):
  path.write_text(json.dumps({'images': [{'id': image_id} for image_id in image_ids]}))
  return str(path)


def fails(match):
  return pytest.raises(command_line.CommandError, match=match)


def test_no_file(tmp_path):
  with fails('task.x is .*which matches no file.*convert_dataset'):
    input_checks.check_records(f'{tmp_path}/train-*', 'task.x')


def test_files_of_several_patterns_are_sorted(tmp_path):
  b, a = (write_records(tmp_path / name, [1]) for name in ('b.tfrecord', 'a.tfrecord'))
  assert input_checks.check_records(f'{b}, {tmp_path}/a*', 'x') == [a, b]


def test_pattern_that_catches_json(tmp_path):
  write_records(tmp_path / 'train-0.tfrecord', [1])
  write_annotations(tmp_path / 'train.json', [1])
  with fails(r'matches .*train\.json, not a TFRecord file.*narrow the pattern'):
    input_checks.check_records(f'{tmp_path}/train*', 'task.x')


def test_cut_record(tmp_path):
  path = tmp_path / 'train-0.tfrecord'
  write_records(path, [1])
  path.write_bytes(path.read_bytes()[:-6])
  with fails('train-0.tfrecord.*damaged'):
    input_checks.check_records(str(path), 'task.x')


def test_annotations_of_the_same_images(tmp_path):
  files = [write_records(tmp_path / 'a', [1, 2]), write_records(tmp_path / 'b', [3])]
  input_checks.check_annotations(write_annotations(tmp_path / 'a.json', [3, 2, 1, 9]), files)


def test_annotations_of_other_images(tmp_path):
  files = [write_records(tmp_path / 'a', [1, 2]), write_records(tmp_path / 'b', [7])]
  with fails('does not have 2 images .* ids 2, 7: write both with one run of convert_dataset'):
    input_checks.check_annotations(write_annotations(tmp_path / 'a.json', [1]), files)


@pytest.mark.parametrize('text', ['not json', '[]', '{}', '{"images": [{}]}'])
def test_file_that_holds_no_annotations(tmp_path, text):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with fails('is not a COCO annotation file'):
    input_checks.check_annotations(str(path), [])


def test_missing_annotations(tmp_path):
  with fails('task.annotation_file is .*does not exist.*or null'):
    input_checks.check_annotations(str(tmp_path / 'a.json'), [])


def test_only_what_the_mode_reads_is_checked(tmp_path):
  def data(path):
    return types.SimpleNamespace(input_path=str(path), file_type='tfrecord')

  good, bad = write_records(tmp_path / 'good', [1]), tmp_path / 'absent'
  annotations = write_annotations(tmp_path / 'a.json', [1])
  task = types.SimpleNamespace(
      train_data=data(good), validation_data=data(bad), annotation_file=annotations)
  input_checks.check_task(task, 'train')
  for mode in ('eval', 'train_and_eval', 'continuous_eval'):
    with fails('task.validation_data.input_path'):
      input_checks.check_task(task, mode)
  task.train_data, task.validation_data = data(bad), data(good)
  input_checks.check_task(task, 'eval')
  with fails('task.train_data.input_path'):
    input_checks.check_task(task, 'train_and_eval')
  write_annotations(tmp_path / 'a.json', [2])
  with fails('ids 1'):
    input_checks.check_task(task, 'eval')
  task.annotation_file = None
  input_checks.check_task(task, 'eval')


def test_data_that_are_no_local_records_are_left_alone():
  data = types.SimpleNamespace(input_path='', file_type='tfrecord')
  task = types.SimpleNamespace(train_data=data, validation_data=data, annotation_file='absent')
  input_checks.check_task(task, 'train_and_eval')
