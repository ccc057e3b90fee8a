"""Counts equal those of the data; every kind of damage is named and makes the exit status 1."""
import io
import json
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official.vision.data import tfrecord_lib
from official_ext.tools import check_dataset
from official_ext.tools import convert_dataset
from official_ext.utils import command_line


def _image_bytes(seed=0, size=(40, 30)):
  pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, 'PNG')
  return content.getvalue()


@pytest.fixture(name='records')
def _records(tmp_path, monkeypatch):
  """Converts a data set: train has 3 images with 2, 1 and 0 boxes, val 1 image with 1 box."""
  source = tmp_path / 'source'
  categories = [dict(id=1, name='cat'), dict(id=3, name='dog')]
  boxes = {'train': {1: [(1, [0, 0, 20, 15]), (3, [4, 4, 9, 16])], 2: [(1, [10, 10, 8, 8])],
                     3: []}, 'val': {4: [(3, [0, 0, 40, 30])]}}
  for split, images in boxes.items():
    entries, annotations = [], []
    for image_id, objects in images.items():
      path = source / 'images' / split / f'{image_id}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(_image_bytes(image_id))
      entries.append(dict(id=image_id, file_name=path.name, width=40, height=30))
      for category, (x, y, width, height) in objects:
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotations.append(dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0,
                                category_id=category, bbox=[x, y, width, height],
                                area=width * height, segmentation=[corners]))
    target = source / 'annotations' / f'{split}.json'
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(dict(images=entries, annotations=annotations,
                                      categories=categories)))
  monkeypatch.setattr(sys, 'argv', ['x', f'--input={source}', '--include_masks',
                                    f'--output_dir={tmp_path / "records"}', '--num_shards=1'])
  convert_dataset.main()
  return tmp_path / 'records'


def _check(monkeypatch, tmp_path, *options):
  """Runs the command; returns its exit status, its report and its problems by reason."""
  report_path = tmp_path / 'report.json'
  monkeypatch.setattr(sys, 'argv', ['check_dataset', f'--json={report_path}', *options])
  status = 0
  try:
    check_dataset.main()
  except SystemExit as error:
    status = error.code
  report = json.loads(report_path.read_text())
  problems = {item['reason']: [' '.join((entry['file'], entry['detail'])).strip()
                               for entry in item['items']]
              for item in report['findings'] if item['outcome'] == 'problem'}
  return status, report, problems


def _write(path, examples):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)
  return path


def _example(image_id=1, boxes=((0.1, 0.1, 0.5, 0.5),), classes=(1,), content=None, **more):
  """Returns a serialized example; boxes are ymin, xmin, ymax, xmax."""
  features = tfrecord_lib.image_info_to_feature_dict(
      30, 40, f'{image_id}.png', image_id, _image_bytes(image_id) if content is None else content,
      'png')
  for position, key in enumerate(('ymin', 'xmin', 'ymax', 'xmax')):
    features[f'image/object/bbox/{key}'] = tfrecord_lib.convert_to_feature(
        [box[position] for box in boxes], 'float_list')
  features['image/object/class/label'] = tfrecord_lib.convert_to_feature(
      list(classes), 'int64_list')
  features.update(more)
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_counts_and_sizes_are_those_of_the_data(records, tmp_path, monkeypatch, capsys):
  status, report, problems = _check(monkeypatch, tmp_path, f'--data={records}')
  assert status == 0 and not problems
  train = report['splits']['train']
  assert train['num_images'] == 3 and train['num_boxes'] == train['num_masks'] == 3
  assert train['boxes_per_image'] == dict(mean=1.0, max=2)
  assert train['boxes_per_class'] == dict(cat=2, dog=1)
  assert train['images_without_boxes'] == 1
  assert train['image_sizes'] == {'40 x 30': 3}
  # Sides sqrt(20 * 15), sqrt(9 * 16) = 12 and 8: the median is 12.
  assert train['box_side_pixels']['50'] == pytest.approx(12, abs=1e-3)
  assert train['box_side_relative']['50'] == pytest.approx(12 / np.sqrt(40 * 30), abs=1e-3)
  assert report['splits']['val']['box_side_relative']['99'] == pytest.approx(1)
  assert 'no problems' in capsys.readouterr().out


def test_picture_shows_boxes_and_masks_of_the_records(records, tmp_path, monkeypatch):
  picture = tmp_path / 'samples.png'
  _check(monkeypatch, tmp_path, f'--data={records}', f'--output={picture}', '--num_samples=8')
  sheet = np.asarray(Image.open(picture))
  assert sheet.shape[1] > 4 * 480 and sheet.shape[0] > 360
  from official_ext.visualization import boxes
  for class_id in (1, 3):
    outline = (sheet == boxes.class_color(class_id)).all(axis=-1)
    assert outline.sum() > 200, f'no box of class {class_id}'
  assert not list(tmp_path.glob('.samples*'))


def test_pattern_that_matches_nothing_stops(tmp_path, monkeypatch):
  with pytest.raises(command_line.CommandError, match='matches no file'):
    _check(monkeypatch, tmp_path, f'--input_path={tmp_path}/none-*')
  with pytest.raises(command_line.CommandError, match='no dataset.json'):
    _check(monkeypatch, tmp_path, f'--data={tmp_path}')


def test_json_among_the_files_and_truncated_files_are_named(records, tmp_path, monkeypatch):
  (records / 'train.json').write_text((records / 'annotations' / 'train.json').read_text())
  status, _, problems = _check(monkeypatch, tmp_path, f'--input_path={records}/train*')
  assert status == 1
  assert problems == {
      'file is no TFRecord file: narrow the pattern': [str(records / 'train.json')]}
  path = records / 'train-00000-of-00001.tfrecord'
  path.write_bytes(path.read_bytes()[:-100])
  (records / 'train-none').write_bytes(b'')
  status, report, problems = _check(monkeypatch, tmp_path, f'--input_path={records}/train-*')
  assert status == 1
  assert problems == {'file is truncated or damaged': [f'{path} after 2 records'],
                      'file has no records': [str(records / 'train-none')]}
  assert report['splits']['data']['num_images'] == 2


@pytest.mark.parametrize('arguments, reason', [
    (dict(classes=(0,)),
     'class id is below 1: 0 stands for background, so raise all ids by one'),
    (dict(boxes=((0.1, 0.1, 1.2, 0.5),)), 'box is outside the image'),
    (dict(boxes=((0.5, 0.1, 0.5, 0.5),)), 'box has no area'),
    (dict(boxes=((0.5, 0.1, float('nan'), 0.5),)), 'box is not finite'),
    (dict(classes=(1, 1)), 'record has not one class for each box'),
    (dict(image_id='abc'), 'image id is not a whole number, which evaluation needs: set '
     "regenerate_source_id of the experiment's decoder, or convert the data anew"),
    (dict(content=_image_bytes(1, (44, 30))), 'image size is not what the record says'),
    (dict(content=_image_bytes(1)[:-40]), 'record cannot be decoded'),
    (dict(content=b'text'), 'image cannot be decoded'),
    ({'image/object/mask': tfrecord_lib.convert_to_feature([b'x'])}, 'mask is broken'),
    ({'image/object/mask': tfrecord_lib.convert_to_feature([_image_bytes(0, (9, 9))])},
     "mask is not of the image's size"),
    ({'image/object/mask': tfrecord_lib.convert_to_feature([_image_bytes()] * 2)},
     'record has not one mask for each box'),
])
def test_damaged_records_are_named(tmp_path, monkeypatch, arguments, reason):
  if arguments.get('image_id') == 'abc':
    arguments = dict(arguments, content=_image_bytes())
  path = _write(tmp_path / 'a.tfrecord', [_example(7), _example(**arguments)])
  status, _, problems = _check(monkeypatch, tmp_path, f'--input_path={path}')
  assert status == 1
  assert list(problems) == [reason]
  assert problems[reason][0].startswith('a.tfrecord record 2 ')


def test_ids_and_boxes_that_the_annotation_file_does_not_have(records, tmp_path, monkeypatch):
  path = _write(tmp_path / 'a.tfrecord', [
      _example(1), _example(2), _example(2, content=_image_bytes(5)), _example(9, classes=(4,))])
  status, _, problems = _check(
      monkeypatch, tmp_path, f'--input_path={path}',
      f'--annotation_file={records / "annotations" / "train.json"}')
  assert status == 1
  assert problems == {
      'image id is there twice': ['a.tfrecord record 3 2.png id 2'],
      'class id is not in 1 to num_classes - 1 = 3': ['a.tfrecord record 4 9.png ids [4]'],
      'records and annotation file differ in boxes': ['id 1 1 and 2'],
      'image id of the records is not in the annotation file': ['id 9'],
      'image id of the annotation file is not in the records': ['id 3']}


@pytest.mark.parametrize('number', ['cat', None, -1])
def test_an_annotation_file_whose_ids_no_record_can_have(records, tmp_path, monkeypatch, number):
  path = tmp_path / 'own.json'
  path.write_text(json.dumps(dict(
      images=[], annotations=[], categories=[dict(id=1, name='a'), dict(id=number, name='b')])))
  with pytest.raises(command_line.CommandError, match=f'own.json has the category id {number!r}'):
    _check(monkeypatch, tmp_path, f'--input_path={records}/val-*.tfrecord',
           f'--annotation_file={path}')


def test_an_annotation_file_without_classes_names_none(records, tmp_path, monkeypatch):
  content = json.loads((records / 'annotations/val.json').read_text())
  path = tmp_path / 'own.json'
  path.write_text(json.dumps({**content, 'categories': []}))
  status, _, problems = _check(monkeypatch, tmp_path, f'--input_path={records}/val-*.tfrecord',
                               f'--annotation_file={path}')
  assert (status, problems) == (0, {})


def test_records_of_other_tools_say_what_they_lack(tmp_path, monkeypatch):
  """As the TF1 Object Detection API, Roboflow and careless scripts write them."""
  def changed(number, *removed, **values):
    example = tf.train.Example.FromString(_example(number))
    for key in removed:
      del example.features.feature[f'image/{key}']
    for key, value in values.items():
      example.features.feature[f'image/{key}'].bytes_list.value[:] = [value]
    return example.SerializeToString()

  roboflow = _write(tmp_path / 'roboflow', [changed(number, 'source_id') for number in (1, 2)])
  status, _, problems = _check(monkeypatch, tmp_path, f'--input_path={roboflow}')
  assert status == 1 and list(problems) == [
      "record has no image/source_id: set regenerate_source_id of the experiment's decoder, or "
      'convert the data anew']
  data = dict(decoder=dict(simple_decoder=dict(regenerate_source_id=True)))
  (tmp_path / 'ids.yaml').write_text(json.dumps(dict(task=dict(
      model=dict(num_classes=2), train_data=data, validation_data=data))))
  status, report, problems = _check(
      monkeypatch, tmp_path, f'--input_path={roboflow}', f'--config_file={tmp_path}/ids.yaml',
      '--experiment=retinanet_resnetfpn_coco')
  assert status == 0 and report['splits']['data']['num_images'] == 2
  same = _write(tmp_path / 'same', [changed(number, source_id=b'0') for number in (1, 2, 3)])
  _, _, problems = _check(monkeypatch, tmp_path, f'--input_path={same}')
  assert problems == {
      'all records have the same image id, so evaluation takes them for one image': [
          'same record 1 1.png id 0, 3 records']}
  tiny = _write(tmp_path / 'tiny', [_example(1, boxes=((0.1 / 30, 0.1 / 40, 0.5 / 30, 0.5 / 40),))])
  _, _, problems = _check(monkeypatch, tmp_path, f'--input_path={tiny}')
  assert list(problems.values()) == [['data 1 of 1']] and 'first pixel' in next(iter(problems))
  other = _write(tmp_path / 'other', [b'no example', _example(4)])
  _, report, problems = _check(monkeypatch, tmp_path, f'--input_path={other}')
  assert list(problems) == ['record is no tf.train.Example']
  assert report['splits']['data']['num_images'] == 1


def test_images_in_both_splits_are_found(records, tmp_path, monkeypatch):
  val = records / 'val-00000-of-00001.tfrecord'
  train = [record.numpy() for record in
           tf.data.TFRecordDataset(str(records / 'train-00000-of-00001.tfrecord'))]
  own = [record.numpy() for record in tf.data.TFRecordDataset(str(val))]
  _write(val, own + train[:1])
  _, report, _ = _check(monkeypatch, tmp_path, f'--data={records}')
  found, = (item for item in report['findings'] if 'in train as well' in item['reason'])
  assert (found['outcome'], found['items']) == ('doubt', [{
      'file': 'val-00000-of-00001.tfrecord record 2 1.png',
      'detail': '= train-00000-of-00001.tfrecord record 1 1.png'}])


def test_experiment_that_does_not_fit_the_data(records, tmp_path, monkeypatch):
  path = records / 'dataset.json'
  path.write_text(path.read_text().replace('"num_classes": 4', '"num_classes": 200'))
  status, _, problems = _check(monkeypatch, tmp_path, f'--data={records}',
                               '--experiment=retinanet_resnetfpn_coco')
  assert status == 1
  assert list(problems) == ['task.model.num_classes is 91, the data need 200']
  path.write_text(path.read_text().replace('"num_classes": 200', '"num_classes": 4'))
  options = [f'--data={records}', '--experiment=retinanet_resnetfpn_coco']
  status, report, problems = _check(
      monkeypatch, tmp_path, *options, '--params_override=task.model.num_classes=4')
  assert status == 0 and not report['findings']
  (tmp_path / 'small.yaml').write_text(
      'task: {model: {num_classes: 4, input_size: [64, 64, 3]}, train_data: {parser: '
      '{max_num_instances: 1, aug_scale_min: 0.01}}}')
  status, _, problems = _check(monkeypatch, tmp_path, *options,
                               f'--config_file={tmp_path}/small.yaml')
  assert status == 1 and {reason: len(items) for reason, items in problems.items()} == {
      'image is so long that nothing is left of it at 64 x 64: cut it into tiles': 3,
      'task.train_data.parser.max_num_instances is 1, images have up to 2 boxes': 1}
  records_without_masks = _write(tmp_path / 'a.tfrecord', [_example(7)])
  _, _, problems = _check(monkeypatch, tmp_path, f'--input_path={records_without_masks}',
                          '--experiment=maskrcnn_resnetfpn_coco')
  assert list(problems) == [
      'record has no masks, which the model needs: convert the data with --include_masks']
  with pytest.raises(command_line.CommandError, match='nonsense'):
    _check(monkeypatch, tmp_path, f'--data={records}', '--experiment=nonsense')


@pytest.mark.parametrize('options, name', [
    (['--annotation_file=x', '--data=y'], '--annotation_file'),
    (['--data=y', '--num_samples=0'], '--num_samples'),
    (['--data=y', '--config_file=z'], 'give --experiment too'),
    (['--data=y', '--output=x.txt'], '--output'),
    (['--data=y', '--output=a_file/x.png'], '--output=a_file/x.png .* is no folder'),
    (['--data=y', '--json=.'], '--json=. is a folder')])
def test_wrong_options_are_named(tmp_path, monkeypatch, options, name):
  (tmp_path / 'a_file').touch()
  monkeypatch.chdir(tmp_path)
  with pytest.raises(command_line.CommandError, match=name):
    _check(monkeypatch, tmp_path, *options)
