"""Records of other programs, and of TensorFlow Datasets: the same boxes, classes and masks."""
import io
import json

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from dataset_files import by_reason
from layout_files import assert_is_truth, COLORS, draw, opened, read, SIZE, TRUTH, write
from official_ext.utils import command_line

LABEL_MAP = ("item {\n  id: 2\n  name: 'red'\n}\nitem {\n  id: 5\n  name: \"n01\"\n"
             '  display_name: "green"\n}\n')
NUMBERS = {'red': 2, 'green': 5}


def png(image) -> bytes:
  encoded = io.BytesIO()
  image.save(encoded, 'PNG')
  return encoded.getvalue()


def feature(values):
  if isinstance(values[0], bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
  if isinstance(values[0], float):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(name, boxes, **more) -> bytes:
  """A record of the Object Detection API: no source id, no area, no crowds."""
  corners = {
      'xmin': [box[1] / SIZE[0] for box in boxes], 'ymin': [box[2] / SIZE[1] for box in boxes],
      'xmax': [(box[1] + box[3]) / SIZE[0] for box in boxes],
      'ymax': [(box[2] + box[4]) / SIZE[1] for box in boxes]}
  features = {'image/encoded': [png(draw(boxes))], 'image/format': [b'png'],
              'image/height': [SIZE[1]], 'image/width': [SIZE[0]],
              'image/filename': [name.encode()],
              **{f'image/object/bbox/{key}': values for key, values in corners.items()}, **more}
  return tf.train.Example(features=tf.train.Features(feature={
      key: feature(values) for key, values in features.items() if values})).SerializeToString()


def labels(boxes):
  return {'image/object/class/label': [NUMBERS[box[0]] for box in boxes]}


def texts(boxes):
  return {'image/object/class/text': [box[0].encode() for box in boxes]}


def mask_pngs(boxes):
  """Masks as create_coco_tf_record writes them."""
  pixels = []
  for _, x, y, width, height in boxes:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[y:y + height, x:x + width] = 1
    pixels.append(png(Image.fromarray(mask)))
  return {'image/object/mask': pixels, 'image/object/is_crowd': [0] * len(boxes)}


def write_records(folder, files, *parts):
  for split, images in TRUTH.items():
    path = folder / files.format('valid' if split == 'val' and '/' in files else split)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
      for name, boxes in images.items():
        writer.write(example(name, boxes, **{key: value for part in parts
                                             for key, value in part(boxes).items()}))


@pytest.mark.parametrize('files, label_map, parts, has_masks', [
    ('{}.record', 'label_map.pbtxt', (labels,), False),
    ('{}-00000-of-00001.tfrecord', None, (texts, labels, mask_pngs), True),
    ('{}/cells.tfrecord', 'train/cells_label_map.pbtxt', (labels, texts), False)])
def test_records_of_other_programs(tmp_path, files, label_map, parts, has_masks):
  write_records(tmp_path, files, *parts)
  if label_map:
    write(tmp_path / label_map, LABEL_MAP)
  with opened(tmp_path) as (choice, splits, findings):
    assert choice.layout == 'tfrecord'
    assert_is_truth(splits, has_masks)
    assert not by_reason(findings, 'dropped')
    ids = {category['name']: category['id'] for category in splits['train'].categories}
    assert ids == (NUMBERS if label_map else {'green': 1, 'red': 2})
    image = splits['train'].images[0]['file_name']
    assert image == 'a0.png' and splits['train'].find_image(image).is_file()


def test_damaged_records_are_named_and_the_others_kept(tmp_path):
  write_records(tmp_path, '{}.record', texts)
  with tf.io.TFRecordWriter(str(tmp_path / 'train.record')) as writer:
    writer.write(example('a.png', TRUTH['train']['a0.png'], **texts(TRUTH['train']['a0.png'])))
    writer.write(b'no example')
    writer.write(example('b.png', [], **{'image/encoded': [b'no image']}))
    writer.write(example('c.png', TRUTH['train']['a1.png'],
                         **{'image/object/bbox/xmin': [0.1] * 3}))
    writer.write(example('d.png', TRUTH['train']['a1.png'], **texts(TRUTH['train']['a1.png'])))
    writer.write(b'x' * 100)
  path = tmp_path / 'train.record'
  path.write_bytes(path.read_bytes()[:-50])
  _, splits, findings = read(tmp_path)
  assert [image['file_name'] for image in splits['train'].images] == ['a.png', 'd.png']
  dropped = by_reason(findings, 'dropped')
  assert [text.split()[:3] for text in dropped['record cannot be read']] == [
      ['train.record', 'record', number] for number in '234']
  assert dropped['file is truncated or damaged'] == ['train.record after 5 records']


def write_tfds(folder, features, examples):
  """Writes a version as download_and_prepare does; examples are by split."""
  folder.mkdir(parents=True)
  features.save_config(folder)
  for split, values in examples.items():
    path = folder / f'drawn-{split}.tfrecord-00000-of-00001'
    with tf.io.TFRecordWriter(str(path)) as writer:
      for value in values:
        writer.write(features.serialize_example(features.encode_example(value)))
  write(folder / 'dataset_info.json', json.dumps(dict(
      name='drawn', version='1.0.0', fileFormat='tfrecord', splits=[dict(
          name=split, shardLengths=[str(len(values))], numBytes='1',
          filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}')
      for split, values in examples.items()])))


def test_a_data_set_of_tensorflow_datasets(tmp_path):
  def encoded(boxes):
    return [dict(bbox=tfds.features.BBox(y / SIZE[1], x / SIZE[0], (y + height) / SIZE[1],
                                         (x + width) / SIZE[0]), label=label)
            for label, x, y, width, height in boxes]
  features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
      'image/filename': tfds.features.Text(),
      'objects': tfds.features.Sequence({
          'bbox': tfds.features.BBoxFeature(),
          'label': tfds.features.ClassLabel(names=list(COLORS))})})
  write_tfds(tmp_path / 'drawn' / '1.0.0', features, {
      name: [{'image': np.asarray(draw(boxes)), 'image/filename': file, 'objects': encoded(boxes)}
             for file, boxes in TRUTH[split].items()]
      for name, split in (('train', 'train'), ('validation', 'val'))})
  with opened(tmp_path) as (choice, splits, _):
    assert choice.layout == 'tfds'
    assert_is_truth(splits, has_masks=False)


def test_a_data_set_without_boxes_is_refused(tmp_path):
  features = tfds.features.FeaturesDict({'image': tfds.features.Image(shape=(4, 4, 3))})
  write_tfds(tmp_path / 'data', features, {'train': [{'image': np.zeros([4, 4, 3], np.uint8)}]})
  with pytest.raises(command_line.CommandError, match='no image with a sequence of boxes'):
    read(tmp_path)
