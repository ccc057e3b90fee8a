"""Images of folders and records, and the synthetic one."""
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official_ext.serving import data_images
from official_ext.utils import command_line


def test_images_of_records_and_of_files(tmp_path):
  file = tmp_path / 'a.png'
  Image.fromarray(np.random.default_rng(0).integers(0, 256, [5, 7, 3], np.uint8)).save(file)
  with tf.io.TFRecordWriter(str(tmp_path / 'x-0.tfrecord')) as writer:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.read_bytes()]))
    writer.write(tf.train.Example(
        features=tf.train.Features(feature={'image/encoded': feature})).SerializeToString())
  expected = np.asarray(Image.open(file))
  for data in (file, tmp_path, tmp_path / '*.png', tmp_path / '*.tfrecord'):
    images, total = data_images.decoded(str(data), (1, 1))
    (image,) = images
    assert total == 1
    np.testing.assert_array_equal(image, expected)


def test_images_below_a_folder_of_a_data_set(tmp_path):
  (tmp_path / 'LICENSE').write_text('of the data')
  for split in ('train', 'val'):
    (tmp_path / 'images' / split).mkdir(parents=True)
    Image.fromarray(np.zeros([6, 8, 3], np.uint8)).save(tmp_path / 'images' / split / 'a.png')
  assert data_images.decoded(str(tmp_path), (1, 1))[1] == 2
  with pytest.raises(command_line.CommandError, match='neither images nor TFRecords'):
    (tmp_path / 'empty').mkdir()
    data_images.decoded(str(tmp_path / 'empty'), (1, 1))


@pytest.mark.parametrize('name', ['a.tif', 'a.webp', 'a.gif'])
def test_images_of_all_suffixes_that_predict_takes(tmp_path, name):
  pixels = np.zeros([6, 8, 3], np.uint8)
  pixels[:, 4:] = 255
  Image.fromarray(pixels).save(tmp_path / name, lossless=True)
  images, total = data_images.decoded(str(tmp_path), (1, 1))
  assert total == 1
  np.testing.assert_array_equal(next(images), pixels)


def test_synthetic_image_is_always_the_same():
  first, second = (next(data_images.decoded(None, (4, 6))[0]) for _ in range(2))
  assert first.shape == (4, 6, 3) and len(np.unique(first)) > 10
  np.testing.assert_array_equal(first, second)


def test_image_that_cannot_be_read(tmp_path):
  (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8\xff broken')
  images, _ = data_images.decoded(str(tmp_path), (1, 1))
  with pytest.raises(command_line.CommandError, match='broken.jpg: image file is broken'):
    list(images)


@pytest.mark.parametrize('data', ['nowhere', 'nowhere-*.tfrecord'])
def test_data_that_are_not_there(data):
  with pytest.raises(command_line.CommandError, match=f'--data is .*{data[:7]}.*matches no file'):
    data_images.decoded(data, (1, 1))
