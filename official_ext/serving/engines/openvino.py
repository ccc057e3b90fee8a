"""OpenVINO: converts a SavedModel, and runs what was converted."""
from collections.abc import Iterator, Mapping
import contextlib
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np

from official_ext.serving import saved_models
from official_ext.serving.engines import inputs
from official_ext.serving.engines import refusals
from official_ext.utils import command_line
from official_ext.utils import files

FILE = 'model.xml'
PACKAGES = ('openvino',)
QUANTIZATIONS = ()
_TELEMETRY = 'openvino_telemetry'
# Begin of the names of outputs that are not the model's, see `_keep_results`.
_KEPT = 'kept_'
# In the file of a model: it may be compiled for a known number of images.  Conversions of older
# versions have loops over images, in which OpenVINO then finds nothing, and says nothing.
_KNOWN_BATCH = ['official_ext', 'known_batch']
# It compiles our networks in a minute.
_SECONDS_TO_COMPILE = 300.0
_COMPILE = ('import sys; from official_ext.serving.engines import openvino; '
            'openvino.Model(sys.argv[1]).compile(int(sys.argv[2]))')


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


def _transformations() -> Any:
  """Imports the transformations of models that OpenVINO's own converter applies."""
  _load_library()
  from openvino import _offline_transformations
  return _offline_transformations


def version() -> str:
  """Returns the version of OpenVINO."""
  return _load_library().__version__


def convert(saved_model: files.PathLike, name: str, folder: files.PathLike,
            quantize: str | None = None) -> int:
  """Converts a SavedModel to `model.xml` and `model.bin`.

  Args:
    saved_model: folder of the SavedModel.
    name: of the signature to convert.
    folder: an existing folder to write into.
    quantize: None, the only one of this engine.

  Returns:
    The number of conditionals.

  Raises:
    CommandError: OpenVINO lacks an operation of the model, does not compile it, or cannot write it.
  """
  del quantize
  openvino = _load_library()
  library = openvino.frontend
  frontend = library.FrontEndManager().load_by_framework('tf')
  frontend.add_extension(library.tensorflow.ConversionExtension(
      'SparseSegmentSumWithNumSegments', _segment_sum))
  try:
    with saved_models.with_default(saved_model, name) as path:
      model = frontend.convert(frontend.load(str(path)))
  except (library.OpConversionFailure, library.OpValidationFailure, library.GeneralFailure,
          library.NotImplementedFailure, RuntimeError) as error:
    text = str(error)
    found = re.findall('(?:No conversion rule found for operations|Conversion is failed for): (.*)',
                       text)
    raise refusals.RefusedError('OpenVINO', ', '.join(found).split(', '), text) from error
  _make_scalars(model)
  _keep_results(model)
  model.set_rt_info('true', _KNOWN_BATCH)
  # Weights of 16 bits, the default, change scores by more than conversions are allowed to.
  try:
    openvino.save_model(model, f'{folder}/{FILE}', compress_to_fp16=False)
  except RuntimeError as error:  # of a disk that is full, among others
    raise command_line.CommandError(
        f'{FILE} could not be written ({str(error).strip()}): free some space or choose a folder '
        'on another disk.') from error
  _check_compiles(folder, _fixed_batch(model))
  return _count_conditionals(model)


def _make_scalars(model: Any) -> None:
  """Makes scalars of the inputs of `inputs.NEUTRAL`: the processor plugin takes no unknown rank."""
  for value in model.inputs:
    if value.get_names() & set(inputs.NEUTRAL):
      value.get_node().set_partial_shape(_load_library().PartialShape([]))
  model.validate_nodes_and_infer_types()


def _fixed_batch(model: Any) -> int | None:
  """Returns the number of images that a model takes; None: any number."""
  images = next(value for value in model.inputs if not value.get_names() & set(inputs.NEUTRAL))
  batch = images.get_partial_shape()[0]
  return batch.get_length() if batch.is_static else None


def _check_compiles(folder: files.PathLike, batch: int | None) -> None:
  """Raises a RefusedError if OpenVINO takes too long to compile a model, in another process."""
  command = [sys.executable, '-c', _COMPILE, str(folder), str(batch or 1)]
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
  try:
    subprocess.run(command, env=environment, capture_output=True, check=False,
                   timeout=_SECONDS_TO_COMPILE)
  except subprocess.TimeoutExpired as error:
    # OpenVINO compiles a dynamic head whose number of images is not fixed.
    other = 'export without --batch_size, or ' if batch else ''
    raise refusals.RefusedError(
        'OpenVINO', (), f'it was not compiled after {_SECONDS_TO_COMPILE:g} seconds; '
        f'{other}give --to=onnx or --to=litert.') from error


def _segment_sum(node: Any) -> list[Any]:
  """Converts a sum of listed rows of a table for each image to an operation of OpenVINO."""
  _load_library()
  from openvino import opset15
  table, *numbers = (node.get_input(index) for index in range(4))
  rows, images, batch = (opset15.convert(number, 'i32') for number in numbers)
  return [opset15.embedding_segments_sum(table, rows, images, batch).output(0)]


def _keep_results(model: Any) -> None:
  """Makes the results of all conditionals outputs of the model.

  OpenVINO 2026.4 gives their memory to other operations too early: the first time that a batch has
  more images than any before, detections are wrong.  What is an output keeps its memory.
  """
  own = {value.get_node().input_value(0) for value in model.outputs}
  for operation in model.get_ordered_ops():
    if operation.get_type_name() == 'If':
      for index, output in enumerate(operation.outputs()):
        if output in own:
          continue  # It is an output already, which would lose its name.
        added, = model.add_outputs([(operation.get_friendly_name(), index)])
        added.get_tensor().set_names({f'{_KEPT}{output.get_node().get_friendly_name()}_{index}'})


def _count_conditionals(model: Any) -> int:
  """Returns the number of conditionals in a model, those inside of others included."""
  total = 0
  for operation in model.get_ops():
    if operation.get_type_name() == 'If':
      total += 1 + sum(_count_conditionals(operation.get_function(branch)) for branch in (0, 1))
  return total


class Model:
  """A converted model.

  It is compiled for each number of images that a call has: where sizes of maps are not known,
  OpenVINO 2026.4 brings the results of operations into another order of axes and back, which takes
  longer than the operations of a scale step of the dynamic head.  A call with fewer images, but at
  least half as many, as it is compiled for, has its last image repeated.

  Attributes:
    scalars: names of the inputs beside the images.
  """

  def __init__(self, folder: files.PathLike, num_threads: int | None = None):
    """Loads a model.

    Args:
      folder: what `convert` wrote into.
      num_threads: number of threads; None: OpenVINO's choice.

    Raises:
      CommandError: OpenVINO does not read the model.
    """
    # Without the first hint some processors compute in bfloat16.
    self._options: dict[str, Any] = {
        'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    if num_threads:
      self._options['INFERENCE_NUM_THREADS'] = num_threads
    self._core, self._path = _load_library().Core(), f'{folder}/{FILE}'
    with self._explained('read it'):
      self._model = self._core.read_model(self._path)
    self._inputs = [value.get_any_name() for value in self._model.inputs]
    self.scalars = inputs.scalars(self._inputs)
    self._names = [output.get_names() for output in self._model.outputs]
    self._knows_batch = self._model.has_rt_info(_KNOWN_BATCH)
    self._compiled: dict[int, Any] = {}

  @contextlib.contextmanager
  def _explained(self, action: str) -> Iterator[None]:
    """Makes an error that names the file of one of OpenVINO's."""
    try:
      yield
    except RuntimeError as error:
      lines = [line.strip() for line in str(error).splitlines() if line.strip()]
      raise command_line.CommandError(
          f'{self._path}: OpenVINO {version()} does not {action}: '
          f'{lines[-1] if lines else "?"}') from error

  def compile(self, batch: int) -> Any:
    """Returns the compiled model for a number of images; it takes seconds, the first time.

    Args:
      batch: number of images of a call.

    Raises:
      CommandError: OpenVINO does not compile it.
    """
    if not self._knows_batch:
      batch = -1  # OpenVINO's sign for any number.
    if batch not in self._compiled:
      images = 'any number of images' if batch == -1 else f'{batch} image{"s" * (batch > 1)}'
      with self._explained(f'compile it for {images}'):
        self._compiled[batch] = self._core.compile_model(
            self.of_batch(batch), 'CPU', self._options)
    return self._compiled[batch]

  def of_batch(self, batch: int) -> Any:
    """Returns the model for a number of images, not compiled.

    Args:
      batch: number of images; -1 for any number.
    """
    model = self._model.clone()
    for value in model.inputs:
      if value.get_any_name() not in self.scalars:
        shape = value.get_partial_shape()
        shape[0] = batch
        model.reshape({value.get_any_name(): shape})
    # Without these OpenVINO 2026.4 never finishes compiling i-FPN: it applies them itself, but
    # after others, with which they then undo each other's work.  If they do not fold constants
    # (`cf`), they make unknown numbers of images of known ones.
    _transformations().apply_moc_transformations(model, cf=True, smart_reshape=False)
    return model

  def __call__(self, images: np.ndarray, scalars: Mapping[str, float] = inputs.NEUTRAL
               ) -> dict[str, np.ndarray]:
    """Runs the model.

    Args:
      images: uint8 `[batch, height, width, 3]`.
      scalars: values of inputs by name; others are neutral.

    Returns:
      Name -> output, `[batch, ...]`.

    Raises:
      CommandError: OpenVINO does not compile the model for so many images.
      RuntimeError: it fails when it runs it.
    """
    count = len(images)
    larger = [batch for batch in self._compiled if count < batch <= 2 * count]
    if count not in self._compiled and larger:
      # To compute the last image again takes less time than to compile.
      images = np.concatenate([images, np.repeat(images[-1:], min(larger) - count, axis=0)])
    compiled = self.compile(len(images))
    # Without `share_outputs` OpenVINO copies all outputs, also the maps of `_keep_results`.
    results = compiled(inputs.feed(self._inputs, images, scalars), share_outputs=True)
    return {name: np.array(results[number][:count])
            for number, names in enumerate(self._names) for name in names
            if not name.startswith(_KEPT)}
