"""ONNX: converts a SavedModel with tf2onnx, and runs what was converted with ONNX Runtime."""
from collections.abc import Mapping
import logging
import re
from typing import Any

import numpy as np

from official_ext.serving.engines import inputs
from official_ext.serving.engines import onnx_faults
from official_ext.serving.engines import portable
from official_ext.serving.engines import refusals
from official_ext.utils import files

FILE = 'model.onnx'
PACKAGES = ('onnx', 'tf2onnx', 'onnxruntime')
QUANTIZATIONS = ()
_OPSET = 17
# tf2onnx makes a loop of it, with one turn for each position that a network samples.
_REPLACED = ('CropAndResize',)


def version() -> str:
  """Returns the versions of the converter and of the runtime."""
  import onnxruntime
  import tf2onnx
  return f'tf2onnx {tf2onnx.__version__}, ONNX Runtime {onnxruntime.__version__}'


def convert(saved_model: files.PathLike, name: str, folder: files.PathLike,
            quantize: str | None = None) -> int:
  """Converts a SavedModel to `model.onnx`.

  Args:
    saved_model: folder of the SavedModel.
    name: of the signature to convert.
    folder: an existing folder to write into.
    quantize: None, the only one of this engine.

  Returns:
    The number of conditionals.

  Raises:
    RefusedError: tf2onnx lacks an operation of the model.
  """
  del quantize
  import onnx
  import tensorflow as tf
  import tf2onnx
  loaded = tf.saved_model.load(str(saved_model))  # A signature does not keep its variables.
  signature = loaded.signatures[name]
  given = inputs.with_scalars(signature.structured_input_signature[1])
  names, specs = list(given), list(given.values())

  @tf.function(input_signature=specs, autograph=False)
  def serve(*values: tf.Tensor) -> dict[str, tf.Tensor]:
    return signature(**dict(zip(names, values)))

  function = serve
  if portable.has(signature, _REPLACED):
    replaced = portable.replace(serve.get_concrete_function(), _REPLACED)
    function = tf.function(replaced, autograph=False)
  handler = _Errors()
  logger = logging.getLogger('tf2onnx')
  logger.addHandler(handler)
  try:
    with onnx_faults.mended():
      model, _ = tf2onnx.convert.from_function(function, specs, opset=_OPSET)
  except Exception as error:  # TensorFlow's and tf2onnx's have no common class.
    raise refusals.RefusedError('tf2onnx', handler.operations, str(error)) from error
  finally:
    logger.removeHandler(handler)
  if handler.operations:
    raise refusals.RefusedError('tf2onnx', handler.operations, '')
  onnx.save(model, f'{folder}/{FILE}')
  return _count_conditionals(model.graph)


class _Errors(logging.Handler):
  """Collects the operations for which tf2onnx logs that it cannot convert them."""

  def __init__(self) -> None:
    super().__init__(logging.ERROR)
    self.operations: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    found = re.search(r'Tensorflow op \[.*: (\w+)\] is not supported', record.getMessage())
    if found:
      self.operations.append(found.group(1))


def _count_conditionals(graph: Any) -> int:
  """Returns the number of conditionals in a graph, those inside of other operations included."""
  total = 0
  for node in graph.node:
    total += node.op_type == 'If'
    total += sum(_count_conditionals(attribute.g) for attribute in node.attribute
                 if attribute.HasField('g'))
  return total


class Model:
  """A converted model.

  Attributes:
    scalars: names of the inputs beside the images.
  """

  def __init__(self, folder: files.PathLike, num_threads: int | None = None):
    """Loads a model.

    Args:
      folder: what `convert` wrote into.
      num_threads: number of threads; None: ONNX Runtime's choice.
    """
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if num_threads:
      options.intra_op_num_threads = num_threads
    self._session = onnxruntime.InferenceSession(
        f'{folder}/{FILE}', options, providers=['CPUExecutionProvider'])
    self._inputs = [value.name for value in self._session.get_inputs()]
    self.scalars = inputs.scalars(self._inputs)
    self._names = [output.name for output in self._session.get_outputs()]

  def __call__(self, images: np.ndarray, scalars: Mapping[str, float] = inputs.NEUTRAL
               ) -> dict[str, np.ndarray]:
    """Runs the model.

    Args:
      images: uint8 `[batch, height, width, 3]`.
      scalars: values of inputs by name; others are neutral.

    Returns:
      Name -> output, `[batch, ...]`.

    Raises:
      RuntimeError: ONNX Runtime fails.
    """
    try:
      return dict(zip(self._names, self._session.run(
          None, inputs.feed(self._inputs, images, scalars))))
    except Exception as error:  # Its errors have no common class of their own.
      raise RuntimeError(str(error)) from error
