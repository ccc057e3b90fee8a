"""Each flaw of an example is named; the look at records before a training starts no device."""
import io
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from official_ext.datasets.records import example_checks
from official_ext.datasets.records import record_checks


def image_bytes(size=(40, 30), form='PNG', **options) -> bytes:
  content = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
  Image.fromarray(pixels).save(content, form, **options)
  return content.getvalue()


ANY, FIVE = example_checks.Needs(), example_checks.Needs(num_classes=5)
PNG = image_bytes()
MASK = io.BytesIO()
Image.new('L', (40, 30)).save(MASK, 'PNG')


def example(changes=None) -> tf.train.Example:
  """Returns an example with two boxes; `changes` replaces features, None takes one away."""
  values = {
      'image/encoded': [PNG], 'image/source_id': [b'7'], 'image/filename': [b'a.png'],
      'image/height': [30], 'image/width': [40], 'image/object/class/label': [1, 2],
      'image/object/bbox/ymin': [.1, .2], 'image/object/bbox/xmin': [.1, .2],
      'image/object/bbox/ymax': [.5, .6], 'image/object/bbox/xmax': [.5, .6], **(changes or {})}
  result = tf.train.Example()
  for name, value in values.items():
    kind = {bytes: 'bytes', int: 'int64', float: 'float'}[type(value[0] if value else 0)]
    if value:
      getattr(result.features.feature[name], f'{kind}_list').value[:] = value
  return result


def found(changes=None, **needs) -> dict[str, str]:
  features = example(changes).features.feature
  return {problem.reason: problem.detail for problem in
          example_checks.problems(features, example_checks.Needs(**needs))}


def test_a_right_example_has_no_problem():
  assert not found()
  assert not found({'image/object/mask': [MASK.getvalue()] * 2}, masks=True, num_classes=3,
                   input_size=(64, 64))
  assert not found({'image/height': None, 'image/width': None})
  assert not found({name: [] for name in example().features.feature if '/object/' in name},
                   masks=True)


@pytest.mark.parametrize('changes, needs, reason', [
    ({'image/source_id': None}, {}, 'record has no image/source_id'),
    ({'image/source_id': [b'img_1']}, {}, 'image id is not a whole number'),
    ({'image/source_id': [b'99999999999999999999']}, {}, 'image id is not a whole number'),
    ({'image/source_id': [7]}, {}, 'image/source_id holds int64 values, bytes values are read'),
    ({'image/height': [30.0]}, {}, 'image/height holds float values, int64 values are read'),
    ({'image/encoded': None}, {}, 'record has no image in image/encoded'),
    ({'image/encoded': [b'text']}, {}, 'image cannot be decoded'),
    ({'image/encoded': [image_bytes(form='TIFF')]}, {}, 'image is TIFF; only JPEG'),
    ({'image/encoded': [image_bytes(form='GIF', save_all=True, append_images=[
        Image.new('RGB', (40, 30))])]}, {}, 'image is an animation'),
    ({'image/width': [80]}, {}, 'image size is not what the record says'),
    ({'image/object/class/label': [0, 1]}, {}, 'class id is below 1: 0 stands for background'),
    ({'image/object/class/label': [1, 3]}, dict(num_classes=3),
     'class id is not in 1 to num_classes - 1 = 2'),
    ({'image/object/class/label': [1]}, {}, 'record has not one class for each box'),
    ({'image/object/class/label': None}, {}, 'record has not one class for each box: names in'),
    ({'image/object/bbox/xmin': [.1]}, {}, 'record has not four coordinates for each box'),
    ({'image/object/bbox/xmax': [30.0, 35.0]}, {}, 'box is in pixels'),
    ({'image/object/bbox/xmax': [.5, float('nan')]}, {}, 'box is not finite'),
    ({'image/object/bbox/xmax': [.5, 1.1]}, {}, 'box is outside the image'),
    ({'image/object/bbox/xmax': [.5, .2]}, {}, 'box has no area'),
    ({}, dict(masks=True), 'record has no masks'),
    ({'image/object/mask': [MASK.getvalue()]}, {}, 'record has not one mask for each box'),
    ({'image/object/mask': [b'x', MASK.getvalue()]}, {}, 'mask is broken'),
    ({'image/object/mask': [image_bytes((9, 9)), MASK.getvalue()]}, {}, 'mask is not of the'),
    ({'image/object/mask': [0.0, 1.0]}, {}, 'image/object/mask holds float values'),
    ({'image/encoded': [image_bytes((4000, 6))], 'image/width': [4000], 'image/height': [6]},
     dict(input_size=(512, 512)), 'image is so long that nothing is left'),
])
def test_each_flaw_is_named(changes, needs, reason):
  name, = found(changes, **needs)
  assert name.startswith(reason)


def write(path, examples) -> str:
  with tf.io.TFRecordWriter(str(path)) as writer:
    for item in examples:
      writer.write(item if isinstance(item, bytes) else item.SerializeToString())
  return str(path)


def test_first_problem_is_a_sentence_with_the_record(tmp_path):
  path = write(tmp_path / 'a.tfrecord', [
      example(), example({'image/source_id': [b'8'], 'image/object/class/label': [1, 5]})])
  assert record_checks.first_problem([path], ANY) is None
  assert record_checks.first_problem([path], example_checks.Needs(num_classes=6)) is None
  assert record_checks.first_problem([path], FIVE, limit=1) is None
  assert record_checks.first_problem([path], FIVE) == (
      'a.tfrecord record 2 a.png: class id is not in 1 to num_classes - 1 = 4 (ids [5]); '
      'check_dataset lists all problems.')
  assert 'has no masks' in record_checks.first_problem(
      [path], example_checks.Needs(masks=True))
  other = write(tmp_path / 'b.tfrecord', [example({'image/source_id': [b'8']})])
  assert 'b.tfrecord record 1 a.png: image id is there twice (id 8, also a.tfrecord record 2' in (
      record_checks.first_problem([path, other], ANY))
  assert record_checks.first_problem(
      [path, other], example_checks.Needs(source_id=False)) is None


def test_flaws_that_model_garden_mends_stop_no_training(tmp_path):
  path = write(tmp_path / 'a.tfrecord', [example({'image/object/bbox/xmax': [.5, 1.1]})])
  assert record_checks.first_problem([path], ANY) is None


@pytest.mark.parametrize('content, reason', [
    (b'', 'the files have no records'), (b'{"images": []}' * 9, 'file is no TFRecord file'),
    ([b'text'], 'record 1: record is no tf.train.Example'),
    ('cut', 'truncated or damaged .after 1 records')])
def test_first_problem_names_files_that_cannot_be_read(tmp_path, content, reason):
  path = tmp_path / 'a'
  if content == 'cut':
    write(path, [example(), example({'image/source_id': [b'8']})])
    path.write_bytes(path.read_bytes()[:-9])
  elif isinstance(content, list):
    write(path, content)
  else:
    path.write_bytes(content)
  found_problem = record_checks.first_problem([str(path)], ANY)
  assert re.search(reason, found_problem)


@pytest.mark.slow
def test_first_problem_starts_no_device(tmp_path):
  path = write(tmp_path / 'a.tfrecord', [example(), example({'image/source_id': [b'x']})])
  program = (
      'from official_ext.datasets.records import example_checks, record_checks\n'
      'from tensorflow.python.eager import context\n'
      'problem = record_checks.first_problem(\n'
      f'    [{path!r}], example_checks.Needs(masks=True, num_classes=3))\n'
      "assert 'has no masks' in problem, problem\n"
      'assert not context.context()._initialized\n')
  subprocess.run([sys.executable, '-c', program], check=True, timeout=600)
