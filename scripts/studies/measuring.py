"""Measures exports: accuracy and cost at every budget, and times in one run."""
from collections.abc import Mapping, Sequence
import functools
import pathlib
from typing import Any

import numpy as np
from studies.subjects import Subject

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.serving import converted_detectors
from official_ext.serving import image_runs
from official_ext.tools import evaluation
from official_ext.utils import timing
from official_ext.visualization import routing_figures

_TIMED_IMAGES = 8
_REPEATS = 9


def points(saved_model: pathlib.Path, val: pathlib.Path, budgets: Sequence[float],
           resamples: int) -> list[dict[str, Any]]:
  """Evaluates an export.

  Args:
    saved_model: its folder.
    val: folder that `write_images` wrote.
    budgets: at which it is evaluated; empty: once, without one.
    resamples: of the bootstrap over images.

  Returns:
    For each budget what `evaluation.evaluate` returns, and `budget`, None without one.
  """
  detector = converted_detectors.load_to_time(saved_model)
  truth = truth_lib.Truth(val / 'annotations.json', '--data')
  images = image_ids.assign(image_files.find([val / 'images']), truth)
  found = []
  for budget in budgets or [None]:
    if budget is not None:
      detector.set_budget(budget)
    found.append({'budget': budget, **evaluation.evaluate(
        detector, images, truth, '--data', resamples)})
  return found


def times(folders: Mapping[str, pathlib.Path], subjects: Mapping[str, Subject],
          val: pathlib.Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
  """Times exports and their conversions in one run, all in turn on the same images.

  Args:
    folders: name of a subject -> folder of a training, with `saved_model` and perhaps `openvino`.
    subjects: name -> subject.
    val: folder that `write_images` wrote.

  Returns:
    Name -> budget as text, `None` without one -> engine -> `low`, `median` and `high` milliseconds
    of an image: medians and quartiles over repeats of the mean over images.
  """
  truth = truth_lib.Truth(val / 'annotations.json', '--data')
  images = image_ids.assign(image_files.find([val / 'images']), truth)
  chosen = routing_figures.pick_evenly(list(images.paths), _TIMED_IMAGES)
  pixels = list(image_runs.pixels(images._replace(
      paths={one: images.paths[one] for one in chosen}), image_files.MAX_PIXELS, '--data').values())
  calls = {}
  for name, folder in folders.items():
    for path in (folder / 'saved_model', folder / 'openvino'):
      if path.exists():
        detector = converted_detectors.load_to_time(path)
        for budget in subjects[name].budgets or [None]:
          calls[name, str(budget), detector.engine] = functools.partial(
              _detect, detector, budget, pixels)
  found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
  summaries = timing.summaries(timing.interleaved(calls, _REPEATS, label='timing'))
  for (name, budget, engine), summary in summaries.items():
    found.setdefault(name, {}).setdefault(budget, {})[engine] = {
        key: value / len(pixels) for key, value in summary.items()}
  return found


def _detect(detector: Any, budget: float | None, images: Sequence[np.ndarray]) -> None:
  """Detects in images one by one, at a budget; None: the detector takes none."""
  if budget is not None:
    detector.set_budget(budget)
  for image in images:
    detector(image[None])
