"""COCO: annotation files are told apart by their names, and images are looked for beside them."""
import json

import pytest

from dataset_files import by_reason, coco_annotation, coco_image
from layout_files import read, save
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import readers
from official_ext.utils import command_line

CONTENT = dict(images=[coco_image(1, 'a.jpg'), coco_image(2, 'b.jpg')],
               annotations=[coco_annotation(1, 1, [1, 1, 2, 2])],
               categories=[dict(id=1, name='cat')])


def write(folder, *names, content=CONTENT):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_licences_are_read_of_all_files_of_a_split(tmp_path):
  names = [{'id': 1, 'name': 'CC0'}, {'id': 2}, 'MIT']
  write(tmp_path, 'train_a.json', content={**CONTENT, 'licenses': names})
  write(tmp_path, 'train_b.json', content={
      **CONTENT, 'images': [coco_image(8, 'c.jpg')], 'annotations': [],
      'licenses': [{'id': 1, 'name': 'BSD'}]})
  write(tmp_path, 'val.json', content={**CONTENT, 'licenses': 'none'})
  _, splits, _ = read(tmp_path)
  assert list(splits['train'].licences) == ['CC0', 'BSD'] and not splits['val'].licences


def test_names_are_relative_to_any_folder_that_says_the_split(tmp_path):
  names = ('day 0/1.jpg', 'day 1/1.jpg')
  for split in ('train', 'val'):
    for name in names:
      save(tmp_path / 'data' / split / name, [])
    write(tmp_path, f'labels/{split}.json', content={
        **CONTENT, 'images': [coco_image(number, name) for number, name in enumerate(names)]})
  _, splits, _ = read(tmp_path)
  for split in ('train', 'val'):
    assert {name: (found.name, found.change) for name, found in splits[split].found.items()} == {
        name: (f'data/{split}/{name}', '') for name in names}


def test_a_bare_name_is_that_in_the_fewest_folders(tmp_path):
  for folder in ('data/train/0', 'data/train', 'data/train/z', 'data/val'):
    save(tmp_path / folder / 'a.jpg', [])
  write(tmp_path, 'labels/train.json', 'labels/val.json',
        content={**CONTENT, 'images': [coco_image(1, 'a.jpg')]})
  _, splits, _ = read(tmp_path)
  assert [splits[name].find_image('a.jpg') for name in ('train', 'val')] == [
      tmp_path / 'data' / name / 'a.jpg' for name in ('train', 'val')]


@pytest.mark.parametrize('name', ['1.jpg', 'C:\\data\\1.jpg', '1.png'])
def test_a_bare_name_of_two_parts_of_a_split_is_ambiguous(tmp_path, name):
  for folder in ('train/day 0', 'train/day 1', 'val'):
    save(tmp_path / folder / '1.jpg', [])
  write(tmp_path, 'annotations/train.json', 'annotations/val.json',
        content={**CONTENT, 'images': [coco_image(1, name)]})
  _, splits, _ = read(tmp_path)
  assert splits['val'].find_image(name) == tmp_path / 'val' / '1.jpg'
  with pytest.raises(findings_lib.UnusableError, match='fits several files: train/day 0/1.jpg, '):
    splits['train'].locate_image(name)


def test_instances_are_preferred_to_captions(tmp_path):
  write(tmp_path, *(f'annotations/{kind}_{split}2017.json'
                    for kind in ('captions', 'instances') for split in ('train', 'val')))
  _, splits, findings = read(tmp_path)
  assert {name: split.source for name, split in splits.items()} == {
      split: str(tmp_path / 'annotations' / f'instances_{split}2017.json')
      for split in ('train', 'val')}
  assert not findings
  assert splits['train'].images == CONTENT['images']
  assert splits['train'].annotations == CONTENT['annotations']
  assert splits['train'].categories == CONTENT['categories']


@pytest.mark.parametrize('place', ['images/train', 'images/train2017', 'train', 'train2017',
                                   'images', '.', 'annotations'])
def test_images_are_looked_for_in_the_usual_places(tmp_path, place):
  write(tmp_path, 'annotations/instances_train2017.json')
  image = tmp_path / place / 'a.jpg'
  image.parent.mkdir(parents=True, exist_ok=True)
  image.touch()
  found = read(tmp_path).splits['train'].locate_image('a.jpg')
  assert found.path == image and not found.change


def test_a_single_file_is_for_training_and_a_test_file_stands_for_val(tmp_path):
  write(tmp_path, 'boxes.json')
  _, splits, findings = read(tmp_path)
  assert len(splits['train'].images) == len(splits['val'].images) == 1
  assert list(by_reason(findings, 'noted')) == [
      'no val split: 1 of the images held out, the same ones every time']
  write(tmp_path, 'train.json', 'test.json')
  _, splits, findings = read(tmp_path)
  assert splits['val'].source == str(tmp_path / 'test.json')
  assert by_reason(findings, 'noted') == {
      'there is no val split: the test split is used as val': ['test.json'],
      'annotation file is neither for train nor for val: not read': ['boxes.json']}
  write(tmp_path, 'val.json')
  _, splits, findings = read(tmp_path)
  assert splits['val'].source == str(tmp_path / 'val.json')
  assert by_reason(findings, 'noted')['annotation file is for test: not read'] == ['test.json']


def test_files_that_share_no_image_are_parts_of_one_split(tmp_path):
  other = dict(CONTENT, images=[coco_image(7, 'c.jpg')],
               annotations=[coco_annotation(1, 7, [3, 3, 2, 2])])
  write(tmp_path, 'annotations/instances_a.json')
  write(tmp_path, 'annotations/instances_b.json', content=other)
  write(tmp_path, 'annotations/val.json')
  _, splits, findings = read(tmp_path)
  assert splits['train'].images == CONTENT['images'] + other['images']
  assert splits['train'].annotations == CONTENT['annotations'] + other['annotations']
  assert splits['train'].categories == CONTENT['categories']
  assert by_reason(findings, 'noted') == {
      'several annotation files for train that share no image: read as one': [
          ', '.join(str(tmp_path / f'annotations/instances_{part}.json') for part in 'ab')]}


@pytest.mark.parametrize('changes, reason', [
    ({}, '2 of them have the image a.jpg'),
    ({'images': [coco_image(2.0, 'c.jpg')]}, '2 of them have the image id 2'),
    ({'images': [coco_image(3, 'c.jpg')], 'categories': [dict(id=1, name='dog')]},
     'their categories differ'),
    ({'images': [coco_image(3, 'c.jpg')]}, 'their images lie in different folders')])
def test_several_files_that_may_be_versions_of_one_split_are_refused(tmp_path, changes, reason):
  write(tmp_path, 'train_a.json')
  write(tmp_path, 'train_b.json', content=CONTENT | changes)
  (tmp_path / 'train_b').mkdir()
  with pytest.raises(command_line.CommandError,
                     match=rf'for train: .*train_a\.json, .*train_b\.json.* but {reason}: keep'):
    read(tmp_path)


def test_without_an_annotation_file_coco_is_refused(tmp_path):
  (tmp_path / 'x.txt').touch()
  with pytest.raises(command_line.CommandError, match=r'has no annotations/\*\.json'):
    read(tmp_path, 'coco')


@pytest.mark.parametrize('text, message', [
    ('{', 'not a JSON file'), ('[]', '"images"'), ('{"images": [], "annotations": {}}',
                                                   '"annotations"'),
    ('{"images": [], "annotations": [], "categories": [1]}', '"categories"')])
def test_files_of_another_kind_are_refused(tmp_path, text, message):
  (tmp_path / 'train.json').write_text(text)
  with pytest.raises(command_line.CommandError, match=f'train.json .*{message}'):
    readers.load_annotations(tmp_path / 'train.json')
