"""The folder of a data set, listed once: its files, without those that are no data."""
from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import tempfile

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.images import image_files
from official_ext.datasets.records import record_folder
from official_ext.datasets.sources import archives
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line

DEFAULT_MAX_UNPACKED = 100  # gigabytes

_RECORDS = {record_folder.MARKER, 'overrides.yaml', 'report.json'}  # in a folder of records


class DataFolder:
  """The files of a data set.

  Files and folders that begin with a dot, `__MACOSX`, and folders inside that convert_dataset has
  written are no data. A symbolic link that leads out of the folder is not followed, so that no
  annotation file can name a file elsewhere.

  Attributes:
    root: the folder, without symbolic links.
    files: paths of all files relative to `root`, with `/`, sorted.
    outside: the symbolic links that lead out of the folder and were not followed, relative.
    scratch: a folder for files that a reader makes, such as images out of records; None if the
      data set was not opened by `open_input`.
  """

  def __init__(self, root: pathlib.Path, follow_links: bool = False,
               scratch: pathlib.Path | None = None, title: str = ''):
    """Lists a folder.

    Args:
      root: the folder.
      follow_links: whether to follow symbolic links that lead out of the folder.
      scratch: see the attribute.
      title: of the folder for people; empty for `root`.
    """
    self._title = title or str(root)
    self.root = root.resolve()
    self.scratch = scratch
    self.outside: list[str] = []
    self._follow_links = follow_links
    self._visited: set[str] = set()
    self.files = sorted(self._list(str(self.root), ''))

  def _list(self, folder: str, prefix: str) -> Iterator[str]:
    """Yields the files below a folder; `prefix` is its relative path and a slash."""
    self._visited.add(os.path.realpath(folder))
    with os.scandir(folder) as scan:
      entries = list(scan)
    if prefix and _RECORDS <= {entry.name for entry in entries}:
      return
    for entry in entries:
      if entry.name.startswith('.') or entry.name == '__MACOSX':
        continue
      name = prefix + entry.name
      target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
      is_outside = not pathlib.Path(target).is_relative_to(self.root)
      if is_outside and not self._follow_links:
        self.outside.append(name)
      elif entry.is_dir():
        # What a link inside the folder leads to is listed under its own name.
        if target not in self._visited and (is_outside or not entry.is_symlink()):
          yield from self._list(entry.path, name + '/')
      elif entry.is_file():
        yield name

  def path(self, name: str) -> pathlib.Path:
    """Returns the path of a file of `files`."""
    return self.root / name

  def shown(self, name: str = '') -> str:
    """Returns the name of a file or folder for people."""
    return str(pathlib.PurePath(self._title, name))

  @functools.cached_property
  def images(self) -> list[str]:
    """The files with the suffix of an image."""
    return self.with_suffix(*image_files.SUFFIXES)

  def with_suffix(self, *suffixes: str) -> list[str]:
    """Returns the files that end in one of `suffixes`, in any case of letters."""
    return [name for name in self.files if name.lower().endswith(suffixes)]

  def text(self, name: str, findings: findings_lib.Findings) -> str:
    """Returns the text of a file; see `text_files.read_text`."""
    return text_files.read_text(self.path(name), findings, name)

  def head(self, name: str, size: int = 4096) -> str:
    """Returns the beginning of a file as text; see `text_files.read_head`."""
    return text_files.read_head(self.path(name), size)


@contextlib.contextmanager
def open_input(path: pathlib.Path, max_unpacked: float = DEFAULT_MAX_UNPACKED,
               follow_links: bool = False) -> Iterator[DataFolder]:
  """Opens a data set for reading.

  Args:
    path: a folder, or a zip file, which is unpacked to a temporary folder that is removed at the
      end. A zip file with a single folder at its top stands for that folder.
    max_unpacked: gigabytes that a zip file may have unpacked.
    follow_links: whether to follow symbolic links that lead out of the folder.

  Yields:
    The data set.

  Raises:
    CommandError: there is nothing at `path`, it is empty, or the zip file cannot be used.
  """
  with tempfile.TemporaryDirectory(prefix='official_ext_') as temporary:
    scratch = pathlib.Path(temporary) / 'scratch'
    scratch.mkdir()
    if path.is_file():
      root = pathlib.Path(temporary) / 'unpacked'
      root.mkdir()
      archives.unpack_zip(path, root, max_unpacked)
    elif path.is_dir():
      root = path
    else:
      raise command_line.CommandError(
          f'--input {path} is not a folder or a zip file: there is nothing of that name.'
          if not path.exists() else f'--input {path} is neither a folder nor a file.')
    data = DataFolder(root, follow_links, scratch, str(path))
    if path.is_file():
      top = {name.partition('/')[0] for name in data.files}
      if len(top) == 1 and all('/' in name for name in data.files):
        data = DataFolder(root / top.pop(), follow_links, scratch, str(path))
    if not data.files:
      raise command_line.CommandError(f'--input {path} is empty.')
    try:
      yield data
    except command_line.CommandError as error:
      # Names of temporary files would tell nothing once they are removed.
      raise command_line.CommandError(str(error).replace(str(data.root), str(path))) from error
