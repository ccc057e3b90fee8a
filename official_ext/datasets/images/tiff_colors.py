"""TIFF files of more than 8 bits and several channels, which Pillow cuts to 8 bits or refuses."""
import io
import struct
from typing import Any

import numpy as np
from PIL import TiffImagePlugin

from official_ext.datasets import findings
from official_ext.datasets.images import image_damage
from official_ext.datasets.images import image_orientation

STARTS = (b'II*\0', b'MM\0*')  # of files
WIDTH, HEIGHT = 256, 257  # tags

_BITS, _CHANNELS, _PLANES = 258, 277, 284
_SEPARATE_PLANES = 2


def are_deep(image: Any) -> bool:
  """Returns whether a TIFF image has several channels of more than 8 bits."""
  bits = image.tag_v2.get(_BITS, ())
  return len(bits) > 1 and max(bits) > 8


def decode(content: bytes, max_pixels: int) -> tuple[image_orientation.Header, np.ndarray]:
  """Decodes a TIFF file with OpenCV, which keeps the type of values.

  Args:
    content: of the file.
    max_pixels: largest allowed width times height.

  Returns:
    The header, and the values, `[height, width]` or `[height, width, channels]`, not turned.

  Raises:
    UnusableError: the file is damaged, of a rare kind or too large.
  """
  import cv2  # imported here because few files need it
  cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # We say what is wrong.
  with image_damage.decoding(content):
    file = io.BytesIO(content)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
    file.seek(tags.next)
    tags.load(file)
    header = image_orientation.Header((tags[WIDTH], tags[HEIGHT]), image_orientation.valid(
        tags.get(image_orientation.TAG)))
    channels, planes = tags.get(_CHANNELS, 1), tags.get(_PLANES)
    content = _without_orientation(content)  # OpenCV would turn the image.
  image_damage.check_size(header.size, max_pixels)
  if planes == _SEPARATE_PLANES:
    raise findings.UnusableError(
        image_damage.UNKNOWN, 'a TIFF file of more than 8 bits, with colors in separate planes; '
        'write it interleaved')
  image_damage.check_channels(channels)
  with image_damage.decoding(content):
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None:
    raise findings.UnusableError(
        image_damage.BROKEN, 'it is a TIFF file that is damaged, or of a rare kind')
  if values.ndim == 3:
    values = values[..., [2, 1, 0, *range(3, values.shape[-1])]]  # OpenCV keeps blue first.
  return header, values


def _without_orientation(tiff: bytes) -> bytes:
  """Returns a TIFF file whose first image is upright by its tags."""
  order = '<' if tiff.startswith(b'II') else '>'
  start, = struct.unpack_from(f'{order}I', tiff, 4)
  count, = struct.unpack_from(f'{order}H', tiff, start)
  for place in range(start + 2, start + 2 + 12 * count, 12):
    if struct.unpack_from(f'{order}H', tiff, place) == (image_orientation.TAG,):
      upright = struct.pack(f'{order}H', image_orientation.UPRIGHT)
      return tiff[:place + 8] + upright + tiff[place + 10:]
  return tiff
