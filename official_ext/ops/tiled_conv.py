"""Sparse convolutions of static shapes: a fixed number of square tiles per image.

XLA needs static shapes, so a capacity fixes the number of tiles that are computed.  If no more
tiles are active, results equal those of `sparse_block`; otherwise the least active tiles are
dropped and counted.
"""
from typing import NamedTuple

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import group_norm
from official_ext.ops import shapes
from official_ext.ops import sparse_block


class TiledResult(NamedTuple):
  """The result of a computation in tiles.

  Attributes:
    value: `[batch, height, width, channels]`.
    dropped: int32 `[batch]`, number of active tiles beyond the capacity, which were not
      computed; where it is 0, `value` is exact.
  """
  value: tf.Tensor
  dropped: tf.Tensor


def tiled_residual_block(x: tf.Tensor, gate: tf.Tensor, weights: sparse_block.ResidualWeights,
                         num_groups: int, capacity: float, tile_size: int = 2,
                         replaces: bool = False) -> TiledResult:
  """Computes `sparse_block.residual_block` in tiles, for XLA and TPU.

  A tile is active if it has a position that the first convolution needs: one where the gate, or
  the gate of a neighbor, is above 0.  Both convolutions compute the same tiles.

  Args:
    x: `[batch, height, width, channels]`.
    gate: float32 `[batch, height, width, 1]`, not negative, 0 where nothing is computed.
    weights: the weights; kernels of the dtype of `x`.
    num_groups: number of groups of the norms, a divisor of the number of channels.
    capacity: share of an image's tiles that is computed, above 0 and up to 1.
    tile_size: side of a tile in positions.  Small tiles follow the gate more closely, large
      ones recompute less of their surroundings.
    replaces: as in `sparse_block.residual_blocks`; dropped tiles stay 0.

  Returns:
    The value, of the shape and dtype of `x`, and the number of dropped tiles.  Tiles with
    the fewest positions that the first convolution needs are dropped first; they do not count
    in the statistics of the norms, and are 0 in the value.

  Raises:
    ArgumentError: `capacity` or `tile_size` out of range, or `num_groups` does not divide the
      channels.
  """
  if not 0 < capacity <= 1:
    raise checks.ArgumentError(
        'capacity', f'capacity is {capacity}; it is a share of the tiles, above 0 and up to 1.')
  if tile_size < 1:
    raise checks.ArgumentError('tile_size', f'tile_size is {tile_size}; it must be at least 1.')
  first, second = sparse_block.active_positions(gate)
  tiles, dropped = _choose_tiles(first, capacity, tile_size)

  def convolve(patches, kernel):
    return tf.reshape(tf.nn.conv2d(patches, kernel, 1, 'VALID'), tiles.list_shape(x.shape[-1]))

  hidden = convolve(tiles.cut(x), weights.kernel1)
  hidden = tf.nn.relu(group_norm.group_norm(
      hidden, weights.gamma1, weights.beta1, num_groups, mask=tiles.pick(first)))
  hidden = convolve(tiles.surround(hidden), weights.kernel2)
  hidden = group_norm.group_norm(
      hidden, weights.gamma2, weights.beta2, num_groups, mask=tiles.pick(second))
  branch = tiles.put_back(hidden)
  if replaces:
    branch -= x * tiles.put_back(tf.cast(tiles.pick(second), x.dtype))
  return TiledResult(branch * tf.cast(gate, x.dtype), dropped)


def _choose_tiles(mask: tf.Tensor, capacity: float, size: int) -> tuple['_Tiles', tf.Tensor]:
  """Returns the tiles with most active positions, and the number of other active tiles.

  Args:
    mask: boolean `[batch, height, width, 1]`.
    capacity: share of the tiles that is returned.
    size: side of a tile in positions.
  """
  height, width = tf.unstack(shapes.divide_up(tf.shape(mask)[1:3], size))
  share = tf.pad(tf.cast(mask, tf.float32), _to_whole_tiles(mask, size))
  active = tf.reduce_sum(tf.reshape(share, [-1, height, size, width, size]), axis=[2, 4])
  active = tf.reshape(active, [tf.shape(mask)[0], height * width])
  room = tf.cast(tf.math.ceil(capacity * tf.cast(height * width, tf.float32)), tf.int32)
  kept, index = tf.math.top_k(active, room)
  dropped = (tf.math.count_nonzero(active, axis=1, dtype=tf.int32)
             - tf.math.count_nonzero(kept, axis=1, dtype=tf.int32))
  return _Tiles(index, tf.shape(mask)[1:3], height, width, size), dropped


def _to_whole_tiles(x: tf.Tensor, size: int, border: int = 0) -> list[list]:
  """Returns paddings, for `tf.pad`, that make the sides of maps multiples of the tile's side."""
  height, width = tf.unstack(-tf.shape(x)[1:3] % size)
  return [[0, 0], [border, height + border], [border, width + border], [0, 0]]


class _Tiles(NamedTuple):
  """The tiles of a batch of maps that are computed, the same number for each image.

  Listed values are those of the tiles, one tile after the other, as `[batch, tiles * size^2, 1,
  channels]`.

  Attributes:
    index: int32 `[batch, tiles]`, numbers of the tiles; a map's tiles are numbered row by row.
    map_shape: int32 `[2]`, height and width of the map in positions.
    height: int32 scalar, height of the map in tiles.
    width: int32 scalar, width of the map in tiles.
    size: side of a tile in positions.
  """
  index: tf.Tensor
  map_shape: tf.Tensor
  height: tf.Tensor
  width: tf.Tensor
  size: int

  def list_shape(self, channels: int) -> tf.Tensor:
    """Returns the shape of listed values: int32 `[4]`."""
    batch, number = tf.unstack(tf.shape(self.index))
    return tf.stack([batch, number * self.size**2, 1, channels])

  def cut(self, x: tf.Tensor) -> tf.Tensor:
    """Cuts tiles with a border of 1 out of maps.

    Args:
      x: `[batch, height, width, channels]`.

    Returns:
      `[batch * tiles, size + 2, size + 2, channels]`, 0 outside of the map.
    """
    padded = tf.pad(x, _to_whole_tiles(x, self.size, border=1))
    rows, columns = self._positions(border=1)
    places = (rows + 1) * (self.width * self.size + 2) + columns + 1
    return self._look_up(padded, places, self.size + 2)

  def pick(self, mask: tf.Tensor) -> tf.Tensor:
    """Returns the listed values of a mask `[batch, height, width, 1]`."""
    padded = tf.pad(mask, _to_whole_tiles(mask, self.size))
    rows, columns = self._positions(border=0)
    places = rows * self.width * self.size + columns
    return tf.reshape(self._look_up(padded, places, self.size), self.list_shape(1))

  def surround(self, values: tf.Tensor) -> tf.Tensor:
    """Returns listed values as tiles with a border of 1, from other tiles or 0.

    Args:
      values: listed values.

    Returns:
      `[batch * tiles, size + 2, size + 2, channels]`.
    """
    table, places = self._find(values, *self._positions(border=1))
    return self._look_up(table[:, :, None], places, self.size + 2)

  def put_back(self, values: tf.Tensor) -> tf.Tensor:
    """Returns listed values as a map `[batch, height, width, channels]`, 0 outside of the tiles."""
    height, width = tf.unstack(self.map_shape)
    rows = tf.zeros_like(self.index[:, :1, None]) + tf.range(height)[:, None]
    return tf.gather(*self._find(values, rows, tf.range(width)), batch_dims=1)

  def _positions(self, border: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns rows `[batch, tiles, side, 1]` and columns `[batch, tiles, 1, side]` in the map."""
    offsets = tf.range(-border, self.size + border)
    rows = (self.index // self.width)[..., None] * self.size + offsets
    columns = (self.index % self.width)[..., None] * self.size + offsets
    return rows[..., :, None], columns[..., None, :]

  def _look_up(self, maps: tf.Tensor, places: tf.Tensor, side: int) -> tf.Tensor:
    """Returns values of maps as tiles: `[batch * tiles, side, side, channels]`.

    Args:
      maps: `[batch, height, width, channels]`.
      places: int32 `[batch, tiles, side, side]`, positions of the flattened maps.
      side: of the tiles, border included.
    """
    return tf.reshape(
        tf.gather(_flatten(maps), places, batch_dims=1), [-1, side, side, maps.shape[-1]])

  def _find(self, values: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor
            ) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds positions of the map among listed values.

    Args:
      values: listed values.
      rows: int32, rows of the positions in the map; broadcasts with `columns`.
      columns: int32, columns of the positions.

    Returns:
      The listed values after a row of zeros, `[batch, 1 + tiles * size^2, channels]`; and the
      places of the positions there, 0 for positions outside of the tiles.
    """
    batch, number = tf.unstack(tf.shape(self.index))
    images = tf.range(batch)[:, None] + tf.zeros_like(self.index)
    # A map of tiles with a border of 0: the rank of a listed tile, from 1; 0 for other tiles.
    rank = tf.scatter_nd(
        tf.stack([images, self.index // self.width + 1, self.index % self.width + 1], -1),
        tf.range(1, number + 1) + tf.zeros_like(self.index),
        tf.stack([batch, self.height + 2, self.width + 2]))
    tile = (rows // self.size + 1) * (self.width + 2) + columns // self.size + 1
    rank = tf.gather(_flatten(rank[..., None])[..., 0], tile, batch_dims=1)
    inside = rows % self.size * self.size + columns % self.size
    places = tf.where(rank > 0, (rank - 1) * self.size**2 + inside + 1, 0)
    return tf.pad(values, [[0, 0], [1, 0], [0, 0], [0, 0]])[:, :, 0], places


def _flatten(maps: tf.Tensor) -> tf.Tensor:
  """Returns maps as `[batch, height * width, channels]`."""
  batch, height, width = tf.unstack(tf.shape(maps)[:3])
  return tf.reshape(maps, tf.stack([batch, height * width, maps.shape[-1]]))
