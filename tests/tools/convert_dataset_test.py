"""Model Garden reads back what was in the data; every flaw is fixed, dropped or refused by name."""
import io
import json
import sys

import numpy as np
from PIL import Image
from pycocotools import coco as pycocotools_coco
from pycocotools import mask as mask_lib
import pytest
import tensorflow as tf

from official.vision.dataloaders import tf_example_decoder
from official_ext.tools import convert_dataset
from official_ext.tools import make_sample_data
from official_ext.utils import command_line

_RNG = np.random.default_rng(0)


def _convert(monkeypatch, source, target, *options):
  monkeypatch.setattr(sys, 'argv', ['convert_dataset', f'--input={source}',
                                    f'--output_dir={target}', *options])
  convert_dataset.main()
  return target


def _read(folder, split):
  """Image id -> what Model Garden's decoder gives for it."""
  decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
  files = sorted(str(path) for path in folder.glob(f'{split}-*.tfrecord'))
  records = [decoder.decode(record) for record in tf.data.TFRecordDataset(files)]
  result = {int(record['source_id'].numpy()): {key: value.numpy() for key, value in record.items()}
            for record in records}
  assert len(result) == len(records), 'an image id is there twice'
  return result


def _findings(folder, outcome):
  """Reason -> files with their details."""
  report = json.loads((folder / 'report.json').read_text())
  return {item['reason']: [' '.join((entry['file'], entry['detail'])).strip()
                           for entry in item['items']]
          for item in report['findings'] if item['outcome'] == outcome}


def _write_image(path, size=(40, 30), mode='RGB', **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = _RNG.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
  Image.fromarray(pixels).convert(mode).save(path, **options)


def _annotation(number, image, box, category=1, **more):
  return dict(id=number, image_id=image, bbox=box, category_id=category, **more)


def _write_coco(folder, images, annotations, categories=None, splits=('train', 'val')):
  categories = categories or [dict(id=1, name='cat'), dict(id=7, name='dog')]
  for split in splits:
    path = folder / 'annotations' / f'{split}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=images, annotations=annotations, categories=categories)
    path.write_text(json.dumps(content))


def _entry(number, name, size=(40, 30)):
  return dict(id=number, file_name=name, width=size[0], height=size[1])


def _assert_equal_to_coco(folder, annotation_file, split, num_masks):
  """The records, the JSON beside them and the original JSON say the same."""
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
                    '--num_shards=3')
  for split in ('train', 'val'):
    path = sample / 'annotations' / f'{split}.json'
    number = len(json.loads(path.read_text())['annotations'])
    _assert_equal_to_coco(folder, path, split, number)
  assert sorted(path.name for path in folder.glob('train*')) == [
      f'train-{number:05d}-of-00003.tfrecord' for number in range(3)]
  dataset = json.loads((folder / 'dataset.json').read_text())
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
    _write_image(images / name)
  _write_image(images / 'broken.jpg')
  (images / 'broken.jpg').write_bytes((images / 'broken.jpg').read_bytes()[:-200])
  entries = [_entry(3, 'good.jpg'), _entry(4, 'empty.png'), _entry(5, 'wrong_size.jpg', (80, 60)),
             _entry(6, 'crowd.jpg'), _entry(7, 'broken.jpg'), _entry(8, 'missing.jpg'),
             _entry(9, 'good.jpg')]
  _write_coco(source, entries, [
      _annotation(1, 3, [1, 2, 10, 11]), _annotation(2, 3, [30, 20, 20, 20], 7),
      _annotation(3, 3, [50, 5, 5, 5]), _annotation(4, 3, [5, 5, 0, 5]),
      _annotation(5, 3, [5, 5, 5, 5], 2), _annotation(6, 99, [5, 5, 5, 5]),
      _annotation(7, 3, [5, 5, 5]), _annotation(8, 3, [5, 5, float('nan'), 5]),
      _annotation(9, 5, [0, 0, 40, 30]), _annotation(10, 6, [1, 1, 9, 9], iscrowd=1)])
  folder = _convert(monkeypatch, source, tmp_path / 'records')
  train = _read(folder, 'train')
  assert sorted(train) == [3, 4, 5, 6]
  np.testing.assert_allclose(train[3]['groundtruth_boxes'] * [30, 40, 30, 40],
                             [[2, 1, 13, 11], [20, 30, 30, 40]], atol=1e-4)
  assert train[3]['groundtruth_classes'].tolist() == [1, 7]
  assert train[4]['groundtruth_boxes'].shape == (0, 4)
  assert (train[5]['width'], train[5]['height']) == (40, 30)
  assert train[6]['groundtruth_is_crowd'].tolist() == [True]
  reasons = _findings(folder, 'dropped')
  assert set(reasons) == {
      'image is listed twice: only the first is kept', 'image file is missing',
      'image file is broken', 'annotation is for an image that is not listed',
      'box has no area', 'box is outside the image', 'box is not four numbers',
      'box is not finite', 'category is unknown'}
  assert reasons['image file is missing'] == ['missing.jpg']
  assert reasons['image file is broken'][0].startswith('broken.jpg ')
  assert reasons['box has no area'] == ['good.jpg annotation 4']
  assert 'image id 99' in reasons['annotation is for an image that is not listed'][0]
  fixed = _findings(folder, 'fixed')
  assert fixed['box reached over the edge of the image: clipped'] == ['good.jpg annotation 2']
  assert fixed['image size in the annotations is not that of the file'] == [
      'wrong_size.jpg 80 x 60, is 40 x 30']
  assert _findings(folder, 'noted')['image has no boxes: kept'] == ['empty.png']
  written = json.loads((folder / 'annotations' / 'train.json').read_text())
  assert [a['id'] for a in written['annotations']] == [1, 2, 3, 4]
  assert json.loads((folder / 'dataset.json').read_text())['num_classes'] == 8


def test_ids_from_zero_and_names_as_ids_are_renumbered(tmp_path, monkeypatch):
  _write_image(tmp_path / 'data' / 'images' / 'a.jpg')
  _write_image(tmp_path / 'data' / 'images' / 'b.jpg')
  _write_coco(tmp_path / 'data', [_entry('x', 'a.jpg'), _entry('y', 'b.jpg')],
              [_annotation(1, 'y', [1, 1, 5, 5], 0), _annotation(2, 'x', [1, 1, 5, 5], 4)],
              [dict(id=0, name='cat'), dict(id=4, name='dog')])
  folder = _convert(monkeypatch, tmp_path / 'data', tmp_path / 'records')
  train = _read(folder, 'train')
  assert {key: record['groundtruth_classes'].tolist() for key, record in train.items()} == {
      1: [5], 2: [1]}
  assert len(_findings(folder, 'fixed')) == 2
  assert json.loads((folder / 'dataset.json').read_text())['class_names'] == {
      '1': 'cat', '5': 'dog'}


def test_masks_as_run_lengths_and_missing_masks(tmp_path, monkeypatch):
  _write_image(tmp_path / 'data' / 'images' / 'a.jpg')
  mask = np.zeros((30, 40), np.uint8)
  mask[5:15, 8:20] = 1
  mask[8:10, 10:12] = 0
  encoded = mask_lib.encode(np.asfortranarray(mask))
  compressed = dict(size=encoded['size'], counts=encoded['counts'].decode())
  runs = np.diff(np.flatnonzero(np.diff(mask.ravel('F'), prepend=1 - mask[0, 0],
                                        append=2))).tolist()
  box = [8, 5, 12, 10]
  _write_coco(tmp_path / 'data', [_entry(1, 'a.jpg')], [
      _annotation(1, 1, box, segmentation=compressed),
      _annotation(2, 1, box, segmentation=dict(size=[30, 40], counts=runs)),
      _annotation(3, 1, box, segmentation=[[8, 5, 20, 5, 20, 15, 8, 15]]),
      _annotation(4, 1, box), _annotation(5, 1, box, segmentation=dict(size=[9, 9], counts=[81])),
      _annotation(6, 1, box, segmentation=dict(size=[30, 40], counts=[1200]))])
  folder = _convert(monkeypatch, tmp_path / 'data', tmp_path / 'records', '--include_masks')
  masks = _read(folder, 'train')[1]['groundtruth_instance_masks']
  filled = mask.copy()
  filled[8:10, 10:12] = 1
  np.testing.assert_array_equal(masks, [mask, mask, filled])
  assert sorted(reason.split(' for size')[0] for reason in _findings(folder, 'dropped')) == [
      'mask is empty', 'run lengths are', 'there is no mask']


@pytest.mark.parametrize('mode, suffix, is_changed', [
    ('RGB', 'jpg', False), ('L', 'jpg', False), ('RGB', 'png', False), ('L', 'png', False),
    ('CMYK', 'jpg', True), ('P', 'png', True), ('RGBA', 'png', True), ('RGB', 'bmp', True),
    ('RGB', 'webp', True), ('P', 'gif', True)])
def test_images_of_every_kind_decode_to_what_a_viewer_shows(
    tmp_path, monkeypatch, mode, suffix, is_changed):
  name = f'a.{suffix}'
  _write_image(tmp_path / 'data' / 'images' / name, mode=mode)
  _write_coco(tmp_path / 'data', [_entry(1, name)], [_annotation(1, 1, [1, 1, 5, 5])])
  folder = _convert(monkeypatch, tmp_path / 'data', tmp_path / 'records')
  expected = np.asarray(Image.open(tmp_path / 'data' / 'images' / name).convert('RGB'), int)
  # Two JPEG decoders round differently; anything that is stored as PNG is exact.
  tolerance = 6 if suffix == 'jpg' and not is_changed else 0
  assert np.abs(_read(folder, 'train')[1]['image'] - expected).max() <= tolerance
  assert bool(_findings(folder, 'fixed')) == is_changed


def test_sixteen_bit_images_and_turned_photographs(tmp_path, monkeypatch):
  images = tmp_path / 'data' / 'images'
  images.mkdir(parents=True)
  gray = _RNG.integers(0, 256, (30, 40)).astype(np.uint16)
  Image.fromarray(gray * 257).save(images / 'deep.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # turn clockwise to show
  _write_image(images / 'turned.jpg', exif=exif)
  _write_coco(tmp_path / 'data', [_entry(1, 'deep.png'), _entry(2, 'turned.jpg', (30, 40))],
              [_annotation(1, 2, [20, 30, 10, 10])])
  folder = _convert(monkeypatch, tmp_path / 'data', tmp_path / 'records')
  train = _read(folder, 'train')
  np.testing.assert_array_equal(train[1]['image'], np.repeat(gray[..., None], 3, axis=-1))
  turned = np.rot90(np.asarray(Image.open(images / 'turned.jpg')), -1)
  np.testing.assert_array_equal(train[2]['image'], turned)
  np.testing.assert_allclose(train[2]['groundtruth_boxes'], [[0.75, 2 / 3, 1, 1]], atol=1e-6)


def _voc_object(name, corners, more=''):
  keys = ('xmin', 'ymin', 'xmax', 'ymax')
  box = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, corners))
  return f'<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>'


def _write_voc(folder, stem, objects, size=(40, 30)):
  (folder / 'Annotations').mkdir(parents=True, exist_ok=True)
  (folder / 'Annotations' / f'{stem}.xml').write_text(
      f'<annotation><filename>old_name.jpg</filename><size><width>{size[0]}</width>'
      f'<height>{size[1]}</height></size>{"".join(objects)}</annotation>')
  _write_image(folder / 'JPEGImages' / f'{stem}.jpg')


def test_pascal_voc(tmp_path, monkeypatch):
  source = tmp_path / 'voc'
  _write_voc(source, 'a', [_voc_object('dog', (4, 3, 20, 15)),
                           _voc_object('cat', (1, 1, 9, 9), '<difficult>1</difficult>')])
  _write_voc(source, 'b', [])
  _write_voc(source, 'c', [_voc_object('cat', (0, 0, 40, 30))])
  (source / 'Annotations' / 'd.xml').write_text('<annotation><object>')
  lists = source / 'ImageSets' / 'Main'
  lists.mkdir(parents=True)
  (lists / 'train.txt').write_text('a\nb\nd\nnone\n')
  (lists / 'val.txt').write_text('c 1\n')
  folder = _convert(monkeypatch, source, tmp_path / 'records')
  train = _read(folder, 'train')
  np.testing.assert_allclose(train[1]['groundtruth_boxes'] * [30, 40, 30, 40],
                             [[3, 4, 15, 20], [1, 1, 9, 9]], atol=1e-5)
  assert train[1]['groundtruth_classes'].tolist() == [2, 1]
  assert len(train[2]['groundtruth_classes']) == 0
  assert _read(folder, 'val')[1]['groundtruth_classes'].tolist() == [1]
  broken = _findings(folder, 'dropped')['annotation file is broken or missing']
  assert [text.split()[0] for text in broken] == ['d.xml', 'none.xml']
  assert _findings(folder, 'noted')['object marked difficult: kept'] == ['a.xml object 2']


def test_csv_with_a_file_for_each_split(tmp_path, monkeypatch):
  source = tmp_path / 'csv'
  for name in ('a', 'b', 'c'):
    _write_image(source / 'images' / f'{name}.jpg')
  header = 'image,xmin,ymin,xmax,ymax,class\n'
  (source / 'train.csv').write_text(
      header + 'a.jpg,1,2,11,12,dog\na.jpg,x,2,11,12,dog\nb.jpg,,,,,\na.jpg,9,9,5,5,dog\n')
  (source / 'val.csv').write_text(header + 'c.jpg,0,0,20,15,cat\n')
  folder = _convert(monkeypatch, source, tmp_path / 'records')
  train = _read(folder, 'train')
  np.testing.assert_allclose(train[1]['groundtruth_boxes'] * [30, 40, 30, 40],
                             [[2, 1, 12, 11]], atol=1e-5)
  assert train[1]['groundtruth_classes'].tolist() == [2] and len(train) == 2
  assert _findings(folder, 'dropped') == {
      'box is not four numbers': ['a.jpg annotation train.csv line 3'],
      'box has no area': ['a.jpg annotation train.csv line 5']}


def test_a_fifth_is_held_out_the_same_every_time(tmp_path, monkeypatch):
  source = tmp_path / 'csv'
  rows = ['image,xmin,ymin,xmax,ymax,class']
  for number in range(10):
    _write_image(source / f'{number}.jpg')
    rows.append(f'{number}.jpg,1,1,9,9,cat')
  (source / 'all.csv').write_text('\n'.join(rows))
  names = []
  for target in ('one', 'two'):
    folder = _convert(monkeypatch, source, tmp_path / target)
    splits = [{image['file_name'] for image in json.loads(
        (folder / 'annotations' / f'{split}.json').read_text())['images']}
              for split in ('train', 'val')]
    assert len(splits[0]) == 8 and len(splits[1]) == 2 and not splits[0] & splits[1]
    assert any('held out' in reason for reason in _findings(folder, 'noted'))
    names.append(splits)
  assert names[0] == names[1]


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
  _write_coco(folder, [_entry(1, 'none.jpg')], [])


def _make_two_names(folder):
  _write_coco(folder, [], [], [dict(id=1, name='cat'), dict(id=1, name='dog')])


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
    _write_image(source / 'images' / f'{name}.jpg')
  _write_coco(source, [_entry(1, 'a.jpg'), _entry(2, 'b.jpg')], [])
  folder = _convert(monkeypatch, source, tmp_path / 'records')
  before = {path.name: path.read_bytes() for path in folder.glob('*.*')}

  class FullDisk:
    """A writer on a disk without space."""

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
  _write_image(tmp_path / 'data' / 'images' / 'a.jpg')
  _write_coco(tmp_path / 'data', [_entry(1, 'a.jpg')], [])
  with pytest.raises(command_line.CommandError, match='holds --input'):
    _convert(monkeypatch, tmp_path / 'data', tmp_path)
  with pytest.raises(command_line.CommandError, match='not written by this command'):
    _convert(monkeypatch, tmp_path / 'data', tmp_path / 'data' / 'images')
  assert Image.open(io.BytesIO((tmp_path / 'data' / 'images' / 'a.jpg').read_bytes())).size
