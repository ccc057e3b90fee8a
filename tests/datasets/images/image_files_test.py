"""Image files are found once."""
import argparse

import pytest

from dataset_files import write_image
from official_ext.datasets.images import image_files
from official_ext.utils import command_line


def test_images_are_found_once_in_folders_and_as_files(tmp_path):
  for name in ('b.PNG', 'a.jpg', 'deep/c.gif', 'notes.txt'):
    write_image(tmp_path / 'images' / name, format='PNG')
  other = tmp_path / 'without_suffix'
  other.touch()
  images = tmp_path / 'images'
  assert image_files.find([other, images, images / 'a.jpg']) == [
      other, images / 'a.jpg', images / 'b.PNG', images / 'deep' / 'c.gif']


def test_no_image_and_no_folder_are_refused(tmp_path):
  with pytest.raises(command_line.CommandError, match='none: no such file or folder'):
    image_files.find([tmp_path / 'none'])
  with pytest.raises(command_line.CommandError, match='holds no image'):
    image_files.find([tmp_path])


def test_hidden_files_and_folders_are_no_data(tmp_path):
  for name in ('a.jpg', '._a.jpg', '.thumbnails/a.jpg', '__MACOSX/a.jpg', 'b/c.d.jpg'):
    write_image(tmp_path / '.data' / name)
  (tmp_path / '.data' / 'folder.jpg').mkdir()
  (tmp_path / '.data' / 'nowhere.jpg').symlink_to('lost')
  folder = tmp_path / '.data'
  assert image_files.find([folder]) == [
      folder / 'a.jpg', folder / 'b' / 'c.d.jpg', folder / 'nowhere.jpg']
  assert image_files.find([folder / '._a.jpg']) == [folder / '._a.jpg']


@pytest.mark.parametrize('text, value', [('1000', 1000), (str(2**29 - 1), 2**29 - 1)])
def test_the_limit_of_pixels(text, value):
  parser = argparse.ArgumentParser()
  image_files.add_max_pixels_argument(parser)
  assert parser.parse_args([]).max_pixels == image_files.MAX_PIXELS
  assert parser.parse_args([f'--max_pixels={text}']).max_pixels == value


@pytest.mark.parametrize('text', ['0', '-1', 'many', str(2**29)])
def test_a_limit_that_no_decoder_allows_is_refused(text, capsys):
  parser = argparse.ArgumentParser()
  image_files.add_max_pixels_argument(parser)
  with pytest.raises(SystemExit):
    parser.parse_args([f'--max_pixels={text}'])
  assert text in capsys.readouterr().err
