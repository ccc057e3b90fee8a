"""The engines beside TensorFlow that run exported detectors, by name."""
import importlib
import importlib.util
import pathlib
from typing import Any

from official_ext.utils import command_line
from official_ext.utils import files

NAMES = ('openvino', 'onnx', 'litert')


def engine(name: str) -> Any:
  """Returns the module of an engine.

  It has `FILE`, a file of every conversion; `PACKAGES`; `QUANTIZATIONS`, how it can round weights;
  `version`; `convert`; and `Model`, which is called with images and scalars.

  Args:
    name: one of `NAMES`.

  Raises:
    CommandError: a package of the engine is not installed.
  """
  module = importlib.import_module(f'official_ext.serving.engines.{name}')
  missing = [package for package in module.PACKAGES if importlib.util.find_spec(package) is None]
  if missing:
    raise command_line.CommandError(
        f'{name} needs {", ".join(missing)}, which this environment lacks: '
        f"pip install 'official_ext[{name}]'.")
  return module


def engine_of(folder: files.PathLike) -> str | None:
  """Returns the name of the engine whose model a folder holds; None: no engine's."""
  for name in NAMES:
    module = importlib.import_module(f'official_ext.serving.engines.{name}')
    if (pathlib.Path(folder) / module.FILE).is_file():
      return name
  return None
