"""The part of a report that shows what the neck computes for the dearest image."""
from typing import Any

import numpy as np

from official_ext.serving import prediction_files
from official_ext.tools import compare
from official_ext.visualization import html_page
from official_ext.visualization import routing_figures


def write_branches(page: html_page.HtmlPage, detector: Any,
                   predictions: prediction_files.Predictions) -> None:
  """Writes what each branch of an inception FPN computes; nothing for other necks.

  Args:
    page: the report.
    detector: an `InMemoryDetector`.
    predictions: of the detector; the dearest image is shown.
  """
  from official_ext.modeling.decoders import dyfpn
  if not isinstance(detector.module.model.decoder, dyfpn.InceptionFPN):
    return
  page.heading('What each branch sees')
  page.text('Mean magnitude over channels of every branch, for the dearest image: where a gate is '
            'shut, none of this is computed.')
  image = predictions.image(predictions.costs[-1]['image_id'])
  for level, branches in _branch_features(detector, image).items():
    page.figure(routing_figures.draw_feature_grid(image, branches, f'level {level}'),
                f'Branches of level {level}.')


def write_pyramid(page: html_page.HtmlPage, detector: Any,
                  predictions: prediction_files.Predictions) -> None:
  """Writes the levels of the neck, and where DRFPN samples; nothing if there is no neck.

  Args:
    page: the report.
    detector: an `InMemoryDetector`.
    predictions: of the detector; the dearest image is shown.
  """
  from official_ext.serving import pyramid_features
  if not detector.module.model.decoder:
    return
  page.heading('What the neck computes')
  cost = predictions.costs[-1]
  plots = compare.draw_pyramid(pyramid_features, detector, predictions.image(cost['image_id']))
  for part, plot in plots.items():
    page.figure(plot, f'{cost["file"]}, {part.replace("_", " ")}.')


def _branch_features(detector: Any, image: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
  """Returns level -> branch -> `[height, width, filters]` of an inception FPN for one image."""
  model = detector.module.model
  options = detector.module.params.task.model.decoder.get()
  features = model.backbone(detector.module.network_inputs([image])[0], training=False)
  return {
      level: {branch: output[0].numpy() for branch, output in zip(
          options.branches, lateral.branch_outputs(features[level]))}
      for level, lateral in model.decoder.laterals.items()}
