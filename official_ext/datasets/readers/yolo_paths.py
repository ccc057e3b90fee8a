"""Finds the file or folder that a path in the configuration of a YOLO data set means."""
from collections.abc import Iterable, Sequence
import posixpath

from official_ext.datasets.sources import file_names


def closest(path: str, candidates: Iterable[str], homes: Sequence[str] = ('',),
            root: str = '') -> str | None:
  """Returns the candidate that a path means.

  Args:
    path: as the configuration gives it, perhaps for another machine.
    candidates: files or folders, relative to the data folder.
    homes: folders that the path may be relative to, the most special first.
    root: the folder that the configuration says it is in; nothing outside of it is guessed.

  Returns:
    The candidate below the first of `homes` that has it.  Otherwise the one inside of `root` that
    shares most of the last parts, at least the last; of several, one inside of `homes`, and then
    one in the fewest folders.  None if there is none.

  Raises:
    ValueError: several fit equally well.
  """
  path = path.strip().replace('\\', '/')
  names = {_folded(name): name for name in candidates}
  for home in homes:
    at_home = names.get(_folded(posixpath.normpath(posixpath.join(home, path))))
    if at_home:
      return at_home
  parts = [part for part in _folded(path).split('/') if part not in ('', '.', '..')]
  for start in range(len(parts)):
    ending = '/'.join(parts[start:])
    found = _inside(root, [name for key, name in names.items()
                           if f'/{key}'.endswith(f'/{ending}')])
    for home in homes:
      found = _inside(home, found) or found
    if found:
      return _highest(found, path)
  return None


def _folded(path: str) -> str:
  """Returns a path in the form in which paths are compared."""
  return '/'.join(map(file_names.key, path.split('/')))


def _inside(folder: str, names: Sequence[str]) -> list[str]:
  """Returns the names that are a folder or lie in it; all of them for the data folder, ''."""
  return [name for name in names if not folder or f'{name}/'.startswith(f'{folder}/')]


def _highest(names: Sequence[str], path: str) -> str:
  """Returns the name in the fewest folders; raises ValueError if that are several."""
  depth = min(name.count('/') for name in names)
  highest = sorted(name for name in names if name.count('/') == depth)
  if len(highest) > 1:
    raise ValueError(f'{path!r} may be {" or ".join(highest[:3])}')
  return highest[0]
