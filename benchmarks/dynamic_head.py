"""Times a tower of the dynamic head with a given share of open gates against towers without gates.

    .venv/bin/python benchmarks/dynamic_head.py [--image_size 512 640] [--channels 128]

One tower runs on levels 3 to 7 of one image.  The first channel of every level holds the place of
each position in an order, from 0 to 1, nearest to four points first; it passes through all blocks
unchanged, and every gate is open where it is above what its bias says.  So one traced tower is
timed with every share, and computes its gates from features as any other.  Times are ratios,
medians over interleaved repeats, of the dynamic tower to `fixed`, the same tower with everything
always on, and to `plain`, a tower of as many convolutions with group norm and ReLU.  With
`--detector` all three are FCOS with EfficientNet-Lite0 and two such towers, from the image to the
outputs of the head.
"""
import argparse
from collections.abc import Callable
import functools
import time
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import graphs
import numpy as np
from official.core import task_factory
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.modeling.heads import plain_tower
from official_ext.modeling.heads import dynamic_head
from official_ext.ops import routing
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import timing

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0)
LEVELS = '34567'
CLOCKS = {'wall': time.perf_counter, 'processor': time.process_time}
_STEEPNESS = 50.0  # Gate logits per unit of the order.


def orders(image_size: tuple[int, int]) -> dict[str, tf.Tensor]:
  """Returns the place of every position in the order of opening, `[1, height, width, 1]`.

  Args:
    image_size: height and width in pixels.

  Returns:
    Level -> values above 0 and below 1, the largest nearest to four random points.
  """
  centers = np.random.default_rng(0).uniform(size=[4, 2])
  maps = {}
  for level in LEVELS:
    height, width = (-(-side // 2**int(level)) for side in image_size)
    axes = ((np.arange(side) + 0.5) / side for side in (height, width))
    grid = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
    distance = np.min(np.sum((grid[..., None, :] - centers)**2, axis=-1), axis=-1)
    ranks = np.argsort(np.argsort(-distance, axis=None)).reshape(1, height, width, 1)
    maps[level] = tf.constant((ranks + 0.5) / ranks.size, tf.float32)
  return maps


def let_order_decide(tower: dynamic_head.DynamicTower, slope: float = _STEEPNESS) -> None:
  """Sets weights so that the first channel passes unchanged and alone decides about the gates.

  Args:
    tower: a built tower.
    slope: gate logits per unit of the order.
  """
  first = np.zeros(tower.blocks[0].depth.residual_weights['gamma1'].shape, np.float32)
  first[0] = 1
  for block in tower.blocks:
    norms = [block.depth.residual_weights, *block.scale.weights_of.values()]
    for weights in norms:
      gamma = 'gamma2' if 'gamma2' in weights else 'gamma'
      weights[gamma].assign(1 - first)
    block.scale.neighbor_weight.assign(0.1)
    for gate in block.gates.values():
      kernel = np.zeros(gate.conv.kernel.shape, np.float32)
      kernel[1, 1, 0] = slope
      gate.conv.kernel.assign(kernel)
      gate.conv.bias.assign([0.0])


def open_share(tower: dynamic_head.DynamicTower, share: float) -> None:
  """Sets the share of positions where every gate of a tower is open."""
  # With every gate open, the first position is well above 0, and with none the last well below.
  place = {0.0: 2.0, 1.0: -1.0}.get(share, 1 - share)
  for block in tower.blocks:
    for gate in block.gates.values():
      gate.conv.bias.assign([-_STEEPNESS * place])


class Case(NamedTuple):
  """Three towers, or three detectors with such towers, to be timed.

  Attributes:
    functions: `dynamic`, `fixed` and `plain` -> a function that returns when it is done.
    towers: the dynamic towers, whose shares may be set.
    executed: returns the multiply-adds of the dynamic towers as a share of those of open gates.
  """
  functions: dict[str, Callable[[], Any]]
  towers: list[dynamic_head.DynamicTower]
  executed: Callable[[], float]


def _executed(function: Callable[[], Any]) -> float:
  with routing.RoutingTape() as tape:
    function()
  record = tape.routing()
  return float(record.executed[0] / record.maximum)


def tower_case(args: argparse.Namespace) -> Case:
  """Returns towers of one head, on random features."""
  maps = orders(args.image_size)
  features = {}
  for level, order in maps.items():
    noise = tf.random.stateless_uniform([*order.shape[:-1], args.channels - 1], [0, int(level)])
    features[level] = tf.concat([order, noise], axis=-1)
  kinds: dict[str, tf_keras.layers.Layer] = {
      'dynamic': dynamic_head.DynamicTower(args.channels, args.blocks),
      'fixed': dynamic_head.DynamicTower(
          args.channels, args.blocks, scale_step='fixed', depth_step='fixed'),
      'plain': plain_tower.PlainTower(args.channels, 2 * args.blocks)}
  functions = {}
  for name, tower in kinds.items():
    tower(features)
    functions[name] = functools.partial(graphs.traced(tower, features), features)
  let_order_decide(kinds['dynamic'])
  return Case(functions, [kinds['dynamic']], lambda: _executed(lambda: kinds['dynamic'](features)))


def detector_case(args: argparse.Namespace) -> Case:
  """Returns FCOS with each tower, from a random image to the outputs of the head."""
  maps = orders(args.image_size)
  image = tf.random.stateless_uniform([1, *args.image_size, 3], [0, 0])
  fixed = {'scale_step': 'fixed', 'depth_step': 'fixed'}
  blocks = {'num_blocks': args.blocks}
  options: dict[str, dict[str, Any]] = {
      'dynamic': {'type': 'dynamic', 'dynamic': blocks},
      'fixed': {'type': 'dynamic', 'dynamic': {**blocks, **fixed}},
      'plain': {'type': 'plain', 'plain': {'num_convs': 2 * args.blocks}}}
  models = {name: detector(args, tower) for name, tower in options.items()}
  runs = {name: functools.partial(detect, model, maps) for name, model in models.items()}
  towers = [module for module in models['dynamic'].submodules
            if isinstance(module, dynamic_head.DynamicTower)]
  for tower in towers:
    let_order_decide(tower)
  return Case({name: functools.partial(graphs.traced(run, image), image)
               for name, run in runs.items()}, towers,
              lambda: _executed(lambda: runs['dynamic'](image)))


def detect(model: tf_keras.Model, maps: dict[str, tf.Tensor], image: tf.Tensor) -> Any:
  """Returns the outputs of a detector's head, whose gates follow an order.

  Args:
    model: what `detector` returned.
    maps: what `orders` returned.
    image: `[1, height, width, 3]`.
  """
  neck = model.decoder(model.backbone(image, training=False), training=False)
  # The order takes the place of the first channel.  Sizes that are unknown stay so.
  features = {level: tf.concat(
      [tf.reshape(maps[level], tf.concat([tf.shape(value)[:3], [1]], axis=0)), value[..., 1:]],
      axis=-1) for level, value in neck.items()}
  return model.head(features, training=False)


def detector(args: argparse.Namespace, tower: dict[str, Any]) -> tf_keras.Model:
  """Returns FCOS of the sample's experiment with given towers."""
  params = experiment.resolve('fcos_fpn_efficientnetlite0_sample', lock=False)
  params.override({'task': {'init_checkpoint': None, 'model': {
      'input_size': [*args.image_size, 3],
      'head': {'num_filters': args.channels, 'tower': tower}}}})
  params.task.model.decoder.get().num_filters = args.channels
  return task_factory.get_task(params.task).build_model()


def benchmark(case: Case, args: argparse.Namespace) -> None:
  """Prints one line of ratios for every share of open gates."""
  for share in args.shares:
    for tower in case.towers:
      open_share(tower, share)
    seconds = timing.interleaved(case.functions, args.repeats, clock=CLOCKS[args.clock])
    of_fixed, of_plain = (timing.median_ratio(seconds, 'dynamic', name)
                          for name in ('fixed', 'plain'))
    times = ', '.join(f'{name} {1e3 * min(values):.1f} ms' for name, values in seconds.items())
    command_line.say(f'  {share:4.0%} open, {case.executed():4.0%} of the multiply-adds: '
                     f'{of_fixed:.2f} of fixed, {of_plain:.2f} of plain; shortest: {times}')


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, nargs=2, default=(512, 640),
                      help='height and width in pixels (512 640)')
  parser.add_argument('--channels', type=int, default=128, help='of the features (128)')
  parser.add_argument('--blocks', type=int, default=2, help='of the towers (2)')
  parser.add_argument('--shares', type=float, nargs='+', default=SHARES, help='of open gates')
  parser.add_argument('--detector', action='store_true', help='time detectors, not single towers')
  parser.add_argument('--threads', type=int, default=1, help='of TensorFlow (1)')
  parser.add_argument('--repeats', type=int, default=15, help='interleaved repeats (15)')
  parser.add_argument('--clock', choices=list(CLOCKS), default='wall',
                      help='time that passes (wall), or the time of the processor on this process '
                      'alone, for a machine that runs others too')
  return parser


def main() -> None:
  """Prints ratios for every share of open gates."""
  args = make_parser().parse_args()
  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(args.threads)
  command_line.say(f'{"FCOS" if args.detector else "A tower"}, {args.blocks} blocks, '
                   f'{args.channels} channels, {args.image_size[0]}x{args.image_size[1]} pixels, '
                   f'{args.threads} threads:')
  benchmark(detector_case(args) if args.detector else tower_case(args), args)


if __name__ == '__main__':
  command_line.run(main)
