"""The forms in which an exported detector takes images."""
import io

import numpy as np
from PIL import Image

INPUT_TYPES = ('image_tensor', 'image_bytes', 'tf_example')


def encode(images: np.ndarray, input_type: str):
  """Encodes images as the signature of an export takes them.

  Args:
    images: uint8 `[batch, height, width, 3]`.
    input_type: one of `INPUT_TYPES`.

  Returns:
    A tensor: the images, or strings `[batch]` that are PNG files or `tf.train.Example`s with
    such files.
  """
  import tensorflow as tf
  if input_type == 'image_tensor':
    return tf.constant(images)
  files = [_png(image) for image in images]
  return tf.constant([_example(file) for file in files] if input_type == 'tf_example' else files)


def _png(image: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def _example(png: bytes) -> bytes:
  import tensorflow as tf
  feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
  features = tf.train.Features(feature={'image/encoded': feature})
  return tf.train.Example(features=features).SerializeToString()
