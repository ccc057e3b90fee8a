"""A person's own ids and names come back after conversion, training, export and prediction."""
import itertools
import json
import sys
import types

import numpy as np
from PIL import Image
import pytest

import colored_detector
from official_ext.datasets import category_files
from official_ext.datasets.records import record_folder
from official_ext.serving import prediction_files
from official_ext.tools import convert_dataset
from official_ext.tools import predict
from official_ext.utils import command_line
from official_ext.visualization import boxes

# Category ids of red and green, and the type of the image ids: kept, packed, text.
CASES = {
    'from_zero': ((0, 1), int), 'huge': ((74673216, 12), float), 'text': (('cat-3', 'b'), str),
    'digits': (('2', '1'), lambda number: f'no/{number}'), 'gaps': ((5, 3), int)}


class Data:
  """A data set whose val split is its train split, its records, and a detector trained on them."""

  def __init__(self, folder, monkeypatch, ids, image_id):
    self.ids = dict(zip(('red', 'green'), ids))
    self.folder, self.image_id = folder, image_id
    self.images = folder / 'data' / 'images'
    self.drawn = colored_detector.write_images(self.images)
    self.own = folder / 'data' / 'annotations' / 'val.json'
    self.write(self.own)
    self.write(self.own.with_name('train.json'))
    monkeypatch.setattr(sys, 'argv', ['convert_dataset', f'--input={folder}/data',
                                      f'--output_dir={folder}/records'])
    convert_dataset.main()
    self.converted = folder / 'records' / 'annotations' / 'val.json'
    self.dataset = record_folder.read(folder / 'records')
    # What training and export do with the classes.
    task = types.SimpleNamespace(
        annotation_file=str(self.converted),
        model=types.SimpleNamespace(num_classes=self.dataset.num_classes))
    category_files.save_for_training(task, folder / 'model')
    task.annotation_file = '/moved/val.json'
    numbers = {name: number for number, name in self.dataset.class_names.items()}
    self.saved_model = colored_detector.save(
        folder / 'saved', numbers['red'], numbers['green'],
        category_files.of_training(folder / 'model' / 'ckpt-1', task))

  def content(self):
    """Returns the content of the annotation file."""
    counter = itertools.count()
    images = {name: self.image_id(number) for number, name in enumerate(self.drawn, 5)}
    return {
        'images': [dict(id=images[name], file_name=name, width=64, height=48) for name in images],
        'categories': [dict(id=number, name=name) for name, number in self.ids.items()],
        'annotations': [
            dict(id=next(counter), image_id=images[name], category_id=self.ids[color], bbox=box,
                 area=box[2] * box[3], iscrowd=0)
            for name, found in self.drawn.items() for color, box in found]}

  def write(self, path, change=lambda content: None):
    """Writes the annotation file with a change."""
    content = self.content()
    change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path

  def predict(self, *options):
    """Returns the JSON files of a prediction by name."""
    output = self.folder / 'out'
    predict.main([f'--saved_model={self.saved_model}', f'--images={self.images}',
                  f'--output_dir={output}', *options])
    return {path.stem: json.loads(path.read_text()) for path in output.glob('*.json')}

  def found(self, written):
    """Returns file name -> category id and box of every detection that is drawn."""
    names = {image: path.rpartition('/')[2] for path, image in written['images'].items()}
    result = {name: [] for name in names.values()}
    for detection in written['predictions']:
      if detection['score'] > 0.5:
        result[names[detection['image_id']]].append((detection['category_id'], detection['bbox']))
    return result


@pytest.fixture(scope='module')
def patch():
  with pytest.MonkeyPatch.context() as monkeypatch:
    yield monkeypatch


@pytest.fixture(scope='module', params=CASES)
def data(request, tmp_path_factory, patch):
  return Data(tmp_path_factory.mktemp(request.param), patch, *CASES[request.param])


def test_own_category_ids_come_back_without_an_annotation_file(data):
  written = data.predict('--no-draw')
  assert data.found(written) == {
      name: [(data.ids[color], box) for color, box in found] for name, found in data.drawn.items()}
  assert {entry['name']: entry['id'] for entry in written['categories']} == data.ids
  assert list(written['images'].values()) == [1, 2, 3]


def test_the_own_file_gives_its_ids_and_its_precision(data):
  written = data.predict('--no-draw', f'--annotation_file={data.own}', '--evaluate')
  assert data.found(written) == {
      name: [(data.ids[color], box) for color, box in found] for name, found in data.drawn.items()}
  expected = [data.image_id(number) for number in (5, 6, 7)]
  assert list(written['images'].values()) == expected
  assert written['evaluation']['ap'] == pytest.approx(1.0)


def test_the_converted_file_gives_its_ids_and_the_same_precision(data):
  written = data.predict('--no-draw', f'--annotation_file={data.converted}', '--evaluate')
  content = json.loads(data.converted.read_text())
  numbers = {entry['name']: entry['id'] for entry in content['categories']}
  assert set(numbers.values()) == {1, 2} or data.ids == numbers
  assert data.found(written) == {
      name: [(numbers[color], box) for color, box in found] for name, found in data.drawn.items()}
  assert set(written['images'].values()) == {image['id'] for image in content['images']}
  assert written['evaluation']['ap'] == pytest.approx(1.0)
  originals = {entry['name']: entry['original_id'] for entry in content['categories']}
  assert originals == data.ids == {
      name: data.dataset.original_ids[number] for name, number in numbers.items()}


@pytest.fixture(scope='module')
def zero(tmp_path_factory, patch):
  return Data(tmp_path_factory.mktemp('zero'), patch, *CASES['from_zero'])


def _change_annotations(**fields):
  def change(content):
    for annotation in content['annotations']:
      annotation.update(fields)
  return change


def _drop(*names):
  def change(content):
    for annotation in content['annotations']:
      for name in names:
        annotation.pop(name, None)
  return change


def _images_as(kind):
  def change(content):
    for image in content['images']:
      image['id'] = kind(image['id'])
  return change


@pytest.mark.parametrize('change', [
    lambda content: None, _change_annotations(id=0), _change_annotations(id='x'),
    _drop('id', 'area', 'iscrowd'), _change_annotations(iscrowd='0'),
    _change_annotations(iscrowd=False, segmentation=None, area=None),
    _images_as(float), _images_as(str), lambda content: content.update(info={}, licenses=None),
    lambda content: content['categories'].reverse(),
    lambda content: content['categories'].append(dict(id=7, name='unused'))],
    ids=itertools.count())
def test_what_an_own_file_lacks_does_not_change_its_precision(zero, change):
  path = zero.write(zero.folder / 'own.json', change)
  path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
  written = zero.predict('--no-draw', f'--annotation_file={path}', '--evaluate')
  assert written['evaluation']['ap'] == pytest.approx(1.0)


def test_half_of_the_boxes_give_their_own_precision(zero):
  """All green boxes are moved away; those of red are found: the mean over classes is a half."""
  def change(content):
    for annotation in content['annotations']:
      if annotation['category_id'] == 1:
        annotation['bbox'] = [500, 500, 4, 4]  # beyond the image, but still not found
  written = zero.predict('--no-draw', '--evaluate',
                         f'--annotation_file={zero.write(zero.folder / "half.json", change)}')
  assert written['evaluation']['ap'] == pytest.approx(0.5)


def test_an_image_without_its_object_counts(zero, capsys):
  def change(content):
    content['images'] += [dict(id=99, file_name='absent.png')]
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] == 0]
    for annotation in content['annotations'][:1]:
      annotation['category_id'] = 1  # of three red boxes, two are found; green is elsewhere
  path = zero.write(zero.folder / 'counts.json', change)
  written = zero.predict('--no-draw', f'--annotation_file={path}', '--evaluate')
  assert 0 < written['evaluation']['ap'] < 0.6
  assert 'In the annotation file but not there: 1 (absent.png)' in capsys.readouterr().out


def test_a_file_without_objects_or_without_categories(zero, capsys):
  path = zero.write(zero.folder / 'empty.json', lambda content: content['annotations'].clear())
  assert zero.predict('--no-draw', f'--annotation_file={path}',
                      '--evaluate')['evaluation']['ap'] == -1
  assert 'has no object' in capsys.readouterr().out

  def only_images(content):
    del content['annotations'], content['categories']

  path = zero.write(zero.folder / 'images.json', only_images)
  written = zero.predict('--no-draw', f'--annotation_file={path}')
  assert {d['category_id'] for d in written['predictions']} == {0, 1}
  with pytest.raises(command_line.CommandError, match='images.json has no categories'):
    zero.predict(f'--annotation_file={path}', '--evaluate')


def test_a_subset_of_the_classes_is_fine_and_their_ids_stay_apart(zero):
  def only_green(content):
    content['categories'] = [dict(id=0, name='green')]
    content['annotations'] = [dict(a, category_id=0) for a in content['annotations']
                              if a['category_id'] == 1]
  path = zero.write(zero.folder / 'green.json', only_green)
  written = zero.predict('--no-draw', f'--annotation_file={path}', '--evaluate')
  assert written['evaluation']['ap'] == pytest.approx(1.0)
  assert {entry['name']: entry['id'] for entry in written['categories']} == {'green': 0, 'red': 1}
  assert data_ids(written) == {0, 1}


def data_ids(written):
  return {detection['category_id'] for detection in written['predictions']}


def test_other_classes_are_refused_with_both_lists(zero):
  def rename(content):
    content['categories'] = [dict(id=0, name='Red'), dict(id=1, name='green')]
  path = zero.write(zero.folder / 'other.json', rename)
  with pytest.raises(command_line.CommandError, match=(
      r'other classes.*Only in the file: Red \(id 0\).*Only in the model: red \(id 0\)')):
    zero.predict(f'--annotation_file={path}')


def test_drawn_names_come_from_the_saved_model(zero, monkeypatch):
  seen = []

  def draw_boxes(image, corners, labels, scores, masks=None):
    seen.append((labels, corners.tolist()))
    return image

  monkeypatch.setattr(boxes, 'draw_boxes', draw_boxes)
  zero.predict()
  x, y, width, height = zero.drawn['3.png'][0][1]
  assert seen[2] == (['red'], [[y, x, y + height, x + width]])


def test_reports_name_classes_without_an_annotation_file(zero):
  zero.predict('--no-draw')
  predictions = prediction_files.Predictions(zero.folder / 'out', None, zero.images)
  assert predictions.names == {0: 'red', 1: 'green'}
  picture, = predictions.pictures(1)
  plain = np.asarray(Image.open(zero.images / '1.png'))
  assert picture.shape[1] > plain.shape[1] and not predictions.evaluation
  with pytest.raises(command_line.CommandError, match=r'does not give .*1\.png the id 1, under'):
    prediction_files.Predictions(zero.folder / 'out', zero.own, zero.images)
  zero.predict('--no-draw', f'--annotation_file={zero.own}', '--evaluate')
  predictions = prediction_files.Predictions(zero.folder / 'out', zero.own, zero.images)
  assert len(predictions.pictures(5)) == 2 and predictions.evaluation['ap'] == pytest.approx(1)


def test_a_detector_that_does_not_say_its_classes(zero, tmp_path, monkeypatch):
  monkeypatch.setattr(zero, 'saved_model', colored_detector.save(tmp_path / 'saved'))
  assert data_ids(zero.predict('--no-draw')) == {1, 2}
  with pytest.raises(command_line.CommandError, match='does not say the names.* such as 0: give'):
    zero.predict(f'--annotation_file={zero.own}', '--evaluate')
  written = zero.predict('--no-draw', f'--annotation_file={zero.converted}', '--evaluate')
  assert written['evaluation']['ap'] == pytest.approx(1.0)
