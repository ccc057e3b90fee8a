"""Checks that the installed TensorFlow, Keras and Model Garden fit together."""
from importlib import metadata
import pathlib

MODEL_GARDEN = '2.20'


def check() -> None:
  """Raises if the environment would fail later and less clearly.

  Raises:
    ImportError: Keras 3 is active, or Model Garden is missing or of a version
      that `official_ext` was not written for.
  """
  try:
    version = metadata.version('tf-models-official')
  except metadata.PackageNotFoundError:
    raise ImportError(
        f'official_ext needs tf-models-official {MODEL_GARDEN}, which is not installed: '
        'run `pip install official_ext -c constraints.txt`.') from None
  if not version.startswith(MODEL_GARDEN + '.'):
    raise ImportError(
        f'official_ext needs tf-models-official {MODEL_GARDEN}, found {version}: run '
        f'`pip install "tf-models-official=={MODEL_GARDEN}.*"`.')
  import tensorflow as tf, tf_keras  # pylint: disable=g-import-not-at-top,multiple-imports
  if tf.keras.layers.Layer is not tf_keras.layers.Layer:
    raise ImportError(
        'Keras 3 is active, and Model Garden needs Keras 2: set TF_USE_LEGACY_KERAS=1, or '
        'import official_ext, before anything imports tensorflow.')


def data_path(name: str) -> pathlib.Path:
  """Returns a folder of data that the project carries, e.g. `efficientnet_lite0_imagenet`.

  Args:
    name: the folder's name.

  Raises:
    FileNotFoundError: neither the installed package nor the checkout has it.
  """
  package = pathlib.Path(__file__).resolve().parent
  folders = [package / 'data' / name, package.parent / 'data' / name]
  for folder in folders:
    if folder.is_dir():
      return folder
  raise FileNotFoundError(f'{name} is neither in {folders[0]} nor in {folders[1]}: '
                          'install official_ext again.')
