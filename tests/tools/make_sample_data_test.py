"""Equal options compose equal bytes; boxes and masks are true; no scan is in both splits."""
import hashlib
import io
import json
import sys

import numpy as np
from PIL import Image
from pycocotools import coco as pycocotools_coco
import pytest

from official_ext.tools import make_sample_data
from official_ext.utils import command_line


def _make(monkeypatch, folder, *options):
  monkeypatch.setattr(sys, 'argv', ['make_sample_data', f'--output_dir={folder}', *options])
  make_sample_data.main()
  return folder


def _digests(folder):
  return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
          for path in sorted(folder.rglob('*')) if path.is_file()}


_SMALL = ('--num_train=12', '--num_val=6', '--image_size=96')


def test_same_options_same_bytes_and_another_seed_another_set(tmp_path, monkeypatch):
  first = _digests(_make(monkeypatch, tmp_path / 'a', *_SMALL))
  second = _digests(_make(monkeypatch, tmp_path / 'b', *_SMALL))
  other = _digests(_make(monkeypatch, tmp_path / 'c', *_SMALL, '--seed=1'))
  assert first == second
  assert len(first) == 12 + 6 + 3
  assert not set(first.values()) & set(other.values())


def test_more_images_leave_the_first_ones_as_they_are(tmp_path, monkeypatch):
  few = _digests(_make(monkeypatch, tmp_path / 'a', '--num_train=2', '--num_val=1',
                       '--image_size=64'))
  more = _digests(_make(monkeypatch, tmp_path / 'b', '--num_train=4', '--num_val=2',
                        '--image_size=64'))
  assert {name: more[name] for name in few if name.endswith('.jpg')} == {
      name: digest for name, digest in few.items() if name.endswith('.jpg')}


def test_boxes_are_tight_masks_are_visible_parts_and_pycocotools_reads_them(
    tmp_path, monkeypatch):
  folder = _make(monkeypatch, tmp_path / 'a', *_SMALL)
  numbers = set()
  for split, number in (('train', 12), ('val', 6)):
    data = pycocotools_coco.COCO(str(folder / 'annotations' / f'{split}.json'))
    assert len(data.imgs) == number
    assert [data.cats[key]['name'] for key in range(1, 11)] == list('0123456789')
    for image in data.imgs.values():
      path = folder / 'images' / split / image['file_name']
      assert Image.open(path).size == (image['width'], image['height']) == (96, 96)
      annotations = data.imgToAnns[image['id']]
      numbers.add(len(annotations))
      covered = np.zeros((96, 96), int)
      for annotation in annotations:
        mask = data.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        assert annotation['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1,
                                      np.ptp(rows) + 1]
        assert annotation['area'] == mask.sum() > 0
        covered += mask
      assert covered.max() == 1, 'masks of visible parts cannot overlap'
  assert 1 in numbers and max(numbers) >= 8, 'images should differ in what they need'


def test_model_gardens_own_converter_reads_boxes_and_masks(tmp_path, monkeypatch):
  from official.vision.data import create_coco_tf_record
  folder = _make(monkeypatch, tmp_path / 'a', '--num_train=6', '--num_val=1', '--image_size=64')
  data = pycocotools_coco.COCO(str(folder / 'annotations' / 'train.json'))
  names = {key: category['name'] for key, category in data.cats.items()}
  for annotations in data.imgToAnns.values():
    lists, num_skipped = create_coco_tf_record.coco_annotations_to_lists(
        annotations, names, 64, 64, include_masks=True)
    assert num_skipped == 0
    for annotation, encoded in zip(annotations, lists['encoded_mask_png'], strict=True):
      mask = np.asarray(Image.open(io.BytesIO(encoded)))
      np.testing.assert_array_equal(mask, data.annToMask(annotation))


def test_masks_cover_the_digits_that_are_drawn():
  """On a black photograph the bright pixels are those that the masks cover."""
  scans = [np.pad(np.ones((1, 4, 4), np.float32), ((0, 0), (2, 2), (2, 2)))] * 10
  photograph = Image.new('RGB', (128, 128))
  for seed in range(5):
    image, objects = make_sample_data.compose(scans, [photograph], 128,
                                              np.random.default_rng(seed))
    union = np.any([mask for _, mask in objects], axis=0)
    bright = image.max(axis=-1) > 0
    assert not (union & ~bright).any()
    # Edges are blended over a few pixels outside the mask.
    assert (bright & ~union).sum() < 0.5 * union.sum()
    assert {category for category, _ in objects} <= set(range(1, 11))


def test_smaller_digits_have_as_many_pixels_on_a_larger_photograph(tmp_path, monkeypatch):
  def heights(folder):
    data = json.loads((folder / 'annotations/train.json').read_text())
    return sorted(annotation['bbox'][3] for annotation in data['annotations'])

  plain = heights(_make(monkeypatch, tmp_path / 'a', *_SMALL, '--image_size=128'))
  large = heights(_make(monkeypatch, tmp_path / 'b', *_SMALL, '--image_size=256',
                        '--digit_size=0.5'))
  # Other places are drawn, at which other digits find no room.
  assert abs(len(large) - len(plain)) <= 0.1 * len(plain)
  assert abs(np.median(large) - np.median(plain)) <= 0.1 * np.median(plain)
  assert max(large) <= 0.8 * 128


def test_no_scan_and_no_part_of_a_photograph_is_in_both_splits():
  scans = make_sample_data.load_scans()
  for digit in range(10):
    train, val = ({scan.tobytes() for scan in scans[split][digit]} for split in ('train', 'val'))
    assert len(train) > 100 and len(val) > 40
    assert not train & val
  photographs = make_sample_data.load_photographs(1)
  for train, val in zip(photographs['train'], photographs['val']):
    assert train.height == val.height
    assert train.width == round(0.7 * (train.width + val.width))


def test_digits_can_be_told_apart():
  """A nearest-neighbor classifier of the scans of train knows most scans of val."""
  from sklearn import neighbors
  scans = make_sample_data.load_scans()
  flat = {split: np.concatenate(scans[split]).reshape(-1, 64) for split in scans}
  labels = {split: np.repeat(np.arange(10), [len(part) for part in scans[split]])
            for split in scans}
  model = neighbors.KNeighborsClassifier(3).fit(flat['train'], labels['train'])
  assert model.score(flat['val'], labels['val']) > 0.9


@pytest.mark.parametrize('option', ['--num_train=0', '--num_val=-1', '--image_size=32',
                                    '--seed=-1', '--digit_size=0', '--digit_size=1.5',
                                    '--digit_size=nan'])
def test_wrong_options_are_named(tmp_path, monkeypatch, option):
  with pytest.raises(command_line.CommandError, match=option.split('=', maxsplit=1)[0]):
    _make(monkeypatch, tmp_path / 'a', option)
  assert not (tmp_path / 'a').exists()


def test_never_replaces_a_folder_of_others(tmp_path, monkeypatch):
  (tmp_path / 'thesis.txt').write_text('precious')
  with pytest.raises(command_line.CommandError, match='not written by this command'):
    _make(monkeypatch, tmp_path, *_SMALL)
  assert (tmp_path / 'thesis.txt').read_text() == 'precious'


def test_annotations_have_no_machine_paths(tmp_path, monkeypatch):
  folder = _make(monkeypatch, tmp_path / 'a', '--num_train=1', '--num_val=1', '--image_size=64')
  assert json.loads((folder / 'sample.json').read_text()) == dict(
      num_train=1, num_val=1, image_size=64, digit_size=1, seed=0)
  for path in folder.rglob('*.json'):
    assert str(tmp_path) not in path.read_text()
