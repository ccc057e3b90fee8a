"""The environment of the package: versions of its dependencies, and its data files."""
from importlib import metadata
import pathlib

MODEL_GARDEN = '2.20'


def check() -> None:
  """Checks that Keras 2 is active and that Model Garden has the version this package needs.

  Other environments would fail later, with errors that do not name the cause.

  Raises:
    ImportError: Keras 3 is active, Model Garden is not installed, or it has another version.
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
  import tensorflow as tf, tf_keras
  if tf.keras.layers.Layer is not tf_keras.layers.Layer:
    raise ImportError(
        'Keras 3 is active, and Model Garden needs Keras 2: set TF_USE_LEGACY_KERAS=1, or '
        'import official_ext, before anything imports tensorflow.')


def data_path(name: str) -> pathlib.Path:
  """Returns a folder of data that comes with the package.

  Args:
    name: name of a folder in `data/`, e.g. `efficientnet_lite0_imagenet`.

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
