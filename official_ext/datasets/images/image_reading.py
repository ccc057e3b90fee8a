"""Reads image files: the one way in which every command gets the pixels of an image.

What training sees is decoded from a record by Model Garden; what is read here are the same pixels,
because a record holds `ReadImage.encode()`, from which the decoder gets `ReadImage.pixels`.
"""
from collections.abc import Callable, Iterable
import dataclasses
import functools
import pathlib
import stat
from typing import NamedTuple

import numpy as np

from official_ext.datasets import findings
from official_ext.datasets.images import image_decoding
from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_orientation

_TURNED = 'image turned as its EXIF data say'
_TURNED_BY_RULE = _TURNED + ', like {}: the annotations do not tell'
_NOT_TURNED = 'EXIF orientation ignored: the annotations are for the stored pixels'
_NOT_TURNED_BY_RULE = ('EXIF orientation ignored, like in most images of the annotation file: the '
                       'annotations do not tell')
_EXIF_MARKER = 0xe1
_LAST_MARKERS = (0xda, 0xff)  # Pixels begin, or bytes follow that are no marker.


class Change(NamedTuple):
  """How the pixels differ from those in the file, for `Findings.add`.

  Attributes:
    outcome: `fixed` or `noted`.
    reason: the same for all images that are treated alike.
  """
  outcome: findings.Outcome
  reason: str


class EncodedImage(NamedTuple):
  """An image in a form that Model Garden decodes.

  Attributes:
    content: a JPEG or PNG file without EXIF orientation.
    encoding: `jpg` or `png`.
    size: (width, height) in pixels.
  """
  content: bytes
  encoding: str
  size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ReadImage:
  """An image that was read.

  Attributes:
    size: (width, height) in pixels.
    changes: how it differs from the file.
    exif_orientation: what was done about an EXIF orientation, for the image's entry in an
      annotation file; None if there is none.
    original: content and encoding of the file if Model Garden gets `pixels` from them.
    decoded: the pixels; None if they were not needed and there is an `original`.
  """
  size: tuple[int, int]
  changes: list[Change]
  exif_orientation: str | None
  original: tuple[bytes, str] | None
  decoded: np.ndarray | None

  @property
  def num_bytes(self) -> int:
    """The memory that it takes, in bytes."""
    content, _ = self.original or (b'', '')
    return len(content) + (0 if self.decoded is None else self.decoded.nbytes)

  @functools.cached_property
  def pixels(self) -> np.ndarray:
    """uint8 `[height, width, 3]`."""
    if self.decoded is not None:
      return self.decoded
    content, _ = self.original or (b'', '')
    return image_decoding.decode_record(content)

  def encode(self) -> EncodedImage:
    """Returns the image for a record: the file's own bytes if they will do, else PNG."""
    content, encoding = self.original or (image_decoding.encode_png(self.pixels), 'png')
    return EncodedImage(content, encoding, self.size)


class ImageReader:
  """Reads the images that an annotation file lists, or any."""

  def __init__(
      self, max_pixels: int = image_files.MAX_PIXELS,
      all_listed: Callable[[], Iterable[tuple[pathlib.Path, image_orientation.Listed]]] = tuple):
    """Initializes the reader.

    Args:
      max_pixels: largest allowed width times height.
      all_listed: returns all images of the annotation file, with what it says of them. Called at
        most once, if an image has an EXIF orientation and its own entry does not tell whether it
        is to be applied.
    """
    self._max_pixels = max_pixels
    self._all_listed = all_listed

  def read(self, path: pathlib.Path,
           listed: image_orientation.Listed = image_orientation.NOT_LISTED,
           needs_pixels: bool = True) -> ReadImage:
    """Reads an image.

    Args:
      path: the file.
      listed: what the annotation file says of the image.
      needs_pixels: whether the pixels are looked at; if not, a file that can go into a record as
        it is need not be decoded.

    Returns:
      The image, turned as `image_orientation` says.

    Raises:
      UnusableError: the file cannot be read or decoded, or the image is too large.
    """
    content = read_bytes(path)
    decoded = image_decoding.decode(content, self._max_pixels, needs_pixels)
    changes = [Change('fixed', change) for change in decoded.changes]
    if not decoded.encoding:
      changes.insert(0, Change('fixed', f'image was {decoded.kind}: stored as PNG'))
    if decoded.orientation == image_orientation.UPRIGHT:
      original = (content, decoded.encoding) if decoded.encoding else None
      return ReadImage(decoded.size, changes, None, original, decoded.pixels)
    is_turned, change = self._decide(
        image_orientation.Header(decoded.size, decoded.orientation), listed)
    if is_turned:
      stored = image_decoding.decode_record(content) if decoded.pixels is None else decoded.pixels
      pixels = image_orientation.turn(stored, decoded.orientation)
      size = (pixels.shape[1], pixels.shape[0])
      return ReadImage(size, [*changes, change], image_orientation.APPLIED, None, pixels)
    original = (without_exif(content), 'jpg') if decoded.encoding == 'jpg' else None
    return ReadImage(decoded.size, [*changes, change], image_orientation.IGNORED, original,
                     decoded.pixels)

  def _decide(self, header: image_orientation.Header, listed: image_orientation.Listed
              ) -> tuple[bool, Change]:
    """Returns whether to turn an image, and what to tell about it."""
    is_turned = image_orientation.is_for_turned(header.orientation, header.size, listed)
    if is_turned is not None:
      return is_turned, Change('fixed', _TURNED) if is_turned else Change('noted', _NOT_TURNED)
    if self._majority is None:
      return True, Change('noted', _TURNED_BY_RULE.format('in a viewer'))
    if self._majority:
      return True, Change('noted', _TURNED_BY_RULE.format('most images of the annotation file'))
    return False, Change('noted', _NOT_TURNED_BY_RULE)

  @functools.cached_property
  def _majority(self) -> bool | None:
    """Whether most images that can tell are annotated as a viewer shows them."""

    def answer(path: pathlib.Path, listed: image_orientation.Listed) -> bool | None:
      try:
        header = image_decoding.read_header(path)
      except findings.UnusableError:
        return None
      if header.orientation == image_orientation.UPRIGHT:
        return None
      return image_orientation.is_for_turned(header.orientation, header.size, listed)

    return image_orientation.majority(answer(*item) for item in self._all_listed())


def read_bytes(path: pathlib.Path) -> bytes:
  """Returns the content of a file; raises UnusableError, which says why, if that fails."""
  try:
    if not stat.S_ISREG(path.stat().st_mode):  # To read a pipe would wait forever.
      raise findings.UnusableError('image file is a folder or no regular file')
    return path.read_bytes()
  except FileNotFoundError as error:
    raise findings.UnusableError('image file is missing', 'it was removed, or is a link to '
                                 'nothing') from error
  except PermissionError as error:
    raise findings.UnusableError('image file may not be read', str(error.strerror)) from error
  except OSError as error:
    raise findings.UnusableError('image file cannot be read', str(error.strerror)) from error


def without_exif(jpeg: bytes) -> bytes:
  """Returns a JPEG file without EXIF and XMP data; what follows the headers is kept."""
  kept, start = [jpeg[:2]], 2
  while jpeg[start:start + 1] == b'\xff' and jpeg[start + 1] not in _LAST_MARKERS:
    end = start + 2 + int.from_bytes(jpeg[start + 2:start + 4], 'big')
    if jpeg[start + 1] != _EXIF_MARKER:
      kept.append(jpeg[start:end])
    start = end
  return b''.join([*kept, jpeg[start:]])
