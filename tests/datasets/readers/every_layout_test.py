"""The same drawn data set in every layout: every box and mask is on its color, in its split."""
import shutil

import pytest

from dataset_files import by_reason
from layout_files import assert_is_truth, opened, WRITTEN


@pytest.mark.parametrize('name', WRITTEN)
def test_every_layout_gives_the_same_boxes(tmp_path, name):
  written = WRITTEN[name]
  written.writer(tmp_path)
  with opened(tmp_path) as (choice, splits, findings):
    assert choice.layout == written.layout
    assert_is_truth(splits, written.has_masks)
    assert not by_reason(findings, 'dropped') and not by_reason(findings, 'problem')


@pytest.mark.parametrize('name', ['roboflow_coco', 'voc_2007', 'yolo', 'labelme_embedded'])
def test_a_zip_is_read_like_its_folder(tmp_path, name):
  WRITTEN[name].writer(tmp_path / 'inside' / 'data')
  (tmp_path / 'inside' / '__MACOSX' / 'data').mkdir(parents=True)
  (tmp_path / 'inside' / '__MACOSX' / 'data' / '._train.json').write_bytes(b'\0\5\x16')
  archive = shutil.make_archive(str(tmp_path / 'data'), 'zip', tmp_path / 'inside')
  with opened(tmp_path / 'data.zip') as (_, splits, _):
    assert_is_truth(splits, WRITTEN[name].has_masks)
    unpacked = splits['train'].find_image(splits['train'].images[0]['file_name'])
    assert unpacked.is_file()
  assert not unpacked.exists() and archive


@pytest.mark.parametrize('name', WRITTEN)
def test_hidden_files_are_no_data(tmp_path, name):
  WRITTEN[name].writer(tmp_path)
  for path in [path for path in tmp_path.rglob('*') if path.is_file()]:
    (path.parent / f'._{path.name}').write_bytes(b'\0\5\x16\7Mac OS X\xb0')
  (tmp_path / '.DS_Store').write_bytes(b'\0\5')
  with opened(tmp_path) as (_, splits, _):
    assert_is_truth(splits, WRITTEN[name].has_masks)
