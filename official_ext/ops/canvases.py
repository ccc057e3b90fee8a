"""The papers' rule of image sizes, met by few static sizes: the canvases.

The rule: the short side becomes S pixels, but the long side at most L, in either orientation, and
the shape of the image is kept.  A canvas is one size of the network's input.  The resized image
lies in its upper left corner, and the rest is padding.
"""
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from official_ext.ops import checks

Size = tuple[int, int]


class Canvas(NamedTuple):
  """A size of the network's input.

  Attributes:
    box: (height, width) into which images are fitted, in pixels.
    size: (height, width) of the network's input: the box and the padding that it always has.
  """
  box: Size
  size: Size


class Canvases:
  """The canvases for one short side: landscape ones, narrow to wide, then the same upright.

  An image goes to the smallest canvas that holds it as the rule resizes it.  To fit it into the
  box of that canvas resizes it by exactly the rule.
  """

  def __init__(self, short_side: int, long_side: int, aspect_ratios: Sequence[float], stride: int):
    """Initializes the canvases.

    Args:
      short_side: S of the rule, in pixels.
      long_side: L of the rule, in pixels.
      aspect_ratios: long side divided by short side of further canvases, beside the widest one,
        which holds every image.
      stride: heights and widths of canvases are multiples of it.

    Raises:
      FieldError: a side or ratio is not allowed; the message names the field of `task.resize`.
    """
    if not 1 <= short_side <= long_side:
      raise checks.FieldError(
          f'task.resize: the short side is {short_side} and long_side is {long_side}; '
          'allowed are 1 <= short side <= long_side.')
    if any(ratio < 1 for ratio in aspect_ratios):
      raise checks.FieldError(
          f'task.resize.aspect_ratios is {list(aspect_ratios)}; a ratio is the long side divided '
          'by the short side, at least 1.')
    sides = {min(long_side, _padded(round(short_side * ratio), stride)) for ratio in aspect_ratios}
    # Several sides may be padded to the same one; the longest of them holds the most images.
    longest = {_padded(side, stride): side for side in sorted(sides | {long_side})}
    self._short, self._limits = short_side, sorted(longest.values())
    boxes = [(short_side, limit) for limit in self._limits]
    self._canvases = [
        Canvas(box, (_padded(box[0], stride), _padded(box[1], stride)))
        for box in (*boxes, *(box[::-1] for box in boxes))]

  def __iter__(self) -> Iterator[Canvas]:
    return iter(self._canvases)

  def __len__(self) -> int:
    return len(self._canvases)

  def __getitem__(self, index: int) -> Canvas:
    return self._canvases[index]

  @property
  def widest(self) -> Canvas:
    """The landscape canvas that holds every landscape image."""
    return self._canvases[len(self._limits) - 1]

  def index(self, image_size: tf.Tensor) -> tf.Tensor:
    """Returns the index of an image's canvas.

    Args:
      image_size: integers `[..., 2]`, height and width in pixels.

    Returns:
      int32 `[...]`.
    """
    height, width = tf.unstack(tf.cast(image_size, tf.int64), axis=-1)
    short, long = tf.minimum(height, width), tf.maximum(height, width)
    # Whole numbers: long / short > limit / S without rounding.
    is_longer = (long * self._short)[..., None] > short[..., None] * np.array(
        self._limits[:-1], np.int64)
    narrow = tf.reduce_sum(tf.cast(is_longer, tf.int32), -1)
    return narrow + tf.where(height > width, len(self._limits), 0)


def _padded(side: int, stride: int) -> int:
  return -(-side // stride) * stride


def without_padding(image_info: tf.Tensor) -> tf.Tensor:
  """Returns Model Garden's image info with the size of the resized image for that of its box.

  Boxes of proposals and detections are then clipped to the image, not to the padding.

  Args:
    image_info: float32 `[..., 4, 2]`: original size, size of the box, scale, offset.
  """
  original, _, scale, offset = tf.unstack(image_info, axis=-2)
  return tf.stack([original, tf.round(original * scale), scale, offset], axis=-2)
