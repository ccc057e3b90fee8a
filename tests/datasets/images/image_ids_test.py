"""Images get the ids of their entries in an annotation file, whatever the names look like."""
import json
import pathlib
import unicodedata

import pytest

from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.utils import command_line


def truth(tmp_path, **names) -> truth_lib.Truth:
  """Returns an annotation file with the images `file name=id`."""
  path = tmp_path / 'annotations.json'
  path.write_text(json.dumps({
      'images': [{'id': number, 'file_name': name} for name, number in names.items()]}))
  return truth_lib.Truth(path)


def test_an_image_gets_the_id_of_the_entry_that_its_path_ends_in(tmp_path):
  found = [pathlib.Path('/data/a.jpg'), pathlib.Path('/data/sub/b.jpg'),
           pathlib.Path('/data/other/b.jpg')]
  entries = truth(tmp_path, **{'a.jpg': 7, 'sub/b.jpg': '9', 'c.jpg': 'eleven'})
  images = image_ids.assign(found, entries)
  assert images.paths == {7: found[0], '9': found[1]}
  assert images.unknown == [found[2]] and images.absent == ['c.jpg']
  assert image_ids.assign(found, None).paths == dict(enumerate(found, 1))


@pytest.mark.parametrize('name', [
    'sub\\b ü.jpg', 'SUB/B Ü.JPG', ' ./sub/b ü.jpg ', 'sub/b%20%C3%BC.jpg',
    unicodedata.normalize('NFD', 'sub/b ü.jpg'), 'C:\\pictures\\b ü.jpg', '/mount/x/b ü.jpg',
    'https://host/x/b%20%C3%BC.jpg?size=2', 'sub/b ü.PNG', 'b ü'])
def test_names_that_are_written_otherwise(tmp_path, name):
  found = [pathlib.Path('/data/sub/b ü.jpg'), pathlib.Path('/data/sub/c.jpg')]
  images = image_ids.assign(found, truth(tmp_path, **{name: 3}))
  assert images.paths == {3: found[0]} and images.unknown == [found[1]]


@pytest.mark.parametrize('name', ['/mount/b.jpg', 'train/b.jpg'])
def test_the_last_part_alone_is_not_enough_if_it_may_be_another_image(tmp_path, name):
  found = [pathlib.Path('/data/val/b.jpg'), pathlib.Path('/data/a.jpg')]
  found += [pathlib.Path('/data/test/b.jpg')] * (name[0] == '/')
  images = image_ids.assign(found, truth(tmp_path, **{name: 3, 'a.jpg': 1}))
  assert images.paths == {1: found[1]} and images.absent == [name]


def test_an_exact_name_wins_over_another_suffix(tmp_path):
  found = [pathlib.Path('/data/b.png'), pathlib.Path('/data/b.jpg'), pathlib.Path('/data/C.jpg'),
           pathlib.Path('/data/d.jpg'), pathlib.Path('/data/d.png')]
  images = image_ids.assign(found, truth(tmp_path, **{'b.jpg': 1, 'c.jpg': 2, 'd.bmp': 3}))
  assert images.paths == {1: found[1], 2: found[2]}
  assert images.unknown == [found[0], *found[3:]] and images.absent == ['d.bmp']


def test_annotation_files_that_do_not_fit_are_refused(tmp_path):
  entries = truth(tmp_path, **{'a.jpg': 7})
  twice = [pathlib.Path('/data/a.jpg'), pathlib.Path('/other/a.jpg')]
  with pytest.raises(command_line.CommandError, match='both fit one entry'):
    image_ids.assign(twice, entries)
  with pytest.raises(command_line.CommandError, match=r'has none of the 1 images.*like a\.jpg'):
    image_ids.assign([pathlib.Path('/data/b.jpg')], entries)
