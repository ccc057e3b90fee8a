"""The precision of a person's own file is what pycocotools gives for the complete file."""
import copy
import json

import numpy as np
from pycocotools import coco
from pycocotools import cocoeval
import pytest

from official_ext.datasets import truth as truth_lib
from official_ext.serving import coco_results
from official_ext.utils import command_line

NAMES = ('cat', 'dog', 'cow')


def random_data():
  """Returns a complete COCO file with boxes of all kinds, and detections near its boxes."""
  random = np.random.default_rng(0)
  images = [dict(id=int(number), file_name=f'{number}.jpg', width=100, height=80)
            for number in random.permutation(30)[:12]]
  annotations, detections = [], []
  for image in images:
    for _ in range(int(random.integers(0, 6))):
      box = [round(float(value), 2) for value in random.uniform([-9, -9, 1, 1], [80, 60, 60, 50])]
      category = int(random.integers(1, 4))
      annotations.append(dict(
          id=len(annotations) + 1, image_id=image['id'], category_id=category, bbox=box,
          area=round(box[2] * box[3] * 0.6, 1), iscrowd=int(random.random() < 0.1)))
      detections.append(dict(
          image_id=image['id'], category_id=category if random.random() < 0.8 else 1,
          bbox=[float(value) for value in np.array(box) + random.normal(0, 2, 4)],
          score=round(float(random.random()), 1)))
  annotations[3]['bbox'][2] = 0  # no detection can match it
  return dict(images=images, annotations=annotations, info={},
              categories=[dict(id=number, name=name) for number, name in enumerate(NAMES, 1)]
              ), detections


@pytest.fixture(scope='module')
def data():
  return random_data()


def write(tmp_path, content):
  path = tmp_path / 'truth.json'
  path.write_text(json.dumps(content), encoding='utf-8')
  return path


def test_precision_is_that_of_pycocotools(data, tmp_path):
  content, detections = data
  known = coco.COCO(str(write(tmp_path, content)))
  evaluation = cocoeval.COCOeval(known, known.loadRes(copy.deepcopy(detections)), 'bbox')
  evaluation.evaluate()
  evaluation.accumulate()
  evaluation.summarize()
  ids = [image['id'] for image in content['images']]
  found = coco_results.average_precision(truth_lib.Truth(tmp_path / 'truth.json'), detections, ids)
  assert list(found.values()) == list(evaluation.stats[:6])
  assert 0.1 < found['ap'] < 0.9 and found['ap50'] < 1


def _from_zero(content):
  for number, annotation in enumerate(content['annotations']):
    annotation['id'] = number


def _texts(content):
  for annotation in content['annotations']:
    annotation.update(
        id='x', bbox=[str(value) for value in annotation['bbox']], area=str(annotation['area']),
        image_id=float(annotation['image_id']), category_id=str(annotation['category_id']),
        iscrowd='true' if annotation['iscrowd'] else None, segmentation=None)


@pytest.mark.parametrize('change', [_from_zero, _texts])
def test_ids_and_types_do_not_change_the_precision(data, tmp_path, change):
  content, detections = data
  ids = [image['id'] for image in content['images']]
  expected = coco_results.average_precision(
      truth_lib.Truth(write(tmp_path, content)), detections, ids)
  changed = copy.deepcopy(content)
  change(changed)
  assert coco_results.average_precision(
      truth_lib.Truth(write(tmp_path, changed)), detections, ids) == expected


def test_ids_are_kept_as_the_file_has_them(data, tmp_path):
  content, detections = data
  names = {image['id']: f'photo {image["id"]:02d}' for image in content['images']}
  texts, renamed = copy.deepcopy(content), copy.deepcopy(detections)
  for category in texts['categories']:
    category['id'] = category['name']
  for image in texts['images']:
    image['id'] = names[image['id']]
  for item in [*texts['annotations'], *renamed]:
    item.update(image_id=names[item['image_id']], category_id=NAMES[item['category_id'] - 1])
  truth = truth_lib.Truth(write(tmp_path, texts))
  assert truth.names == {name: name for name in NAMES} and truth.used == set(NAMES)
  assert list(truth.annotations) == list(names.values())
  found = coco_results.average_precision(truth, renamed, list(names.values()))
  expected = coco_results.average_precision(
      truth_lib.Truth(write(tmp_path, content)), detections, list(names))
  # Images in another order break ties between equal scores otherwise.
  assert found['ap'] == pytest.approx(expected['ap'], abs=0.02)


def test_an_area_that_the_file_does_not_give_is_that_of_the_mask(tmp_path):
  polygon = [[2, 1, 8, 1, 8, 5, 2, 5]]  # 6 x 4 pixels
  content = dict(
      images=[dict(id=1, file_name='a.jpg', width=20, height=10)],
      categories=[dict(id=1, name='cat')],
      annotations=[dict(id=number, image_id=1, category_id=1, bbox=[1, 1, 10, 5],
                        segmentation=polygon, **area)
                   for number, area in enumerate(({}, {'area': 0}, {'area': 7}))])
  truth = truth_lib.Truth(write(tmp_path, content))
  for include_masks, expected in ((True, [24, 24, 7]), (False, [50, 50, 7])):
    entries = truth.to_coco(include_masks)[0]['annotations']
    assert [entry['area'] for entry in entries] == expected


def test_what_cannot_be_used_is_told(tmp_path):
  content = dict(
      images=[dict(id=1, file_name='a.jpg', width=20, height=10), dict(id=2)],
      categories=[dict(id=1, name='cat')],
      annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 2, 3]),
                   dict(id=2, image_id=1, category_id=2, bbox=[1, 2, 3, 4]),
                   dict(id=3, image_id=1, category_id=1, bbox=[1, 2, -3, 4]),
                   dict(id=4, image_id=7, category_id=1, bbox=[1, 2, 3, 4]),
                   dict(id=5, image_id=1, category_id=1, bbox=[-1, 2, 300, 4]),
                   dict(id=6, image_id=1, category_id=1, bbox=None,
                        segmentation=[[2, 1, 8, 1, 8, 5, 2, 5]])])
  truth = truth_lib.Truth(write(tmp_path, content))
  path = str(tmp_path / 'truth.json')
  assert truth.dropped() == {
      'image entry has no file_name': [f'{path} id 2'],
      'annotation is for an image that is not listed': [f'{path} annotation 4, image id 7'],
      'box is not four numbers with a size': ['a.jpg annotation 1', 'a.jpg annotation 3'],
      'category is unknown': ['a.jpg annotation 2']}
  kept, from_mask = truth.annotations[1]
  assert from_mask['bbox'] == [2, 1, 6, 4]
  assert (kept['bbox'], kept['area'], kept['iscrowd'], kept['id']) == ([-1, 2, 300, 4], 1200, 0, 1)


@pytest.mark.parametrize('content', ['{', '[]', '{"images": 3}', '{"images": [], "categories": 1}'])
def test_other_files_are_refused(tmp_path, content):
  path = tmp_path / 'truth.json'
  path.write_text(content)
  with pytest.raises(command_line.CommandError, match='--annotation_file: .*truth.json is not a'):
    truth_lib.Truth(path)
