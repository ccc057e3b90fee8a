"""OpenVINO: converts a SavedModel, and runs what was converted."""
import re
import sys
from typing import Any

import numpy as np

from official_ext.serving.engines import refusals
from official_ext.utils import files

FILE = 'model.xml'
PACKAGES = ('openvino',)
_TELEMETRY = 'openvino_telemetry'


def _load_library() -> Any:
  """Imports OpenVINO without its telemetry, which would start a process and send events."""
  absent = object()
  previous = sys.modules.get(_TELEMETRY, absent)
  if previous is absent:
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # An import of it then fails.
  try:
    import openvino
  finally:
    if previous is absent:
      del sys.modules[_TELEMETRY]
  return openvino


def version() -> str:
  """Returns the version of OpenVINO."""
  return _load_library().__version__


def convert(saved_model: files.PathLike, folder: files.PathLike) -> int:
  """Converts a SavedModel to `model.xml` and `model.bin`.

  Args:
    saved_model: folder of the SavedModel.
    folder: an existing folder to write into.

  Returns:
    The number of conditionals.

  Raises:
    RefusedError: OpenVINO lacks an operation of the model.
  """
  openvino = _load_library()
  library = openvino.frontend
  frontend = library.FrontEndManager().load_by_framework('tf')
  try:
    model = frontend.convert(frontend.load(str(saved_model)))
  except (library.OpConversionFailure, library.OpValidationFailure, library.GeneralFailure,
          library.NotImplementedFailure, RuntimeError) as error:
    text = str(error)
    names = re.search('No conversion rule found for operations: (.*)', text)
    raise refusals.RefusedError(
        'OpenVINO', names.group(1).split(', ') if names else [], text) from error
  # Weights of 16 bits, the default, change scores by more than conversions are allowed to.
  openvino.save_model(model, f'{folder}/{FILE}', compress_to_fp16=False)
  return _count_conditionals(model)


def _count_conditionals(model: Any) -> int:
  """Returns the number of conditionals in a model, those inside of others included."""
  total = 0
  for operation in model.get_ops():
    if operation.get_type_name() == 'If':
      total += 1 + sum(_count_conditionals(operation.get_function(branch)) for branch in (0, 1))
  return total


class Model:
  """A converted model."""

  def __init__(self, folder: files.PathLike, num_threads: int | None = None):
    """Loads and compiles a model.

    Args:
      folder: what `convert` wrote into.
      num_threads: number of threads; None: OpenVINO's choice.
    """
    openvino = _load_library()
    # Without the first hint some processors compute in bfloat16.
    options: dict[str, Any] = {
        'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    if num_threads:
      options['INFERENCE_NUM_THREADS'] = num_threads
    self._compiled = openvino.Core().compile_model(f'{folder}/{FILE}', 'CPU', options)
    self._names = [output.get_names() for output in self._compiled.outputs]

  def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Runs the model.

    Args:
      images: uint8 `[batch, height, width, 3]`.

    Returns:
      Name -> output, `[batch, ...]`.

    Raises:
      RuntimeError: OpenVINO fails.
    """
    results = self._compiled(images)
    return {name: np.array(results[number])
            for number, names in enumerate(self._names) for name in names}
