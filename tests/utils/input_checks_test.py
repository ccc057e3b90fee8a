"""Errors name a wrong file and its field before anything is built."""
import json
import types

from official.core import input_reader
import pytest
import record_files

from official_ext.datasets.records import record_decoding
from official_ext.utils import command_line
from official_ext.utils import input_checks


def write_records(path, image_ids):
  return record_files.write(
      path, [record_files.example(source_id=[str(i).encode()]) for i in image_ids])


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


def test_names_are_no_patterns_where_model_garden_takes_none(tmp_path):
  folder = tmp_path / 'data[v2]'
  folder.mkdir()
  path = write_records(folder / 'a.tfrecord', [1])
  assert input_checks.check_records(path, 'x') == input_reader.match_files(path) == [path]
  with fails(r'matches no file.* A \[ or \] has a meaning in patterns.*overrides.yaml'):
    input_checks.check_records(f'{folder}/*.tfrecord', 'x')


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
  input_checks.check_annotations(
      write_annotations(tmp_path / 'a.json', [3, 2, 1, 9]), ['1', '2', '3'])


def test_annotations_of_other_images(tmp_path):
  with fails('does not have 2 images .* ids 2, 7: write both with one run of convert_dataset'):
    input_checks.check_annotations(
        write_annotations(tmp_path / 'a.json', [1]), ['1', '2', '7'])


@pytest.mark.parametrize('text', ['not json', '[]', '{}', '{"images": [{}]}'])
def test_file_that_holds_no_annotations(tmp_path, text):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with fails('is not a COCO annotation file'):
    input_checks.check_annotations(str(path), [])


def test_missing_annotations(tmp_path):
  with fails('task.annotation_file is .*does not exist.*or null'):
    input_checks.check_annotations(str(tmp_path / 'a.json'), [])


def detection_task(train, validation, annotation_file=None, **model):
  """Returns what the checks read of a detection task."""

  def data(path):
    return types.SimpleNamespace(input_path=str(path), file_type='tfrecord')

  return types.SimpleNamespace(
      train_data=data(train), validation_data=data(validation), annotation_file=annotation_file,
      model=types.SimpleNamespace(num_classes=3, input_size=[64, 64, 3], **model))


def test_only_what_the_mode_reads_is_checked(tmp_path):
  good, bad = write_records(tmp_path / 'good', [1]), tmp_path / 'absent'
  annotations = write_annotations(tmp_path / 'a.json', [1])
  task = detection_task(good, bad, annotations)
  input_checks.check_task(task, 'train')
  for mode in ('eval', 'train_and_eval', 'continuous_eval'):
    with fails('task.validation_data.input_path'):
      input_checks.check_task(task, mode)
  task = detection_task(bad, good, annotations)
  input_checks.check_task(task, 'eval')
  with fails('task.train_data.input_path'):
    input_checks.check_task(task, 'train_and_eval')
  write_annotations(tmp_path / 'a.json', [2])
  with fails('ids 1'):
    input_checks.check_task(task, 'eval')
  task.annotation_file = None
  input_checks.check_task(task, 'eval')


def test_images_that_evaluation_leaves_out_are_told(tmp_path, capsys):
  records = write_records(tmp_path / 'records', [1, 2, 3])
  task = detection_task(records, records)
  for size, drops, said in ((2, False, ''), (3, True, ''), (4, False, ''),
                            (2, True, 'in batches of 2 (global_batch_size) leaves out 1 of 3')):
    task.validation_data.global_batch_size, task.validation_data.drop_remainder = size, drops
    input_checks.check_task(task, 'eval')
    out = capsys.readouterr().out
    assert said in out and out.startswith('Doubtful: ' if said else '')
    assert bool(out) == bool(said)
  task.validation_data.global_batch_size = 4
  with fails('drop_remainder is true, .* leaves out 3 of 3 images: set it to false'):
    input_checks.check_task(task, 'train_and_eval')
  input_checks.check_task(task, 'train')


def test_records_that_a_task_cannot_use_are_found_at_the_start(tmp_path):
  good = write_records(tmp_path / 'good', [1])
  text = write_records(tmp_path / 'text', ['a.jpg'])
  input_checks.check_task(detection_task(text, good), 'train_and_eval')
  with fails("validation_data.input_path: text record 1 cat.png: .*whole number.*'a.jpg'"):
    input_checks.check_task(detection_task(good, text), 'train_and_eval')
  with fails('train_data.input_path: good record 1 cat.png: record has no masks'):
    input_checks.check_task(detection_task(good, good, include_mask=True), 'train')
  with fails('annotation_file is null, but masks'):
    input_checks.check_task(detection_task(good, good, include_mask=True), 'eval')
  twice = write_records(tmp_path / 'twice', [3, 4, 3])
  input_checks.check_task(detection_task(twice, good), 'train_and_eval')
  with fails('validation_data.input_path: twice record 3 cat.png: image id is there twice'):
    input_checks.check_task(detection_task(good, twice), 'eval')
  no_id = record_files.write(tmp_path / 'none', [record_files.example(source_id=None)])
  with fails('train_data.input_path: .*none: record has no image/source_id'):
    input_checks.check_task(detection_task(no_id, good), 'train')


def test_ids_that_are_there_twice_are_found_in_all_records(tmp_path, monkeypatch):
  monkeypatch.setattr(input_checks, '_LOOKED_AT', 2)
  twice = write_records(tmp_path / 'twice', [3, 4, 3])
  with fails("two images have the image/source_id '3' .cat.png and cat.png"):
    input_checks.check_task(detection_task(twice, twice), 'eval')


# Images of which Model Garden makes the same id of 22 bits, and another one.
SAME_ID, OTHER_ID = (b'1831', b'3563'), b'1'


@pytest.mark.parametrize('regenerates', [False, True])
def test_ids_that_model_garden_makes_are_checked(tmp_path, regenerates):
  """It makes them if it is told so, and where the text of an id is empty."""
  assert len(set(map(record_decoding.generated_id, SAME_ID))) == 1

  def task(name, *images, source_id=b''):
    found = detection_task('absent', record_files.write(tmp_path / name, [
        record_files.example(encoded=[image], source_id=[source_id]) for image in images]))
    found.validation_data.decoder = types.SimpleNamespace(regenerate_source_id=regenerates)
    return found

  twice = task('twice', OTHER_ID, *SAME_ID)
  input_checks.check_generated_ids(twice, 'train')
  with fails('validation_data.input_path: Model Garden makes the image id 2305215 out of twice '
             'record 2 cat.png and of twice record 3 cat.png, .*convert_dataset'):
    input_checks.check_generated_ids(twice, 'eval')
  input_checks.check_generated_ids(task('once', OTHER_ID, SAME_ID[0]), 'train_and_eval')
  given = task('given', SAME_ID[0], SAME_ID[0], source_id=b'7')
  if not regenerates:
    input_checks.check_generated_ids(given, 'eval')


def test_a_late_record_is_found_after_an_error(tmp_path, monkeypatch):
  records = [record_files.example()] * 3 + [record_files.example(object__class__label=[1, 9])]
  task = detection_task(record_files.write(tmp_path / 'late', records), tmp_path / 'absent')
  monkeypatch.setattr(input_checks, '_LOOKED_AT', 3)
  input_checks.check_task(task, 'train')
  found = input_checks.problem_of_all_records(task, 'train')
  assert 'late record 4 cat.png: class id is not in 1 to num_classes - 1 = 2' in found


def test_data_that_are_no_local_records_are_left_alone():
  data = types.SimpleNamespace(input_path='', file_type='tfrecord')
  task = types.SimpleNamespace(train_data=data, validation_data=data, annotation_file='absent')
  input_checks.check_task(task, 'train_and_eval')
