"""Results of a long command, each in a file, from which the next run of the command goes on."""
from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any

from official_ext.utils import command_line
from official_ext.utils import files

_MARKER = 'measured.json'


class KeptResults:
  """A folder of results that belong to the same things, such as a model and a data set."""

  def __init__(self, folder: pathlib.Path, identity: Mapping[str, Any]):
    """Opens or makes the folder.

    Args:
      folder: the value of the command's `--output_dir`.
      identity: name of a thing -> what tells it from others, in plain JSON types.

    Raises:
      CommandError: the folder holds something else, or results of other things.
    """
    self._folder = folder
    previous = self.get(_MARKER, lambda value: isinstance(value, dict))
    if previous is None:
      if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise command_line.CommandError(
            f'--output_dir={folder} exists and was not written by this command: give a new folder.')
      self.keep(_MARKER, identity)
    else:
      other = [name for name in identity if previous.get(name) != identity[name]]
      if other:
        raise command_line.CommandError(
            f'--output_dir={folder} has results of another {" and ".join(other)}: give a new '
            'folder.')

  def names(self, folder: str) -> list[str]:
    """Returns the paths, as `get` takes them, of all results in a folder of the folder.

    Args:
      folder: its path in the folder of results; it need not be there.
    """
    return sorted(f'{folder}/{path.name}' for path in (self._folder / folder).glob('*.json')
                  if not path.name.startswith('.'))  # such as what `files.atomic_file` leaves

  def get(self, name: str, allows: Callable[[Any], bool] = lambda _: True) -> Any:
    """Returns a result; None if it is not there.

    Args:
      name: path of the result's file in the folder.
      allows: returns whether a value may be such a result.

    Raises:
      CommandError: the file is damaged.
    """
    path = self._folder / name
    if not path.is_file():
      return None
    try:
      value = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
      raise command_line.CommandError(f'{path} is damaged ({error}): remove it.') from error
    if not allows(value):
      raise command_line.CommandError(f'{path} is damaged: remove it.')
    return value

  def keep(self, name: str, value: Any) -> None:
    """Writes a result, in plain JSON types; see `get`."""
    with files.atomic_file(self._folder / name) as temporary:
      temporary.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')
