"""Turns the errors of image decoders into one sentence about the file."""
from collections.abc import Iterator
import contextlib
import struct
import warnings
import zlib

from PIL import Image
from PIL import UnidentifiedImageError
import tensorflow as tf

from official_ext.datasets import findings

BROKEN = 'image file is broken'
TOO_LARGE = 'image is too large'
UNKNOWN = 'image is of a kind that cannot be read'
# What Pillow raises for damaged files: it checks little of what they say.
ERRORS = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError,
          AttributeError, RuntimeError, struct.error, zlib.error)

_HEIC_BRANDS = (b'ftyphei', b'ftyphev', b'ftypmif')  # at the fifth byte
_MAX_CHANNELS = 4  # red, green, blue and alpha


@contextlib.contextmanager
def decoding(content: bytes = b'') -> Iterator[None]:
  """Turns what decoders raise into UnusableError, and lifts Pillow's own limit of the size.

  Args:
    content: of the file, which tells files of unknown kinds apart.

  Raises:
    UnusableError: the body has raised what decoders do.
  """
  limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `check_size` has its own.
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Pillow warns of slips in files that it can read.
      yield
  except (MemoryError, tf.errors.ResourceExhaustedError) as error:
    raise findings.UnusableError(TOO_LARGE, 'there is not enough memory to decode it') from error
  except UnidentifiedImageError as error:
    if content[4:11] in _HEIC_BRANDS:
      raise findings.UnusableError(UNKNOWN, 'HEIC; save it as JPEG or PNG') from error
    raise findings.UnusableError(
        BROKEN, f'it is of no known image format and begins with {content[:24]!r}') from error
  except tf.errors.OpError as error:
    raise findings.UnusableError(BROKEN, _sentence(error)) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise findings.UnusableError(BROKEN, ' '.join(str(error).split())) from error
  except ERRORS as error:  # Their messages are about Pillow's code.
    raise findings.UnusableError(BROKEN, 'it is cut off or damaged') from error
  finally:
    Image.MAX_IMAGE_PIXELS = limit


def check_size(size: tuple[int, int], max_pixels: int) -> None:
  """Checks that an image is not too large.

  Args:
    size: (width, height) in pixels.
    max_pixels: largest allowed width times height.

  Raises:
    UnusableError: it is.
  """
  width, height = size
  if width * height > max_pixels:
    raise findings.UnusableError(
        TOO_LARGE, f'{width} x {height} are {width * height:,} pixels, the limit is '
        f'{max_pixels:,}; cut it into tiles, or give a larger --max_pixels')


def check_channels(number: int) -> None:
  """Raises UnusableError if an image has more channels than colors and alpha."""
  if number > _MAX_CHANNELS:
    raise findings.UnusableError(
        'image has more than four channels', f'{number}; write those that are to be seen as RGB')


def _sentence(error: tf.errors.OpError) -> str:
  """Returns what is wrong, without the names of TensorFlow's operations."""
  return error.message.rpartition('}} ')[2].partition(' [Op:')[0]
