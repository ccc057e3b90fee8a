"""Turns pixel values of any type into 8 bits, by each image's own values and type.

Whole numbers are taken to have the smallest even number of bits, at least 8, that holds the
largest value of the image: 10 for 1000, 12 for 4000, 16 for 60000. All values of that many bits are
scaled to 0..255. So 12-bit data in 16-bit files are not black, no image is darker than a quarter
of the full range, noise in a dark image is never stretched to more than it was in 8 bits, and the
result depends on the file alone: training and prediction see the same. Division by 257 alone, as
8-bit readers do, would make 12-bit data black; stretching each image from its least to its
largest value would amplify the noise of empty ones.
"""
import math

import numpy as np

_MIN_BITS = 8
# Floats up to this are shares of 1: filters overshoot, and 8-bit values that small are black.
_LARGEST_SHARE = 2.0
_SMALLEST_SHARE = -0.25


def to_uint8(values: np.ndarray) -> tuple[np.ndarray, str]:
  """Scales pixel values to 8 bits.

  Args:
    values: whole numbers or floats, any shape. Floats in about 0..1 are shares of white, and in
      -1..1 from black to white; other floats are taken as whole numbers. If there are negative
      numbers, 0 becomes the middle of the range. NaN becomes the least value.

  Returns:
    uint8, and what was done, the same for all images that are treated alike.
  """
  kind = 'float' if values.dtype.kind == 'f' else 'integer'
  if values.dtype.kind == 'f':
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if _SMALLEST_SHARE <= low and high <= _LARGEST_SHARE:
      return _scaled(values, 0, 1), f'{kind} values are shares of 1: scaled to 0..255'
    if -_LARGEST_SHARE <= low and high <= _LARGEST_SHARE:
      return _scaled(values, -1, 1), f'{kind} values are in -1..1: scaled to 0..255'
  else:
    low, high = float(values.min()), float(values.max())
  if low < 0:
    bits = _even_bits(max(high, -low - 1), sign_bits=1)
    return (_scaled(values, -2.0**(bits - 1), 2.0**(bits - 1) - 1),
            f'{kind} values have {bits} bits with the sign: scaled to 0..255, 0 is gray')
  bits = _even_bits(high)
  return _scaled(values, 0, 2.0**bits - 1), f'{kind} values have {bits} bits: scaled to 0..255'


def _even_bits(largest: float, sign_bits: int = 0) -> int:
  """Returns the smallest even number of bits, at least 8, that holds a value and its sign."""
  bits = math.frexp(math.floor(largest))[1] + sign_bits
  return max(_MIN_BITS, bits + bits % 2)


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
  """Maps `black`..`white` to 0..255; what is beyond is clipped."""
  shares = (values.astype(np.float32) - black) / (white - black)
  return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
