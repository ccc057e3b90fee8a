"""The files of an exported detector: the SavedModel, its description and its classes."""
from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import pathlib
import tempfile
from typing import Any

import tensorflow as tf

from official_ext.datasets import categories as categories_lib
from official_ext.datasets import category_files
from official_ext.serving import input_types
from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = 'export.json'
_GRAPH = 'saved_model.pb'


@contextlib.contextmanager
def unoptimized() -> Iterator[None]:
  """Makes TensorFlow run the functions that are called inside as they are written.

  Otherwise its graph optimizers (Grappler) rewrite a function at its first call.  That takes ten
  seconds for a dynamic head and saves a fifth of the time of a call, too little for functions that
  are called a few times.
  """
  switch = 'disable_meta_optimizer'
  before = tf.config.optimizer.get_experimental_options().get(switch, False)
  tf.config.optimizer.set_experimental_options({switch: True})
  try:
    yield
  finally:
    tf.config.optimizer.set_experimental_options({switch: before})


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and _is_number(value) and value > 0


def _is_size(value: Any) -> bool:
  return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_rule(value: Any) -> bool:
  """Returns whether a value is a rule as `suppression.finish` takes it."""
  return (isinstance(value, dict) and value.get('best') in ('boxes', 'pairs') and
          all(_is_number(value.get(name)) for name in ('score_threshold', 'iou_threshold')) and
          _is_count(value.get('max_detections')) and
          (value.get('per_level') is None or _is_count(value['per_level'])) and
          isinstance(value.get('levels'), list) and all(map(_is_count, value['levels'])))


def _is_table(value: Any) -> bool:
  """Returns whether a value is a table of budgets, or the beginning of one."""
  points = value.get('points', []) if isinstance(value, dict) else None
  return isinstance(points, list) and all(isinstance(point, dict) for point in points)


# Field of export.json that commands read -> whether it may have a value.
_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    'input_type': lambda value: value in input_types.INPUT_TYPES,
    'input_image_size': _is_size,
    'batch_size': lambda value: value is None or _is_count(value),
    'num_classes': _is_count,
    'normalized_boxes': lambda value: isinstance(value, bool),
    'suppression': _is_rule,
    'gmac': lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    'categories': lambda value: isinstance(value, list),
    'max_abs_diff': _is_number,
    'budgets': _is_table,
    'default_budget': lambda value: _is_number(value) and 0 <= value <= 1,
}


def load(path: files.PathLike) -> Any:
  """Loads a SavedModel; raises CommandError, about `--saved_model`, if there is none."""
  if not (pathlib.Path(path) / _GRAPH).is_file():
    versions = [found.parent.name for found in pathlib.Path(path).glob(f'[0-9]*/{_GRAPH}')]
    served = f', such as {max(versions, key=len)} in it' if versions else ''
    raise command_line.CommandError(
        f'--saved_model={path} has no file saved_model.pb: give a folder that '
        f'export_saved_model wrote{served}.')
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
    raise _damaged(path, str(error)) from error
  if not isinstance(content, dict):
    raise _damaged(path, f'it holds {type(content).__name__}, not fields with values')
  for name, allows in _FIELDS.items():
    if name in content and not allows(content[name]):
      raise _damaged(path, f'{name} is {str(content[name])[:80]}')
  return content


def _damaged(path: files.PathLike, reason: str) -> command_line.CommandError:
  return command_line.CommandError(
      f'--saved_model={path}: {_DESCRIPTION} is damaged ({reason}): export it again.')


def write_description(path: files.PathLike, description: Mapping[str, Any]) -> None:
  """Writes export.json in place of an earlier one."""
  with files.atomic_file(pathlib.Path(path) / _DESCRIPTION) as temporary:
    temporary.write_text(json.dumps(description, indent=2), encoding='utf-8')


def read_categories(model: Any, path: pathlib.Path, description: Mapping[str, Any]
                    ) -> categories_lib.Categories:
  """Returns the classes of a detector.

  Args:
    model: the SavedModel, which may bring the classes along; None for a conversion.
    path: its folder.
    description: the content of `export.json`.

  Raises:
    CommandError: what says the classes is damaged.
  """
  try:
    asset = getattr(model, 'categories', None)
    if isinstance(asset, tf.saved_model.Asset):
      return category_files.read(asset.asset_path.numpy().decode())
    return categories_lib.from_coco(description.get('categories', ()))
  except (ValueError, TypeError, AttributeError, tf.errors.OpError) as error:
    raise command_line.CommandError(
        f'--saved_model={path} has damaged class names ({error}): export it again.') from error
