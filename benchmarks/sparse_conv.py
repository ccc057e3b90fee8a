"""Times sparse residual blocks against the best dense one, interleaved in one run.

    .venv/bin/python benchmarks/sparse_conv.py [--image_size 800 1344] [--parts head] [--repeats 9]

Speed-ups are medians of ratios of times, above 1 where sparse is faster; the dense block
has the same group norm, over all positions, and no masks.  Machines are noisy: only
ratios within one run mean something.
"""
import argparse
import functools

import official_ext  # noqa: F401 (chooses Keras 2)
import graphs
import numpy as np
import tensorflow as tf

from official_ext.ops import group_norm
from official_ext.ops import sparse_block
from official_ext.ops import sparse_conv
from official_ext.ops import tiled_conv
from official_ext.utils import command_line
from official_ext.utils import timing

SHAPES = ('blobs', 'random')
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.0)
HEAD_SHARES = (0.8, 0.5, 0.4, 0.3, 0.2, 0.1)
FEW = (0.5, 0.2, 0.1)
HEAD_BLOCKS = 4
LIST_ONLY = 1.0  # `break_even` that never falls back: no share of the work is above it


def make_gate(shape: str, share: float, batch: int, height: int, width: int) -> tf.Tensor:
  """Returns a gate, `[batch, height, width, 1]`, open at a share of the positions.

  Args:
    shape: `random`: anywhere; `blobs`: around four points of each image.
    share: of open positions.
    batch: images, each with a pattern of its own.
    height: of the map.
    width: of the map.
  """
  rng = np.random.default_rng(0)
  gate = np.zeros([batch, height * width], np.float32)
  positions = np.indices([height, width]).reshape(2, -1, 1)
  for image in gate:
    order = rng.uniform(size=height * width)
    if shape == 'blobs':
      centers = rng.uniform(size=[2, 1, 4]) * np.reshape([height, width], [2, 1, 1])
      order = np.min(np.sum((positions - centers)**2, axis=0), axis=1)
    image[np.argsort(order)[:round(share * height * width)]] = 0.5
  return tf.constant(gate.reshape(batch, height, width, 1))


def make_weights(channels: int) -> sparse_block.ResidualWeights:
  """Returns small random kernels, and norms as at the start of a training."""
  kernels = 0.01 * tf.random.stateless_normal([2, 3, 3, channels, channels], [0, 0])
  ones, zeros = tf.ones([channels]), tf.zeros([channels])
  return sparse_block.ResidualWeights(kernels[0], ones, zeros, kernels[1], ones, zeros)


def _dense(x, gate, weights):
  groups = group_norm.num_groups_of(x.shape[-1])
  hidden = tf.nn.conv2d(x, weights.kernel1, 1, 'SAME')
  hidden = tf.nn.relu(group_norm.group_norm(hidden, weights.gamma1, weights.beta1, groups))
  hidden = tf.nn.conv2d(hidden, weights.kernel2, 1, 'SAME')
  return group_norm.group_norm(hidden, weights.gamma2, weights.beta2, groups) * gate


def _sparse(break_even):
  return lambda x, gate, weights: sparse_block.residual_block(
      x, gate, weights, group_norm.num_groups_of(x.shape[-1]), break_even=break_even)


BLOCKS = {'dense': _dense, 'list': _sparse(LIST_ONLY),
          'adaptive': _sparse(None)}


def speed_ups(functions, args, repeats: int):
  """Returns how many times faster than `dense` each function is when called with `args`."""
  seconds = timing.interleaved(
      {name: functools.partial(function, *args) for name, function in functions.items()}, repeats)
  return {name: timing.median_ratio(seconds, 'dense', name) for name in seconds}


def work(gate: tf.Tensor) -> float:
  """Returns the share of the dense block's multiply-adds that a gate needs."""
  needed = float(tf.reduce_sum(sparse_block.residual_block_multiply_adds(gate, 1)))
  return needed / (18 * tf.size(gate).numpy())


def _line(share, gate, faster) -> str:
  """Returns a line of results: `faster` is what `speed_ups` returned."""
  needed = work(gate)
  ideal = f'{1 / needed:6.2f}' if needed else '     -'
  numbers = '  '.join(f'{name} {faster[name]:6.2f}' for name in faster if name != 'dense')
  return f'    {share:4.0%} open, {needed:5.1%} of the work, ideal {ideal}:  {numbers}'


def benchmark_block(batch: int, size, channels: int, shares, repeats: int, training: bool):
  """Prints speed-ups of the block over the share of open positions.

  Args:
    batch: images.
    size: height and width of the map.
    channels: of the map.
    shares: of open positions.
    repeats: interleaved repeats.
    training: with gradients of the map, the gate and the weights.

  Returns:
    `(work, speed-up of the list)` of every shape and share.
  """
  x = tf.random.stateless_normal([batch, *size, channels], [0, 1])
  weights, points = make_weights(channels), []
  wrap = graphs.with_gradients if training else lambda function: function
  example = make_gate('random', 0, batch, *size)
  functions = {name: graphs.traced(wrap(block), x, example, weights)
               for name, block in BLOCKS.items()}
  for shape in SHAPES:
    command_line.say(f'  block {batch}x{size[0]}x{size[1]}x{channels}, {shape}'
                     f'{", forward and gradients" if training else ""}:')
    for share in shares:
      gate = make_gate(shape, share, batch, *size)
      faster = speed_ups(functions, (x, gate, weights), repeats)
      points.append((work(gate), faster['list']))
      command_line.say(_line(share, gate, faster))
  return points


def benchmark_convolution(size, channels: int, repeats: int) -> None:
  """Prints speed-ups of a training step of one convolution."""
  x = tf.random.stateless_normal([1, *size, channels], [0, 1])
  kernel = make_weights(channels).kernel1
  functions = {
      'dense': lambda x, kernel, mask: tf.nn.conv2d(x, kernel, 1, 'SAME'),
      'list': lambda x, kernel, mask: sparse_conv.sparse_conv2d(
          x, kernel, mask, break_even=LIST_ONLY)}

  def step(function):
    return lambda x, kernel, mask: graphs.with_gradients(
        lambda *args: function(*args, mask))(x, kernel)

  functions = {name: graphs.traced(step(function), x, kernel, make_gate('random', 0, 1, *size) > 0)
               for name, function in functions.items()}
  command_line.say(f'  convolution 1x{size[0]}x{size[1]}x{channels}, blobs, forward and gradients:')
  for share in (0.5, 0.2, 0.1):
    mask = make_gate('blobs', share, 1, *size) > 0
    faster = speed_ups(functions, (x, kernel, mask), repeats)
    command_line.say(
        f'    {share:4.0%} open, ideal {1 / share:6.2f}:  list {faster["list"]:6.2f}')


def needed_tiles(gate: tf.Tensor, tile_size: int) -> float:
  """Returns the largest share of active tiles that an image has."""
  first, _ = sparse_block.active_positions(gate)
  tiles = tf.nn.max_pool2d(tf.cast(first, tf.float32), tile_size, tile_size, 'SAME')
  return float(tf.reduce_max(tf.reduce_mean(tiles, axis=[1, 2, 3])))


def benchmark_tiles(size, channels: int, repeats: int) -> None:
  """Prints speed-ups of compiled tiles over the compiled block.

  Tiles have a tenth more room than the gate needs.
  """
  x, weights = tf.random.stateless_normal([1, *size, channels], [0, 1]), make_weights(channels)
  groups = group_norm.num_groups_of(channels)
  command_line.say(f'  block 1x{size[0]}x{size[1]}x{channels}, blobs, compiled, by side of tiles:')
  for share in (0.2, 0.1, 0.05):
    gate = make_gate('blobs', share, 1, *size)
    functions = {'dense': graphs.traced(_dense, x, gate, weights, compiled=True)}
    for side in (2, 4, 8):
      capacity = min(1.0, 1.1 * needed_tiles(gate, side))

      def tiled(x, gate, weights, side=side, capacity=capacity):
        return tiled_conv.tiled_residual_block(
            x, gate, weights, groups, capacity, tile_size=side)

      functions[f'{side}'] = graphs.traced(
          lambda *args, tiled=tiled: tiled(*args), x, gate, weights, compiled=True)
    command_line.say(_line(share, gate, speed_ups(functions, (x, gate, weights), repeats)))


def _dense_head(maps, gates, weights):
  for _ in range(HEAD_BLOCKS):
    maps = [tf.nn.relu(x + _dense(x, gate, weights)) for x, gate in zip(maps, gates)]
  return maps


def _joint_head(share):
  """Returns a head with one list for all levels, as the dynamic head has it."""

  def run(maps, gates, weights):
    for _ in range(HEAD_BLOCKS):
      maps = sparse_block.residual_blocks(
          maps, gates, weights, group_norm.num_groups_of(maps[0].shape[-1]), break_even=share,
          adds_input=True)
    return maps

  return run


def benchmark_head(sizes, channels: int, shares, repeats: int):
  """Prints speed-ups of a head of several blocks on all levels.

  Args:
    sizes: height and width of each map.
    channels: of the maps.
    shares: of open positions.
    repeats: interleaved repeats.

  Returns:
    `(work, speed-up of the list)` of every share.
  """
  weights, points = make_weights(channels), []
  maps = [tf.random.stateless_normal([1, *size, channels], [0, 1]) for size in sizes]
  heads = {'dense': _dense_head, 'list': _joint_head(LIST_ONLY), 'adaptive': _joint_head(None)}
  example = [make_gate('blobs', 0, 1, *size) for size in sizes]
  functions = {name: graphs.traced(head, maps, example, weights) for name, head in heads.items()}
  command_line.say(f'  head of {HEAD_BLOCKS} blocks on {len(sizes)} maps, the first of '
                   f'{sizes[0][0]}x{sizes[0][1]}, {channels} channels, blobs:')
  for share in shares:
    gates = [make_gate('blobs', share, 1, *size) for size in sizes]
    faster = speed_ups(functions, (maps, gates, weights), repeats)
    points.append((work(gates[0]), faster['list']))
    command_line.say(_line(share, gates[0], faster))
  return points


def break_even(points) -> float:
  """Returns the share of work at which the list takes as long as the dense block.

  The time of the list is taken for a constant and a part that grows with the work: a line through
  the points with more than 30 % of the work.
  """
  shares, ups = np.transpose([point for point in points if point[0] > 0.3])
  slope, constant = np.polyfit(shares, 1 / ups, 1)
  return float((1 - constant) / slope)


def _say_break_even(points, sizes, channels: int) -> None:
  default = sparse_conv.default_break_even(
      sum(height * width for height, width in sizes), channels, len(sizes))
  command_line.say(f'  break-even of the list and the dense block: {break_even(points):.0%} of the '
                   f'work; the default falls back to all positions above {default:.0%}')


def _maps(sizes, channels: int, repeats: int) -> None:
  for batch, size in ((1, sizes[0]), (4, sizes[1])):
    points = benchmark_block(batch, size, channels, SHARES, repeats, training=False)
    _say_break_even(points, [size], channels)


def _levels(sizes, channels: int, repeats: int) -> None:
  for size in sizes[1:]:
    benchmark_block(1, size, channels, FEW, repeats, training=False)


def _widths(sizes, channels: int, repeats: int) -> None:
  for width in (channels // 2, channels // 4):
    benchmark_block(1, sizes[0], width, FEW, repeats, training=False)


def _head(sizes, channels: int, repeats: int) -> None:
  points = benchmark_head(sizes, channels, HEAD_SHARES, repeats)
  _say_break_even(points, sizes, channels)


def _training(sizes, channels: int, repeats: int) -> None:
  benchmark_convolution(sizes[1], channels, repeats)
  benchmark_block(1, sizes[1], channels, FEW, repeats, training=True)


def _tiles(sizes, channels: int, repeats: int) -> None:
  benchmark_tiles(sizes[0], channels, repeats)


PARTS = {'maps': _maps, 'levels': _levels, 'widths': _widths, 'head': _head,
         'training': _training, 'tiles': _tiles}


def main() -> None:
  """Runs the chosen benchmarks."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, nargs=2, default=(800, 1344),
                      help='height and width in pixels (800 1344)')
  parser.add_argument('--channels', type=int, default=256, help='of the maps (256)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  parser.add_argument('--threads', type=int, help='of TensorFlow (as many as the machine has)')
  parser.add_argument('--parts', nargs='+', choices=list(PARTS), default=list(PARTS),
                      help='(all)')
  args = parser.parse_args()
  if args.threads:
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  sizes = [tuple(-(-side // 2**level) for side in args.image_size) for level in range(3, 8)]
  command_line.say('Times faster than dense:')
  for part in args.parts:
    PARTS[part](sizes, args.channels, args.repeats)


if __name__ == '__main__':
  command_line.run(main)
