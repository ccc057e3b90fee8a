"""Model Garden decodes the content of the data set; each flaw is reported with its file."""
import io
import json
import sys

import numpy as np
from PIL import Image
from pycocotools import coco as pycocotools_coco
import pytest
import tensorflow as tf

import dataset_files
from dataset_files import coco_annotation, coco_image, write_coco, write_image
from official_ext.tools import convert_dataset
from official_ext.tools import make_sample_data
from official_ext.utils import command_line


def _convert(monkeypatch, source, target, *options):
  monkeypatch.setattr(sys, 'argv', ['convert_dataset', f'--input={source}',
                                    f'--output_dir={target}', *options])
  convert_dataset.main()
  return target


def _read(folder, split):
  """Returns image id -> what Model Garden's decoder gives for it."""
  paths = sorted(str(path) for path in folder.glob(f'{split}-*.tfrecord'))
  return dataset_files.decode(tf.data.TFRecordDataset(paths))


def _findings(folder, outcome, split=None):
  """Returns reason -> files with their details, of all splits or of one."""
  report = json.loads((folder / 'report.json').read_text())
  return dataset_files.by_reason(report['findings'], outcome, split)


def _assert_equal_to_coco(folder, annotation_file, split, num_masks):
  """Asserts that records, their annotation file and the original file have the same content."""
  records = _read(folder, split)
  original = pycocotools_coco.COCO(str(annotation_file))
  written = pycocotools_coco.COCO(str(folder / 'annotations' / f'{split}.json'))
  assert set(records) == set(original.imgs) == set(written.imgs)
  compared = 0
  for image_id, record in records.items():
    image = original.imgs[image_id]
    assert (record['width'], record['height']) == (image['width'], image['height'])
    size = np.array([image['height'], image['width']] * 2)
    for data in (original, written):
      annotations = data.imgToAnns[image_id]
      assert record['groundtruth_classes'].tolist() == [a['category_id'] for a in annotations]
      assert record['groundtruth_is_crowd'].tolist() == [bool(a['iscrowd']) for a in annotations]
      boxes = np.array([a['bbox'] for a in annotations]).reshape(-1, 4)
      boxes = np.concatenate([boxes[:, 1::-1], boxes[:, 1::-1] + boxes[:, :1:-1]], axis=-1)
      np.testing.assert_allclose(record['groundtruth_boxes'] * size, boxes, atol=0.02)
      if num_masks:
        for annotation, mask in zip(annotations, record['groundtruth_instance_masks']):
          np.testing.assert_array_equal(mask, data.annToMask(annotation))
          compared += 1
  assert compared == 2 * num_masks


def test_sample_data_comes_back_with_boxes_classes_and_masks(tmp_path, monkeypatch):
  sample = tmp_path / 'sample'
  monkeypatch.setattr(sys, 'argv', ['make_sample_data', f'--output_dir={sample}',
                                    '--num_train=7', '--num_val=3', '--image_size=64'])
  make_sample_data.main()
  folder = _convert(monkeypatch, sample, tmp_path / 'records', '--include_masks',
                    '--num_shards=3', '--licence=ours')
  for split in ('train', 'val'):
    path = sample / 'annotations' / f'{split}.json'
    number = len(json.loads(path.read_text())['annotations'])
    _assert_equal_to_coco(folder, path, split, number)
  assert sorted(path.name for path in folder.glob('train*')) == [
      f'train-{number:05d}-of-00003.tfrecord' for number in range(3)]
  dataset = json.loads((folder / 'dataset.json').read_text())
  assert dataset['licence'] == 'ours'
  assert dataset['num_classes'] == 11 and dataset['class_names']['1'] == '0'
  assert dataset['splits']['train']['num_images'] == 7
  assert (folder / 'classes.txt').read_text().splitlines()[9] == '10 9'
  for record in tf.data.TFRecordDataset(str(folder / 'val-00000-of-00003.tfrecord')).take(1):
    features = tf.train.Example.FromString(record.numpy()).features.feature
    name = features['image/filename'].bytes_list.value[0].decode()
    assert features['image/encoded'].bytes_list.value[0] == (
        sample / 'images' / 'val' / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize('name, masks', [('bccd', False), ('nuclei', True), ('coco_mini', True)])
def test_real_data_come_back(real_data, tmp_path, monkeypatch, name, masks):
  folder = _convert(monkeypatch, real_data / name, tmp_path / 'records',
                    *(['--include_masks'] if masks else []))
  assert not _findings(folder, 'dropped') and not _findings(folder, 'fixed')
  path = real_data / name / 'annotations' / 'instances_val.json'
  number = len(json.loads(path.read_text())['annotations'])
  _assert_equal_to_coco(folder, path, 'val', number if masks else 0)


def test_flaws_of_coco_data_are_mended_or_dropped_by_name(tmp_path, monkeypatch):
  source = tmp_path / 'data'
  images = source / 'images'
  for name in ('good.jpg', 'empty.png', 'wrong_size.jpg', 'crowd.jpg'):
    write_image(images / name)
  write_image(images / 'broken.jpg')
  (images / 'broken.jpg').write_bytes((images / 'broken.jpg').read_bytes()[:-200])
  entries = [coco_image(3, 'good.jpg'), coco_image(4, 'empty.png'),
             coco_image(5, 'wrong_size.jpg', (80, 60)), coco_image(6, 'crowd.jpg'),
             coco_image(7, 'broken.jpg'), coco_image(8, 'missing.jpg')]
  write_coco(source, entries, [
      coco_annotation(1, 3, [1, 2, 10, 11]), coco_annotation(2, 3, [30, 20, 20, 20], 7),
      coco_annotation(3, 3, [50, 5, 5, 5]), coco_annotation(4, 3, [5, 5, 0, 5]),
      coco_annotation(5, 3, [5, 5, 5, 5], 2), coco_annotation(6, 99, [5, 5, 5, 5]),
      coco_annotation(7, 3, [5, 5, 5]), coco_annotation(8, 3, [5, 5, float('nan'), 5]),
      coco_annotation(9, 5, [0, 0, 40, 30]), coco_annotation(10, 6, [1, 1, 9, 9], iscrowd=1)])
  folder = _convert(monkeypatch, source, tmp_path / 'records', '--keep_images_that_lost_labels')
  train = _read(folder, 'train')
  assert sorted(train) == [3, 4, 5, 6]
  np.testing.assert_allclose(train[3]['groundtruth_boxes'] * [30, 40, 30, 40],
                             [[2, 1, 13, 11], [20, 30, 30, 40]], atol=1e-4)
  assert train[3]['groundtruth_classes'].tolist() == [1, 7]
  assert train[4]['groundtruth_boxes'].shape == (0, 4)
  assert (train[5]['width'], train[5]['height']) == (40, 30)
  np.testing.assert_allclose(train[5]['groundtruth_boxes'], [[0, 0, 0.5, 0.5]])
  assert train[6]['groundtruth_is_crowd'].tolist() == [True]
  reasons = _findings(folder, 'dropped', 'train')
  assert set(_findings(folder, 'dropped', 'val')) == set(reasons)
  assert set(reasons) == {
      'image file is missing',
      'image file is broken', 'annotation is for an image that is not listed',
      'box has no area', 'box is outside the image', 'box is not four numbers',
      'box is not finite', 'category is unknown'}
  (missing,) = reasons['image file is missing']
  assert missing.startswith('missing.jpg looked for it in the data folder, in images/train, ')
  assert reasons['image file is broken'][0].startswith('broken.jpg ')
  assert reasons['box has no area'] == ['good.jpg annotation 4']
  assert 'image id 99' in reasons['annotation is for an image that is not listed'][0]
  fixed = _findings(folder, 'fixed', 'train')
  assert fixed['box reached over the edge of the image: clipped'] == ['good.jpg annotation 2']
  assert fixed['image size in the annotations is not that of the file: boxes scaled by the same '
               'factor'] == ['wrong_size.jpg 80 x 60, is 40 x 30: times 0.5']
  noted = _findings(folder, 'noted', 'train')
  assert noted['image has no boxes: kept'] == ['empty.png']
  assert noted['image lost labels: kept'] == ['good.jpg 4 of 6']
  written = json.loads((folder / 'annotations' / 'train.json').read_text())
  assert [a['id'] for a in written['annotations']] == [1, 2, 3, 4]
  assert json.loads((folder / 'dataset.json').read_text())['num_classes'] == 8


def _make_empty(folder):
  folder.mkdir()


def _make_foreign(folder):
  folder.mkdir()
  (folder / 'notes.txt').write_text('hello')


def _make_not_json(folder):
  (folder / 'annotations').mkdir(parents=True)
  (folder / 'annotations' / 'train.json').write_text('{')


def _make_no_boxes_key(folder):
  (folder / 'annotations').mkdir(parents=True)
  (folder / 'annotations' / 'train.json').write_text('{"images": [], "categories": []}')


def _make_bad_header(folder):
  folder.mkdir()
  (folder / 'train.csv').write_text('file,x,y\n')


def _make_no_usable_image(folder):
  write_coco(folder, [coco_image(1, 'none.jpg')], [])


def _make_two_names(folder):
  write_coco(folder, [], [], [dict(id=1, name='cat'), dict(id=1, name='dog')])


@pytest.mark.parametrize('make, message', [
    (lambda folder: None, 'is not a folder'), (_make_empty, 'is empty'),
    (_make_foreign, 'no annotation file'), (_make_not_json, 'train.json is not a JSON'),
    (_make_no_boxes_key, 'train.json .*"annotations"'), (_make_bad_header, 'no column image'),
    (_make_no_usable_image, 'no image of train'), (_make_two_names, "both 'cat' and 'dog'")])
def test_refuses_in_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, make, message):
  make(tmp_path / 'data')
  with pytest.raises(command_line.CommandError, match=message):
    _convert(monkeypatch, tmp_path / 'data', tmp_path / 'records')
  assert {path.name for path in tmp_path.iterdir()} <= {'data'}


def test_a_failure_half_way_leaves_the_earlier_result(tmp_path, monkeypatch):
  source = tmp_path / 'data'
  for name in ('a', 'b'):
    write_image(source / 'images' / f'{name}.jpg')
  write_coco(source, [coco_image(1, 'a.jpg'), coco_image(2, 'b.jpg')], [])
  folder = _convert(monkeypatch, source, tmp_path / 'records')
  before = {path.name: path.read_bytes() for path in folder.glob('*.*')}

  class FullDisk:
    """Stands in for a TFRecord writer on a disk without space."""

    def __init__(self, path):
      del path

    def write(self, record):
      raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')

  monkeypatch.setattr(tf.io, 'TFRecordWriter', FullDisk)
  with pytest.raises(command_line.CommandError, match='No space left'):
    _convert(monkeypatch, source, folder)
  assert {path.name: path.read_bytes() for path in folder.glob('*.*')} == before
  assert {path.name for path in tmp_path.iterdir()} == {'data', 'records'}


def test_never_replaces_the_input_or_a_folder_of_others(tmp_path, monkeypatch):
  write_image(tmp_path / 'data' / 'images' / 'a.jpg')
  write_coco(tmp_path / 'data', [coco_image(1, 'a.jpg')], [])
  with pytest.raises(command_line.CommandError, match='holds --input'):
    _convert(monkeypatch, tmp_path / 'data', tmp_path)
  with pytest.raises(command_line.CommandError, match='not written by this command'):
    _convert(monkeypatch, tmp_path / 'data', tmp_path / 'data' / 'images')
  assert Image.open(io.BytesIO((tmp_path / 'data' / 'images' / 'a.jpg').read_bytes())).size
