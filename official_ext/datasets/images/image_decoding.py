"""Decodes the content of image files of any kind to 8-bit RGB.

JPEG files, and PNG files of 8-bit RGB or gray, are decoded by the decoder that Model Garden uses in
training, because JPEG decoders differ by some gray levels; their bytes can go into a record as they
are. Everything else is decoded by Pillow, or, where Pillow would cut 16-bit colors to 8 bits, by
TensorFlow or OpenCV, and goes into a record as a PNG file. Alpha is left out and the stored
colors are kept, as TensorFlow, OpenCV and Pillow do. If a file has several pages or frames, the
first is read.
"""
import functools
import io
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext.datasets import findings
from official_ext.datasets.images import image_damage
from official_ext.datasets.images import image_orientation
from official_ext.datasets.images import image_structure
from official_ext.datasets.images import pixel_values
from official_ext.datasets.images import tiff_colors

FRAMES = 'image has several pages or frames: the first is used'
ALPHA = 'image has an alpha channel: left out, the stored colors are kept'

_JPEG_FORMATS = ('JPEG', 'MPO')  # An MPO file is a JPEG file with more pictures behind it.
_JPEG_END = b'\xff\xd9'
_PNG_DEPTH, _PNG_COLOR = 24, 25  # places in the file
_PNG_PLAIN_COLORS = (0, 2)  # gray and RGB
_DEEP_MODES = ('I', 'F')  # first letters of Pillow's modes of more than 8 bits
_ALPHA_MODES = ('RGBA', 'LA', 'PA', 'La', 'RGBa')


class Decoded(NamedTuple):
  """A decoded image file.

  Attributes:
    pixels: uint8 `[height, width, 3]` as stored, not turned; None if they need not be decoded.
    encoding: `jpg` or `png` if Model Garden's decoder gets these pixels from the file; else empty.
    kind: the format and, but for JPEG, the mode in Pillow's words.
    orientation: EXIF orientation, 1 to 8.
    changes: what is left out of or changed in the pixels, one sentence each.
    size: (width, height) in pixels as stored, not turned.
  """
  pixels: np.ndarray | None
  encoding: str
  kind: str
  orientation: int
  changes: list[str]
  size: tuple[int, int]


def decode_record(content: bytes) -> np.ndarray:
  """Decodes an image as Model Garden's decoder of records does.

  Args:
    content: JPEG, PNG, GIF or BMP file.

  Returns:
    uint8 `[height, width, 3]`.

  Raises:
    UnusableError: the content cannot be decoded.
  """
  with image_damage.decoding(content):
    return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()


def encode_png(pixels: np.ndarray) -> bytes:
  """Encodes an image as a PNG file, gray if all pixels are.

  Args:
    pixels: uint8 `[height, width, 3]`.
  """
  is_gray = all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in (1, 2))
  return tf.io.encode_png(pixels[..., :1] if is_gray else pixels).numpy()


def read_header(path: pathlib.Path) -> image_orientation.Header:
  """Reads the header of an image file, not its pixels.

  Args:
    path: the file.

  Raises:
    UnusableError: the file cannot be read, is damaged or of an unknown kind.
  """
  with image_damage.decoding(), _open(path) as image:
    return _header(image)


def decode(content: bytes, max_pixels: int, needs_pixels: bool = True) -> Decoded:
  """Decodes an image file.

  Args:
    content: of the file.
    max_pixels: largest allowed width times height.
    needs_pixels: if false, an upright file that can go into a record as it is, and whose structure
      shows that it is whole, is not decoded, which takes most of the time of a conversion.

  Returns:
    The first picture in the file.

  Raises:
    UnusableError: the file is damaged, of an unknown kind or too large.
  """
  if not content:
    raise findings.UnusableError(image_damage.BROKEN, 'it is empty')
  jpeg = None if needs_pixels else image_structure.whole_jpeg(content)
  if jpeg and jpeg.is_plain:
    image_damage.check_size(jpeg.size, max_pixels)
    return Decoded(None, 'jpg', 'JPEG', image_orientation.UPRIGHT, [], jpeg.size)
  try:
    with image_damage.decoding(content):
      image = _open(io.BytesIO(content))
  except findings.UnusableError:
    if not content.startswith(tiff_colors.STARTS):
      raise
    # Pillow does not know every kind of TIFF, such as floats in color.
    header, values = tiff_colors.decode(content, max_pixels)
    return _to_rgb(values, 'TIFF', header.orientation, [])
  with image:
    with image_damage.decoding(content):
      header = _header(image)
    image_damage.check_size(header.size, max_pixels)
    is_whole = (not needs_pixels and header.orientation == image_orientation.UPRIGHT and
                _is_whole(image.format, content))
    if image.format in _JPEG_FORMATS:
      if is_whole:
        return Decoded(None, 'jpg', 'JPEG', header.orientation, [], header.size)
      if not content.rstrip(b'\0').endswith(_JPEG_END):
        with image_damage.decoding(content):
          image.load()  # Pillow notices a file that was cut off, without a message in the log.
      return Decoded(
          decode_record(content), 'jpg', 'JPEG', header.orientation, [], header.size)
    return _decode_other(image, content, header, max_pixels, is_whole)


def _decode_other(image: Image.Image, content: bytes, header: image_orientation.Header,
                  max_pixels: int, is_whole: bool) -> Decoded:
  """Decodes an image file that is no JPEG; the pixels of one that `is_whole` only if needed."""
  with image_damage.decoding(content):
    changes = [FRAMES] if getattr(image, 'is_animated', False) else []
    has_deep_colors = image.format == 'TIFF' and tiff_colors.are_deep(image)
  kind = f'{image.format} {image.mode}'
  if image.format == 'PNG' and content[_PNG_DEPTH] == 8 and (
      content[_PNG_COLOR] in _PNG_PLAIN_COLORS and 'transparency' not in image.info):
    pixels = None if is_whole else decode_record(content)
    return Decoded(pixels, 'png', kind, header.orientation, changes, header.size)
  if image.format == 'PNG' and content[_PNG_DEPTH] == 16:
    with image_damage.decoding(content):
      values = tf.io.decode_png(content, dtype=tf.uint16).numpy()
  elif has_deep_colors:
    _, values = tiff_colors.decode(content, max_pixels)
  else:
    with image_damage.decoding(content):
      image.load()
      values = np.asarray(_plain(image))
      if image.format == 'TIFF' and header.orientation != _orientation(image):
        # Pillow has turned the image when it loaded it.
        values = image_orientation.turn_back(values, header.orientation)
  return _to_rgb(values, kind, header.orientation, changes)


def _is_whole(kind: str | None, content: bytes) -> bool:
  """Returns whether the structure of a file shows that nothing is missing."""
  if kind == 'PNG':
    return image_structure.is_whole_png(content)
  return kind in _JPEG_FORMATS and image_structure.whole_jpeg(content) is not None


def _to_rgb(values: np.ndarray, kind: str, orientation: int, changes: list[str]) -> Decoded:
  """Makes 8-bit RGB of gray or RGB values of any type, with or without alpha."""
  if values.ndim == 2:
    values = values[..., None]
  image_damage.check_channels(values.shape[-1])
  if values.shape[-1] in (2, 4):
    opaque = np.iinfo(values.dtype).max if values.dtype.kind in 'iu' else 1
    if values[..., -1].min() < opaque:
      changes = [*changes, ALPHA]
    values = values[..., :-1]
  if values.dtype != np.uint8:
    values, change = pixel_values.to_uint8(values)
    changes = [*changes, change]
  pixels = np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))
  height, width = values.shape[:2]
  return Decoded(pixels, '', kind, orientation, changes, (width, height))


@functools.cache
def _formats() -> list[str]:
  """Returns the formats that Pillow reads itself; for EPS it would start another program."""
  Image.init()
  usual = ['JPEG', 'PNG']  # first, because Pillow tries one after the other
  return usual + [name for name in Image.OPEN if name not in (*usual, 'EPS')]


def _open(file: Any) -> Image.Image:
  return Image.open(file, formats=_formats())


def _header(image: Any) -> image_orientation.Header:
  """Returns the header of an image that is not loaded yet."""
  size = image.size
  if image.format == 'TIFF':  # whose `size` is the one after turning
    size = image.tag_v2[tiff_colors.WIDTH], image.tag_v2[tiff_colors.HEIGHT]
  return image_orientation.Header(size, _orientation(image))


def _orientation(image: Image.Image) -> int:
  try:
    # A PNG file's own method would decode all pixels in search of EXIF data behind them.
    exif = Image.Image.getexif(image) if image.format == 'PNG' else image.getexif()
    return image_orientation.valid(exif.get(image_orientation.TAG))
  except image_damage.ERRORS:  # of the EXIF data only
    return image_orientation.UPRIGHT


def _plain(image: Image.Image) -> Image.Image:
  """Converts to a mode whose array has gray or RGB values, with or without alpha."""
  if image.mode.startswith(_DEEP_MODES):
    return image
  has_alpha = image.mode in _ALPHA_MODES or 'transparency' in image.info
  return image.convert('RGBA' if has_alpha else 'RGB')
