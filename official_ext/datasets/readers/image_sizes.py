"""Sizes of images, for layouts whose coordinates are parts of the image."""
import pathlib

from PIL import Image

from official_ext.datasets import findings

_ORIENTATION = 0x0112  # EXIF tag; values of 5 and more turn the image by 90 degrees


def shown_size(path: pathlib.Path) -> tuple[int, int]:
  """Returns width and height of an image in pixels as a viewer shows it, from its header alone.

  Args:
    path: the file.

  Raises:
    UnusableError: the file is not an image.
  """
  try:
    with Image.open(path) as image:
      # Pillow gives the size of a TIFF file after turning, of all others before.
      is_turned = image.format != 'TIFF' and image.getexif().get(_ORIENTATION, 1) >= 5
      return image.size[::-1] if is_turned else image.size
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise findings.UnusableError('image file is broken', str(error)) from error
