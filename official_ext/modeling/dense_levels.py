"""The levels of a one-stage detector's outputs as one list of locations, finest level first."""
from collections.abc import Mapping

import tensorflow as tf

from official_ext.ops import assigners
from official_ext.ops import checks

Levels = Mapping[str, tf.Tensor]


def finest_first(levels: Levels) -> list[tf.Tensor]:
  """Returns the maps of all levels, finest first."""
  return [levels[level] for level in sorted(levels, key=int)]


def flatten(levels: Levels) -> tf.Tensor:
  """Returns the values of all levels in one tensor `[batch, locations, channels]`.

  Args:
    levels: `{level: [batch, height, width, channels]}`, of known heights and widths.
  """
  return tf.concat([rows(level) for level in finest_first(levels)], 1)


def rows(level: tf.Tensor) -> tf.Tensor:
  """Returns a map as `[batch, locations, channels]`."""
  height, width, channels = level.shape[1:]
  return tf.reshape(level, [tf.shape(level)[0], height * width, channels])


def grid_locations(levels: Levels, offset: float = assigners.CENTER_OF_CELL
                   ) -> assigners.Locations:
  """Returns the locations of maps, one at every position.

  Args:
    levels: `{level: [batch, height, width, channels]}`.
    offset: where in its cell a location lies, see `assigners.locations`.

  Raises:
    ValueError: a height or width is not known.
  """
  # Heights and widths are unknown only if those of the images are.
  with checks.naming_field('model', elsewhere={'sizes': 'model.input_size'}):
    return assigners.locations([tuple(level.shape[1:3]) for level in finest_first(levels)],
                               min(map(int, levels)), offset)
