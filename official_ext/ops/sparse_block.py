"""Residual blocks that are computed at the active positions of maps only, image by image.

The mode `skip` keeps a whole block in one list of the active positions of all maps before it puts
the results back into the maps, or computes all positions, as `sparse_conv` does.  The mode `mask`
always computes all positions and returns the same; it is for XLA and TPU, as is `tiled_conv`,
which skips with static shapes.

Values at skipped positions are never used; they may be NaN.
"""
from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import group_norm
from official_ext.ops import pixel_lists
from official_ext.ops import sparse_conv
from official_ext.ops import tile_lists
from official_ext.ops import export_expectation


class ResidualWeights(NamedTuple):
  """The weights of a residual block of two convolutions and two group norms.

  Attributes:
    kernel1: `[3, 3, channels, channels]`.
    gamma1: `[channels]`, scale of the norm after the first convolution.
    beta1: `[channels]`, offset of this norm.
    kernel2: `[3, 3, channels, channels]`.
    gamma2: `[channels]`, scale of the norm after the second convolution.
    beta2: `[channels]`, offset of this norm.
  """
  kernel1: tf.Tensor
  gamma1: tf.Tensor
  beta1: tf.Tensor
  kernel2: tf.Tensor
  gamma2: tf.Tensor
  beta2: tf.Tensor


def active_positions(gate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns where a residual block computes its first and its second convolution.

  Args:
    gate: `[batch, height, width, 1]`, not negative.

  Returns:
    Two boolean masks of the shape of `gate`: the 3x3 neighborhoods of the positions where the
    gate is above 0, and these positions.
  """
  mask = tf.stop_gradient(gate) > 0
  return sparse_conv.dilate(mask), mask


def residual_block_multiply_adds(gate: tf.Tensor, channels: int) -> tf.Tensor:
  """Returns the multiply-adds of `residual_block` for each image when it skips.

  Args:
    gate: `[batch, height, width, 1]`, not negative.
    channels: number of channels of the map.

  Returns:
    float64 `[batch]`, exact.
  """
  positions = sum(
      tf.math.count_nonzero(mask, axis=[1, 2, 3], dtype=tf.int32)
      for mask in active_positions(gate))
  return tf.constant(9 * channels**2, tf.float64) * tf.cast(positions, tf.float64)


def residual_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights, num_groups: int,
                   mode: str = 'skip', break_even: float | None = None,
                   adds_input: bool = False, replaces: bool = False) -> tf.Tensor:
  """Computes the gated branch of a dynamic residual block of one map: see `residual_blocks`."""
  result, = residual_blocks(
      [x], [gate], weights, num_groups, mode, break_even, adds_input, replaces)
  return result


def residual_blocks(maps: Sequence[tf.Tensor], gates: Sequence[tf.Tensor],
                    weights: ResidualWeights, num_groups: int, mode: str = 'skip',
                    break_even: float | None = None, adds_input: bool = False,
                    replaces: bool = False) -> list[tf.Tensor]:
  """Computes the gated branch of a dynamic residual block, with group norms (GN), on every map.

      gate * GN(conv(ReLU(GN(conv(x)))))

  The second convolution and its norm are computed at the positions where the gate is above 0,
  the first ones at the 3x3 neighborhoods of these positions.  Each norm takes its statistics,
  per map, image and group, from the positions of its convolution.

  Gradients are those of the full convolutions with these statistics; the set of active
  positions has no gradient.

  Reference: Lin Song et al., Fine-Grained Dynamic Head for Object Detection,
  https://arxiv.org/abs/2012.03519, section 2.2.3.

  Differs: in the reference's code norms take their statistics from all positions in training,
  and from the active positions at inference.

  Args:
    maps: `[batch, height, width, channels]` each, such as the levels of a pyramid.
    gates: of each map, float32 `[batch, height, width, 1]`, not negative, 0 where nothing is
      computed.
    weights: the weights, which all maps share; kernels of the dtype of the maps.
    num_groups: number of groups of the norms, a divisor of the number of channels.
    mode: `skip` computes active positions, `mask` all of them, for XLA and TPU.
    break_even: share of the blocks' multiply-adds, over all maps and images, above which `skip`
      computes all positions; None: `sparse_conv.default_break_even`.
    adds_input: whether to return ReLU(x + branch), which then is ReLU(x) where the gate is 0.
    replaces: whether the branch is gate * (GN(...) - x), so that the input plus the branch goes
      from the input to the result of the convolutions as the gate opens.

  Returns:
    The shapes and dtype of `maps`; 0 where the gate is 0, if the input is not added.

  Raises:
    ArgumentError: an unknown mode, or `num_groups` does not divide the channels.
  """
  checks.check_one_of('mode', mode, sparse_conv.MODES)
  norm = functools.partial(group_norm.group_norm, num_groups=num_groups)

  def full(norms_of, all_open=False):
    # Gates that are 0 have no gradient in a list, and so none here.
    replaced = [(x if all_open else sparse_conv.where_active(gate > 0, x)) if replaces else None
                for x, gate in zip(maps, gates)]
    branches = [_full_block(x, gate, weights, norms_of(gate), own)
                for x, gate, own in zip(maps, gates, replaced)]
    return [tf.nn.relu(x + branch) if adds_input else branch
            for x, branch in zip(maps, branches)]

  if mode == 'mask':
    return full(lambda gate: [
        functools.partial(norm, mask=mask) for mask in active_positions(gate)])

  def listed_norms(gate):
    masks = active_positions(gate)
    first, second = (
        functools.partial(group_norm.group_norm_at, index=tf.cast(tf.where(mask[..., 0]), tf.int32),
                          num_groups=num_groups) for mask in masks)
    return [first, lambda *args, **kwargs: sparse_conv.where_active(
        masks[1], second(*args, **kwargs))]

  canvas = pixel_lists.Canvas(maps, (3, 3))
  plane = canvas.draw([gate[..., 0] for gate in gates])
  second = tf.stop_gradient(plane) > 0
  first = sparse_conv.dilate(second[..., None])[..., 0] & canvas.inside

  def compute_all():
    # If every gate is open, norms need no list of positions.
    is_open = sparse_conv.count_active(second) == canvas.positions
    return tf.cond(is_open, lambda: full(lambda _: [norm, norm], all_open=True),
                   lambda: full(listed_norms))

  def compute_listed():
    return _listed_blocks(maps, plane, weights, canvas, (first, second), num_groups, adds_input,
                          replaces)

  def compute_any():
    return sparse_conv.compute_cheaper(compute_listed, compute_all, (first, second), canvas, maps,
                                       maps[0].shape[-1], break_even)

  # OpenVINO has no segment sum of no rows.  In eager execution a branch without weights would give
  # them no gradients instead of zeros.
  if not adds_input or tf.executing_eagerly():
    return compute_any()
  results = tf.cond(tf.reduce_any(second), compute_any, lambda: [tf.nn.relu(x) for x in maps])
  for result, x in zip(results, maps):
    result.set_shape(x.shape)
  return results


def _full_block(x: tf.Tensor, gate: tf.Tensor, weights: ResidualWeights,
                norms: Sequence[Callable[..., tf.Tensor]], replaced: tf.Tensor | None
                ) -> tf.Tensor:
  """Computes the block at all positions; each norm knows the positions of its statistics."""
  hidden = tf.nn.conv2d(x, weights.kernel1, 1, 'SAME')
  hidden = tf.nn.relu(norms[0](hidden, gamma=weights.gamma1, beta=weights.beta1))
  hidden = tf.nn.conv2d(hidden, weights.kernel2, 1, 'SAME')
  hidden = norms[1](hidden, gamma=weights.gamma2, beta=weights.beta2)
  return (hidden if replaced is None else hidden - replaced) * tf.cast(gate, x.dtype)


def _listed_blocks(maps: Sequence[tf.Tensor], plane: tf.Tensor, weights: ResidualWeights,
                   canvas: pixel_lists.Canvas, masks: Sequence[tf.Tensor], num_groups: int,
                   adds_input: bool, replaces: bool) -> list[tf.Tensor]:
  """Computes the blocks at the active positions of each convolution.

  Args:
    maps: as in `residual_blocks`.
    plane: the canvas of the gates.
    weights: as in `residual_blocks`.
    canvas: of the maps.
    masks: boolean canvases, the positions of each convolution.
    num_groups: as in `residual_blocks`.
    adds_input: as in `residual_blocks`.
    replaces: as in `residual_blocks`.
  """
  first, second = (canvas.list_pixels(mask) for mask in masks)
  table = canvas.table(maps)
  rows = _cheaper_list(
      maps, masks[0], first,
      lambda tiles: tile_lists.convolve(table, canvas.rows_of_places(), tiles, weights.kernel1),
      lambda: pixel_lists.convolve(table, first.taps, weights.kernel1))
  rows = tf.nn.relu(group_norm.group_norm_rows(
      rows, first.segments, canvas.segments, weights.gamma1, weights.beta1, num_groups))
  hidden = rows
  rows = _cheaper_list(
      maps, masks[1], second, lambda tiles: tile_lists.convolve(
          tf.pad(hidden, [[1, 0], [0, 0]]), canvas.rows_of_listed(first), tiles, weights.kernel2),
      lambda: canvas.convolve_listed(hidden, first, second, weights.kernel2))
  rows = group_norm.group_norm_rows(
      rows, second.segments, canvas.segments, weights.gamma2, weights.beta2, num_groups)
  gates = tf.cast(tf.gather(tf.reshape(plane, [-1]), second.places), table.dtype)[:, None]
  index = second.rows[:, None]
  own = tf.gather_nd(table, index) if adds_input or replaces else None
  rows = gates * (rows - own if replaces else rows)
  if not adds_input:
    return canvas.put_back(rows, second)
  rows = tf.nn.relu(own + rows)
  return canvas.maps(tf.tensor_scatter_nd_update(tf.nn.relu(table), index, rows))


def _cheaper_list(maps: Sequence[tf.Tensor], mask: tf.Tensor, pixels: pixel_lists.Pixels,
                  by_tiles: Callable[[tile_lists.Tiles], tf.Tensor],
                  by_pixels: Callable[[], tf.Tensor]) -> tf.Tensor:
  """Convolves by a list of tiles where an export expects that to be faster.

  Args:
    maps: that are convolved.
    mask: boolean canvas of the listed positions.
    pixels: the listed positions.
    by_tiles: returns `[pixels, filters]` for the tiles that hold the positions.
    by_pixels: returns the same.
  """
  if not export_expectation.saved_share(maps):
    return by_pixels()
  tiles = tile_lists.list_tiles(mask, pixels)
  are_cheaper = tile_lists.are_cheaper(tiles, maps[0].shape[-1])
  return tf.cond(are_cheaper, lambda: by_tiles(tiles), by_pixels)
