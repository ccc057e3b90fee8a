"""Images of records become files, and annotations name them."""
import json
import sys

import dataset_files
import numpy as np
from PIL import Image
import pytest

from official_ext.tools import convert_dataset
from official_ext.tools import write_images


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
