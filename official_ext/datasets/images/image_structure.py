"""Tells from the structure of JPEG and PNG files that they are whole, without decoding pixels."""
import zlib

_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
_PIXELS = 0xda  # the marker before the coded pixels
# Markers of frames that every decoder reads: baseline, extended and progressive Huffman coding.
_FRAMES = (0xc0, 0xc1, 0xc2)
_OTHER_FRAMES = (0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf)
_PNG_START = b'\x89PNG\r\n\x1a\n'


def is_whole_jpeg(content: bytes) -> bool:
  """Returns whether a file is a JPEG of 8-bit gray or color that nothing was cut off.

  Its markers up to the pixels must follow each other as they say, and the last bytes must be the
  marker of the end.  A file that other data follow is not called whole, because the end of its
  pixels is not looked for.

  Args:
    content: of the file.
  """
  if not (content.startswith(_JPEG_START) and content.endswith(_JPEG_END)):
    return False
  position, has_frame = 2, False
  while content[position:position + 1] == b'\xff' and position + 4 <= len(content):
    marker = content[position + 1]
    if marker == _PIXELS:
      return has_frame
    if marker in _OTHER_FRAMES:
      return False
    if marker in _FRAMES:
      depth, num_components = content[position + 4], content[position + 9]
      if depth != 8 or num_components not in (1, 3):
        return False
      has_frame = True
    position += 2 + int.from_bytes(content[position + 2:position + 4], 'big')
  return False


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
