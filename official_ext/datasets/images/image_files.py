"""Finds image files."""
import argparse
from collections.abc import Sequence
import pathlib

from official_ext.utils import argument_types
from official_ext.utils import command_line

SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.bmp', '.gif', '.tif', '.tiff',
            '.webp', '.avif', '.jp2', '.ppm', '.pgm', '.heic', '.heif')
# The largest allowed width times height: Pillow's own limit. In memory such an image takes 0.5 GB,
# and 2 GB as the floats that are resized.
MAX_PIXELS = 178_956_970
LARGEST = 2**29 - 1  # pixels that TensorFlow's decoders allow
_HIDDEN = ('.', '__MACOSX')  # beginnings of the names that systems give to their own files


def find(paths: Sequence[pathlib.Path], flag: str = '--images') -> list[pathlib.Path]:
  """Returns the image files of files and folders, each once.

  Args:
    paths: files, which are taken whatever their name, and folders, which are searched for
      files with one of `SUFFIXES`. Files and folders in them that begin with a dot are left out.
    flag: the command's flag that gave the paths, for error messages.

  Returns:
    The files in the order of `paths`, sorted within a folder.

  Raises:
    CommandError: a path does not exist, or there is no image.
  """
  found: dict[pathlib.Path, None] = {}
  for path in paths:
    if path.is_dir():
      found.update(dict.fromkeys(sorted(
          file for file in path.rglob('*')
          if is_image_name(file.relative_to(path)) and not file.is_dir())))
    elif path.exists() or path.is_symlink():  # A link to nothing is named as such when it is read.
      found[path] = None
    else:
      raise command_line.CommandError(f'{flag}={path}: no such file or folder.')
  if not found:
    raise command_line.CommandError(
        f'{flag}={" ".join(map(str, paths))} holds no image: give a folder with files that end '
        f'in {", ".join(SUFFIXES)}.')
  return list(found)


def add_max_pixels_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--max_pixels` to a command that reads images."""
  parser.add_argument('--max_pixels', type=_max_pixels, default=MAX_PIXELS, metavar='N',
                      help='largest width times height of an image; larger ones are named and '
                      f'left out ({MAX_PIXELS})')


def _max_pixels(text: str) -> int:
  """Returns the value of `--max_pixels`."""
  value = argument_types.positive_int(text)
  if value > LARGEST:
    raise argparse.ArgumentTypeError(
        f"{value} is more than TensorFlow's decoders allow, {LARGEST}")
  return value


def is_image_name(path: pathlib.PurePath) -> bool:
  """Returns whether a path in a folder of data is that of an image by its names alone."""
  return (path.suffix.lower() in SUFFIXES and
          not any(part.startswith(_HIDDEN) for part in path.parts))
