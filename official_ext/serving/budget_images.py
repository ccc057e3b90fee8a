"""Sets what gates do at each budget by a person's own images, when a detector is exported."""
from collections.abc import Iterator, Sequence
import pathlib
import random

import tensorflow as tf

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.modeling.layers import routed
from official_ext.serving import export_modules
from official_ext.serving import image_runs
from official_ext.tasks import budget_calibration
from official_ext.utils import command_line
from official_ext.visualization import routing_figures

_FLAG = '--budget_images'


def calibrate(module: export_modules.DetectionModule, paths: Sequence[pathlib.Path]) -> int:
  """Moves the gates of a detector so that these images spend the share b at every budget b.

  Training does the same with images of the training set, of which the gates of unseen images may
  differ.  It reads up to `budget_calibration.MAX_IMAGES` images at equal distances; annotations are
  not needed.

  Args:
    module: the export module of the detector, whose variables are set.
    paths: image files, and folders with images.

  Returns:
    The number of images that were read.

  Raises:
    CommandError: the detector has no gates that follow a budget, there is no image, one cannot be
      read, or nothing is left of one by resizing it.
  """
  if not budget_calibration.can_calibrate(module.model):
    raise command_line.CommandError(
        f'{_FLAG}: ' + (
            'the budget of this network is a number of evaluations, which images do not change.'
            if routed.has_budget_input(module.model) else
            'this network takes no budget; its gates must be trained with budget_input.'))
  chosen = routing_figures.pick_evenly(
      image_files.find(paths, _FLAG), budget_calibration.MAX_IMAGES)
  batches = _same_sizes(module, chosen)

  def inputs() -> Iterator[tf.Tensor]:
    return (tf.concat([_input(module, path) for path in batch], 0) for batch in batches)

  budget_calibration.calibrate_by(module.model, inputs, len(batches))
  return len(chosen)


def _same_sizes(module: export_modules.DetectionModule, paths: Sequence[pathlib.Path]
                ) -> list[list[pathlib.Path]]:
  """Reads all images once, and returns batches of those that the network gets in one size."""
  groups: dict[tuple[int, ...], list[pathlib.Path]] = {}
  for path in command_line.progress(paths, 'reading images'):
    groups.setdefault(tuple(_input(module, path).shape), []).append(path)
  size = budget_calibration.BATCH_SIZE
  batches = [group[start:start + size] for group in groups.values()
             for start in range(0, len(group), size)]
  random.Random(0).shuffle(batches)  # The last ones move shifts as well as the first.
  return batches


def _input(module: export_modules.DetectionModule, path: pathlib.Path) -> tf.Tensor:
  """Returns what the network gets of an image file, float32 `[1, height, width, 3]`."""
  image, = image_runs.pixels(
      image_ids.assign([path], None), image_files.MAX_PIXELS, _FLAG).values()
  if image_runs.is_lost_by_resizing(image.shape[:2], module.image_size):
    height, width = image.shape[:2]
    raise command_line.CommandError(
        f'{_FLAG}: {path}: nothing is left of the shorter side of {width} x {height} pixels when '
        f'it is resized to {module.image_size[1]} x {module.image_size[0]}: leave it out.')
  return module.network_inputs([image])[0]
