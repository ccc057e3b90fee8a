"""Image files: finds them, and reads them."""
from collections.abc import Sequence
import io
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageOps

from official_ext.datasets import findings
from official_ext.utils import command_line

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp')

_ORIENTATION = 0x0112  # EXIF tag; values of 5 and more turn the image by 90 degrees
_ENCODINGS = {'JPEG': 'jpg', 'MPO': 'jpg', 'PNG': 'png'}  # format of Pillow -> of Model Garden


def find(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the image files of files and folders, each once.

  Args:
    paths: files, which are taken whatever their suffix, and folders, which are searched for
      files with one of `SUFFIXES`.

  Returns:
    The files in the order of `paths`, sorted within a folder.

  Raises:
    CommandError: a path does not exist, or there is no image.
  """
  found: dict[pathlib.Path, None] = {}
  for path in paths:
    if path.is_dir():
      inside = (file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES)
      found.update(dict.fromkeys(sorted(file for file in inside if file.is_file())))
    elif path.is_file():
      found[path] = None
    else:
      raise command_line.CommandError(f'--images={path}: no such file or folder.')
  if not found:
    raise command_line.CommandError(
        f'--images={" ".join(map(str, paths))} holds no image: give a folder with files that end '
        f'in {", ".join(SUFFIXES)}.')
  return list(found)


def read(path: pathlib.Path) -> np.ndarray:
  """Reads an image without its EXIF rotation, because annotations are for the stored pixels.

  Args:
    path: the file.

  Returns:
    uint8 `[height, width, 3]`.
  """
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


class EncodedImage(NamedTuple):
  """An image in a form that Model Garden decodes.

  Attributes:
    content: a JPEG or PNG file, 8-bit RGB or gray.
    encoding: `jpg` or `png`.
    size: width and height in pixels.
    change: how it differs from the file that was read; empty if it does not.
  """
  content: bytes
  encoding: str
  size: tuple[int, int]
  change: str


def read_encoded(path: pathlib.Path, listed_size: tuple[Any, Any] = (None, None)) -> EncodedImage:
  """Reads an image file for a record.

  Args:
    path: the file.
    listed_size: (width, height) in pixels of the annotations, None for what they do not give.
      The image is turned as its EXIF data say only if the annotations are for the turned image.

  Returns:
    The image; `content` is that of the file for 8-bit RGB or gray JPEG and PNG.

  Raises:
    UnusableError: the file is not a complete image.
  """
  content = path.read_bytes()
  try:
    with Image.open(io.BytesIO(content)) as image:
      image.load()
      # The EXIF orientation of a photograph is applied by viewers, not by Model Garden.
      is_turned = (image.getexif().get(_ORIENTATION, 1) >= 5 and
                   tuple(listed_size) == image.size[::-1] != image.size)
      if image.format in _ENCODINGS and image.mode in ('RGB', 'L') and not is_turned:
        return EncodedImage(content, _ENCODINGS[image.format], image.size, '')
      change = f'image was {image.format} {image.mode}: stored as PNG RGB'
      pixels: Image.Image = image
      if is_turned:
        pixels, change = ImageOps.exif_transpose(image), 'image turned as its EXIF data say'
      pixels = _to_rgb(pixels)
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise findings.UnusableError('image file is broken', str(error)) from error
  encoded = io.BytesIO()
  pixels.save(encoded, 'PNG')
  return EncodedImage(encoded.getvalue(), 'png', pixels.size, change)


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts to 8-bit RGB; deeper values above 255 are taken as 16-bit."""
  if image.mode.startswith(('I', 'F')):
    values = np.asarray(image, np.float64)
    scaled = values / 257 if values.max() > 255 else values
    image = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
  return image.convert('RGB')
