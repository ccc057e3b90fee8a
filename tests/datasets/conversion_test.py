"""Model Garden decodes the examples to what was in the data set."""
import itertools
import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_lib
import pytest
import tensorflow as tf

from dataset_files import by_reason, coco_annotation, coco_image, convert, write_coco, write_image
from official_ext.datasets import annotations
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import conversion
from official_ext.datasets import findings as findings_lib


def test_splits_may_have_other_ids_for_the_same_names(tmp_path):
  write_image(tmp_path / 'images' / 'a.jpg')
  for split, ids in (('train', ('1', 0)), ('val', (0, 1))):
    write_coco(tmp_path, [coco_image(7.0, 'a.jpg')], [
        coco_annotation(1, '7', [1, 1, 5, 5], ids[0]),
        coco_annotation(2, 7, [1, 1, 9, 5], float(ids[1]), iscrowd='0', area='12')],
               [dict(id=ids[0], name='cat'), dict(id=ids[1], name='dog')], [split])
  converted = convert(tmp_path)
  names = converted.categories.names
  for split in ('train', 'val'):
    assert [names[number] for number in converted.records[split][7]['groundtruth_classes']] == [
        'cat', 'dog']
    assert not converted.records[split][7]['groundtruth_is_crowd'].any()
    assert converted.coco[split]['annotations'][1]['area'] == 12
  assert converted.categories.original_ids == {1: 0, 2: '1'} and names == {1: 'dog', 2: 'cat'}


def test_ids_from_zero_and_names_as_ids_are_renumbered(tmp_path):
  write_image(tmp_path / 'images' / 'a.jpg')
  write_image(tmp_path / 'images' / 'b.jpg')
  write_coco(tmp_path, [coco_image('x', 'a.jpg'), coco_image('y', 'b.jpg')],
             [coco_annotation(1, 'y', [1, 1, 5, 5], 0), coco_annotation(2, 'x', [1, 1, 5, 5], 4)],
             [dict(id=0, name='cat'), dict(id=4, name='dog')])
  converted = convert(tmp_path)
  assert {key: record['groundtruth_classes'].tolist()
          for key, record in converted.records['train'].items()} == {1: [2], 2: [1]}
  assert len(by_reason(converted.findings, 'fixed')) == 2
  assert converted.categories.names == {1: 'cat', 2: 'dog'}
  assert converted.categories.original_ids == {1: 0, 2: 4}
  for split in ('train', 'val'):
    assert converted.coco[split]['categories'] == [
        dict(id=1, name='cat', original_id=0), dict(id=2, name='dog', original_id=4)]
    assert [(image['id'], image['original_id']) for image in converted.coco[split]['images']] == [
        (1, 'x'), (2, 'y')]


def test_masks_as_run_lengths_and_missing_masks(tmp_path):
  write_image(tmp_path / 'images' / 'a.jpg')
  mask = np.zeros((30, 40), np.uint8)
  mask[5:15, 8:20] = 1
  mask[8:10, 10:12] = 0
  encoded = mask_lib.encode(np.asfortranarray(mask))
  compressed = dict(size=encoded['size'], counts=encoded['counts'].decode())
  runs = [len(list(run)) for _, run in itertools.groupby(mask.ravel('F'))]  # begins with a 0
  box = [8, 5, 12, 10]
  write_coco(tmp_path, [coco_image(1, 'a.jpg')], [
      coco_annotation(1, 1, box, segmentation=compressed),
      coco_annotation(2, 1, box, segmentation=dict(size=[30, 40], counts=runs)),
      coco_annotation(3, 1, box, segmentation=[[8, 5, 20, 5, 20, 15, 8, 15]]),
      coco_annotation(4, 1, box),
      coco_annotation(5, 1, box, segmentation=dict(size=[9, 9], counts=[81])),
      coco_annotation(6, 1, box, segmentation=dict(size=[30, 40], counts=[1200]))])
  converted = convert(tmp_path, include_masks=True, keep_images_that_lost_labels=True)
  masks = converted.records['train'][1]['groundtruth_instance_masks']
  filled = mask.copy()
  filled[8:10, 10:12] = 1
  np.testing.assert_array_equal(masks, [mask, mask, filled])
  dropped = by_reason(converted.findings, 'dropped')
  assert sorted(reason.split(' for size')[0] for reason in dropped) == [
      'mask is empty', 'run lengths are', 'there is no mask']


def test_a_missing_box_is_that_around_the_mask(tmp_path):
  """Polygons and run lengths stand for the box, whether masks are written or not."""
  write_image(tmp_path / 'images' / 'a.jpg')
  mask = np.zeros((30, 40), np.uint8)
  mask[5:15, 8:20] = 1
  runs = [len(list(run)) for _, run in itertools.groupby(mask.ravel('F'))]
  write_coco(tmp_path, [coco_image(1, 'a.jpg')], [
      coco_annotation(1, 1, None, segmentation=[[8, 5, 20, 5, 20, 15, 8, 15]]),
      coco_annotation(2, 1, [], segmentation=dict(size=[30, 40], counts=runs)),
      coco_annotation(3, 1, [], segmentation=dict(size=[30, 40], counts=[1200])),
      coco_annotation(4, 1, None, segmentation=[[30, 5, 50, 5, 50, 15, 30, 15]])])
  for include_masks in (False, True):
    converted = convert(tmp_path, include_masks, keep_images_that_lost_labels=True)
    assert [entry['bbox'] for entry in converted.coco['train']['annotations']] == [
        [8, 5, 12, 10], [8, 5, 12, 10], [30, 5, 10, 10]]
    fixed = by_reason(converted.findings, 'fixed', 'train')
    assert fixed == {
        'annotation has no box: that around its polygon taken': [
            'a.jpg annotation 1', 'a.jpg annotation 4'],
        'annotation has no box: that around its mask taken': ['a.jpg annotation 2']}
    assert by_reason(converted.findings, 'dropped', 'train') == {
        'box is not four numbers': ['a.jpg annotation 3 []']}


def test_areas_are_those_of_the_file_or_else_of_the_mask_or_else_of_the_box(tmp_path):
  write_image(tmp_path / 'images' / 'a.jpg')
  polygon = [[30, 20, 60, 20, 60, 24, 30, 24]]  # 10 x 4 pixels inside the image
  write_coco(tmp_path, [coco_image(1, 'a.jpg')], [
      coco_annotation(1, 1, [1, 2, 3, 4], area=7, segmentation=polygon),
      coco_annotation(2, 1, [30, 20, 30, 5], area=7, segmentation=polygon),
      coco_annotation(3, 1, [1, 2, 3, 4], area=0, segmentation=polygon),
      coco_annotation(4, 1, [1, 2, 3, 4], segmentation=polygon)])
  for include_masks, areas in ((False, [7, 10 * 5, 12, 12]), (True, [7, *3 * [10 * 4]])):
    entries = convert(tmp_path, include_masks).coco['train']['annotations']
    assert [entry['area'] for entry in entries] == areas
    assert ['segmentation' in entry for entry in entries] == [include_masks] * 4


@pytest.mark.parametrize('mode, suffix, is_changed', [
    ('RGB', 'jpg', False), ('L', 'jpg', False), ('RGB', 'png', False), ('L', 'png', False),
    ('CMYK', 'jpg', False), ('P', 'png', True), ('RGBA', 'png', True), ('RGB', 'bmp', True),
    ('RGB', 'webp', True), ('P', 'gif', True)])
def test_images_of_every_kind_decode_to_what_a_viewer_shows(tmp_path, mode, suffix, is_changed):
  name = f'a.{suffix}'
  write_image(tmp_path / 'images' / name, mode=mode)
  write_coco(tmp_path, [coco_image(1, name)], [coco_annotation(1, 1, [1, 1, 5, 5])])
  converted = convert(tmp_path)
  expected = np.asarray(Image.open(tmp_path / 'images' / name).convert('RGB'), int)
  # Two JPEG decoders round differently; an image that is stored as PNG is exact.
  tolerance = 6 if suffix == 'jpg' and not is_changed else 0
  assert np.abs(converted.records['train'][1]['image'] - expected).max() <= tolerance
  assert bool(by_reason(converted.findings, 'fixed')) == is_changed


def test_sixteen_bit_images_and_turned_photographs(tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  gray = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint16)
  Image.fromarray(gray * 257).save(images / 'deep.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # viewers turn it clockwise
  write_image(images / 'turned.jpg', exif=exif)
  write_coco(tmp_path, [coco_image(1, 'deep.png'), coco_image(2, 'turned.jpg', (30, 40))],
             [coco_annotation(1, 2, [20, 30, 10, 10])])
  converted = convert(tmp_path)
  train = converted.records['train']
  np.testing.assert_array_equal(train[1]['image'], np.repeat(gray[..., None], 3, axis=-1))
  turned = np.rot90(tf.io.decode_image((images / 'turned.jpg').read_bytes()), -1)
  np.testing.assert_array_equal(train[2]['image'], turned)
  np.testing.assert_allclose(train[2]['groundtruth_boxes'], [[0.75, 2 / 3, 1, 1]], atol=1e-6)
  entries = converted.coco['train']['images']
  assert [entry.get('exif_orientation') for entry in entries] == [None, 'applied']


def test_what_is_valid_and_may_surprise_is_noted(tmp_path):
  write_image(tmp_path / 'images' / 'a.jpg')
  write_image(tmp_path / 'images' / 'b.jpg')
  boxes = [coco_annotation(number, 1, [1, 1, 5, 5]) for number in range(101)]
  boxes[0]['iscrowd'] = 1
  write_coco(tmp_path, [coco_image(1, 'a.jpg'), coco_image(2, 'b.jpg')], boxes, splits=['train'])
  folder = tmp_path / 'annotations'
  (folder / 'val.json').write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
  noted = by_reason(convert(tmp_path).findings, 'noted')
  assert noted == {
      'image has no boxes: kept': ['b.jpg'], 'crowd box: kept as such': ['a.jpg'],
      'image has more than 100 boxes: overrides.yaml raises max_num_instances for it; '
      'max_num_detections limits what is found': ['a.jpg 101']}


def test_a_split_is_written_with_its_annotation_file(tmp_path):
  for number in range(3):
    write_image(tmp_path / f'{number}.jpg')
  split = annotations.Split(
      'train', 'source', [coco_image(number, f'{number}.jpg') for number in range(4)],
      [coco_annotation(1, 2, [1, 1, 5, 5])], [dict(id=1, name='cat')], [tmp_path])
  findings = findings_lib.Findings()
  categories = categories_lib.merge({'train': split}, findings)
  converter = conversion.SplitConverter(split, categories, False, findings)
  assert len(converter) == 4
  written = conversion.write_split(converter, 'train', tmp_path, num_shards=8)
  assert (written.num_images, written.num_boxes, written.num_files) == (3, 1, 4)
  assert len(list(tmp_path.glob(written.file_pattern))) == 4
  content = json.loads((tmp_path / written.annotation_file).read_text())
  assert [image['id'] for image in content['images']] == [0, 1, 2]
  assert by_reason(findings.to_json(), 'dropped') == {'image file is missing': ['3.jpg']}


def mixed_images(folder):
  """Writes images that take long to encode, and others."""
  for number in range(12):
    write_image(folder / 'images' / f'{number}.{("jpg", "bmp")[number % 3 == 0]}')
  write_coco(folder, [coco_image(number, f'{number}.{("jpg", "bmp")[number % 3 == 0]}')
                      for number in range(12)],
             [coco_annotation(1 + number, number, [8, 5, 12, 10],
                              segmentation=[[8, 5, 20, 5, 20, 15]]) for number in range(12)])


def test_threads_change_nothing(tmp_path, monkeypatch):
  mixed_images(tmp_path)
  with_threads = convert(tmp_path, include_masks=True)
  monkeypatch.setattr(conversion._Image, 'is_laborious', False)
  without = convert(tmp_path, include_masks=True)
  assert with_threads.coco == without.coco and with_threads.findings == without.findings
  for split, records in without.records.items():
    assert list(with_threads.records[split]) == list(records) == list(range(12))
    for number, record in records.items():
      for key, value in record.items():
        np.testing.assert_array_equal(with_threads.records[split][number][key], value)


def test_an_error_in_a_thread_names_its_image(tmp_path, monkeypatch):
  mixed_images(tmp_path)

  def damaged(runs):
    raise RuntimeError('unforeseen')

  monkeypatch.setattr(conversion.masks_lib, 'encode_png', damaged)
  with pytest.raises(RuntimeError, match='unforeseen') as error:
    convert(tmp_path, include_masks=True)
  assert error.value.__notes__ == ['The image is 0.bmp.']
