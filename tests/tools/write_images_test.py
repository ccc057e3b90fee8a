"""Images of records become files, and annotations name them."""
import json
import sys

import dataset_files
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official_ext.tools import convert_dataset
from official_ext.tools import write_images
from official_ext.utils import command_line


def run(monkeypatch, tool, *arguments) -> None:
  monkeypatch.setattr(sys, 'argv', [tool.__name__, *arguments])
  tool.main()


@pytest.mark.parametrize('name, suffix, expected', [
    ('val/a.jpg', '.jpg', 'val/a.jpg'), ('a.JPEG', '.jpg', 'a.JPEG'),
    ('a.tif', '.png', 'a.tif.png'),
    ('C:\\data\\a.png', '.png', 'data/a.png'), ('/data/a.png', '.png', 'data/a.png'),
    ('../../.a/./b.png', '.png', 'a/b.png'), ('http://x.org/a.jpg', '.jpg', 'x.org/a.jpg'),
    ('a\nb:c.jpg', '.jpg', 'a_b_c.jpg'), ('..', '.jpg', '7.jpg'), (300 * 'x', '.png', '7.png'),
    (' \u00fc 1.jpg', '.jpg', '\u00fc 1.jpg'), ('\udcff.jpg', '.jpg', '?.jpg')])
def test_a_name_stays_below_its_folder(name, suffix, expected):
  assert write_images.file_name(name, 7, suffix, set()) == expected


def test_two_names_never_become_one_file():
  taken = set()
  assert [write_images.file_name(name, number, '.png', taken) for number, name in enumerate(
      ('a.png', '../a.png', 'A.PNG', 'a'))] == ['a.png', '1/a.png', '2/A.PNG', '3/a.png']


@pytest.mark.parametrize('names, expected', [
    (('a.png', '2/a.png', 'A.png'), ['a.png', '2/a.png', '2_2/A.png']),
    (('a.png', '2_2/A.PNG', '2/a.png', '2/A.png'), ['a.png', '2_2/A.PNG', '2/a.png', '3/2/A.png']),
    # Composed and decomposed letters, and two ways to write small letters of one word.
    (('\u00e9.png', 'e\u0301.png'), ['\u00e9.png', '1/e\u0301.png']),
    (('stra\u00dfe.png', 'STRASSE.png'), ['stra\u00dfe.png', '1/STRASSE.png']),
    # A file where another image has a folder.
    (('a.png', 'a.png/b.png'), ['a.png', '1/a.png/b.png']),
    (('A.png/b.png', 'a.png'), ['A.png/b.png', '1/a.png']),
    (('1', '1/x.png', '1.png/x.png'), ['1.png', '1/x.png', '2/1.png/x.png'])])
def test_no_disk_takes_two_names_for_one_file(names, expected):
  taken = set()
  assert [write_images.file_name(name, number, '.png', taken)
          for number, name in enumerate(names)] == expected


def test_every_image_has_the_bytes_of_its_record(monkeypatch, tmp_path):
  source, records, output = (tmp_path / name for name in ('in', 'records [1]', 'out'))
  names = ('a.jpg', 'sub/a.jpg', 'b.tif', '\u00fc ,1.png')
  for name in names:
    dataset_files.write_image(source / 'images' / name)
  dataset_files.write_coco(
      source, [dataset_files.coco_image(number, name) for number, name in enumerate(names, 5)],
      [dataset_files.coco_annotation(1, 6, [1, 2, 3, 4])])
  run(monkeypatch, convert_dataset, f'--input={source}', f'--output_dir={records}')
  run(monkeypatch, write_images, f'--data={records}', f'--output_dir={output}', '--split=train')
  content = json.loads((output / 'annotations.json').read_text())
  assert content['annotations'] == json.loads(
      (records / 'annotations/train.json').read_text())['annotations']
  written = {image['id']: image['file_name'] for image in content['images']}
  assert written == {5: 'a.jpg', 6: 'sub/a.jpg', 7: 'b.tif.png', 8: '\u00fc ,1.png'}
  for number in (5, 6, 8):
    assert (output / 'images' / written[number]).read_bytes() == (
        source / 'images' / names[number - 5]).read_bytes()
  with (Image.open(output / 'images' / written[7]) as image,
        Image.open(source / 'images/b.tif') as original):
    np.testing.assert_array_equal(np.asarray(image), np.asarray(original))


def test_damaged_records_are_named(monkeypatch, tmp_path):
  source, records = tmp_path / 'in', tmp_path / 'records'
  dataset_files.write_image(source / 'images/a.jpg')
  dataset_files.write_coco(source, [dataset_files.coco_image(1, 'a.jpg')],
                           [dataset_files.coco_annotation(1, 1, [1, 2, 3, 4])])
  run(monkeypatch, convert_dataset, f'--input={source}', f'--output_dir={records}')

  def refused(said):
    with pytest.raises(command_line.CommandError, match=said):
      write_images.write(records, 'train', tmp_path)

  with pytest.raises(command_line.CommandError, match='has no split test; it has train, val'):
    write_images.write(records, 'test', tmp_path)
  annotations = records / 'annotations/train.json'
  content = annotations.read_text()
  for images in ([], [{'id': 1}], [{'file_name': 'a.jpg'}]):
    annotations.write_text(json.dumps({**json.loads(content), 'images': images}))
    refused('train.json names no file of the image 1')
  annotations.write_text(content)
  file, = records.glob('train*.tfrecord')
  encoded = file.read_bytes()
  for fields in ({}, {'image/source_id': tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[b'x']))}):
    with tf.io.TFRecordWriter(str(file)) as writer:
      writer.write(tf.train.Example(
          features=tf.train.Features(feature=fields)).SerializeToString())
    refused('damaged record')
  file.write_bytes(encoded[:-9])
  refused('damaged record')
