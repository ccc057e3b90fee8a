"""Runs a detector on image files; one that cannot be read, or makes it fail, is left out."""
from collections.abc import Iterable, Iterator, Mapping, Sequence
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.datasets import findings
from official_ext.datasets.images import image_ids
from official_ext.datasets.images import image_orientation
from official_ext.datasets.images import image_reading
from official_ext.serving import detectors
from official_ext.utils import command_line

# A SavedModel, or another engine, raises these for images that it cannot take.
_FAILURES = (tf.errors.OpError, ValueError, TypeError, RuntimeError)


class Result(NamedTuple):
  """What a detector has found in an image.

  Attributes:
    image_id: of the image.
    path: its file.
    image: uint8 `[height, width, 3]`.
    outputs: of the detector, by name, `[batch, ...]`.
    row: index of the image in the batch.
    seconds: time of the detector for the batch, divided by its images.
  """
  image_id: Any
  path: pathlib.Path
  image: np.ndarray
  outputs: dict[str, np.ndarray]
  row: int
  seconds: float


_Batch = list[tuple[Any, np.ndarray]]


class ImageRun:
  """Runs a detector on image files.

  Attributes:
    skipped: file -> reason, for files that cannot be read or detected in.
  """

  def __init__(self, detector: detectors.Detector, paths: Mapping[Any, pathlib.Path],
               listed: Mapping[Any, image_orientation.Listed], max_pixels: int):
    """Initializes the run.

    Args:
      detector: one of `serving.detectors`.
      paths: image id -> file.
      listed: image id -> what the annotation file says of it; empty without such a file.
      max_pixels: largest allowed width times height of an image.
    """
    self.skipped: dict[str, str] = {}
    self._detector = detector
    self._paths = paths
    self._listed = listed
    self._reader = image_reading.ImageReader(
        max_pixels, lambda: ((paths[number], listed[number]) for number in paths
                             if number in listed))

  def results(self, batch_size: int) -> Iterator[Result]:
    """Yields the results of every image that can be read, in the order of `paths`.

    Args:
      batch_size: largest number of images in a batch; all images of a batch have one size.
    """
    for batch in self._batches(batch_size):
      yield from self._detect(batch)

  def _batches(self, batch_size: int) -> Iterator[_Batch]:
    batch: _Batch = []
    for image_id, image in self._images():
      if batch and (len(batch) == batch_size or batch[0][1].shape != image.shape):
        yield batch
        batch = []
      batch.append((image_id, image))
    if batch:
      yield batch

  def _images(self) -> Iterator[tuple[Any, np.ndarray]]:
    paths: Iterable[tuple[Any, pathlib.Path]] = self._paths.items()
    for image_id, path in command_line.progress(paths, 'predicting', len(self._paths)):
      try:
        read = self._reader.read(path, self._listed.get(image_id, image_orientation.NOT_LISTED))
      except findings.UnusableError as error:
        self.skipped[str(path)] = str(error)
        continue
      yield image_id, read.pixels

  def _detect(self, batch: _Batch) -> Iterator[Result]:
    """Yields the results of a batch; if it fails, those of its images one by one."""
    start = time.monotonic()
    try:
      outputs = self._detector(np.stack([image for _, image in batch]))
      _check_kept(outputs)
    except _FAILURES as error:
      if len(batch) > 1:
        for item in batch:
          yield from self._detect([item])
      else:
        (image_id, image), = batch
        self.skipped[str(self._paths[image_id])] = self._reason(image, error)
      return
    seconds = (time.monotonic() - start) / len(batch)
    for row, (image_id, image) in enumerate(batch):
      yield Result(image_id, self._paths[image_id], image, outputs, row, seconds)

  def _reason(self, image: np.ndarray, error: Exception) -> str:
    """Says why the detector failed for an image."""
    height, width = image.shape[:2]
    size = self._detector.description.get('input_image_size')
    if size and is_lost_by_resizing(image.shape[:2], size):
      return (f'{width} x {height} pixels are too long: resized to {size[1]} x {size[0]} with its '
              'shape kept, nothing is left of the shorter side; cut it into tiles')
    if isinstance(error, tf.errors.ResourceExhaustedError):
      return f'there is not enough memory to detect objects in {width} x {height} pixels'
    text = str(getattr(error, 'message', error)).strip() or type(error).__name__
    return f'the detector failed for {width} x {height} pixels: {text.splitlines()[0]}'


def pixels(images: image_ids.ImageSet, max_pixels: int, flag: str = '--images'
           ) -> dict[image_ids.Id, np.ndarray]:
  """Reads images as a run does.

  Args:
    images: the images to read.
    max_pixels: largest allowed width times height of an image.
    flag: of the command that gave the images, for error messages.

  Returns:
    Image id -> uint8 `[height, width, 3]`.

  Raises:
    CommandError: an image cannot be read.
  """
  listed = {image_id: image_orientation.listed(entry)
            for image_id, entry in images.entries.items()}
  reader = image_reading.ImageReader(
      max_pixels, lambda: ((images.paths[image_id], listed[image_id])
                           for image_id in images.paths if image_id in listed))
  found = {}
  for image_id, path in images.paths.items():
    try:
      found[image_id] = reader.read(
          path, listed.get(image_id, image_orientation.NOT_LISTED)).pixels
    except findings.UnusableError as error:
      raise command_line.CommandError(f'{flag}: {path}: {error}.') from error
  return found


def _check_kept(outputs: Mapping[str, np.ndarray]) -> None:
  """Raises a ValueError if resizing left nothing of the images: OpenVINO then detects nothing."""
  if np.any(outputs['image_info'][:, 2] == 0):
    raise ValueError('resizing leaves no pixel of the shorter side')


def is_lost_by_resizing(size: Sequence[int], target: Sequence[int]) -> bool:
  """Returns whether an image has no pixels after Model Garden's resize that keeps its shape.

  Args:
    size: (height, width) of the image in pixels.
    target: (height, width) that it is to fit into.
  """
  scale = min(wanted / side for wanted, side in zip(target, size))
  return any(round(side * scale) < 1 for side in size)
