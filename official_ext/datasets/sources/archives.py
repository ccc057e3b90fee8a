"""Unpacks zip files that nobody has looked at."""
from collections.abc import Iterator
import pathlib
import shutil
import stat
import zipfile
import zlib

from official_ext.utils import command_line

_GIGABYTE = 10**9


def _open(path: pathlib.Path) -> zipfile.ZipFile:
  """Opens a zip file; names without a declared encoding are UTF-8 if they can be."""
  try:
    return zipfile.ZipFile(path, metadata_encoding='utf-8')
  except UnicodeDecodeError:
    return zipfile.ZipFile(path)


def _checked_name(path: pathlib.Path, member: zipfile.ZipInfo) -> str:
  """Returns the relative name of a member; raises CommandError if it leads elsewhere."""
  name = member.filename.replace('\\', '/')
  is_absolute = name.startswith('/') or name[1:2] == ':'
  mode = member.external_attr >> 16
  if is_absolute or '..' in name.split('/'):
    reason = 'would be unpacked outside of its folder'
  elif stat.S_ISLNK(mode):
    reason = 'is a symbolic link'
  elif member.flag_bits & 1:
    reason = 'is encrypted'
  else:
    return name
  raise command_line.CommandError(
      f'{path}: {member.filename!r} {reason}: unpack the file yourself, look at it, and give the '
      'folder.')


def _members(path: pathlib.Path, archive: zipfile.ZipFile
             ) -> Iterator[tuple[zipfile.ZipInfo, str]]:
  """Yields the files that are data with their checked names; each name may be there once."""
  seen = set()
  for member in archive.infolist():
    name = _checked_name(path, member)
    parts = pathlib.PurePosixPath(name).parts
    if name.endswith('/') or any(part.startswith('.') or part == '__MACOSX' for part in parts):
      continue
    if name in seen:
      raise command_line.CommandError(f'{path} has two files of the name {name!r}: keep one.')
    seen.add(name)
    yield member, name


def unpack_zip(path: pathlib.Path, target: pathlib.Path, max_gigabytes: float) -> None:
  """Unpacks a zip file, without files and folders that begin with a dot and `__MACOSX`.

  Args:
    path: the zip file.
    target: an empty folder.
    max_gigabytes: that the files may have together, in units of 10^9 bytes.

  Raises:
    CommandError: the file is no zip file or is damaged; a member is encrypted, a link or would
      be outside of `target`; or the files are larger than allowed.
  """
  try:
    with _open(path) as archive:
      members = list(_members(path, archive))
      size = sum(member.file_size for member, _ in members)
      if size > max_gigabytes * _GIGABYTE:
        raise command_line.CommandError(
            f'{path} has {size / _GIGABYTE:.3g} GB unpacked, more than the {max_gigabytes:g} GB '
            'allowed: raise --max_unpacked_gb, or unpack it yourself.')
      free = shutil.disk_usage(target).free
      if size > free:
        raise command_line.CommandError(
            f'{path} has {size / _GIGABYTE:.3g} GB unpacked, but {target} has only '
            f'{free / _GIGABYTE:.3g} GB left: let TMPDIR name a folder on another disk.')
      for member, name in members:
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # zipfile reads no more than the size that the member declares, and checks its CRC.
        with archive.open(member) as source, file.open('wb') as copy:
          shutil.copyfileobj(source, copy, 2**20)
  except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, FileExistsError,
          NotADirectoryError, IsADirectoryError) as error:
    raise command_line.CommandError(
        f'--input {path} is not a folder or a zip file that can be read ({error}).') from error
