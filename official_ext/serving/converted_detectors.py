"""Detectors that `serving.convert` has written, which another engine than TensorFlow runs."""
import pathlib

import numpy as np

from official_ext.serving import detectors
from official_ext.serving import saved_models
from official_ext.serving.engines import catalog
from official_ext.utils import command_line
from official_ext.utils import files


class ConvertedDetector(detectors.SavedDetector):
  """A converted detector, which is called like the SavedModel that it was made of.

  Attributes:
    engine: one of `catalog.NAMES`.
    input_type: `image_tensor`.
    batch_size: the fixed number of images, or None for any number.
    description: the content of `export.json`.
    categories: the classes; perhaps none.
  """

  def __init__(self, path: files.PathLike, num_threads: int | None = None):
    """Loads a converted detector.

    Args:
      path: the folder that `serving.convert` wrote.
      num_threads: number of threads; None: the engine's choice.

    Raises:
      CommandError: the engine is not installed, or cannot load the model.
    """
    self._path = pathlib.Path(path)
    self.description = saved_models.read_description(path)
    self.categories = saved_models.read_categories(None, self._path, self.description)
    self._rule = self.description.get('suppression')
    # A call without a budget spends what it spends in the SavedModel.
    budget = self.description.get('default_budget')
    self._scalars: dict[str, float] = {} if budget is None else {'budget': budget}
    self.input_type, self.batch_size = 'image_tensor', self.description.get('batch_size')
    self.engine = catalog.engine_of(path) or ''
    try:
      self._engine = catalog.engine(self.engine).Model(path, num_threads)
    except RuntimeError as error:
      text = str(error).strip().splitlines()[0]
      raise command_line.CommandError(
          f'--saved_model={path} cannot be loaded ({text}): convert it again.') from error

  def set_gate_threshold(self, threshold: float) -> bool:
    """Shuts gates up to a threshold from now on; see `SavedDetector`.

    Conversions of networks without gates, and those of older versions, do not take one.
    """
    return self._give('gate_threshold', threshold)

  def set_budget(self, budget: float) -> bool:
    """Gives a budget to gates from now on; see `SavedDetector`.

    Conversions of networks without `budget_input`, and those of older versions, do not take one.
    """
    return self._give('budget', budget)

  def _give(self, name: str, value: float) -> bool:
    """Gives a scalar to the engine from now on; does nothing if the model does not take it."""
    if name not in self._engine.scalars:
      return False
    self._scalars = {name: value}
    return True

  def _encode(self, images: np.ndarray) -> np.ndarray:
    return images

  def _run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
    outputs = self._engine(batch, self._scalars)
    self._check_outputs(outputs, 'the converted model')
    return outputs


def load(path: files.PathLike) -> detectors.SavedDetector:
  """Loads a detector that `export_saved_model` or `convert` has written.

  Args:
    path: its folder.

  Raises:
    CommandError: the folder holds no detector, or one that cannot be loaded.
  """
  return ConvertedDetector(path) if catalog.engine_of(path) else detectors.SavedDetector(path)


def load_to_time(path: files.PathLike, flag: str = '--saved_model') -> detectors.SavedDetector:
  """Loads a detector whose time counts, which has to be that of detection alone.

  Args:
    path: folder that `export_saved_model` or `convert` has written.
    flag: of the command that gave the folder, for error messages.

  Raises:
    CommandError: as `load`, or the detector decodes files.
  """
  detector = load(path)
  if detector.input_type != 'image_tensor':
    raise command_line.CommandError(
        f'{flag}={path} takes {detector.input_type}, not images: export it with '
        '--input_type=image_tensor.')
  return detector
