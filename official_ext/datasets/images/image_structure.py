"""Tells from the structure of JPEG and PNG files that they are whole, without decoding pixels."""
import struct
from typing import NamedTuple
import zlib

_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
_PIXELS = 0xda  # the marker before the coded pixels
# Markers of frames that every decoder reads: baseline, extended and progressive Huffman coding.
_FRAMES = (0xc0, 0xc1, 0xc2)
_OTHER_FRAMES = (0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf)
_QUANTIZATION = 0xdb
_TABLE = 65  # bytes of a quantization table of 8-bit values
# Markers that do not say how to turn a picture -> the least length that Pillow can read: Huffman
# tables, restarts, a comment, JFIF, a color profile, Adobe's colors.
_PLAIN = {0xc4: 2, 0xdd: 2, 0xfe: 2, 0xe0: 16, 0xe2: 16, 0xee: 14}
_PNG_START = b'\x89PNG\r\n\x1a\n'


class Jpeg(NamedTuple):
  """A JPEG file that is whole.

  Attributes:
    size: (width, height) in pixels as stored.
    is_plain: whether it is upright and Pillow reads its header: it has no data of a camera or a
      program, and no tables out of the ordinary.
  """
  size: tuple[int, int]
  is_plain: bool


def whole_jpeg(content: bytes) -> Jpeg | None:
  """Looks at a JPEG of 8-bit gray or color.

  Its markers up to the pixels must follow each other as they say, and the last bytes must be the
  marker of the end.  A file that other data follow is not called whole, because the end of its
  pixels is not looked for.

  Args:
    content: of the file.

  Returns:
    None if it may be of another kind, or not whole.
  """
  if not (content.startswith(_JPEG_START) and content.endswith(_JPEG_END)):
    return None
  size: tuple[int, int] | None = None
  position, is_plain = 2, True
  while content[position:position + 1] == b'\xff' and position + 4 <= len(content):
    marker = content[position + 1]
    if marker == _PIXELS:
      return Jpeg(size, is_plain and min(size) > 0) if size else None
    if marker in _OTHER_FRAMES:
      return None
    length = int.from_bytes(content[position + 2:position + 4], 'big')
    end = position + 2 + length
    if end > len(content) or marker in _FRAMES and length < 8:
      return None
    if marker in _FRAMES:
      depth, height, width, num_components = struct.unpack_from('>BHHB', content, position + 4)
      if depth != 8 or num_components not in (1, 3):
        return None
      is_plain = is_plain and size is None and length == 8 + 3 * num_components
      size = width, height
    elif marker == _QUANTIZATION:
      tables = content[position + 4:end:_TABLE]  # the first byte of each
      is_plain = is_plain and length % _TABLE == 2 and max(tables, default=0) < 16
    else:
      is_plain = is_plain and length >= _PLAIN.get(marker, 1 << 16)
    position = end
  return None


def is_whole_png(content: bytes) -> bool:
  """Returns whether a file is a PNG whose chunks all have the right checksum, up to the last one.

  Args:
    content: of the file.
  """
  if not content.startswith(_PNG_START):
    return False
  view, position, kind = memoryview(content), len(_PNG_START), b''
  while kind != b'IEND':
    length = int.from_bytes(content[position:position + 4], 'big')
    end = position + 8 + length
    if end + 4 > len(content):
      return False
    kind = content[position + 4:position + 8]
    if zlib.crc32(view[position + 4:end]) != int.from_bytes(content[end:end + 4], 'big'):
      return False
    position = end + 4
  return True
