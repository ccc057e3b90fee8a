"""CSV: a row for each box, splits by file or by column, and bad rows by their line."""
import numpy as np
import pytest

from dataset_files import by_reason, convert, write_image
from layout_files import read
from official_ext.utils import command_line

HEADER = 'image,xmin,ymin,xmax,ymax,class'


def test_csv_with_a_file_for_each_split(tmp_path):
  for name in ('a', 'b', 'c'):
    write_image(tmp_path / 'images' / f'{name}.jpg')
  (tmp_path / 'train.csv').write_text(
      f'{HEADER}\na.jpg,1,2,11,12,dog\na.jpg,x,2,11,12,dog\nb.jpg,,,,,\na.jpg,9,9,5,5,dog\n')
  (tmp_path / 'val.csv').write_text(f'{HEADER}\nc.jpg,0,0,20,15,cat\n')
  converted = convert(tmp_path, keep_images_that_lost_labels=True)
  train = converted.records['train']
  np.testing.assert_allclose(train[1]['groundtruth_boxes'] * [30, 40, 30, 40],
                             [[2, 1, 12, 11]], atol=1e-5)
  assert train[1]['groundtruth_classes'].tolist() == [2] and len(train) == 2
  assert by_reason(converted.findings, 'dropped') == {
      'box is not four numbers': ['a.jpg annotation train.csv line 3'],
      'box has a negative width or height': [
          'a.jpg annotation train.csv line 5 [9.0, 9.0, -4.0, -4.0]']}


def test_a_column_names_the_split(tmp_path):
  (tmp_path / 'all.csv').write_text(
      f'{HEADER},split\na,1,2,4,6,dog,Train\nb,1,2,4,6,cat,val\nc,1,2,4,6,,\n')
  splits = read(tmp_path).splits
  assert {name: [image['file_name'] for image in split.images]
          for name, split in splits.items()} == {'train': ['a', 'c'], 'val': ['b']}
  assert [entry['bbox'] for entry in splits['train'].annotations] == [[1, 2, 3, 4]] * 2
  assert [entry['category_id'] for entry in splits['train'].annotations] == [2, None]
  assert splits['train'].categories == [dict(id=1, name='cat'), dict(id=2, name='dog')]


@pytest.mark.parametrize('files, message', [
    ({'train.csv': 'picture,x,y\n'}, 'no column image, xmin'),
    ({'a.csv': HEADER, 'b.csv': HEADER}, r'exactly one CSV file; it has a\.csv, b\.csv'),
    ({'a.csv': f'{HEADER},split\na,1,2,3,4,dog,both\n'}, r"a\.csv line 2: split is 'both'")])
def test_files_that_cannot_be_understood_are_named(tmp_path, files, message):
  for name, text in files.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(command_line.CommandError, match=message):
    read(tmp_path, 'csv')
