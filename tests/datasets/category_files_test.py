"""The classes of a training are found: in its own file, or in its annotation file."""
import json
import types

import pytest

from official_ext.datasets import category_files

ENTRIES = [{'id': 1, 'name': 'rot', 'original_id': 0}, {'id': 2, 'name': 'grün', 'original_id': 7}]


def task(annotation_file, num_classes=3):
  return types.SimpleNamespace(annotation_file=annotation_file and str(annotation_file),
                               model=types.SimpleNamespace(num_classes=num_classes))


@pytest.fixture
def annotations(tmp_path):
  path = tmp_path / 'val.json'
  path.write_text(json.dumps({'images': [], 'categories': ENTRIES}), encoding='utf-8')
  return path


def test_a_training_keeps_the_classes_of_its_records(tmp_path, annotations):
  run = tmp_path / 'run'
  category_files.save_for_training(task(annotations), run)
  assert [path.name for path in run.iterdir()] == ['categories.json']
  annotations.unlink()
  for path in (run, run / 'ckpt-3', run / 'best_ckpt' / 'ckpt-3'):
    assert category_files.of_training(path, task(annotations)).to_coco() == ENTRIES


def test_an_earlier_training_has_its_annotation_file(tmp_path, annotations):
  (tmp_path / 'run').mkdir()
  assert category_files.of_training(tmp_path / 'run', task(annotations)).to_coco() == ENTRIES
  # The classes of the records have no `original_id` in a file that another program wrote.
  annotations.write_text(json.dumps({'categories': [{'id': 2, 'name': 'dog'}]}))
  found = category_files.of_task(task(annotations))
  assert found.original_ids == {2: 2} and found.names == {2: 'dog'}


@pytest.mark.parametrize('content', ['{', '{}', '[]', '{"categories": [{"id": "x", "name": "y"}]}'])
def test_without_classes_nothing_is_written(tmp_path, annotations, content):
  assert not category_files.of_task(task(None))
  assert not category_files.of_task(task(tmp_path / 'nowhere.json'))
  assert not category_files.of_task(task(annotations, num_classes=2))
  annotations.write_text(content)
  category_files.save_for_training(task(annotations), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_damaged_file_gives_way_to_the_annotation_file(tmp_path, annotations):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'categories.json').write_text('{')
  assert category_files.of_training(tmp_path / 'run', task(annotations)).to_coco() == ENTRIES
