"""Runs a detector, in memory or exported, to see what each image costs and how long it takes."""
import itertools
import time
from typing import Any, Callable, Dict, List, Sequence, Union

import numpy as np
from official.vision.ops import preprocess_ops
import tensorflow as tf, tf_keras

from official_ext.ops import routing
from official_ext.utils import command_line
from official_ext.serving import single_image

_WARM_UP = 2


def _seconds(call: Callable[..., Dict[str, Any]], *args: Any, **kwargs: Any) -> float:
  start = time.perf_counter()
  # Reading a result waits for an accelerator to be done.
  call(*args, **kwargs)['detection_boxes'].numpy()
  return time.perf_counter() - start


class InMemory:
  """Runs a model on images that are resized and padded to one size beforehand."""

  def __init__(self, model: tf_keras.Model, size: Sequence[int], keep_aspect_ratio: bool,
               diagnose: bool = False):
    """Initializes the runner.

    Args:
      model: a detector of Model Garden, or one that is called alike.
      size: `(height, width)` that the network gets.
      keep_aspect_ratio: pad instead of distorting images.
      diagnose: `measures` has those that cost as much as the network.
    """
    self._size, self._keep_aspect_ratio = size, keep_aspect_ratio

    @tf.function(input_signature=[tf.TensorSpec([None, *size, 3]), tf.TensorSpec([None, 2])],
                 autograph=False)
    def detect(images, image_shape):
      with routing.RoutingTape() as tape:
        outputs = model(images, image_shape=image_shape, training=False)
      record = tape.routing()
      return {'detection_boxes': outputs['detection_boxes'],
              'executed': record.executed if record else tf.zeros_like(image_shape[:, 0])}

    @tf.function(input_signature=[tf.TensorSpec([None, *size, 3]), tf.TensorSpec([None, 2])],
                 autograph=False)
    def measure(images, image_shape):
      with routing.RoutingTape(diagnose=diagnose) as tape:
        model(images, image_shape=image_shape, training=False)
      record = tape.routing()
      return {'executed': record.executed, **record.metrics}

    self._detect, self._measure = detect, measure

  def _inputs(self, images: Sequence[np.ndarray]) -> List[tf.Tensor]:
    pixels, shapes = [], []
    for image in images:
      normalized = preprocess_ops.normalize_image(
          tf.cast(image, tf.float32), preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB)
      resized, info = preprocess_ops.resize_and_crop_image(
          normalized, self._size, self._size, keep_aspect_ratio=self._keep_aspect_ratio)
      pixels.append(resized)
      shapes.append(info[1])
    return [tf.stack(pixels), tf.stack(shapes)]

  def measures(self, images: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
    """Returns what a routed network's tape holds of each image.

    Args:
      images: uint8 `[height, width, 3]`.

    Returns:
      `executed`, the multiply-adds of routed parts, and all measures by name, `[images]`.
    """
    with single_image.fast_execution(len(images)):
      measures = self._measure(*self._inputs(images))
    return {name: value.numpy() for name, value in measures.items()}

  def seconds(self, images: Sequence[np.ndarray]) -> float:
    """Returns how long detection takes for a batch, without resizing."""
    with single_image.fast_execution(len(images)):
      return _seconds(self._detect, *self._inputs(images))


class Exported:
  """Runs a SavedModel, which resizes images itself."""

  def __init__(self, folder: str):
    """Loads a SavedModel whose signature takes uint8 images, or says that it cannot be used."""
    if not tf.saved_model.contains_saved_model(folder):
      raise command_line.CommandError(
          f'--saved_model={folder} holds no SavedModel: give a folder that '
          'official_ext.serving.export_saved_model wrote.')
    self._loaded = tf.saved_model.load(folder)
    (self._name, spec), = (
        self._loaded.signatures['serving_default'].structured_input_signature[1].items())
    if spec.dtype != tf.uint8:
      raise command_line.CommandError(
          f'--saved_model={folder} takes {spec.dtype.name}, not images: export it with '
          '--input_type=image_tensor.')
    self._batch_size = spec.shape[0]

  def seconds(self, images: Sequence[np.ndarray]) -> float:
    """Returns how long detection takes for a batch, resizing included."""
    if self._batch_size not in (None, len(images)) or len({image.shape for image in images}) > 1:
      raise command_line.CommandError(
          f'--saved_model takes {self._batch_size or "any number of"} images of one size at once: '
          f'{len(images)} of the data cannot be a batch; give another --batch_size, such as 1.')
    batch = tf.constant(np.stack(images))
    with single_image.fast_execution(len(images)):
      return _seconds(self._loaded.signatures['serving_default'], **{self._name: batch})


def latency(detector: Union[InMemory, Exported], images: Sequence[np.ndarray], batch_size: int,
            num_runs: int) -> List[float]:
  """Times a detector after a warm-up.

  Args:
    detector: what runs.
    images: uint8 `[height, width, 3]`, taken in turn.
    batch_size: images of one run.
    num_runs: how many runs are timed.

  Returns:
    Seconds of each run.
  """
  endless = itertools.cycle(images)
  batches = [list(itertools.islice(endless, batch_size)) for _ in range(num_runs)]
  for _ in range(_WARM_UP):
    detector.seconds(batches[0])
  return [detector.seconds(batch) for batch in command_line.progress(batches, 'timing runs')]
