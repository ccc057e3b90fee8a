"""Writes files and folders that are either complete or absent.

They are written under a temporary name and then renamed.  An exception, Ctrl-C or (in a command)
SIGTERM leaves nothing behind.  A process that cannot clean up, because of SIGKILL or a power cut,
leaves its temporary file.  The next write of the same path removes it if the process that its
name says is gone, and puts back a folder that was only moved aside.
"""
import atexit
from collections.abc import Iterable, Iterator, Sequence
import contextlib
import fnmatch
import functools
import os
import pathlib
import re
import secrets
import shutil
import socket
import tempfile

from official_ext.utils import command_line

PathLike = str | os.PathLike[str]

_ASIDE = 'replaced'
# Number of files that an error names.
_NAMED = 3
# File managers write these files by themselves.
_OF_SYSTEMS = ('.DS_Store', '._*', 'Thumbs.db', 'desktop.ini')

# How a pattern of TensorFlow spells a character that has a meaning in patterns.  Model Garden
# splits its patterns at commas, so a class that leaves out all other printable ASCII stands for
# a comma.
_ESCAPES = {'[': '[[]', '*': '[*]', '?': '[?]', '\\': '\\\\', ',': '[! -+--~]'}


@contextlib.contextmanager
def atomic_directory(path: PathLike, replaces: bool = True) -> Iterator[pathlib.Path]:
  """Makes a temporary folder beside `path` that becomes `path` if the body succeeds.

  Args:
    path: the folder to make.  An existing folder is replaced with all its content once the new
      one is complete.
    replaces: False: an existing folder is kept, and the new one is not.

  Yields:
    The temporary folder to write into.

  Raises:
    CommandError: `path` is a file, holds the current or the home directory, or was to be kept.
  """
  # If `path` is a link, the link stays, and the folder that it leads to is replaced.
  path = pathlib.Path(os.path.realpath(path))
  _check_replaceable(path)
  temporary = _temporary(path)
  temporary.mkdir()
  try:
    yield temporary
    if path.exists() and not replaces:
      raise command_line.CommandError(
          f'{path} was written by another command meanwhile, and is kept: run this one again.')
    if path.exists():
      # A folder cannot replace a filled one in one step, so the old one moves aside first.
      old = _temporary(path, _ASIDE)
      os.replace(path, old)
      try:
        os.replace(temporary, path)
      except BaseException:
        os.replace(old, path)
        raise
      _remove(old)
    else:
      os.replace(temporary, path)
  finally:
    _remove(temporary)


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[pathlib.Path]:
  """Makes a temporary file beside `path` that becomes `path` if the body succeeds.

  Args:
    path: the file to write; an existing file is replaced at the end.

  Yields:
    The temporary name to write to.  It keeps the suffix of `path`.

  Raises:
    CommandError: `path` is a folder.
  """
  path = pathlib.Path(os.path.realpath(path))
  if path.is_dir():
    raise command_line.CommandError(f'{path} is a folder: give the name of a file.')
  temporary = _temporary(path)
  temporary.touch(exist_ok=False)
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _temporary(path: pathlib.Path, kind: str = 'new') -> pathlib.Path:
  """Returns a new hidden name beside `path`, with the number of this process in it."""
  make_folder(path.parent)
  _tidy_up(path)
  return path.parent / f'{_prefix(path)}{os.getpid()}-{kind}-{secrets.token_hex(4)}{path.suffix}'


def make_folder(path: PathLike) -> None:
  """Makes a folder with all folders above it, unless it is there.

  Args:
    path: the folder.

  Raises:
    CommandError: `path`, or a folder above it, is a file.
  """
  try:
    os.makedirs(path, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise command_line.CommandError(
        f'{path} cannot be made, because it or a part of its path is a file: choose a path that '
        'leads through folders only.') from error


def _prefix(path: pathlib.Path) -> str:
  """Returns the start of temporary names for `path` on this machine; a process id follows."""
  return f'.{path.stem}.{socket.gethostname()}-'


def _tidy_up(path: pathlib.Path) -> None:
  """Removes temporary files of dead processes, or puts back the folder that they moved aside."""
  prefix = _prefix(path)
  for found in list(path.parent.iterdir()):
    if not (found.name.startswith(prefix) and found.name.endswith(path.suffix)):
      continue
    process, _, kind = found.name[len(prefix):].partition('-')
    if process.isdigit() and not _is_running(int(process)):
      if kind.startswith(_ASIDE) and not path.exists():
        os.replace(found, path)
      else:
        _remove(found)


def _is_running(process: int) -> bool:
  """Returns whether a process of this machine is alive; it may belong to another user."""
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return True


def _remove(path: pathlib.Path) -> None:
  """Removes a file, a link or a folder with its content; does nothing if there is none."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


def check_own_output(path: PathLike, marker: str, writes: Iterable[str],
                     flag: str = '--output_dir', reads: Iterable[PathLike] = ()) -> None:
  """Refuses to replace a folder with anything that another command, or a person, has written.

  Args:
    path: the folder that a command is about to replace.
    marker: name of a file that this command puts into every folder that it writes.
    writes: names of all else that it may put there, as patterns.
    flag: the command's flag that gave the folder, for the error message.
    reads: files and folders that the command reads, which may not lie in the folder.

  Raises:
    CommandError: `path` is a file, or a folder with other content, with files that the command has
      not written, or with what it reads, or cannot be written.
  """
  path = pathlib.Path(path)
  is_own = path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))
  if path.exists() and not is_own:
    raise command_line.CommandError(
        f'{flag}={path} exists and was not written by this command, which would replace it as a '
        'whole: give a new folder.')
  known = (marker, *writes, *_OF_SYSTEMS)
  foreign = sorted(found.name for found in (path.iterdir() if is_own else ())
                   if not any(fnmatch.fnmatchcase(found.name, name) for name in known))
  if foreign:
    raise command_line.CommandError(
        f'{flag}={path} would be replaced as a whole, and this command has not written '
        f'{", ".join(foreign[:_NAMED])}{", ..." if len(foreign) > _NAMED else ""} in it, which '
        'would be lost: move that away, or give a new folder.')
  for read in reads:
    if pathlib.Path(read).resolve().is_relative_to(path.resolve()):
      raise command_line.CommandError(
          f'{flag}={path} would be replaced as a whole, and {read}, which this command reads, lies '
          'in it: give a new folder.')
  check_place(path.parent, f'{flag}={path}')


def check_place(folder: PathLike, what: str) -> None:
  """Refuses a folder in which no file can be made, before there is something to be written.

  Args:
    folder: the folder, which need not exist.
    what: the flag of a command with its value, for the error message.

  Raises:
    CommandError: the folder, or one above it, is a file or may not be written.
  """
  place = pathlib.Path(os.path.abspath(folder))
  while not os.path.lexists(place):
    place = place.parent
  if not place.is_dir():
    raise command_line.CommandError(
        f'{what} cannot be written, because {place} is no folder: choose a path that leads through '
        'folders only.')
  if not os.access(place, os.W_OK | os.X_OK):
    raise command_line.CommandError(
        f'{what} cannot be written, because nothing may be written in {place}: choose another '
        'folder.')


def check_file(path: PathLike, flag: str) -> None:
  """Refuses a file that cannot be written, before there is something to be written.

  Args:
    path: the file, which is made or replaced.
    flag: the command's flag that gave it, for the error message.

  Raises:
    CommandError: `path` is a folder, or nothing may be written where it lies.
  """
  if os.path.isdir(path):
    raise command_line.CommandError(f'{flag}={path} is a folder: give the name of a file.')
  check_place(os.path.dirname(os.path.abspath(path)), f'{flag}={path}')


def short_names(paths: Sequence[pathlib.Path]) -> list[str]:
  """Returns a name for each path: as few of its parts as tell it from the others.

  Args:
    paths: different folders.

  Raises:
    CommandError: a folder is given twice.
  """
  parts = [path.resolve().parts for path in paths]
  if len(set(parts)) < len(parts):
    raise command_line.CommandError('a folder is given twice: give every detector once.')
  length = next(number for number in range(1, max(map(len, parts)) + 1)
                if len({part[-number:] for part in parts}) == len(parts))
  return ['/'.join(part[-length:]) for part in parts]


def escape_pattern(path: PathLike) -> str:
  """Returns a pattern that matches only this path, for TensorFlow and for Model Garden's fields.

  Args:
    path: path of a folder or a file; a name that follows it may be a pattern.
  """
  return ''.join(_ESCAPES.get(character, character) for character in os.fspath(path))


def plain_path(path: PathLike) -> str:
  """Returns a path of the same place that TensorFlow does not take for a pattern.

  TensorFlow looks for checkpoints and variables of SavedModels by patterns: it does not find them
  in a folder such as `data[v2]`, and in `x*y` also removes old checkpoints of the folder `xzy`.
  The path of such a place leads through a link in a temporary folder, which exists until the
  process ends.

  Args:
    path: a folder, or a file in a folder.  The folders of the path with `[`, `*`, `?` or a
      backslash in their names are made if they are missing.  A URL is returned as it is.
  """
  path = os.fspath(path)
  if '://' in path:
    return path
  parts = pathlib.Path(os.path.abspath(path)).parts
  odd = [number for number, part in enumerate(parts) if re.search(r'[\[*?\\]', part)]
  if not odd:
    return path
  folder = pathlib.Path(*parts[:odd[-1] + 1])
  folder.mkdir(parents=True, exist_ok=True)
  return os.path.join(_link(folder), *parts[len(folder.parts):])


@functools.cache
def _link(folder: pathlib.Path) -> str:
  """Makes a link to a folder in a temporary folder that is removed when the process ends."""
  place = tempfile.mkdtemp(prefix='official_ext-')
  atexit.register(shutil.rmtree, place, ignore_errors=True)
  link = os.path.join(place, 'link')
  os.symlink(folder, link, target_is_directory=True)
  return link


def _check_replaceable(path: pathlib.Path) -> None:
  """Refuses to replace a file, or a folder that holds the current or the home directory."""
  if path.exists() and not path.is_dir():
    raise command_line.CommandError(f'{path} is a file: give the name of a folder.')
  real = path.resolve()
  for place, name in ((pathlib.Path.cwd(), 'current'), (pathlib.Path.home(), 'home')):
    if place.resolve().is_relative_to(real):
      raise command_line.CommandError(
          f'{path} holds the {name} directory and would be replaced as a whole: give the name '
          'of a new folder.')
