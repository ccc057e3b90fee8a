"""Writes one drawn picture as image files of every kind that people have."""
from collections.abc import Callable
import io
import pathlib
import struct
from typing import NamedTuple
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (48, 40)  # width, height; the object is in no middle, and on borders of JPEG blocks
BOX = (8, 8, 24, 16)  # x, y, width, height of the object
BACKGROUND, OBJECT = (64, 64, 64), (230, 30, 30)


def draw(background, thing, dtype=np.uint8) -> np.ndarray:
  """Returns a picture of one value with a rectangle of another; values are numbers or tuples."""
  pixels = np.empty([SIZE[1], SIZE[0], *np.shape(background)], dtype)
  pixels[:] = background
  x, y, width, height = BOX
  pixels[y:y + height, x:x + width] = thing
  return pixels


class Kind(NamedTuple):
  """A kind of image file.

  Attributes:
    suffix: of the file name.
    write: writes the file.
    background: gray value or color that every command should see around the object.
    thing: gray value or color of the object.
    tolerance: of both.
    told: words of a finding that convert tells; empty if the bytes go into the record.
  """
  suffix: str
  write: Callable[[pathlib.Path], None]
  background: int | tuple[int, ...] = BACKGROUND
  thing: int | tuple[int, ...] = OBJECT
  tolerance: int = 0
  told: str = ''


def save(pixels=None, mode=None, **options) -> Callable[[pathlib.Path], None]:
  """Returns a function that writes pixels with Pillow, after conversion to a mode."""
  image = Image.fromarray(draw(BACKGROUND, OBJECT) if pixels is None else pixels)
  return lambda path: (image.convert(mode) if mode else image).save(path, **options)


def save_deep(pixels) -> Callable[[pathlib.Path], None]:
  """Returns a function that writes RGB values of any type with OpenCV."""
  return lambda path: path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes())


def _pages(**options) -> Callable[[pathlib.Path], None]:
  """Returns a function that writes the picture and a white page behind it."""
  return save(save_all=True, append_images=[Image.new('RGB', SIZE, 'white')], **options)


def _palette(transparent: bool) -> Callable[[pathlib.Path], None]:
  image = Image.fromarray(draw(0, 1), 'P')
  image.putpalette([*BACKGROUND, *OBJECT])
  return lambda path: image.save(path, **({'transparency': b'\x00\xff'} if transparent else {}))


def _cmyk_without_adobe_marker(path: pathlib.Path) -> None:
  # Without the marker, JPEG readers must not invert: 0 is no ink.
  ink = Image.fromarray(255 - draw((0, 0, 0, 100), (0, 255, 255, 20)), 'CMYK')
  buffer = io.BytesIO()
  ink.save(buffer, 'JPEG', quality=100)
  content = buffer.getvalue()
  start = content.index(b'\xff\xee')
  path.write_bytes(content[:start] + content[start + 16:])


def png_chunk(name: bytes, data: bytes) -> bytes:
  """Returns a part of a PNG file."""
  return (struct.pack('>I', len(data)) + name + data +
          struct.pack('>I', zlib.crc32(name + data)))


def _interlaced(path: pathlib.Path) -> None:
  """Writes a PNG file in seven passes, which Pillow cannot."""
  pixels = draw(BACKGROUND, OBJECT)
  rows = b''
  for y0, x0, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
                         (0, 1, 2, 2), (1, 0, 2, 1)):
    rows += b''.join(b'\0' + row.tobytes() for row in pixels[y0::dy, x0::dx])
  header = struct.pack('>IIBBBBB', *SIZE, 8, 2, 0, 0, 1)
  content = b'\x89PNG\r\n\x1a\n'
  for name, data in ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')):
    content += png_chunk(name, data)
  path.write_bytes(content)


_WITH_NAN = draw(0.25, 0.75, np.float32)
_WITH_NAN[0, :2] = np.nan, np.inf

KINDS = {
    'jpeg': Kind('.jpg', save(quality=95, subsampling=0), tolerance=4),
    'progressive': Kind('.jpg', save(quality=95, subsampling=0, progressive=True), tolerance=4),
    'gray_jpeg': Kind('.jpeg', save(draw(64, 200), quality=95), 64, 200, tolerance=4),
    'cmyk_jpeg': Kind('.jpg', save(mode='CMYK', quality=95), tolerance=6),
    'cmyk_no_marker': Kind('.jpg', _cmyk_without_adobe_marker, 155, (235, 0, 0), tolerance=6),
    'png': Kind('.png', save()),
    'png_named_jpg': Kind('.JPG', save(format='PNG')),
    'interlaced': Kind('.png', _interlaced),
    'gray_png': Kind('.png', save(draw(64, 200)), 64, 200),
    'one_bit': Kind('.png', save(draw(False, True, bool)), 0, 255, told='PNG 1'),
    'one_bit_tiff': Kind('.tif', save(draw(False, True, bool)), 0, 255, told='TIFF 1'),
    'palette': Kind('.png', _palette(False), told='PNG P'),
    'transparent_palette': Kind('.png', _palette(True), told='alpha channel'),
    'alpha': Kind('.png', save(draw((*BACKGROUND, 0), (*OBJECT, 128))), told='alpha channel'),
    'opaque': Kind('.png', save(mode='RGBA'), told='PNG RGBA'),
    'gray_alpha': Kind('.png', save(draw((64, 0), (200, 255))), 64, 200, told='alpha channel'),
    'bmp': Kind('.bmp', save(), told='BMP RGB'),
    'gif': Kind('.gif', _palette(False), told='GIF P'),
    'webp': Kind('.webp', save(lossless=True), told='WEBP RGB'),
    'cmyk_tiff': Kind('.tif', save(mode='CMYK'), told='TIFF CMYK'),
    'lzw_tiff': Kind('.tiff', save(compression='tiff_lzw'), told='TIFF RGB'),
    'pages': Kind('.tif', _pages(), told='several pages'),
    'animated_gif': Kind('.gif', _pages(), tolerance=3, told='several pages'),
    'animated_webp': Kind('.webp', _pages(lossless=True), told='several pages'),
    'apng': Kind('.png', _pages(), told='several pages'),
    'mpo': Kind('.jpg', _pages(format='MPO', quality=95, subsampling=0), tolerance=4),
    # Whole numbers: the smallest even number of bits that holds the largest one.
    'bits16': Kind('.png', save(draw(257 * 32, 257 * 200, np.uint16)), 32, 200, told='16 bits'),
    'bits12': Kind('.png', save(draw(514, 3855, np.uint16)), 32, 240, told='12 bits'),
    'bits10': Kind('.tif', save(draw(128, 963, np.uint16)), 32, 240, told='10 bits'),
    'bits8': Kind('.png', save(draw(20, 240, np.uint16)), 20, 240, told='8 bits'),
    'noise': Kind('.png', save(draw(0, 3, np.uint16)), 0, 3, told='8 bits'),
    'signed': Kind('.tif', save(draw(-1024, 3071, np.int16)), 112, 175, told='0 is gray'),
    'rgb16': Kind('.png', save_deep(draw((8224, 8224, 8224), (51400, 0, 257), np.uint16)),
                  32, (200, 0, 1), told='16 bits'),
    'rgb12': Kind('.png', save_deep(draw((514, 514, 514), (3855, 0, 514), np.uint16)),
                  32, (240, 0, 32), told='12 bits'),
    'rgb12_tiff': Kind('.tif', save_deep(draw((514, 514, 514), (3855, 0, 514), np.uint16)),
                       32, (240, 0, 32), told='12 bits'),
    # Floats: shares of 1, else as whole numbers.
    'float': Kind('.tif', save(draw(0.2, 0.8, np.float32)), 51, 204, told='shares of 1'),
    'float_overshoot': Kind('.tif', save(draw(-0.02, 1.04, np.float32)), 0, 255,
                            told='shares of 1'),
    'float_signed': Kind('.tif', save(draw(-1, 0.6, np.float32)), 0, 204, told='-1..1'),
    'float_255': Kind('.tif', save(draw(51, 204, np.float32)), 51, 204, told='8 bits'),
    'float_nan': Kind('.tif', save(_WITH_NAN), 64, 191, told='shares of 1'),
    'float_rgb': Kind('.tif', save_deep(draw((0.2, 0.2, 0.2), (0.8, 0, 0.4), np.float32)),
                      51, (204, 0, 102), told='shares of 1'),
}
