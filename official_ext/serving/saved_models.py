"""The files of an exported detector: the SavedModel, its description and its classes."""
from collections.abc import Iterator, Mapping
import contextlib
import json
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from official_ext.datasets import categories as categories_lib
from official_ext.datasets import category_files
from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = 'export.json'
_GRAPH = 'saved_model.pb'


def load(path: files.PathLike) -> Any:
  """Loads a SavedModel; raises CommandError, about `--saved_model`, if there is none."""
  if not (pathlib.Path(path) / _GRAPH).is_file():
    raise command_line.CommandError(
        f'--saved_model={path} has no file saved_model.pb: give a folder that '
        'export_saved_model wrote.')
  try:
    return tf.saved_model.load(files.plain_path(path))
  except (OSError, tf.errors.OpError, ValueError) as error:
    text = str(error).strip().splitlines()[0]
    raise command_line.CommandError(
        f'--saved_model={path} cannot be loaded ({text}): export it again.') from error


@contextlib.contextmanager
def with_default(path: files.PathLike, name: str) -> Iterator[pathlib.Path]:
  """Shows a SavedModel to programs that read the signature `serving_default` alone.

  Args:
    path: its folder.
    name: of the signature that takes the place of `serving_default`.

  Yields:
    A folder, removed at the end, with the same variables and this one signature.
  """
  from tensorflow.core.protobuf import saved_model_pb2
  source = pathlib.Path(files.plain_path(path)).absolute()
  content = saved_model_pb2.SavedModel.FromString((source / _GRAPH).read_bytes())
  functions = content.meta_graphs[0].signature_def
  chosen = type(functions[name])()
  chosen.CopyFrom(functions[name])
  functions.clear()
  functions['serving_default'].CopyFrom(chosen)
  with tempfile.TemporaryDirectory() as folder:
    target = pathlib.Path(folder)
    for part in source.iterdir():
      if part.name != _GRAPH:
        (target / part.name).symlink_to(part)
    (target / _GRAPH).write_bytes(content.SerializeToString())
    yield target


def read_description(path: files.PathLike) -> dict[str, Any]:
  """Returns the content of export.json; raises CommandError if it is damaged."""
  try:
    content = json.loads((pathlib.Path(path) / _DESCRIPTION).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return {}
  except ValueError as error:
    raise command_line.CommandError(
        f'--saved_model={path}: {_DESCRIPTION} is damaged ({error}): export it again.') from error
  return content if isinstance(content, dict) else {}


def write_description(path: files.PathLike, description: Mapping[str, Any]) -> None:
  """Writes export.json in place of an earlier one."""
  with files.atomic_file(pathlib.Path(path) / _DESCRIPTION) as temporary:
    temporary.write_text(json.dumps(description, indent=2), encoding='utf-8')


def read_categories(model: Any, path: pathlib.Path, description: Mapping[str, Any]
                    ) -> categories_lib.Categories:
  """Returns the classes of a SavedModel; raises CommandError if their file is damaged."""
  try:
    asset = getattr(model, 'categories', None)
    if isinstance(asset, tf.saved_model.Asset):
      return category_files.read(asset.asset_path.numpy().decode())
    return categories_lib.from_coco(description.get('categories', ()))
  except (ValueError, TypeError, AttributeError, tf.errors.OpError) as error:
    raise command_line.CommandError(
        f'--saved_model={path} has damaged class names ({error}): export it again.') from error
