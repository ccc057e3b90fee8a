"""Files that are either complete or absent: written under a temporary name, then renamed."""
import contextlib
import os
import pathlib
import shutil
import tempfile
from typing import Iterator, Union

PathLike = Union[str, os.PathLike]


@contextlib.contextmanager
def atomic_directory(path: PathLike) -> Iterator[pathlib.Path]:
  """Gives a temporary folder beside `path` that becomes `path` if the body succeeds.

  Args:
    path: the folder to make.  If it exists it is replaced, and only once the new
      one is complete.

  Yields:
    The temporary folder to write into.
  """
  path = pathlib.Path(os.path.abspath(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = pathlib.Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
  try:
    yield temporary
    os.chmod(temporary, 0o755)
    if path.exists():
      replaced = pathlib.Path(tempfile.mkdtemp(prefix=f'.{path.name}.old.', dir=path.parent))
      os.replace(path, replaced / path.name)
      os.replace(temporary, path)
      shutil.rmtree(replaced)
    else:
      os.replace(temporary, path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[pathlib.Path]:
  """Gives a temporary file name beside `path` that becomes `path` if the body succeeds.

  Args:
    path: the file to write; an existing one is replaced at the end.

  Yields:
    The temporary name to write to.  It keeps the suffix of `path`.
  """
  path = pathlib.Path(os.path.abspath(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, name = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=path.suffix, dir=path.parent)
  os.close(handle)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
