"""Loads what `tools.frontier` measures: an export, its conversions, and images with objects."""
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import pathlib
import tempfile
from typing import Any, NamedTuple

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.serving.engines import catalog
from official_ext.tools import evaluation
from official_ext.tools import write_images
from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import machine


class Data(NamedTuple):
  """Images and what is to be found in them.

  Attributes:
    images: the images.
    truth: their annotation file.
    name: of the folder.
  """
  images: image_ids.ImageSet
  truth: truth_lib.Truth
  name: str


def load_export(path: pathlib.Path) -> Any:
  """Loads the export.

  Args:
    path: folder that `export_saved_model` wrote.

  Raises:
    CommandError: there is none, or it takes no budget or does not say what images cost.
  """
  from official_ext.serving import converted_detectors
  detector = converted_detectors.load_to_time(path)
  if not detector.set_budget(1.0):
    raise command_line.CommandError(
        f'--saved_model={path} takes no budget: train it with budget_input (docs/frontier.md), or '
        'draw its thresholds with official_ext.tools.tradeoff.')
  if detector.engine != 'tensorflow':
    raise command_line.CommandError(
        f'--saved_model={path} is a conversion: give the export, and this folder as --converted.')
  evaluation.check_costs(detector, str(path))
  return detector


@contextlib.contextmanager
def open_data(path: pathlib.Path) -> Iterator[Data]:
  """Opens the images of `--data`, and says what of it is left out.

  Args:
    path: folder that `convert_dataset` or `write_images` wrote.

  Yields:
    The data; the images of records are files until the end.

  Raises:
    CommandError: it is no such folder, or has no image that its annotation file describes.
  """
  with contextlib.ExitStack() as stack:
    folder = path
    if not (path / 'annotations.json').is_file():
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      write_images.write(path, 'val', folder)
    elif not (path / 'images').is_dir():
      raise command_line.CommandError(
          f'--data={path} has a file annotations.json but no folder images: give a folder that '
          'convert_dataset or write_images wrote.')
    truth = truth_lib.Truth(folder / 'annotations.json', '--data')
    images = image_ids.assign(image_files.find([folder / 'images'], '--data'), truth)
    evaluation.say_left_out(images, truth)
    yield Data(images, truth, path.resolve().name)


def identity(saved_model: pathlib.Path, data: Data) -> dict[str, Any]:
  """Returns what the measurements are of: hashes of model and data, and the machine.

  Args:
    saved_model: folder of the export.
    data: the images that are measured.
  """
  network = {str(path.relative_to(saved_model)): path
             for pattern in ('saved_model.pb', 'variables/*')
             for path in saved_model.glob(pattern)}
  return {'model': _digest(network), 'data': data_digest(data.images.paths, data.truth.path),
          'machine': machine.describe()}


def data_digest(images: Mapping[Any, pathlib.Path], annotation_file: pathlib.Path) -> str:
  """Returns what tells data from others: a hash of images, their ids and their annotations.

  Args:
    images: image id -> file.
    annotation_file: of these images.
  """
  seen = {str(image_id): path for image_id, path in images.items()}
  return _digest({**seen, '': annotation_file})


def conversion_digest(folder: pathlib.Path) -> str:
  """Returns what tells a conversion from others: a hash of the files of its model.

  Args:
    folder: that `convert` wrote.
  """
  return _digest({path.name: path for path in folder.glob('model.*')})


def _digest(paths: Mapping[str, pathlib.Path]) -> str:
  """Returns what tells files from others: a hash of their names and contents."""
  digest = hashlib.sha256()
  for name, path in sorted(paths.items()):
    digest.update(f'{name}\n{path.stat().st_size}\n'.encode('utf-8', 'surrogateescape'))
    with path.open('rb') as file:
      while part := file.read(1 << 20):
        digest.update(part)
  return digest.hexdigest()[:16]


def conversions(saved_model: pathlib.Path, description: Mapping[str, Any], made: pathlib.Path,
                engines: Sequence[str], converted: Sequence[pathlib.Path]
                ) -> dict[pathlib.Path, Any]:
  """Loads the conversions that are timed; makes those that are asked for and not there.

  Args:
    saved_model: folder of the export.
    description: the content of its `export.json`.
    made: folder for the conversions that are made, each in a folder with the name of its engine.
    engines: for which the export is converted.
    converted: folders of conversions that are there.

  Returns:
    Folder -> detector.

  Raises:
    CommandError: an engine refuses the export, or a conversion is of another export, is quantized,
      takes no budget, or is for the same engine as another one.
  """
  from official_ext.serving import convert
  from official_ext.serving import converted_detectors
  found = {}
  for engine in dict.fromkeys(engines):
    folder = made / engine
    if not catalog.engine_of(folder):
      command_line.say(f'Converting the export for {engine} ...')
      with files.atomic_directory(folder) as temporary:
        convert.convert(engine, saved_model, temporary)
    found[folder] = converted_detectors.load(folder)
  for folder in converted:
    _check_conversion(folder)
    found[folder] = converted_detectors.load_to_time(folder, '--converted')
    if _of_export(found[folder].description) != _of_export(description):
      raise command_line.CommandError(
          f'--converted={folder} is not a conversion of --saved_model={saved_model}.')
    if not found[folder].set_budget(1.0):
      raise command_line.CommandError(
          f'--converted={folder} takes no budget: convert the export again.')
  names = [detector.engine for detector in found.values()]
  if len(set(names)) < len(names):
    raise command_line.CommandError(
        f'--engine and --converted give {max(names, key=names.count)} twice: give it once.')
  return found


def _check_conversion(folder: pathlib.Path) -> None:
  """Raises a CommandError unless a folder holds a conversion with the precision of the export."""
  path = folder / 'conversion.json'
  if not path.is_file():
    raise command_line.CommandError(
        f'--converted={folder} has no file conversion.json: give a folder that convert wrote.')
  try:
    quantize = json.loads(path.read_text(encoding='utf-8')).get('quantize')
  except (ValueError, AttributeError) as error:
    raise command_line.CommandError(
        f'--converted={folder}: conversion.json is damaged ({error}): convert the export again.'
        ) from error
  if quantize:
    raise command_line.CommandError(
        f'--converted={folder} is quantized ({quantize}), so that its precision is not that of the '
        'export, which is in the table: measure it with official_ext.tools.predict --evaluate at '
        'each --budget.')


def _of_export(description: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the part of `export.json` that an export and its conversions share."""
  from official_ext.serving import budget_table
  return {name: value for name, value in budget_table.without(description).items()
          if name != 'batch_size'}
