"""The images that a conversion is compared with its SavedModel on: made-up ones, and a user's."""
from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from official_ext.serving import export_checks
from official_ext.serving.engines import inputs
from official_ext.utils import command_line

_BATCH_SIZES = (1, 4)
# Height and width of made-up images for an export that does not say its own.
_SIZE = (256, 256)
# Values of a scalar input beside its neutral one.
_OTHER_VALUES = {'gate_threshold': (0.5, 1.0), 'budget': (0.0, 0.25, 0.5, 0.75)}


def read(paths: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
  """Reads up to four images as `tools.predict` does, at equal distances if there are more.

  Args:
    paths: files, and folders with images; none: no image is read.

  Returns:
    File -> uint8 `[height, width, 3]`.

  Raises:
    CommandError: a path does not exist, there is no image, or one of the four cannot be read.
  """
  if not paths:
    return {}
  from official_ext.datasets.images import image_files
  from official_ext.datasets.images import image_ids
  from official_ext.serving import image_runs
  from official_ext.visualization import routing_figures
  files = routing_figures.pick_evenly(image_files.find(paths), max(_BATCH_SIZES))
  images = image_ids.assign(files, None)
  pixels = image_runs.pixels(images, image_files.MAX_PIXELS)
  return {str(images.paths[image_id]): image for image_id, image in pixels.items()}


def check(run: Callable[[np.ndarray], Any], images: Mapping[str, np.ndarray],
          batch_size: int | None) -> None:
  """Runs a SavedModel on every image of a user, before a conversion takes its time.

  Args:
    run: the SavedModel, a function of images.
    images: file -> uint8 `[height, width, 3]`.
    batch_size: the fixed number of images of the model; None: any number.

  Raises:
    CommandError: the SavedModel fails for an image, such as one that is too long.
  """
  import tensorflow as tf
  for file, image in images.items():
    try:
      run(_filled(image[None], batch_size or 1))
    except (tf.errors.OpError, ValueError) as error:
      text = str(getattr(error, 'message', error)).strip() or type(error).__name__
      height, width = image.shape[:2]
      raise command_line.CommandError(
          f'--images: {file}: the SavedModel fails for {width} x {height} pixels '
          f'({text.splitlines()[0]}): leave it out.') from error


def batches(description: Mapping[str, Any], images: Sequence[np.ndarray] = ()
            ) -> list[np.ndarray]:
  """Returns made-up images of two sizes, and a user's, in batches of one image and of four.

  A user's images of one size form a batch, as in `tools.predict`.  If there are several sizes, a
  further batch has all images, resized to the first one's size.

  Args:
    description: the content of `export.json`, perhaps without `input_image_size`, and
      `batch_size`, the fixed number of images of the model; None: any number.
    images: up to four images of a user, uint8 `[height, width, 3]`.

  Returns:
    uint8 `[batch, height, width, 3]` each.
  """
  size, batch_size = description.get('input_image_size') or _SIZE, description['batch_size']
  made_up = [batch for count in ([batch_size] if batch_size else _BATCH_SIZES)
             for batch in export_checks.example_batches(size, count)]
  groups: dict[tuple[int, ...], list[np.ndarray]] = {}
  for image in images:
    groups.setdefault(image.shape, []).append(image)
  stacks = [np.stack(group) for group in groups.values()]
  if len(stacks) > 1:
    stacks.append(np.stack([_resized(image, images[0].shape) for image in images]))
  if not batch_size:
    alone = [] if not images or any(len(stack) == 1 for stack in stacks) else [images[0][None]]
    return [*made_up, *alone, *stacks]
  return [*made_up, *(_filled(stack[start:start + batch_size], batch_size)
                      for stack in stacks for start in range(0, len(stack), batch_size))]


def calls(compared: Sequence[np.ndarray], scalars: Sequence[str]) -> list[inputs.Call]:
  """Returns the calls of a model to compare.

  Args:
    compared: batches of images.
    scalars: names of the model's inputs beside the images, which get the value that leaves the
      network as it is, and others.
  """
  values: list[dict[str, float]] = [{}, *(
      {name: value} for name in scalars for value in _OTHER_VALUES[name])]
  return [inputs.Call(batch, value) for value in values for batch in compared]


def _resized(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Returns an image in the size of another one, of this shape."""
  return np.asarray(Image.fromarray(image).resize((shape[1], shape[0])))


def _filled(batch: np.ndarray, count: int) -> np.ndarray:
  """Returns a batch of `count` images, the last one repeated."""
  return np.concatenate([batch, np.repeat(batch[-1:], count - len(batch), axis=0)])
