"""Evaluates a detector: its average precision, and what the images cost."""
import argparse
import pathlib
from typing import Any

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.serving import labels as labels_lib
from official_ext.tools import predict
from official_ext.utils import command_line


def check_costs(detector: Any, name: str, alternative: str = '') -> None:
  """Checks that an export says what its images cost.

  Args:
    detector: a `SavedDetector`.
    name: of the export.
    alternative: begins with "or" and says what else helps; empty if nothing does.

  Raises:
    CommandError: it does not.
  """
  description = detector.description
  if 'gmac' not in description or description.get('outputs') == 'detections':
    advice = ', '.join(filter(None, (
        'export it with official_ext.serving.export_saved_model --outputs=all', alternative)))
    raise command_line.CommandError(
        f'--saved_model: {name} does not say what its images cost: {advice}.')


def say_left_out(images: image_ids.ImageSet, truth: truth_lib.Truth) -> None:
  """Says which images and annotations are not evaluated.

  Args:
    images: the images to predict.
    truth: the annotation file of the images.
  """
  image_ids.say_left_out(images)
  for reason, places in truth.dropped().items():
    command_line.say_names(f'Not evaluated, {reason}', places)


def evaluate(detector: Any, images: image_ids.ImageSet, truth: truth_lib.Truth,
             flag: str = '--images', resamples: int = 0) -> dict[str, float]:
  """Evaluates a detector.

  Args:
    detector: one of `serving.detectors`.
    images: the images to predict.
    truth: the annotation file of the images.
    flag: of the command that gave the images, for error messages.
    resamples: of the bootstrap over images (`coco_results.precision_interval`); 0: none.

  Returns:
    `ap` and `ap50`, in [0, 1]; `gmac_mean`, `gmac_min` and `gmac_max`, 10^9 multiply-adds per
    image; with `resamples` `ap_low` and `ap_high`, the ends of the interval of AP.

  Raises:
    CommandError: an image cannot be read, the detector fails for it or does not say what it costs,
      or the annotation file is of other classes or has no object in the images.
  """
  import numpy as np

  from official_ext.serving import coco_results
  options = argparse.Namespace(
      batch_size=1, max_pixels=image_files.MAX_PIXELS, draw=False, gates=False)
  labels = labels_lib.of_detector(detector, truth)
  predictions: list[dict[str, Any]] = []
  costs, skipped = predict.predict(
      detector, images, labels, options, pathlib.Path(), predictions.extend)
  if skipped:
    file, reason = next(iter(skipped.items()))
    raise command_line.CommandError(f'{flag}: {file} cannot be predicted ({reason}).')
  if not all('multiply_adds' in cost for cost in costs):  # some conversions of older versions
    raise command_line.CommandError(
        '--saved_model: the outputs of a detector do not say what its images cost: give the export '
        'that it was converted from, made with --outputs=all.')
  precision = coco_results.average_precision(truth, predictions, list(images.paths))
  if precision['ap'] < 0:  # so pycocotools says that there is nothing to find
    raise command_line.CommandError(
        f'{flag}: the annotation file has no object in these images, so that there is no average '
        'precision: give images with annotated objects.')
  gmac = [cost['multiply_adds'] / 1e9 for cost in costs]
  found = {'ap': precision['ap'], 'ap50': precision['ap50'], 'gmac_mean': float(np.mean(gmac)),
           'gmac_min': min(gmac), 'gmac_max': max(gmac)}
  if resamples:
    found['ap_low'], found['ap_high'] = coco_results.precision_interval(
        truth, predictions, list(images.paths), resamples)
  return found
