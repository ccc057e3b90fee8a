"""Convolutions at listed positions, tile by tile with fewer multiplications.

A list of 4x4 tiles that hold a listed position takes the place of the list of positions: for each
tile `winograd_conv` needs a quarter of the multiplications, and reads 36 positions where sixteen
positions alone read 144.  Where few positions of a tile are listed, the positions alone are
cheaper.
"""
from typing import NamedTuple

import tensorflow as tf

from official_ext.ops import pixel_lists
from official_ext.ops import shapes
from official_ext.ops import export_expectation
from official_ext.ops import winograd_conv

_SIDE, _READ = winograd_conv.THREE.results, winograd_conv.THREE.side


class Tiles(NamedTuple):
  """The tiles that hold listed positions.

  Attributes:
    places: int32 `[36, tiles]`, what each tile reads, on flattened canvases with a border of one
      place and whole tiles.
    rows: int32 `[pixels]`, where the result of each listed position stands among those of tiles.
    padding: of canvases, to get that border: of rows and of columns.
  """
  places: tf.Tensor
  rows: tf.Tensor
  padding: tf.Tensor


def list_tiles(mask: tf.Tensor, pixels: pixel_lists.Pixels) -> Tiles:
  """Returns the tiles of a canvas that hold a listed position.

  Args:
    mask: boolean canvas `[batch, rows, columns]`.
    pixels: its positions, as `Canvas.list_pixels` lists them.
  """
  batch, height, width = tf.unstack(tf.shape(mask))
  down, across = shapes.divide_up(height, _SIDE), shapes.divide_up(width, _SIDE)
  rest = tf.stack([_SIDE * down - height, _SIDE * across - width])
  blocks = tf.reshape(tf.pad(mask, [[0, 0], [0, rest[0]], [0, rest[1]]]),
                      [batch, down, _SIDE, across, _SIDE])
  held = tf.reduce_any(blocks, axis=[2, 4])
  index = tf.cast(tf.where(held), tf.int32)
  row_size = _SIDE * across + 2
  corners = ((_SIDE * down + 2) * index[:, 0] + _SIDE * index[:, 1]) * row_size + (
      _SIDE * index[:, 2])
  inside = tf.reshape(tf.range(_READ)[:, None] * row_size + tf.range(_READ), [-1, 1])
  # The results of a tile's first position come first, one for each tile.
  number = tf.reshape(tf.cumsum(tf.cast(tf.reshape(held, [-1]), tf.int32)) - 1,
                      [batch, down, 1, across, 1])
  position = tf.reshape(tf.range(_SIDE**2), [_SIDE, 1, _SIDE])
  rows = tf.reshape(position * tf.shape(index)[0] + number,
                    [batch, _SIDE * down, _SIDE * across])[:, :height, :width]
  return Tiles(inside + corners, tf.gather(tf.reshape(rows, [-1]), pixels.places),
               tf.stack([tf.zeros([2], tf.int32), tf.stack([1, 1 + rest[0]]),
                         tf.stack([1, 1 + rest[1]])]))


def convolve(table: tf.Tensor, rows_of_places: tf.Tensor, tiles: Tiles, kernel: tf.Tensor
             ) -> tf.Tensor:
  """Convolves at listed positions.

  Args:
    table: values `[rows, channels]`, the first row 0.
    rows_of_places: int32 `[batch, rows, columns]`, the row of every place; 0 where it has none.
    tiles: of the listed positions.
    kernel: float32 `[3, 3, channels, filters]`.

  Returns:
    `[pixels, filters]`.
  """
  places = tf.reshape(tf.pad(rows_of_places, tiles.padding), [-1])
  read = tf.gather(table, tf.reshape(tf.gather(places, tiles.places), [-1]))
  results = winograd_conv.results_of_tiles(
      winograd_conv.transform(read), export_expectation.weights_in_graph(kernel))
  return tf.gather(results, tiles.rows)


def are_cheaper(tiles: Tiles, channels: int) -> tf.Tensor:
  """Returns whether tiles are expected to take less time than their listed positions alone.

  Args:
    tiles: of the listed positions.
    channels: of the map, and number of filters.
  """
  alone = winograd_conv.THREE.kernel**2 * channels**2 / pixel_lists.relative_speed(channels)
  tile = winograd_conv.tile_multiply_adds(channels, channels)
  count, pixels = tf.shape(tiles.places)[1], tf.shape(tiles.rows)[0]
  return tile * tf.cast(count, tf.float32) < alone * tf.cast(pixels, tf.float32)
