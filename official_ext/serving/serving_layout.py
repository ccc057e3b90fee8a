"""The folder that TensorFlow Serving reads: numbered versions, with requests for its warm-up.

  DIR/1/saved_model.pb                                  a version; the next export is DIR/2
  DIR/1/assets.extra/tf_serving_warmup_requests         requests that the server runs at its start

The requests are records of `PredictionLog`.  Its package is not needed: the few fields are written
here in the wire format of protocol buffers.

Reference: https://www.tensorflow.org/tfx/serving/saved_model_warmup and the definitions in
`tensorflow_serving/apis`: prediction_log.proto, predict.proto and model.proto.
"""
from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from official_ext.utils import files

_WARM_UP = 'assets.extra/tf_serving_warmup_requests'
_BYTES = 2  # the wire type of strings and messages
# The numbers of fields.
_PREDICT_LOG, _REQUEST = 6, 1
_MODEL_SPEC, _INPUTS = 1, 2
_NAME, _SIGNATURE_NAME = 1, 3
_KEY, _VALUE = 1, 2
_GRAY = 127


def next_version(folder: files.PathLike) -> pathlib.Path:
  """Returns the folder of the version after the newest one in a folder, which may not exist."""
  folder = pathlib.Path(folder)
  found = [int(path.name) for path in folder.glob('*') if path.name.isdecimal()]
  return folder / str(max(found, default=0) + 1)


def _varint(value: int) -> bytes:
  """Returns a number as protocol buffers write it: seven bits a byte, the lowest first."""
  low = value & 0x7f
  return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + _varint(value >> 7)


def _field(number: int, content: bytes) -> bytes:
  """Returns a field that holds a string or a message."""
  return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def prediction_log(model: str, signature: str, inputs: Mapping[str, bytes]) -> bytes:
  """Returns a serialized `PredictionLog` of one request.

  Args:
    model: its name.
    signature: name of the signature.
    inputs: name -> serialized `TensorProto`.
  """
  spec = _field(_NAME, model.encode()) + _field(_SIGNATURE_NAME, signature.encode())
  entries = b''.join(_field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, tensor))
                     for name, tensor in inputs.items())
  return _field(_PREDICT_LOG, _field(_REQUEST, _field(_MODEL_SPEC, spec) + entries))


def write_warm_up(folder: pathlib.Path, model: str, signature: str, run: Callable[[Any], Any],
                  batches: Sequence[np.ndarray], encode: Callable[[np.ndarray], Any]) -> None:
  """Writes the requests of the cheapest and of the most expensive images.

  A network that skips traces and allocates for what it runs, so the server should have run both.

  Args:
    folder: of the version.
    model: name of the model.
    signature: name of the signature.
    run: the signature, from encoded images to outputs by name.
    batches: images with structure, uint8 `[batch, height, width, 3]`; gray ones are added.
    encode: encodes images as the signature takes them.
  """
  import tensorflow as tf
  batches = [np.full_like(batches[0], _GRAY), *batches]
  encoded = [encode(images) for images in batches]
  # Without costs, the gray images count as the cheapest.
  costs = [float(np.mean(run(images).get('multiply_adds', number)))
           for number, images in enumerate(encoded)]
  path = folder / _WARM_UP
  path.parent.mkdir()
  with tf.io.TFRecordWriter(files.plain_path(path.parent) + f'/{path.name}') as writer:
    for index in (int(np.argmin(costs)), int(np.argmax(costs))):
      tensor = tf.make_tensor_proto(encoded[index].numpy()).SerializeToString()
      writer.write(prediction_log(model, signature, {'inputs': tensor}))
