"""An image file is found by the stated rule, never by a guess, and never outside of the data."""
import os
import time
import unicodedata

import pytest

from layout_files import write
from official_ext.datasets import annotations
from official_ext.datasets import findings
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names

CAFE = 'caf\u00e9.jpg'


def finder(root, *files):
  for name in files:
    write(root / name, name)
  return file_names.ImageFinder(data_folder.DataFolder(root))


@pytest.mark.parametrize('file, name, change', [
    ('images/a.jpg', 'a.jpg', ''), ('images/a.jpg', 'images/a.jpg', ''),
    ('images/a.jpg', '../images/a.jpg', ''),
    ('images/a.jpg', 'images\\a.jpg', file_names.BY_PARTS),
    ('images/a.jpg', 'C:\\me\\data\\a.jpg', file_names.BY_PARTS),
    ('images/a.jpg', '\\\\server\\share\\images\\a.jpg', file_names.BY_PARTS),
    ('images/a.jpg', '/home' + '/me/images/a.jpg', file_names.BY_PARTS),
    ('images/a.jpg', 'file:///data/images/a.jpg', file_names.BY_PARTS),
    ('images/a.jpg', 'https://host.org/x/a.jpg?size=1#top', file_names.BY_PARTS),
    ('images/a.jpg', 'gs://bucket/images/a.jpg', file_names.BY_PARTS),
    ('images/a b.jpg', '/data/local-files/?d=images/a%20b.jpg', file_names.BY_PARTS),
    ('images/a b.jpg', 'a%20b.jpg', file_names.BY_PARTS),
    ('images/a%20b.jpg', 'a%20b.jpg', ''), ('images/a.jpg', ' a.jpg ', file_names.BY_PARTS),
    ('images/a.jpg', 'A.JPG', file_names.BY_PARTS), ('images/A.JPG', 'a.jpg', file_names.BY_PARTS),
    ('images/x\\y.jpg', 'x\\y.jpg', ''), ('images/' + CAFE, CAFE, ''),
    ('images/' + unicodedata.normalize('NFD', CAFE), CAFE, file_names.BY_PARTS),
    ('images/' + CAFE, unicodedata.normalize('NFD', CAFE), file_names.BY_PARTS),
    ('images/a.png', 'a.jpg', file_names.BY_STEM), ('images/a.png', 'a', file_names.BY_STEM),
    ('images/a.rf.12.PNG', 'D:\\a.rf.12.jpg', file_names.BY_STEM)])
def test_names_are_found_in_every_spelling(tmp_path, file, name, change):
  found = finder(tmp_path, file, 'images/other.jpg').find(name, [tmp_path / 'images', tmp_path])
  assert found == annotations.FoundImage(tmp_path / file, file, change)


@pytest.mark.parametrize('name, file', [
    ('site a/1.jpg', 'images/site a/1.jpg'), ('C:\\x\\site b\\1.jpg', 'images/site b/1.jpg'),
    ('C:\\x\\2.jpg', 'train/2.jpg')])
def test_the_last_parts_tell_files_of_one_name_apart(tmp_path, name, file):
  files = ['images/site a/1.jpg', 'images/site b/1.jpg', 'train/2.jpg', 'val/2.jpg']
  assert finder(tmp_path, *files).find(name, [tmp_path / 'train', tmp_path]).name == file


@pytest.mark.parametrize('name', ['1.jpg', 'C:\\elsewhere\\1.jpg', '1.png'])
def test_an_ambiguous_name_is_not_guessed(tmp_path, name):
  with pytest.raises(findings.UnusableError) as error:
    finder(tmp_path, 'site a/1.jpg', 'site b/1.jpg').find(name, [tmp_path])
  assert error.value.reason == 'image file name fits several files'
  assert error.value.detail == 'site a/1.jpg, site b/1.jpg'


def test_nothing_outside_is_found(tmp_path):
  root = tmp_path / 'data'
  write(tmp_path / 'secret.jpg', 'secret')
  write(tmp_path / 'more' / 'secret2.jpg', 'secret')
  root.mkdir()
  (root / 'link.jpg').symlink_to(tmp_path / 'secret.jpg')
  (root / 'linked').symlink_to(tmp_path / 'more')
  (root / 'loop').symlink_to(root)
  find = finder(root, 'a.jpg')
  for name in ('../secret.jpg', str(tmp_path / 'secret.jpg'), 'link.jpg', 'linked/secret2.jpg',
               'x/../../secret.jpg', '..\\secret.jpg', '%2e%2e/secret.jpg', 'file:///secret.jpg'):
    with pytest.raises(findings.UnusableError) as error:
      find.find(name, [root, tmp_path, root / '..'])
    assert error.value.reason == 'image file is missing'
    assert 'links that lead out of it are not followed: ' in error.value.detail
  with data_folder.open_input(root, follow_links=True) as data:
    assert data.files == ['a.jpg', 'link.jpg', 'linked/secret2.jpg']
    assert not data.outside


def test_what_is_missing_says_where_it_was_looked_for(tmp_path):
  with pytest.raises(findings.UnusableError) as error:
    finder(tmp_path, 'images/a.jpg').find('b.jpg', [tmp_path / 'images', tmp_path])
  assert str(error.value) == (
      'image file is missing: looked for it in the data folder, in images there, and anywhere for '
      'b with any suffix of an image')


def split(name, folder, *files):
  return annotations.Split(name, name, [dict(id=number, file_name=file)
                                        for number, file in enumerate(files)], [], [], [folder])


def test_one_file_is_not_taken_for_two_names(tmp_path):
  """val/1.jpg is missing: train/1.jpg, which has the same name, must not stand for it."""
  write(tmp_path / 'train' / '1.jpg', '')
  train = split('train', tmp_path, 'train/1.jpg')
  val = split('val', tmp_path, 'val/1.jpg', 'c:\\x\\2.jpg')
  file_names.find_images(data_folder.DataFolder(tmp_path), [train, val])
  assert train.find_image('train/1.jpg') == tmp_path / 'train' / '1.jpg'
  with pytest.raises(findings.UnusableError, match='no file but one that another name means'):
    val.locate_image('val/1.jpg')


def test_a_missing_image_is_not_one_of_its_name_in_another_split(tmp_path):
  """valid/1.jpg is missing, and each split names its files without its folder."""
  for name in ('train/1.jpg', 'train/2.jpg', 'valid/2.jpg'):
    write(tmp_path / name, '')
  train = split('train', tmp_path / 'train', '1.jpg', '2.jpg')
  val = split('val', tmp_path / 'valid', '1.jpg', '2.jpg')
  for splits in ([train, val], [val, train]):
    file_names.find_images(data_folder.DataFolder(tmp_path), splits)
    assert train.find_image('1.jpg') == tmp_path / 'train' / '1.jpg'
    assert val.find_image('2.jpg') == tmp_path / 'valid' / '2.jpg'
    with pytest.raises(findings.UnusableError, match='no file but one that another name means'):
      val.locate_image('1.jpg')
    train.found.clear()
    val.found.clear()


def test_a_picture_of_two_splits_is_found_by_its_last_parts_in_both(tmp_path):
  write(tmp_path / 'images' / '1.jpg', '')
  splits = [split(name, tmp_path, 'C:\\data\\1.jpg') for name in ('train', 'val')]
  file_names.find_images(data_folder.DataFolder(tmp_path), splits)
  assert [part.find_image('C:\\data\\1.jpg') for part in splits] == [
      tmp_path / 'images' / '1.jpg'] * 2


@pytest.mark.parametrize('name, candidates, partner', [
    ('images/train/1.jpg', ['labels/train/1.txt', 'labels/val/1.txt'], 'labels/train/1.txt'),
    ('train/images/1.jpg', ['train/labels/1.txt', 'val/labels/1.txt'], 'train/labels/1.txt'),
    ('1.jpg', ['labels/1.txt'], 'labels/1.txt'), ('a/b/1.jpg', ['x/y/z/1.txt'], 'x/y/z/1.txt'),
    ('a/1.jpg', ['a/1.txt', 'b/1.txt'], 'a/1.txt'), ('a/1.jpg', ['b/1.txt', 'c/1.txt'], None),
    ('Annotations/1.xml', ['SegmentationClass/1.png', 'JPEGImages/1.jpg'], 'JPEGImages/1.jpg'),
    ('a/1.jpg', ['a/11.txt'], None)])
def test_partners(name, candidates, partner):
  assert file_names.partners([name], candidates).get(name) == partner


def test_a_partner_is_not_taken_from_a_closer_one():
  images = ['train/images/1.jpg', 'val/images/1.jpg']
  assert file_names.partners(images, ['val/labels/1.txt']) == {images[1]: 'val/labels/1.txt'}


def test_the_index_of_names_is_made_once(tmp_path):
  data = data_folder.DataFolder(tmp_path)
  data.files = [f'images/{number // 1000}/{number}.jpg' for number in range(20_000)]
  start = time.process_time()
  find = file_names.ImageFinder(data)
  for number in range(0, 20_000, 10):
    found = find.find(f'C:\\data\\{number}.JPG', [tmp_path / 'images', tmp_path])
    assert found.name == data.files[number]
  assert time.process_time() - start < 3


def test_files_of_other_kinds_are_left_out(tmp_path):
  for name in ('a.jpg', '._a.jpg', '.hidden/b.jpg', '__MACOSX/c.jpg', 'x/.DS_Store'):
    write(tmp_path / name, '')
  os.mkfifo(tmp_path / 'pipe.jpg')
  assert data_folder.DataFolder(tmp_path).files == ['a.jpg']
