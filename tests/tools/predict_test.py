"""The predict command: files, ids, boxes, costs and broken images."""
import csv
import json
import os
import pathlib

from matplotlib import figure
import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official_ext.tools import predict
from official_ext.utils import command_line
from official_ext.visualization import routing_figures
from official_ext.serving import detectors


class _Detector(tf.Module):
  """Finds the bright rectangle of each image; its cost is the number of bright pixels."""

  def __init__(self, scale: float, batch_size=None, is_encoded=False, has_maps=False):
    super().__init__()
    self._scale, self._has_maps = scale, has_maps
    spec = (tf.TensorSpec([batch_size], tf.string, name='inputs') if is_encoded else
            tf.TensorSpec([batch_size, None, None, 3], tf.uint8, name='inputs'))
    self.signature = tf.function(
        self._decode if is_encoded else self._detect).get_concrete_function(spec)

  def _decode(self, encoded):

    def decode(png):
      return tf.io.decode_png(png, channels=3)

    return self._detect(tf.map_fn(decode, encoded, fn_output_signature=tf.uint8))

  def _detect(self, images):
    bright = tf.cast(images[..., 0] > 128, tf.float32)
    rows, columns = tf.reduce_max(bright, axis=2), tf.reduce_max(bright, axis=1)

    def ends(line):
      positions = tf.range(tf.shape(line)[1], dtype=tf.float32)
      return (tf.reduce_min(tf.where(line > 0, positions, 1e9), axis=1),
              tf.reduce_max(line * (positions + 1), axis=1))

    (y1, y2), (x1, x2) = ends(rows), ends(columns)
    box = tf.stack([y1, x1, y2, x2], axis=1) * self._scale
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    one = tf.ones_like(y1)
    info = tf.stack([size, size * self._scale, [self._scale] * 2, [0.0, 0.0]])
    area = tf.reduce_sum(bright, axis=[1, 2])
    maps = {'gate_head_block_0_depth_3': bright[:, ::4, ::4, None]} if self._has_maps else {}
    return {
        **maps,
        'detection_boxes': tf.stack([box, box, tf.zeros_like(box)], axis=1),
        'detection_scores': tf.stack([0.9 * one, 0.2 * one, 0.0 * one], axis=1),
        'detection_classes': tf.cast(tf.stack([2 * one, one, one], axis=1), tf.int32),
        'num_detections': tf.cast(2 * one, tf.int32),
        'image_info': tf.tile(info[None], [tf.shape(images)[0], 1, 1]),
        'multiply_adds': 1e9 + area,
        'executed_multiply_adds': area,
        'gate_neck_3': tf.cast(area > 100, tf.float32),
        'gate_neck_4': tf.one_hot(tf.cast(area > 100, tf.int32), 2),
    }


def _save(path, **options):
  detector = _Detector(0.5, **options)
  tf.saved_model.save(detector, str(path), signatures={'serving_default': detector.signature})
  return path


@pytest.fixture(scope='module')
def saved_model(tmp_path_factory):
  return _save(tmp_path_factory.mktemp('detector') / 'any')


# File -> the bright rectangle, as y1, x1, y2, x2.
RECTANGLES = {'a/one.png': (4, 6, 10, 30), 'a/two.png': (10, 2, 12, 8), 'b/three.png': (0, 0, 5, 5)}
SIZES = {'a/one.png': (40, 60), 'a/two.png': (40, 60), 'b/three.png': (32, 20)}


@pytest.fixture
def images(tmp_path):
  """A folder of three images of two sizes."""
  for name, (y1, x1, y2, x2) in RECTANGLES.items():
    pixels = np.zeros([*SIZES[name], 3], np.uint8)
    pixels[y1:y2, x1:x2] = 255
    path = tmp_path / 'images' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
  return tmp_path / 'images'


def _annotations(path, files):
  path.write_text(json.dumps({
      'images': [{'id': i, 'file_name': name, 'height': 1, 'width': 1}
                 for i, name in files.items()],
      'categories': [{'id': 1, 'name': 'dark'}, {'id': 2, 'name': 'bright'}],
      'annotations': [
          {'id': i, 'image_id': i, 'category_id': 2, 'iscrowd': 0, 'area': 100,
           'bbox': [RECTANGLES[name][1], RECTANGLES[name][0],
                    RECTANGLES[name][3] - RECTANGLES[name][1],
                    RECTANGLES[name][2] - RECTANGLES[name][0]]}
          for i, name in files.items() if name in RECTANGLES]}), encoding='utf-8')
  return path


def _run(saved_model, images, output, *more):
  predict.main([f'--saved_model={saved_model}', f'--output_dir={output}', *more, '--images',
                *map(str, images if isinstance(images, list) else [images])])
  return {path.stem: json.loads(path.read_text(encoding='utf-8')) for path in output.glob('*.json')}


def _boxes_by_name(written):
  """Returns file -> the box of its best detection, as y1, x1, y2, x2."""
  names = {image_id: file for file, image_id in written['images'].items()}
  boxes = {}
  for detection in written['predictions']:
    if detection['score'] > 0.5:
      x, y, width, height = detection['bbox']
      file = pathlib.Path(names[detection['image_id']])
      boxes['/'.join(file.parts[-2:])] = (y, x, y + height, x + width)
  return boxes


@pytest.mark.parametrize('options, batch_size', [
    ({}, 1), ({}, 2), ({'batch_size': 2}, 1), ({'is_encoded': True}, 3)])
def test_boxes_are_found_in_every_way_of_batching(tmp_path, images, options, batch_size):
  saved = _save(tmp_path / 'saved', **options)
  written = _run(saved, images, tmp_path / 'out', f'--batch_size={batch_size}')
  assert _boxes_by_name(written) == RECTANGLES
  assert len(written['predictions']) == 2 * len(RECTANGLES)  # With low scores, without padding.
  assert {d['category_id'] for d in written['predictions'] if d['score'] > 0.5} == {2}


def test_costs_gates_and_their_table(tmp_path, images, saved_model):
  written = _run(saved_model, images, tmp_path / 'out')
  areas = {'one.png': 6 * 24, 'two.png': 2 * 6, 'three.png': 25}
  costs = {pathlib.Path(cost['file']).name: cost for cost in written['costs']['images']}
  assert {name: cost['executed_multiply_adds'] for name, cost in costs.items()} == areas
  for name, cost in costs.items():
    is_open = float(areas[name] > 100)
    assert cost['gates'] == {'neck_3': is_open, 'neck_4': [1 - is_open, is_open]}
    assert cost['multiply_adds'] == float(np.float32(1e9 + areas[name]))
    assert cost['seconds'] > 0
  with open(tmp_path / 'out' / 'costs.csv', encoding='utf-8', newline='') as file:
    table = {pathlib.Path(row['file']).name: row for row in csv.DictReader(file)}
  assert float(table['one.png']['gate_neck_4_1']) == 1
  assert float(table['two.png']['gate_neck_3']) == 0


def test_boxes_above_the_threshold_are_drawn(tmp_path, saved_model):
  original = np.zeros([120, 160, 3], np.uint8)
  original[60:100, 40:140] = 255
  Image.fromarray(original).save(tmp_path / 'large.png')

  def changes(threshold):
    _run(saved_model, tmp_path / 'large.png', tmp_path / 'out', f'--score_threshold={threshold}')
    drawn, = (tmp_path / 'out' / 'drawn').iterdir()
    return np.abs(np.asarray(Image.open(drawn)).astype(int) - original).max(axis=2) > 60

  changed = changes(0.5)
  assert changed[98:100, 40:140].mean() > 0.9 and changed[60:100, 40:42].mean() > 0.9
  assert changed[30:60].any()  # The label.
  assert not changed[102:].any() and not changed[64:96, 46:134].any()
  assert not changes(0.95).any()


def test_gates_are_drawn_over_every_image(tmp_path, images, monkeypatch):
  """Every picture shows the maps of its own image, at the scale of the network's input."""
  drawn = {}

  def draw_decisions(image, gates, executed, maximum, scale):
    drawn[image.shape[:2], executed] = gates, maximum, scale
    return {'depth': figure.Figure(figsize=(1, 1))}

  monkeypatch.setattr(routing_figures, 'draw_decisions', draw_decisions)
  saved = _save(tmp_path / 'saved', has_maps=True)
  (saved / 'export.json').write_text(json.dumps({'gmac': {'static': 0.5, 'maximum': 2.0}}))
  _run(saved, images, tmp_path / 'out', '--gates', '--batch_size=2')
  files = sorted(path.name for path in (tmp_path / 'out' / 'gates').iterdir())
  assert files == ['one_1_depth.png', 'three_3_depth.png', 'two_2_depth.png']
  for name, (y1, x1, y2, x2) in RECTANGLES.items():
    gates, maximum, scale = drawn[SIZES[name], (y2 - y1) * (x2 - x1)]
    bright = np.zeros(SIZES[name])
    bright[y1:y2, x1:x2] = 1
    np.testing.assert_array_equal(gates['head_block_0_depth_3'], bright[::4, ::4, None])
    assert maximum == 1.5e9 and list(scale) == [0.5, 0.5]


def test_gates_that_cannot_be_drawn_are_refused(tmp_path, images, saved_model):
  with pytest.raises(command_line.CommandError, match='--gates: the outputs .* have no gate that'):
    _run(saved_model, images, tmp_path / 'out', '--gates')
  assert not (tmp_path / 'out').exists()


def test_drawing_can_be_left_out(tmp_path, images, saved_model):
  _run(saved_model, images, tmp_path / 'plain', '--no-draw')
  assert (tmp_path / 'plain' / 'predictions.json').is_file()
  assert not (tmp_path / 'plain' / 'drawn').exists()


def test_ids_come_from_the_annotation_file(tmp_path, images, saved_model, capsys):
  annotations = _annotations(
      tmp_path / 'truth.json', {70: 'a/one.png', 30: 'b/three.png', 5: 'nowhere.png'})
  written = _run(saved_model, images, tmp_path / 'out', f'--annotation_file={annotations}',
                 '--evaluate', '--resamples=20')
  assert {d['image_id'] for d in written['predictions']} == {70, 30}
  assert _boxes_by_name(written) == {
      name: RECTANGLES[name] for name in ('a/one.png', 'b/three.png')}
  assert [pathlib.Path(file).name for file in written['costs']['not_in_annotation_file']] == [
      'two.png']
  assert written['costs']['absent'] == ['nowhere.png']
  assert [written['evaluation'][key] for key in ('ap', 'ap_low', 'ap_high')] == [
      pytest.approx(1.0)] * 3
  said = capsys.readouterr().out
  assert 'Left out, not in the annotation file: 1 (' in said and 'two.png)' in said
  assert 'In the annotation file but not there: 1 (nowhere.png)' in said
  assert 'AP 1.000 (1.000 to 1.000), AP50 1.000 on 2 images' in said


def test_an_annotation_file_that_does_not_fit_is_refused(tmp_path, images, saved_model):
  nowhere = _annotations(tmp_path / 'nowhere.json', {1: 'nowhere.png'})
  with pytest.raises(command_line.CommandError, match='has none of the 3 images.*nowhere.png'):
    _run(saved_model, images, tmp_path / 'out', f'--annotation_file={nowhere}')
  (images / 'b' / 'one.png').write_bytes((images / 'a' / 'one.png').read_bytes())
  twice = _annotations(tmp_path / 'twice.json', {1: 'one.png'})
  with pytest.raises(command_line.CommandError, match='a/one.png and .*b/one.png both fit'):
    _run(saved_model, images, tmp_path / 'out', f'--annotation_file={twice}')
  twice.write_text('{', encoding='utf-8')
  with pytest.raises(command_line.CommandError, match='annotation_file: .*twice.json is not a'):
    _run(saved_model, images, tmp_path / 'out', f'--annotation_file={twice}')
  assert not (tmp_path / 'out').exists()


def test_broken_images_are_skipped_and_named(tmp_path, images, saved_model, capsys):
  whole = (images / 'a' / 'one.png').read_bytes()
  (images / 'a' / 'cut.png').write_bytes(whole[:len(whole) // 2])
  (images / 'a' / 'text.jpg').write_text('no image', encoding='utf-8')
  (images / 'notes.txt').write_text('not meant as one', encoding='utf-8')
  written = _run(saved_model, images, tmp_path / 'out')
  assert _boxes_by_name(written) == RECTANGLES
  assert {pathlib.Path(file).name for file in written['costs']['skipped']} == {
      'cut.png', 'text.jpg'}
  said = capsys.readouterr().out
  assert 'Skipped: 2 (' in said and 'cut.png: image file is broken: ' in said


class _Failing(tf.Module):
  """Detects as Model Garden does, and like it fails for an image that a resize makes empty."""

  def __init__(self):
    super().__init__()
    self._detector = _Detector(0.5)
    self.signature = tf.function(self._detect, input_signature=[
        tf.TensorSpec([None, None, None, 3], tf.uint8, name='inputs')]).get_concrete_function()

  def _detect(self, images):
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    size = tf.cast(tf.round(size * 64 / tf.reduce_max(size)), tf.int32)
    resized = tf.image.resize(tf.cast(images, tf.float32), size)
    with tf.control_dependencies([tf.debugging.assert_less(resized, 300.0)]):
      black = tf.reduce_any(tf.reduce_all(images[..., 2] == 7, axis=[1, 2]))
      with tf.control_dependencies([tf.debugging.assert_equal(black, False, 'seven')]):
        return self._detector._detect(images)


def test_images_for_which_the_detector_fails_are_skipped_and_named(tmp_path, images, capsys):
  detector = _Failing()
  tf.saved_model.save(detector, str(tmp_path / 'saved'),
                      signatures={'serving_default': detector.signature})
  (tmp_path / 'saved' / 'export.json').write_text(json.dumps({'input_image_size': [64, 64]}))
  Image.new('RGB', (4000, 6)).save(images / 'a' / 'long.png')
  Image.new('RGB', (60, 40), (0, 0, 7)).save(images / 'a' / 'seven.png')  # fails its whole batch
  written = _run(tmp_path / 'saved', images, tmp_path / 'out', '--batch_size=8')
  assert _boxes_by_name(written) == RECTANGLES
  skipped = {pathlib.Path(file).name: reason
             for file, reason in written['costs']['skipped'].items()}
  assert set(skipped) == {'long.png', 'seven.png'}
  assert skipped['long.png'].startswith('4000 x 6 pixels are too long: resized to 64 x 64')
  assert skipped['seven.png'].startswith('the detector failed for 60 x 40 pixels: ')
  assert 'long.png: 4000 x 6' in capsys.readouterr().out


def test_photographs_are_predicted_as_their_annotations_see_them(tmp_path, saved_model):
  """Without annotations as a viewer shows them; else in the frame of the annotation file."""
  pixels = np.zeros([40, 60, 3], np.uint8)
  pixels[4:10, 6:30] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # A viewer turns it clockwise.
  (tmp_path / 'images').mkdir()
  Image.fromarray(pixels).save(tmp_path / 'images' / 'photo.png', exif=exif)
  stored, turned = (4, 6, 10, 30), (6, 30, 30, 36)
  frames = {'viewer': (None, turned), 'stored': (dict(width=60, height=40), stored),
            'turned': (dict(width=40, height=60), turned),
            'converted': (dict(width=40, height=60, exif_orientation='ignored'), stored)}
  for name, (entry, expected) in frames.items():
    more = []
    if entry:
      path = tmp_path / f'{name}.json'
      path.write_text(json.dumps({
          'images': [dict(id=5, file_name='photo.png', **entry)], 'annotations': [],
          'categories': [dict(id=1, name='dark'), dict(id=2, name='bright')]}))
      more = [f'--annotation_file={path}']
    written = _run(saved_model, tmp_path / 'images', tmp_path / f'out_{name}', *more)
    assert _boxes_by_name(written) == {'images/photo.png': expected}, name
    drawn, = (tmp_path / f'out_{name}' / 'drawn').glob('*.jpg')
    size = Image.open(drawn).size
    assert size == ((60, 40) if expected == stored else (40, 60)), name


def test_too_large_images_are_skipped_until_the_limit_is_raised(tmp_path, images, saved_model):
  written = _run(saved_model, images, tmp_path / 'out', '--max_pixels=2399')
  assert set(_boxes_by_name(written)) == {'b/three.png'}
  for reason in written['costs']['skipped'].values():
    assert reason.startswith('image is too large: 60 x 40') and '--max_pixels' in reason
  written = _run(saved_model, images, tmp_path / 'out', '--max_pixels=2400')
  assert set(_boxes_by_name(written)) == set(RECTANGLES)


def test_pictures_of_files_with_any_name_are_all_drawn(tmp_path, saved_model):
  names = ['one/a.png', 'two/a.png', 'two/a.jpg', "it's [1], 50 % #?.png", 'ü' * 120 + '.png',
           os.fsdecode(b'caf\xe9.png'), 'line\nbreak.png']
  folder = tmp_path / 'images'
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (30, 20)).save(folder / name, format='PNG')
  written = _run(saved_model, folder, tmp_path / 'out')
  assert {entry['file'] for entry in written['costs']['images']} == {
      str(folder / name) for name in names}
  assert len(list((tmp_path / 'out' / 'drawn').glob('*.jpg'))) == len(names)
  assert b'caf\xe9.png' in (tmp_path / 'out' / 'costs.csv').read_bytes()


def test_no_image_that_can_be_read(tmp_path, images, saved_model):
  broken = tmp_path / 'broken.jpg'
  broken.write_text('no image', encoding='utf-8')
  with pytest.raises(command_line.CommandError, match=r'predicted \(1 tried\).*broken.jpg'):
    _run(saved_model, broken, tmp_path / 'out')
  with pytest.raises(command_line.CommandError, match='no such file or folder'):
    _run(saved_model, tmp_path / 'nowhere', tmp_path / 'out')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(command_line.CommandError, match='holds no image'):
    _run(saved_model, tmp_path / 'empty', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_another_folder_is_not_replaced(tmp_path, images, saved_model):
  with pytest.raises(command_line.CommandError, match='was not written by this command'):
    _run(saved_model, images, images)
  assert (images / 'a' / 'one.png').is_file()


def test_what_is_no_detector_is_refused(tmp_path, images):
  with pytest.raises(command_line.CommandError, match='no file saved_model.pb'):
    detectors.SavedDetector(tmp_path)
  other = tf.Module()
  other.f = tf.function(lambda x: {'y': x}, input_signature=[tf.TensorSpec([None])])
  tf.saved_model.save(other, str(tmp_path / 'other'), signatures=other.f)
  with pytest.raises(command_line.CommandError, match='does not detect objects.*detection_boxes'):
    _run(tmp_path / 'other', images, tmp_path / 'out')
  (tmp_path / 'other' / 'saved_model.pb').write_bytes(b'\xff broken')
  with pytest.raises(command_line.CommandError, match='cannot be loaded'):
    detectors.SavedDetector(tmp_path / 'other')


@pytest.mark.parametrize('flag, needed', [
    ('--evaluate', '--annotation_file'), ('--resamples=5', '--evaluate')])
def test_a_flag_names_the_flag_that_it_needs(flag, needed, capsys):
  with pytest.raises(SystemExit):
    predict.main(['--saved_model=s', '--images=i', '--output_dir=o', flag])
  assert f'{flag.split("=")[0]} needs {needed}' in capsys.readouterr().err


@pytest.mark.parametrize('value', ['nan', '-1', '30', 'high'])
def test_a_score_is_from_0_to_1(value, capsys):
  with pytest.raises(SystemExit):
    predict.main(['--saved_model=s', '--images=i', '--output_dir=o', f'--score_threshold={value}'])
  assert '--score_threshold' in capsys.readouterr().err
