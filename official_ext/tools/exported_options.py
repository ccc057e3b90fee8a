"""Checks that an export is of the network whose cost a command counts."""
import pathlib
from typing import Any

import yaml

from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import model_options

# Options of the model that do not change what a network costs.
_FREE = frozenset({'detection_generator'})


def check(params: Any, path: files.PathLike, has_own_size: bool) -> None:
  """Refuses an export whose network has other options than the experiment.

  Args:
    params: the resolved experiment.
    path: folder of the export or of its conversion; those of earlier versions may have no
      `params.yaml`, and are not checked.
    has_own_size: whether the command gives the size of images, which may then differ.

  Raises:
    CommandError: names the first option that differs; or `params.yaml` is damaged.
  """
  file = pathlib.Path(path, 'params.yaml')
  try:
    task = yaml.safe_load(file.read_text(encoding='utf-8'))['task']
    records = {name: task.get(name) for name in ('model', 'resize')}
  except FileNotFoundError:
    return
  except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError,
          AttributeError) as error:
    raise command_line.CommandError(
        f'--saved_model={path}: params.yaml is damaged ({error}): export it again.') from error
  free = _FREE | {'input_size'} if has_own_size else _FREE
  for name, previous in records.items():
    now = getattr(params.task, name, None)
    if now is None or (name == 'resize' and (has_own_size or previous is None)):
      continue
    field = model_options.difference(previous, now, free)
    if field is not None:
      changed = f'task.{name}.{field}'.rstrip('.')
      raise command_line.CommandError(
          f'--saved_model={path} is not of this network, whose cost is not its own: its '
          f'params.yaml has another {changed}. Give --config_file={file} in place of other '
          'options.')
