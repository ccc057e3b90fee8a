"""Sparse convolutions of static shapes: square tiles, as many per image as there is room for.

XLA compiles only shapes that it knows beforehand, so the number of tiles is fixed by a
capacity.  Up to it, results are those of `sparse_conv`; beyond it, the least active tiles
are left out and counted.
"""
from typing import NamedTuple

import tensorflow as tf

from official_ext.ops import group_norm
from official_ext.ops import sparse_conv


class TiledResult(NamedTuple):
  """What came of a computation in tiles.

  Attributes:
    value: `[batch, height, width, channels]`.
    dropped: int32 `[batch]`, active tiles that there was no room for; 0: `value` is exact.
  """
  value: tf.Tensor
  dropped: tf.Tensor


def tiled_residual_block(x: tf.Tensor, gate: tf.Tensor, weights: sparse_conv.ResidualWeights,
                         num_groups: int, capacity: float, epsilon: float = 1e-5,
                         tile_size: int = 2) -> TiledResult:
  """`sparse_conv.residual_block` in tiles, for XLA and TPU.

  A tile is active if the first convolution is needed anywhere in it: where the gate is
  above 0 or has such a neighbour.  Both convolutions compute the same tiles.

  Args:
    x: `[batch, height, width, channels]`.
    gate: float32 `[batch, height, width, 1]`, not negative, 0 where nothing is computed.
    weights: the weights; kernels of the dtype of `x`.
    num_groups: of the norms, a divisor of the number of channels.
    capacity: the share of an image's tiles that there is room for, above 0 and up to 1.
    epsilon: of the norms.
    tile_size: side of a tile in positions: small ones follow the gate more closely, large
      ones recompute less of their surroundings.

  Returns:
    The value, of the shape and dtype of `x`, and the number of dropped tiles.  Tiles with
    the fewest positions that the first convolution needs are dropped first; they are
    left out of the statistics, and are 0 in the value.

  Raises:
    ValueError: `capacity` or `tile_size` out of range, or `num_groups` does not divide the
      channels.
  """
  if not 0 < capacity <= 1:
    raise ValueError(f'capacity is {capacity}; it is a share of the tiles, above 0 and up to 1.')
  if tile_size < 1:
    raise ValueError(f'tile_size is {tile_size}; it must be at least 1.')
  first, second = sparse_conv.active_positions(gate)
  tiles, dropped = _choose_tiles(first, capacity, tile_size)

  def convolve(patches, kernel):
    return tf.reshape(tf.nn.conv2d(patches, kernel, 1, 'VALID'), tiles.list_shape(x.shape[-1]))

  hidden = convolve(tiles.cut(x), weights.kernel1)
  hidden = tf.nn.relu(group_norm.group_norm(
      hidden, weights.gamma1, weights.beta1, num_groups, epsilon, tiles.pick(first)))
  hidden = convolve(tiles.surround(hidden), weights.kernel2)
  hidden = group_norm.group_norm(
      hidden, weights.gamma2, weights.beta2, num_groups, epsilon, tiles.pick(second))
  return TiledResult(tiles.put_back(hidden) * tf.cast(gate, x.dtype), dropped)


def _choose_tiles(mask: tf.Tensor, capacity: float, size: int):
  """Returns the tiles with most active positions, and how many other active ones there are."""
  height, width = tf.unstack(-(-tf.shape(mask)[1:3] // size))
  share = tf.pad(tf.cast(mask, tf.float32), _to_whole_tiles(mask, size))
  active = tf.reduce_sum(tf.reshape(share, [-1, height, size, width, size]), axis=[2, 4])
  active = tf.reshape(active, [tf.shape(mask)[0], height * width])
  room = tf.cast(tf.math.ceil(capacity * tf.cast(height * width, tf.float32)), tf.int32)
  kept, index = tf.math.top_k(active, room)
  dropped = (tf.math.count_nonzero(active, axis=1, dtype=tf.int32) -
             tf.math.count_nonzero(kept, axis=1, dtype=tf.int32))
  return _Tiles(index, tf.shape(mask)[1:3], height, width, size), dropped


def _to_whole_tiles(x: tf.Tensor, size: int, border: int = 0):
  """Returns the paddings that make the sides of maps multiples of the tile's."""
  height, width = tf.unstack(-tf.shape(x)[1:3] % size)
  return [[0, 0], [border, height + border], [border, width + border], [0, 0]]


class _Tiles(NamedTuple):
  """The tiles of a batch of maps that are computed, as many for each image.

  Attributes:
    index: int32 `[batch, tiles]`, their numbers, row by row.
    map_shape: int32 `[2]`, height and width of the map.
    height: int32 scalar, how many tiles the map is high.
    width: int32 scalar, how many tiles it is wide.
    size: side of a tile.
  """
  index: tf.Tensor
  map_shape: tf.Tensor
  height: tf.Tensor
  width: tf.Tensor
  size: int

  def list_shape(self, channels: int) -> tf.Tensor:
    """Returns the shape of the tiles' positions one below the other, a map of one column."""
    batch, number = tf.unstack(tf.shape(self.index))
    return tf.stack([batch, number * self.size**2, 1, channels])

  def cut(self, x: tf.Tensor) -> tf.Tensor:
    """Cuts tiles and a border of 1 out of maps: `[batch * tiles, size + 2, size + 2, channels]`."""
    padded = tf.pad(x, _to_whole_tiles(x, self.size, border=1))
    rows, columns = self._positions(border=1)
    places = (rows + 1) * (self.width * self.size + 2) + columns + 1
    return self._look_up(padded, places, self.size + 2)

  def pick(self, mask: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, tiles * size^2, 1, 1]`, a mask's values in the tiles."""
    padded = tf.pad(mask, _to_whole_tiles(mask, self.size))
    rows, columns = self._positions(border=0)
    places = rows * self.width * self.size + columns
    return tf.reshape(self._look_up(padded, places, self.size), self.list_shape(1))

  def surround(self, values: tf.Tensor) -> tf.Tensor:
    """Gives listed tiles a border, from other tiles or 0: shaped as `cut` does."""
    table, places = self._listed(values, *self._positions(border=1))
    return self._look_up(table[:, :, None], places, self.size + 2)

  def put_back(self, values: tf.Tensor) -> tf.Tensor:
    """Makes a map of listed tiles, `[batch, height, width, channels]`, 0 where there are none."""
    height, width = tf.unstack(self.map_shape)
    rows = tf.zeros_like(self.index[:, :1, None]) + tf.range(height)[:, None]
    return tf.gather(*self._listed(values, rows, tf.range(width)), batch_dims=1)

  def _positions(self, border: int):
    """Returns rows `[batch, tiles, side, 1]` and columns `[batch, tiles, 1, side]` in the map."""
    steps = tf.range(-border, self.size + border)
    rows = (self.index // self.width)[..., None] * self.size + steps
    columns = (self.index % self.width)[..., None] * self.size + steps
    return rows[..., :, None], columns[..., None, :]

  def _look_up(self, maps: tf.Tensor, places: tf.Tensor, side: int) -> tf.Tensor:
    """Returns `[batch * tiles, side, side, channels]`."""
    return tf.reshape(
        tf.gather(_flatten(maps), places, batch_dims=1), [-1, side, side, maps.shape[-1]])

  def _listed(self, values: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor):
    """Returns listed values below a row of zeros, and where positions of the map are there."""
    batch, number = tf.unstack(tf.shape(self.index))
    images = tf.range(batch)[:, None] + tf.zeros_like(self.index)
    # The number of every tile in the list, from 1, in a map of tiles with a border of 0.
    order = tf.scatter_nd(
        tf.stack([images, self.index // self.width + 1, self.index % self.width + 1], -1),
        tf.range(1, number + 1) + tf.zeros_like(self.index),
        tf.stack([batch, self.height + 2, self.width + 2]))
    tile = (rows // self.size + 1) * (self.width + 2) + columns // self.size + 1
    order = tf.gather(_flatten(order[..., None])[..., 0], tile, batch_dims=1)
    inside = rows % self.size * self.size + columns % self.size
    places = tf.where(order > 0, (order - 1) * self.size**2 + inside + 1, 0)
    return tf.pad(values, [[0, 0], [1, 0], [0, 0], [0, 0]])[:, :, 0], places


def _flatten(maps: tf.Tensor) -> tf.Tensor:
  """Makes `[batch, height * width, channels]` of maps."""
  batch, height, width = tf.unstack(tf.shape(maps)[:3])
  return tf.reshape(maps, tf.stack([batch, height * width, maps.shape[-1]]))
