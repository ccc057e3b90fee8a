"""LiteRT: converts a SavedModel to built-in operations, and runs what was converted."""
from collections.abc import Mapping
import pathlib
import re
from typing import Any

import numpy as np

from official_ext.serving.compiling import frozen
from official_ext.serving.engines import inputs
from official_ext.serving.engines import portable
from official_ext.serving.engines import refusals
from official_ext.serving.engines import whole_numbers
from official_ext.utils import files

FILE = 'model.tflite'
PACKAGES = ('ai_edge_litert',)
# Weights of 8 bits, one scale for each output channel; activations are float32 outside of products.
QUANTIZATIONS = ('dynamic_range',)


def version() -> str:
  """Returns the version of LiteRT."""
  from importlib import metadata
  return metadata.version('ai-edge-litert')


def convert(saved_model: files.PathLike, name: str, folder: files.PathLike,
            quantize: str | None = None) -> int:
  """Converts a SavedModel to `model.tflite`.

  Args:
    saved_model: folder of the SavedModel.
    name: of the signature to convert.
    folder: an existing folder to write into.
    quantize: one of `QUANTIZATIONS`; None: weights stay float32.

  Returns:
    The number of conditionals.

  Raises:
    RefusedError: LiteRT lacks an operation of the model.
  """
  import tensorflow as tf
  loaded = tf.saved_model.load(str(saved_model))
  signature = loaded.signatures[name]
  known = inputs.with_scalars(signature.structured_input_signature[1])
  names = sorted(known, key=lambda key: key in inputs.NEUTRAL)
  specs = [known[key] for key in names]

  @tf.function(input_signature=specs, autograph=False)
  def serve(*values: tf.Tensor) -> dict[str, tf.Tensor]:
    return signature(**dict(zip(names, values)))

  try:
    function = frozen.rewrite(
        portable.replace(serve.get_concrete_function()), whole_numbers.count)
    # An empty module: weights are constants of the function.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize:
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content = converter.convert()
  except Exception as error:  # The class of its errors is not public.
    text = str(error)
    found = re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)
    raise refusals.RefusedError('LiteRT', found, text) from error
  pathlib.Path(folder, FILE).write_bytes(content)
  return _count_conditionals(content)


def _count_conditionals(content: bytes) -> int:
  """Returns the number of conditionals in a model, those inside of others included."""
  from ai_edge_litert import schema_py_generated as schema
  model = schema.ModelT.InitFromPackedBuf(content, 0)
  kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
  return sum(kinds[operator.opcodeIndex] == schema.BuiltinOperator.IF
             for graph in model.subgraphs for operator in graph.operators)


class Model:
  """A converted model.

  Attributes:
    scalars: names of the inputs beside the images.
  """

  def __init__(self, folder: files.PathLike, num_threads: int | None = None):
    """Loads a model.

    Args:
      folder: what `convert` wrote into.
      num_threads: number of threads; None: LiteRT's choice.
    """
    from ai_edge_litert import interpreter
    self._interpreter: Any = interpreter.Interpreter(f'{folder}/{FILE}', num_threads=num_threads)
    self._run = self._interpreter.get_signature_runner()
    self._inputs = list(self._run.get_input_details())
    self.scalars = inputs.scalars(self._inputs)

  def __call__(self, images: np.ndarray, scalars: Mapping[str, float] = inputs.NEUTRAL
               ) -> dict[str, np.ndarray]:
    """Runs the model.

    Args:
      images: uint8 `[batch, height, width, 3]`.
      scalars: values of inputs by name; others are neutral.

    Returns:
      Name -> output, `[batch, ...]`.

    Raises:
      RuntimeError: LiteRT fails.
    """
    return self._run(**inputs.feed(self._inputs, images, scalars))
