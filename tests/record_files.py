"""Writes small TFRecords of images and boxes, right ones and odd ones."""
import io

from PIL import Image
import tensorflow as tf


def image_bytes(size=(40, 30), image_format='PNG') -> bytes:
  """Returns an encoded gray image; `size` is (width, height)."""
  buffer = io.BytesIO()
  Image.new('RGB', size, (128, 128, 128)).save(buffer, image_format)
  return buffer.getvalue()


def features(**changes):
  """Returns the features of an image of 40 x 30 pixels with two boxes.

  Args:
    **changes: name without `image/`, with `__` for `/` -> other values; None leaves one out.
  """
  values = {
      'encoded': [image_bytes()], 'source_id': [b'1'], 'filename': [b'cat.png'],
      'height': [30], 'width': [40], 'object/class/label': [1, 2],
      'object/bbox/xmin': [0.0, 0.5], 'object/bbox/xmax': [0.5, 1.0],
      'object/bbox/ymin': [0.0, 0.5], 'object/bbox/ymax': [0.5, 1.0]}
  values.update({name.replace('__', '/'): value for name, value in changes.items()})
  return {f'image/{name}': value for name, value in values.items() if value is not None}


def _feature(values):
  if not values or isinstance(values[0], bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
  if isinstance(values[0], float):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(**changes) -> bytes:
  """Returns a serialized example with the features of `features`."""
  return tf.train.Example(features=tf.train.Features(feature={
      name: _feature(values) for name, values in features(**changes).items()})).SerializeToString()


def write(path, examples) -> str:
  """Writes serialized examples to a file, and returns its path as text."""
  with tf.io.TFRecordWriter(str(path)) as writer:
    for serialized in examples:
      writer.write(serialized)
  return str(path)
