"""The detector and the images that the package brings along, for `predict --demo`."""
import argparse
import pathlib
import tempfile
from typing import Any

import numpy as np

from official_ext import environment

FOLDER = 'demo'
_BUDGET = 0.5
_OUTPUT_DIR = 'runs/demo'


def fill(args: argparse.Namespace) -> None:
  """Completes the arguments of `tools.predict`: images, where to write, budget, drawn gates.

  Args:
    args: of the command line; what is given stays.
  """
  args.images = args.images or [environment.data_path(FOLDER) / 'images']
  args.output_dir = args.output_dir or _OUTPUT_DIR
  args.gates = True
  if not args.gate_threshold and args.budget is None:
    args.budget = _BUDGET


def load() -> Any:
  """Returns the detector, an `InMemoryDetector` that has run once."""
  from official_ext import registry_imports
  from official_ext.datasets import category_files
  from official_ext.serving import detectors
  from official_ext.serving import export_modules
  from official_ext.utils import experiment
  from official_ext.utils import half_checkpoints
  data = environment.data_path(FOLDER)
  params = experiment.resolve(
      (data / 'experiment.txt').read_text(encoding='utf-8').strip(), [str(data / 'params.yaml')],
      lock=False)
  with tempfile.TemporaryDirectory() as folder:
    half_checkpoints.unpack(data / 'weights.npz', pathlib.Path(folder))
    module = export_modules.build_module(params, folder, outputs='all')
  detector = detectors.InMemoryDetector(
      module, categories=category_files.of_training(data, params.task))
  # The first call traces; its time is not that of an image.
  detector(np.zeros([1, *module.image_size, 3], np.uint8))
  return detector
