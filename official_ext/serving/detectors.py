"""The detectors that commands run: a SavedModel, and a model in memory."""
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
import contextlib
import itertools
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.datasets import categories as categories_lib
from official_ext.datasets import category_files
from official_ext.modeling.layers import routed
from official_ext.ops import routing
from official_ext.serving import detection
from official_ext.serving import export_modules
from official_ext.serving import input_types
from official_ext.serving import saved_models
from official_ext.serving import signatures
from official_ext.serving import suppression
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

_OUTPUTS = ('detection_boxes', 'detection_scores', 'detection_classes', 'num_detections',
            'image_info')
# An export without suppression has these outputs instead.
_UNFINISHED = ('decoded_boxes', 'decoded_box_scores', 'image_info')
_WARM_UP = 2


class SavedDetector:
  """A detector that our `export_saved_model`, or Model Garden's, has written.

  Attributes:
    engine: what runs it, `tensorflow`.
    input_type: one of `input_types.INPUT_TYPES`.
    batch_size: the fixed number of images that the signature takes, or None for any number.
    description: the content of `export.json`, which our export writes; empty without the file.
    categories: the classes that the SavedModel brings along, or `export.json`; perhaps none.
  """

  def __init__(self, path: files.PathLike):
    """Loads a SavedModel.

    Args:
      path: the folder with `saved_model.pb`.

    Raises:
      CommandError: there is no SavedModel, it takes no images, or it returns no boxes with
        scores.
    """
    path = pathlib.Path(path)
    self._path, self.engine = path, 'tensorflow'
    self._model = saved_models.load(path)
    self.description = saved_models.read_description(path)
    self.categories = saved_models.read_categories(self._model, path, self.description)
    self._function = self._model.signatures.get(signatures.DEFAULT)
    self._more_inputs: dict[str, tf.Tensor] = {}
    outputs = self._function.structured_outputs if self._function else {}
    self._rule = self.description.get('suppression')
    self._check_outputs(outputs, 'its signature serving_default')
    (self._input, spec), = self._function.structured_input_signature[1].items()
    if spec.dtype not in (tf.uint8, tf.string):
      raise command_line.CommandError(
          f'--saved_model={path} takes {spec.dtype.name}, not images: export it with '
          '--input_type=image_tensor.')
    self.batch_size = spec.shape[0]
    given = 'image_bytes' if spec.dtype == tf.string else 'image_tensor'
    self.input_type = self.description.get('input_type', given)

  def _check_outputs(self, names: Container[str], what: str) -> None:
    """Raises a CommandError unless `what` has all outputs that detections are made of."""
    wanted = _UNFINISHED if self._rule else _OUTPUTS
    missing = [name for name in wanted if name not in names]
    if missing:
      raise command_line.CommandError(
          f'--saved_model={self._path} does not detect objects: {what} has no '
          f'{", ".join(missing)}. Export a detector with non-maximum suppression.')

  def set_gate_threshold(self, threshold: float) -> bool:
    """Shuts gates up to a threshold from now on.

    Args:
      threshold: in [0, 1]; 0: gates are as the export has them.

    Returns:
      Whether the export has gates with a threshold.
    """
    return self._choose(signatures.WITH_GATE_THRESHOLD, gate_threshold=threshold)

  def set_budget(self, budget: float) -> bool:
    """Gives a budget to gates from now on, in place of a threshold.

    Args:
      budget: wanted share of what gates can save, in [0, 1]; 1: every gate is open.

    Returns:
      Whether the export has gates that take a budget.
    """
    return self._choose(signatures.WITH_BUDGET, budget=budget)

  def _choose(self, signature: str, **inputs: float) -> bool:
    """Runs a signature with further inputs from now on; returns whether the export has it."""
    function = self._model.signatures.get(signature)
    if function is None:
      return False
    self._function = function
    self._more_inputs = {name: tf.constant(value, tf.float32) for name, value in inputs.items()}
    return True

  def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Detects objects.

    Args:
      images: uint8 `[batch, height, width, 3]`; at most `batch_size` images if that is fixed.

    Returns:
      Name -> output, `[batch, ...]`.
    """
    count = len(images)
    if self.batch_size and count < self.batch_size:
      images = np.concatenate([images, np.repeat(images[-1:], self.batch_size - count, axis=0)])
    outputs = self._detect(self._encode(images))
    return {name: value[:count] for name, value in outputs.items()}

  def _encode(self, images: np.ndarray) -> Any:
    """Returns images as `_run` takes them."""
    return input_types.encode(images, self.input_type)

  def _run(self, batch: Any) -> dict[str, np.ndarray]:
    """Returns the outputs of the model."""
    outputs = self._function(**{self._input: batch}, **self._more_inputs)
    return {name: value.numpy() for name, value in outputs.items()}

  def _detect(self, batch: Any) -> dict[str, np.ndarray]:
    """Returns the outputs; suppresses if the model does not."""
    results = self._run(batch)
    if not self._rule:
      return results
    found = suppression.finish(results, self._rule)
    others = {name: value for name, value in results.items() if not name.startswith('decoded_')}
    return {**others, **found}

  def check_batch_size(self, count: int) -> None:
    """Raises a CommandError if the SavedModel does not take so many images as one batch."""
    if self.batch_size not in (None, count):
      raise command_line.CommandError(
          f'--saved_model={self._path} takes batches of {self.batch_size}, not of {count}: give '
          f'--batch_size={self.batch_size}.')

  def seconds(self, images: Sequence[np.ndarray]) -> float:
    """Returns how many seconds detection takes for a batch, resizing included.

    Args:
      images: uint8 `[height, width, 3]`, all of one size.

    Raises:
      CommandError: the SavedModel does not take these images as one batch.
    """
    self.check_batch_size(len(images))
    if len({image.shape for image in images}) > 1:
      other = '' if self.batch_size else ', or --batch_size=1'
      raise command_line.CommandError(
          f'--saved_model={self._path} takes images of one size at once, and {len(images)} of the '
          f'data cannot be a batch: give images of one size{other}.')
    batch = self._encode(np.stack(images))
    return _seconds(lambda: self._detect(batch))


class InMemoryDetector:
  """A built or restored model that is called as its SavedModel would be.

  Attributes:
    module: the export module of the model.
    input_type: `image_tensor`.
    batch_size: None, which means any number of images.
    description: what `export.json` would say of the input, the boxes and the cost.
    categories: the classes; perhaps none.
  """

  def __init__(self, module: export_modules.DetectionModule,
               categories: categories_lib.Categories = categories_lib.UNKNOWN):
    """Initializes the detector.

    Args:
      module: the export module of a detector, of any input type.
      categories: the classes; none if they are unknown.
    """
    self.module = module
    self.categories = categories
    self.input_type, self.batch_size = 'image_tensor', None
    self.description = module.description
    # Variables, so that another threshold or budget needs no other trace.
    self._threshold = (
        tf.Variable(0.0, trainable=False) if routed.has_gate_threshold(module.model) else None)
    self._budget = (
        tf.Variable(1.0, trainable=False) if routed.has_budget_input(module.model) else None)
    inputs = None  # Every canvas has its own trace, with static shapes.
    if isinstance(self.module, detection.RoutedDetectionModule):
      height, width = self.module.padded_size
      inputs = [tf.TensorSpec([None, height, width, 3]), tf.TensorSpec([None, 2])]
    self._serve = tf.function(
        self._serve_images, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    self._run = tf.function(self._run_network, input_signature=inputs, autograph=False)

  def set_gate_threshold(self, threshold: float) -> bool:
    """Shuts gates up to a threshold from now on.

    Args:
      threshold: in [0, 1]; 0: gates are as the model has them.

    Returns:
      Whether any layer has gates with a threshold.
    """
    if self._threshold is None:
      return False
    self._threshold.assign(threshold)
    return True

  def set_budget(self, budget: float) -> bool:
    """Gives a budget to gates from now on, beside a threshold.

    Args:
      budget: wanted share of what gates can save, in [0, 1]; 1: every gate is open.

    Returns:
      Whether any layer has gates that take a budget.
    """
    if self._budget is None:
      return False
    self._budget.assign(budget)
    return True

  @contextlib.contextmanager
  def _as_set(self) -> Iterator[None]:
    """Shuts gates up to the threshold and gives the budget, as they are set, until the end."""
    with contextlib.ExitStack() as stack:
      if self._threshold is not None:
        stack.enter_context(routing.shutting_gates(self._threshold.read_value()))
      if self._budget is not None:
        stack.enter_context(routing.spending(self._budget.read_value()))
      yield

  def _serve_images(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
    with self._as_set():
      return self.module.serve(images)

  def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
    """Detects objects.

    Args:
      images: uint8 `[batch, height, width, 3]`.

    Returns:
      Name -> output, `[batch, ...]`.
    """
    return {name: value.numpy() for name, value in self._serve(images).items()}

  def seconds(self, images: Sequence[np.ndarray]) -> float:
    """Returns how many seconds detection takes for a batch, without resizing.

    Args:
      images: uint8 `[height, width, 3]`; sizes may differ.
    """
    inputs, info = self.module.network_inputs(images)
    return _seconds(lambda: self._run(inputs, info[:, 1])[0]['detection_boxes'].numpy())

  def inspect(self, images: Sequence[np.ndarray]
              ) -> tuple[dict[str, np.ndarray], routing.Routing | None]:
    """Detects objects, and returns what the network decided about each image.

    It runs the function that `seconds` times, because tracing takes longer than detecting.

    Args:
      images: uint8 `[height, width, 3]`; sizes may differ.

    Returns:
      Model Garden's detections with their boxes in pixels of the resized image, and
      `image_info`; and a record of NumPy arrays, or None if the model has no routed layers.
    """
    inputs, info = self.module.network_inputs(images)
    detections, record = tf.nest.map_structure(
        lambda value: None if value is None else value.numpy(), self._run(inputs, info[:, 1]))
    return {**detections, 'image_info': info.numpy()}, record

  def decisions(self, images: Sequence[np.ndarray]) -> routing.Routing | None:
    """Returns the record of `inspect`."""
    return self.inspect(images)[1]

  def network(self, inputs: tf.Tensor, image_shape: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns detections and cost, by name, as what an export has of them.

    Args:
      inputs: of the network, float32 `[batch, height, width, 3]`.
      image_shape: height and width of the images without padding, float32 `[batch, 2]`.
    """
    outputs, record = self._run_network(inputs, image_shape)
    return outputs if record is None else {**outputs, 'multiply_adds': record.executed}

  def _run_network(self, inputs: tf.Tensor, image_shape: tf.Tensor
                   ) -> tuple[dict[str, tf.Tensor], routing.Routing | None]:
    with self._as_set(), routing.RoutingTape() as tape:
      outputs = self.module.model(inputs, image_shape=image_shape, training=False)
    # The record holds the cost, so that TensorFlow does not remove what counts it.
    return ({name: value for name, value in outputs.items()
             if name.startswith('detection_') or name == 'num_detections'}, tape.routing())


Detector = SavedDetector | InMemoryDetector


def restore(experiment_name: str, model_dir: files.PathLike) -> InMemoryDetector:
  """Restores a trained detector.

  Args:
    experiment_name: the experiment that was trained, which is registered.
    model_dir: folder of the training, with `params.yaml` and checkpoints.

  Returns:
    The detector with the weights of the last checkpoint.

  Raises:
    CommandError: not a detector, or a checkpoint that does not fit.
  """
  params = experiment.resolve(
      experiment_name, [str(pathlib.Path(model_dir) / 'params.yaml')], lock=False)
  module = export_modules.build_module(
      params, model_dir, outputs='detections+cost', flag='--model_dir')
  return InMemoryDetector(
      module, categories=category_files.of_training(model_dir, params.task))


def latency(detector: Detector, images: Sequence[np.ndarray], batch_size: int,
            num_runs: int) -> list[float]:
  """Times a detector after a warm-up.

  Args:
    detector: the detector to time.
    images: uint8 `[height, width, 3]`; every run takes the next ones, in a circle.
    batch_size: number of images of one run.
    num_runs: number of timed runs.

  Returns:
    The seconds of each run.
  """
  endless = itertools.cycle(images)
  batches = [list(itertools.islice(endless, batch_size)) for _ in range(num_runs)]
  for _ in range(_WARM_UP):
    detector.seconds(batches[0])
  return [detector.seconds(batch) for batch in command_line.progress(batches, 'timing runs')]


def _seconds(call: Callable[[], Any]) -> float:
  """Returns how many seconds a call takes that reads a result, so that accelerators are done."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start
