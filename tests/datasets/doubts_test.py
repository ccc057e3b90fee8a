"""What a person would see at a glance is told, and a normal data set raises no doubt."""
import json

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from dataset_files import by_reason, coco_annotation, coco_image, write_coco, write_image
from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import conversion
from official_ext.datasets import doubts
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import readers
from official_ext.datasets.sources import data_folder
from official_ext.tools import convert_dataset

RED, GREEN = (230, 20, 20), (20, 200, 20)
# Boxes [x, y, width, height] of 640 x 480 images, spread as objects are.
BOXES = [[20, 30, 100, 80], [300, 200, 200, 150], [420, 40, 210, 300], [10, 350, 300, 120],
         [500, 300, 100, 170], [250, 10, 60, 440]]


def draw(path, size, boxes, color=RED):
  """Draws filled rectangles on gray noise."""
  path.parent.mkdir(parents=True, exist_ok=True)
  noise = np.random.default_rng(len(str(path)) + size[0]).integers(100, 120, (size[1], size[0], 3))
  pixels = noise.astype(np.uint8)
  for x, y, width, height in boxes:
    pixels[y:y + height, x:x + width] = color
  Image.fromarray(pixels).save(path)


def converted(folder, allowed=None, include_masks=False, **options):
  """Converts a data set; returns its examples by split and the findings with all doubts."""
  findings = findings_lib.Findings()
  with data_folder.open_input(folder) as data:
    splits = readers.read(data, readers.choose(data).layout, findings)
  categories = categories_lib.merge(splits, findings)
  converters = {name: conversion.SplitConverter(split, categories, include_masks, findings,
                                                **options) for name, split in splits.items()}
  examples = {name: list(converter.convert()) for name, converter in converters.items()}
  doubts.tell({name: converter.tally for name, converter in converters.items()}, categories,
              findings, allowed or doubts.Permissions())
  return examples, findings.to_json()


def told(findings, split='train'):
  """Returns the reasons of doubts and problems of a split."""
  return [*by_reason(findings, 'doubt', split), *by_reason(findings, 'problem', split)]


def write_boxes(folder, boxes, size=(640, 480), listed=None, change=lambda entry: None):
  """Writes a train split of one image for each box, and a val split with one right image."""
  images, entries = [], []
  for number, box in enumerate(boxes, 1):
    write_image(folder / 'images' / f'{number}.jpg', size)
    images.append(coco_image(number, f'{number}.jpg', listed or size))
    entries.append(coco_annotation(number, number, list(box)))
    change(entries[-1])
  write_coco(folder, images, entries, [dict(id=1, name='cat')], splits=['train'])
  write_image(folder / 'images' / 'val.jpg', size)
  write_coco(folder, [coco_image(1, 'val.jpg', size)], [coco_annotation(1, 1, [5, 5, 50, 40])],
             [dict(id=1, name='cat')], splits=['val'])


def boxes_in_pixels(example):
  features = example.features.feature
  width, height = (features[f'image/{side}'].int64_list.value[0] for side in ('width', 'height'))
  sides = [features[f'image/object/bbox/{side}'].float_list.value
           for side in ('xmin', 'ymin', 'xmax', 'ymax')]
  return np.array(sides).T * [width, height, width, height]


@pytest.mark.parametrize('factor', [0.5, 0.37, 2])
@pytest.mark.parametrize('include_masks', [False, True])
def test_boxes_and_masks_of_resized_images_lie_on_their_pixels(tmp_path, factor, include_masks):
  images, entries, size = [], [], (400, 320)
  for number in range(1, 5):
    x, y, width, height = box = [40 + 60 * number, 50, 120, 80]
    path = tmp_path / 'images' / f'{number}.png'
    draw(path, size, [box])
    small = tuple(round(side * factor) for side in size)
    Image.open(path).resize(small, Image.Resampling.NEAREST).save(path)
    images.append(coco_image(number, path.name, size))
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    entries.append(coco_annotation(number, number, box, area=9600, segmentation=[corners]))
  write_coco(tmp_path, images, entries)
  examples, findings = converted(tmp_path, include_masks=include_masks)
  assert len(examples['train']) == 4 and not told(findings)
  for example in examples['train']:
    features = example.features.feature
    image = tf.io.decode_image(features['image/encoded'].bytes_list.value[0]).numpy()
    is_red = (image == RED).all(axis=-1)
    rows, columns = np.flatnonzero(is_red.any(1)), np.flatnonzero(is_red.any(0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(boxes_in_pixels(example), [seen], atol=1.01)
    area, = features['image/object/area'].float_list.value
    assert area == pytest.approx(is_red.sum(), rel=0.05)
    if include_masks:
      mask = tf.io.decode_png(features['image/object/mask'].bytes_list.value[0]).numpy()[..., 0]
      assert (mask.astype(bool) != is_red).sum() < 0.05 * is_red.sum()


def test_stretched_images_and_run_lengths_of_resized_ones_are_left_out(tmp_path):
  write_boxes(tmp_path, BOXES, (320, 320), (640, 480))
  examples, findings = converted(tmp_path)
  assert not examples['train']
  assert len(by_reason(findings, 'dropped', 'train')[
      'image size in the annotations is not that of the file: it is another picture, cut or '
      'stretched']) == len(BOXES)
  write_boxes(tmp_path, BOXES, (320, 240), (640, 480), lambda entry: entry.update(
      segmentation=dict(size=[480, 640], counts=[480 * 640])))
  examples, findings = converted(tmp_path, include_masks=True)
  assert not examples['train']
  assert 'run lengths cannot be scaled to the size of the file' in by_reason(findings, 'dropped')


def test_boxes_that_fit_the_resized_file_already_are_a_problem(tmp_path):
  boxes = [[value / 2 for value in box] for box in BOXES * 2]
  write_boxes(tmp_path, boxes, (320, 240), (640, 480))
  reason, = by_reason(converted(tmp_path)[1], 'problem', 'train')
  assert 'fit the files as they are' in reason


@pytest.mark.parametrize('num_outside, is_problem', [(0, False), (2, False), (12, True)])
def test_sizes_of_enlarged_files_are_doubted_if_many_boxes_are_outside_of_them(
    num_outside, is_problem):
  split = annotations_lib.Split('train', 'train.json', [], [], [], [])
  tally = doubts.SplitTally(split, None)
  for number in range(40):
    box = [300, 200, 100, 100] if number < num_outside else [100, 100, 50, 60]
    tally.add_box(box, (640, 480), 2.0, None, None)
  assert any('fit the files' in reason for reason, _ in tally.form_problems()) == is_problem


def corners(x, y, width, height):
  return [x, y, x + width, y + height]


@pytest.mark.parametrize('form, name', [
    (corners, 'corners [x1, y1, x2, y2]'),
    (lambda x, y, w, h: [y, x, y + h, x + w], 'corners with y first'),
    (lambda x, y, w, h: [y, x, h, w], 'y first, [y, x, height, width]'),
    (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], 'center and size')])
@pytest.mark.parametrize('witness', ['none', 'area', 'polygon'])
def test_boxes_of_another_form_are_a_problem(tmp_path, form, name, witness):
  boxes = iter(BOXES)

  def add_witness(entry):
    x, y, width, height = next(boxes)
    if witness == 'area':
      entry['area'] = width * height
    elif witness == 'polygon':
      entry['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]

  write_boxes(tmp_path, [form(*box) for box in BOXES], change=add_witness)
  reason, = by_reason(converted(tmp_path)[1], 'problem', 'train')
  assert reason.startswith(f'boxes look like {name}')
  trusted = converted(tmp_path, doubts.Permissions(box_forms=True))[1]
  assert not by_reason(trusted, 'problem') and reason in by_reason(trusted, 'doubt')


@pytest.mark.parametrize('witness', ['none', 'area', 'polygon'])
def test_right_boxes_raise_no_doubt(tmp_path, witness):
  def add_witness(entry):
    x, y, width, height = entry['bbox']
    if witness == 'area':
      entry['area'] = width * height
    elif witness == 'polygon':
      entry['segmentation'] = [[x, y, x + width, y, x + width, y + height]]
      entry['area'] = width * height / 2

  write_boxes(tmp_path, BOXES, change=add_witness)
  findings = converted(tmp_path)[1]
  assert not told(findings) and not told(findings, 'val')


def test_sizes_in_the_columns_of_corners_are_a_problem(tmp_path):
  lines = ['image,xmin,ymin,xmax,ymax,class']
  for number, box in enumerate(BOXES):
    write_image(tmp_path / 'images' / f'{number}.jpg', (640, 480))
    lines.append(f'{number}.jpg,{",".join(map(str, box))},cat')
  (tmp_path / 'train.csv').write_text('\n'.join(lines))
  (tmp_path / 'val.csv').write_text('\n'.join(lines))
  reasons = by_reason(converted(tmp_path)[1], 'problem', 'train')
  assert any('x, y, width, height in the columns of two corners' in reason for reason in reasons)


def test_boxes_in_parts_of_the_image_are_a_problem(tmp_path):
  write_boxes(tmp_path, [[x / 640, y / 480, w / 640, h / 480] for x, y, w, h in BOXES])
  examples, findings = converted(tmp_path)
  assert not examples['train']
  problems = by_reason(findings, 'problem', 'train')
  reason, = [reason for reason in problems if 'parts of the image' in reason]
  assert problems[reason] == [f'{tmp_path}/annotations/train.json 6 of 6 boxes']


def test_images_that_lost_labels_are_left_out_unless_asked_for(tmp_path):
  boxes = [[5, 5, 50, 40], [-90, 5, 50, 40], [5, 5, 0, 40]]
  write_boxes(tmp_path, boxes)
  examples, findings = converted(tmp_path)
  names = [example.features.feature['image/filename'].bytes_list.value[0]
           for example in examples['train']]
  assert names == [b'1.jpg', b'3.jpg']  # a box without area stands for no object
  assert by_reason(findings, 'dropped')['image lost labels: left out'] == ['2.jpg 1 of 1']
  assert {'more than 5% of the boxes are not in the records',
          'more than 5% of the images are not in the records'} == set(told(findings))
  examples, findings = converted(tmp_path, keep_images_that_lost_labels=True)
  assert len(examples['train']) == 3
  assert by_reason(findings, 'noted')['image lost labels: kept'] == ['2.jpg 1 of 1']


def test_a_class_or_split_without_boxes_is_a_problem_unless_allowed(tmp_path):
  for number in (1, 2):
    write_image(tmp_path / 'images' / f'{number}.jpg')
  entries = [coco_annotation(1, 1, [1, 1, 5, 5], 1), coco_annotation(2, 2, [50, 1, 5, 5], 7)]
  images = [coco_image(1, '1.jpg'), coco_image(2, '2.jpg')]
  write_coco(tmp_path, images, entries, splits=['train'])
  write_coco(tmp_path, images, entries[1:], splits=['val'])
  problems = by_reason(converted(tmp_path)[1], 'problem')
  assert [reason.partition(':')[0] for reason in problems] == [
      'class lost all its boxes', 'split lost all its boxes']
  assert next(iter(problems.values())) == [f"{tmp_path}/annotations/train.json 'dog', 1 boxes"]
  findings = converted(tmp_path, doubts.Permissions(losses=True))[1]
  assert not by_reason(findings, 'problem') and set(problems) <= set(by_reason(findings, 'doubt'))


def test_pictures_that_are_there_twice_and_long_ones_are_told(tmp_path):
  write_boxes(tmp_path, BOXES[:2])
  images = tmp_path / 'images'
  (images / '2.jpg').write_bytes((images / '1.jpg').read_bytes())
  (images / 'val.jpg').write_bytes((images / '1.jpg').read_bytes())
  findings = converted(tmp_path)[1]
  assert by_reason(findings, 'doubt') == {
      'picture is there twice, under two names': ['2.jpg = 1.jpg'],
      'picture is in train as well: accuracy will seem too high': ['val.jpg = 1.jpg']}
  write_boxes(tmp_path, [[100, 0, 200, 6]], (4000, 6))
  doubt = by_reason(converted(tmp_path)[1], 'doubt', 'train')
  assert list(doubt.values()) == [['1.jpg 4000 x 6']]


def test_boxes_that_are_listed_twice_are_told(tmp_path):
  """Another class or another place is another object."""
  for name in ('a', 'b'):
    write_image(tmp_path / 'images' / f'{name}.jpg')
  box = [1, 1, 9, 9]
  write_coco(tmp_path, [coco_image(1, 'a.jpg'), coco_image(2, 'b.jpg')], [
      coco_annotation(1, 1, box), coco_annotation(2, 1, box), coco_annotation(3, 1, box),
      coco_annotation(4, 2, box), coco_annotation(5, 2, box, 7),
      coco_annotation(6, 2, [1, 1, 9, 8])])
  doubt = by_reason(converted(tmp_path)[1], 'doubt', 'train')
  assert doubt == {
      'box is there several times with one class: listed twice?': ['a.jpg 2 of 3 boxes']}


def test_odd_names_and_classes_that_cannot_be_learned_are_told(tmp_path):
  write_image(tmp_path / 'images' / 'a\nb.jpg')
  write_image(tmp_path / 'images' / 'val.jpg')
  categories = [dict(id=number, name=name) for number, name in
                enumerate(['cat', 'Cat ', 'two\nlines', 'dog'], 1)]
  write_coco(tmp_path, [coco_image(1, 'a\nb.jpg')], [coco_annotation(1, 1, [1, 1, 9, 9], 1)],
             categories, ['train'])
  write_coco(tmp_path, [coco_image(1, 'val.jpg')], [coco_annotation(1, 1, [1, 1, 9, 9], 4)],
             categories, ['val'])
  assert by_reason(converted(tmp_path)[1], 'doubt') == {
      'class name holds line breaks or control characters: written as blanks': [
          f"{tmp_path}/annotations/{name}.json 'two\\nlines'" for name in ('train', 'val')],
      'one name stands for several classes: give them one id': ["'cat' ids [1, 2]"],
      'file name holds line breaks or control characters': ["'a\\nb.jpg'"],
      'class has no box in train: it cannot be learned': [
          f"{tmp_path}/annotations/val.json 'dog'"]}


def test_labels_of_images_with_one_id_get_on_no_image_of_a_held_out_split(tmp_path):
  for number in range(12):
    write_image(tmp_path / 'images' / f'{number}.jpg')
  images = [coco_image(number % 10, f'{number}.jpg') for number in range(12)]  # 0 and 1 are double
  entries = [coco_annotation(number, number % 10, [1, 1, 9, 9]) for number in range(12)]
  write_coco(tmp_path, images, entries, [dict(id=1, name='cat')], splits=['data'])
  examples, findings = converted(tmp_path)
  written = [example.features.feature['image/filename'].bytes_list.value[0].decode()
             for name in ('train', 'val') for example in examples[name]]
  assert sorted(written) == sorted(f'{number}.jpg' for number in range(2, 10))
  assert {len(boxes_in_pixels(example)) for name in examples for example in examples[name]} == {1}
  dropped = by_reason(findings, 'dropped')
  assert sum('image id is that of another image too' in reason for reason in dropped) == 1


def test_splits_without_boxes_and_of_crowds_are_told(tmp_path):
  write_boxes(tmp_path, BOXES[:2], change=lambda entry: entry.update(iscrowd=1))
  assert told(converted(tmp_path)[1]) == [
      'most boxes are crowds, of which a detector learns nothing: look at iscrowd']
  write_boxes(tmp_path, BOXES[:2], change=lambda entry: entry.update(image_id=3))
  path = tmp_path / 'annotations' / 'train.json'
  path.write_text(json.dumps(dict(json.loads(path.read_text()), annotations=[])))
  assert told(converted(tmp_path)[1]) == ['split has no boxes at all']


def test_the_command_ends_with_status_1_and_whole_records(tmp_path, monkeypatch, capsys):
  write_boxes(tmp_path / 'data', [corners(*box) for box in BOXES])
  arguments = ['convert_dataset', f'--input={tmp_path}/data', f'--output_dir={tmp_path}/records',
               '--keep_images_that_lost_labels']
  monkeypatch.setattr('sys.argv', arguments)
  with pytest.raises(SystemExit, match='1'):
    convert_dataset.main()
  assert 'boxes look like corners' in capsys.readouterr().out
  report = json.loads((tmp_path / 'records' / 'report.json').read_text())
  assert len(by_reason(report['findings'], 'problem')) == 1
  assert report['written']['train']['num_images'] == len(BOXES)
  monkeypatch.setattr('sys.argv', [*arguments, '--trust_boxes'])
  convert_dataset.main()


@pytest.mark.slow
@pytest.mark.parametrize('name, include_masks, unlearned', [
    ('bccd', False, 0), ('nuclei', True, 0), ('coco_mini', True, 8)])
def test_real_data_raise_no_doubt(real_data, name, include_masks, unlearned):
  findings = converted(real_data / name, include_masks=include_masks)[1]
  assert not by_reason(findings, 'problem')
  doubt = by_reason(findings, 'doubt')
  # So few images of COCO's are there that train lacks some of its classes.
  assert len(doubt.pop('class has no box in train: it cannot be learned', [])) == unlearned
  assert not doubt
