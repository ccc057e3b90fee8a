"""What surrounds the package: fitting versions of its dependencies, and its data files."""
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
  """The folder of a file set that the project carries.

  Args:
    name: a folder of `data/`, e.g. `efficientnet_lite0_imagenet`.

  Returns:
    `official_ext/data/<name>` where the package was installed from a wheel,
    `data/<name>` in a checkout.

  Raises:
    FileNotFoundError: neither exists.
  """
  package = pathlib.Path(__file__).resolve().parent
  candidates = [package / 'data' / name, package.parent / 'data' / name]
  for path in candidates:
    if path.is_dir():
      return path
  raise FileNotFoundError(
      f'No data {name!r}: neither {candidates[0]} nor {candidates[1]} is a folder; check the '
      'name, or reinstall official_ext.')
