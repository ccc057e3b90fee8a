"""Image files are found once, and are read as a viewer shows them."""
import io

import numpy as np
from PIL import Image
import pytest

from dataset_files import write_image
from official_ext.datasets import findings
from official_ext.datasets import image_files
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


def test_pixels_are_read_as_stored(tmp_path):
  write_image(tmp_path / 'a.png', mode='L')
  pixels = image_files.read(tmp_path / 'a.png')
  assert pixels.shape == (30, 40, 3) and pixels.dtype == np.uint8
  stored = np.asarray(Image.open(tmp_path / 'a.png'))
  np.testing.assert_array_equal(pixels, np.repeat(stored[..., None], 3, axis=-1))


@pytest.mark.parametrize('mode, suffix, encoding, change', [
    ('RGB', 'jpg', 'jpg', ''), ('L', 'jpg', 'jpg', ''), ('RGB', 'png', 'png', ''),
    ('L', 'png', 'png', ''), ('P', 'png', 'png', 'image was PNG P: stored as PNG RGB'),
    ('CMYK', 'jpg', 'png', 'image was JPEG CMYK: stored as PNG RGB'),
    ('RGB', 'bmp', 'png', 'image was BMP RGB: stored as PNG RGB'),
    ('P', 'gif', 'png', 'image was GIF P: stored as PNG RGB')])
def test_what_model_garden_decodes_keeps_its_bytes(tmp_path, mode, suffix, encoding, change):
  path = tmp_path / f'a.{suffix}'
  write_image(path, mode=mode)
  image = image_files.read_encoded(path)
  assert (image.encoding, image.size, image.change) == (encoding, (40, 30), change)
  assert (image.content == path.read_bytes()) == (not change)
  pixels = np.asarray(Image.open(io.BytesIO(image.content)).convert('RGB'))
  np.testing.assert_array_equal(pixels, np.asarray(Image.open(path).convert('RGB')))


def test_a_photograph_is_turned_if_its_annotations_are_for_the_turned_image(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # viewers turn it clockwise
  write_image(tmp_path / 'a.jpg', exif=exif)
  turned = image_files.read_encoded(tmp_path / 'a.jpg', (30, 40))
  assert turned.size == (30, 40) and turned.change == 'image turned as its EXIF data say'
  expected = np.rot90(np.asarray(Image.open(tmp_path / 'a.jpg')), -1)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(turned.content))), expected)
  for size in ((40, 30), (None, None)):
    image = image_files.read_encoded(tmp_path / 'a.jpg', size)
    assert image.size == (40, 30) and not image.change


def test_a_broken_image_is_refused(tmp_path):
  write_image(tmp_path / 'a.jpg')
  (tmp_path / 'a.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:-200])
  with pytest.raises(findings.UnusableError, match='image file is broken: '):
    image_files.read_encoded(tmp_path / 'a.jpg')
