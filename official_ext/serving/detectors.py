"""Detectors as SavedModels: loading one, and calling it with images."""
import io
import json
import pathlib
from typing import Any, Dict

import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.serving import single_image

INPUT_TYPES = ('image_tensor', 'image_bytes', 'tf_example')
DESCRIPTION = 'export.json'
_OUTPUTS = ('detection_boxes', 'detection_scores', 'detection_classes', 'num_detections',
            'image_info')


def encode(images: np.ndarray, input_type: str) -> tf.Tensor:
  """Turns images into what a signature takes.

  Args:
    images: uint8 `[batch, height, width, 3]`.
    input_type: one of `INPUT_TYPES`.

  Returns:
    The images, or strings `[batch]`: PNG files, or `tf.train.Example`s with such files.
  """
  if input_type == 'image_tensor':
    return tf.constant(images)
  encoded = []
  for image in images:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    encoded.append(buffer.getvalue())
  if input_type == 'tf_example':
    encoded = [_example(png) for png in encoded]
  return tf.constant(encoded)


def _example(png: bytes) -> bytes:
  feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
  features = tf.train.Features(feature={'image/encoded': feature})
  return tf.train.Example(features=features).SerializeToString()


class SavedDetector:
  """A detector that `export_saved_model`, Model Garden's or ours, has written.

  Attributes:
    input_type: one of `INPUT_TYPES`.
    batch_size: the fixed number of images that the signature takes, or None for any.
    description: what our export wrote into `export.json`; empty if there is none.
  """

  def __init__(self, path: files.PathLike):
    """Loads a SavedModel.

    Args:
      path: the folder with `saved_model.pb`.

    Raises:
      CommandError: there is no SavedModel, or it is not a detector with boxes and scores.
    """
    path = pathlib.Path(path)
    if not (path / 'saved_model.pb').is_file():
      raise command_line.CommandError(
          f'--saved_model={path} has no file saved_model.pb: give a folder that '
          'export_saved_model wrote.')
    try:
      self._model = tf.saved_model.load(str(path))
    except (OSError, tf.errors.OpError, ValueError) as error:
      text = str(error).strip().splitlines()[0]
      raise command_line.CommandError(
          f'--saved_model={path} cannot be loaded ({text}): export it again.') from error
    self.description = _read_description(path)
    self._function = self._model.signatures.get('serving_default')
    outputs = self._function.structured_outputs if self._function else {}
    missing = [name for name in _OUTPUTS if name not in outputs]
    if missing:
      raise command_line.CommandError(
          f'--saved_model={path} does not detect objects: its signature serving_default has no '
          f'{", ".join(missing)}. Export a detector with non-maximum suppression.')
    (self._input, spec), = self._function.structured_input_signature[1].items()
    self.batch_size = spec.shape[0]
    given = 'image_bytes' if spec.dtype == tf.string else 'image_tensor'
    self.input_type = self.description.get('input_type', given)

  def __call__(self, images: np.ndarray) -> Dict[str, np.ndarray]:
    """Returns the outputs by name, each `[batch, ...]`, for uint8 images of one size.

    Args:
      images: `[batch, height, width, 3]`; at most `batch_size` images if that is fixed.
    """
    count = len(images)
    if self.batch_size and count < self.batch_size:
      images = np.concatenate([images, np.repeat(images[-1:], self.batch_size - count, axis=0)])
    with single_image.fast_execution(len(images)):
      outputs = self._function(**{self._input: encode(images, self.input_type)})
    return {name: value.numpy()[:count] for name, value in outputs.items()}


def _read_description(path: pathlib.Path) -> Dict[str, Any]:
  try:
    return json.loads((path / DESCRIPTION).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return {}
