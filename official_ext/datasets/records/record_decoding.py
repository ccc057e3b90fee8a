"""Reads TFRecords as Model Garden does."""
from collections.abc import Iterator
import io
import os
from typing import Any

import numpy as np
from PIL import Image
import tensorflow as tf

from official.vision.dataloaders import tf_example_decoder
from official_ext.datasets import findings

Decoded = dict[str, Any]  # NumPy values of a record, as `RecordDecoder` returns them

_KEYS = ('source_id', 'image', 'height', 'width', 'groundtruth_boxes', 'groundtruth_classes',
         'groundtruth_is_crowd', 'groundtruth_instance_masks_png')


def count_records(path: str) -> int:
  """Returns the number of records of a file, from their lengths alone."""
  position = count = 0
  with tf.io.gfile.GFile(path, 'rb') as file:
    size = file.size()
    while position + 8 <= size:
      file.seek(position)
      position += int.from_bytes(file.read(8), 'little') + 16  # a length and two checksums
      count += position <= size
  return count


def records_in_order(path: str) -> Iterator[bytes]:
  """Yields the records of a file without a TensorFlow operation and without their checksums.

  `read_records` compares checksums as well, but starts TensorFlow's devices.

  Args:
    path: a TFRecord file.

  Raises:
    UnusableError: the file is no TFRecord file, or ends within a record. It comes after the
      records that can be read.
  """
  position = count = 0
  with tf.io.gfile.GFile(path, 'rb') as file:
    size = file.size()
    while position < size:
      file.seek(position)
      length = int.from_bytes(file.read(8), 'little')
      position += length + 16  # a length and two checksums of four bytes
      if position > size:
        raise findings.UnusableError(
            'file is truncated or damaged' if count else
            'file is no TFRecord file, or a damaged one: narrow the pattern',
            f'after {count} records' if count else '')
      file.seek(position - length - 4)
      yield file.read(length)
      count += 1


def read_records(path: str) -> Iterator[bytes]:
  """Yields the records of a file.

  Args:
    path: a TFRecord file.

  Raises:
    UnusableError: the file is not a TFRecord file, is damaged or has no records. It comes after the
      records that can be read.
  """
  count = 0
  try:
    for record in tf.data.TFRecordDataset(path):
      count += 1
      yield record.numpy()
  except tf.errors.DataLossError as error:
    if count == 0 and 'truncated' not in str(error.message):
      raise findings.UnusableError('file is no TFRecord file: narrow the pattern') from error
    raise findings.UnusableError('file is truncated or damaged',
                                 f'after {count} records') from error
  except tf.errors.OpError as error:
    raise findings.UnusableError('file cannot be read', str(error.message)) from error
  if not count:
    raise findings.UnusableError('file has no records')


class RecordDecoder:
  """Model Garden's `TfExampleDecoder`, one record at a time."""

  def __init__(self, regenerate_source_id: bool = False):
    """Initializes the decoder.

    Args:
      regenerate_source_id: whether image ids are made from the images, as the field of this name
        of an experiment's decoder says.
    """
    decoder = tf_example_decoder.TfExampleDecoder(
        include_mask=True, regenerate_source_id=regenerate_source_id)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(record):
      # tf.function leaves out what is not returned: the float masks would take gigabytes.
      decoded = decoder.decode(record)
      return {key: decoded[key] for key in _KEYS}

    self._decode = decode

  def __call__(self, record: bytes) -> Decoded:
    """Decodes a serialized example.

    Args:
      record: the serialized example.

    Returns:
      The decoder's entries `_KEYS`; boxes are `[num_boxes, 4]` normalized, masks PNG bytes.

    Raises:
      ValueError: the record cannot be decoded; the text is TensorFlow's whole reason.
    """
    try:
      return {key: value.numpy() for key, value in self._decode(tf.constant(record)).items()}
    except tf.errors.OpError as error:
      raise ValueError(_reason(str(error.message))) from error


def _reason(message: str) -> str:
  """Returns the lines of TensorFlow's message that tell the reason, joined to one.

  Around them stand the words "Graph execution error", names of nodes and the Python source of
  each node, which say nothing about the record.
  """
  lines = [' '.join(line.split()) for line in message.splitlines()]
  noise = ('Graph execution error', 'Detected at node', 'File "', 'Stack trace', '[[')
  kept = [line for line in lines if line and not line.startswith(noise)]
  return ' '.join(dict.fromkeys(kept or lines))


def decode_masks(decoded: Decoded) -> np.ndarray | None:
  """Returns the masks of a record, bool `[num_boxes, height, width]`; None without masks."""
  encoded = decoded['groundtruth_instance_masks_png']
  if not len(encoded):
    return None
  return np.stack([np.asarray(Image.open(io.BytesIO(mask))) > 0 for mask in encoded])


def generated_id(content: bytes) -> str:
  """Returns the image id that Model Garden makes out of an image if a record gives none.

  Args:
    content: the encoded image.
  """
  return tf_example_decoder._generate_source_id(content).numpy().decode()


def describe(path: str, number: int, image_name: str) -> str:
  """Returns how findings name a record: its file, its number from 1 and its image."""
  return f'{os.path.basename(path)} record {number} {image_name}'.strip()
