"""One plane for maps of several sizes, such as the levels of a pyramid.

What takes a few operations for each map, of little work, takes as many for all of them together.
"""
from collections.abc import Sequence

import tensorflow as tf

from official_ext.ops import shapes


class Plane:
  """A place for every position of several maps, in which neighbors are at fixed distances.

  An image's maps stand below one another, each in a border as wide as a kernel reaches, which it
  shares with the next one.

  Attributes:
    border: rows and columns of the border.
    sizes: height and width of each map.
    width: number of columns.
  """

  def __init__(self, maps: Sequence[tf.Tensor], kernel_size: Sequence[int]):
    """Initializes the plane.

    Args:
      maps: tensors `[batch, height, width, any]`; only their sizes are used.
      kernel_size: height and width of the kernels, odd.
    """
    self.border = [size // 2 for size in kernel_size]
    self.sizes = [shapes.sizes(x, 1, 2) for x in maps]
    widths = [width for _, width in self.sizes]
    widest = (max(widths) if all(isinstance(width, int) for width in widths)
              else tf.reduce_max(tf.stack(widths)))
    self.width = widest + 2 * self.border[1]

  def draw(self, values: Sequence[tf.Tensor], outside: bool | float = 0) -> tf.Tensor:
    """Returns the plane `[..., rows, columns]` with a value at every position.

    Args:
      values: `[..., height, width]` of each map.
      outside: value outside of the maps.
    """
    rows, columns = self.border
    before = [[0, 0]] * (len(values[0].shape) - 2)
    return tf.concat([
        tf.pad(value, [*before, [0 if number else rows, rows],
                       [columns, self.width - width - columns]], constant_values=outside)
        for number, (value, (_, width)) in enumerate(zip(values, self.sizes))], axis=-2)

  def first_rows(self) -> list[int | tf.Tensor]:
    """Returns the row in which each map begins."""
    border = self.border[0]
    rows = [border]
    for height, _ in self.sizes[:-1]:
      rows.append(rows[-1] + height + border)
    return rows

  def map_of_row(self) -> tf.Tensor:
    """Returns the number of the map of every row, int32 `[rows]`; those of borders mean nothing."""
    rows = self.border[0]
    return tf.concat([tf.fill([height + (rows if number else 2 * rows)], number)
                      for number, (height, _) in enumerate(self.sizes)], axis=0)
