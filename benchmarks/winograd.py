"""Times convolutions as exports have them: by the definition, and with fewer multiplications.

    .venv/bin/python benchmarks/winograd.py [--maps 64x80x128,...] [--batches 1] [--threads 1,2]
    .venv/bin/python benchmarks/winograd.py --kernel 5x5d2 --maps 64x64x256,32x32x512x256
    .venv/bin/python benchmarks/winograd.py --detectors fcos_fpn_resnet50_coco:512 --threads 1

A map is height x width x channels x filters; it has as many filters as channels if they are left
out.  The kernel has a side of 3 or 5 and perhaps a dilation rate, as `5x5d2` of DyFPN's laterals.
Prints the time by the definition, the share of it that the other way takes, the share that the rule
of exports expects, and the largest error of each, against float64, as a share of the largest value;
`*` marks what an export changes.
With `--detectors` it times whole detectors with random weights in TensorFlow and OpenVINO.  Every
number of threads is a process of its own; all are medians of interleaved repeats.
"""
import argparse
import functools
import math
import pathlib
import tempfile
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import tensorflow as tf

from official_ext.modeling.decoders.dyfpn import inception_fpn
from official_ext.ops import winograd_conv
from official_ext.utils import command_line
from official_ext.utils import timing
import export
import laterals

MAPS = ('32x32x64', '64x64x64', '128x160x64', '16x20x128', '32x40x128', '64x80x128', '25x42x256',
        '50x84x256', '100x168x256', '16x16x512')
DEFINITION, FEWER, EXACT = 'definition', 'fewer', 'exact'


def _functions(sizes: tuple[int, ...], kernel_text: str) -> tuple[dict[str, Any], float]:
  """Returns functions of a map, and the share of the time that the rule of exports expects.

  Args:
    sizes: batch, height, width, channels and filters.
    kernel_text: such as `5x5d2`.
  """
  *shape, filters = sizes
  _, height, width, channels = shape
  side, rate = inception_fpn.parse_branch(kernel_text)
  kernel = np.random.default_rng(0).normal(
      size=[side, side, channels, filters], scale=(side**2 * channels)**-0.5).astype(np.float32)
  padding = rate * (side // 2)
  own = winograd_conv.Map(height, width, (padding, padding), winograd_conv.TILES[side], rate)
  weights = tf.constant(winograd_conv.weights(kernel))
  spec = tf.TensorSpec([None, *shape[1:]])
  functions = {name: tf.function(run, autograph=False).get_concrete_function(spec)
               for name, run in {
                   DEFINITION: lambda x: tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=rate),
                   FEWER: lambda x: winograd_conv.multiply(
                       winograd_conv.tiles(x, own), weights, own)}.items()}
  functions[EXACT] = lambda x: tf.nn.conv2d(
      tf.cast(x, tf.float64), kernel.astype(np.float64), 1, 'SAME', dilations=rate)
  direct = math.prod(shape) * side**2 * filters
  return functions, 1 - winograd_conv.saving(shape, own, filters) / direct


def _run(function: Any, x: tf.Tensor) -> np.ndarray:
  """Runs a convolution, and waits for its result."""
  return function(x).numpy()


def measure_maps(arguments: argparse.Namespace, threads: int) -> None:
  """Prints the figures of every map, with the threads that TensorFlow has."""
  for text in arguments.maps.split(','):
    for batch in map(int, arguments.batches.split(',')):
      sizes = [int(size) for size in text.split('x')]
      sizes = (batch, *sizes, *sizes[2:] * (len(sizes) == 3))
      functions, expected = _functions(sizes, arguments.kernel)
      x = tf.random.stateless_normal(sizes[:-1], [0, 1])
      exact = _run(functions.pop(EXACT), x)
      seconds = timing.interleaved(
          {name: functools.partial(_run, run, x) for name, run in functions.items()},
          arguments.repeats)
      error = '  '.join(f'{np.max(np.abs(_run(run, x) - exact)) / np.max(np.abs(exact)):.1e}'
                        for run in functions.values())
      command_line.say(
          f'{text:18}{batch:4}{threads:4}{1e3 * np.median(seconds[DEFINITION]):10.2f} ms'
          f'{timing.median_ratio(seconds, FEWER, DEFINITION):8.2f}{expected:8.2f}'
          f'{" *" if expected < 1 else "  "}   {error}')


def _measure_detectors(arguments: argparse.Namespace, threads: int) -> None:
  for text in arguments.detectors.split(','):
    name, size = text.split(':')
    module = export.make_module(name, int(size), arguments.params_override)
    with tempfile.TemporaryDirectory() as folder:
      runs = {}
      for fewer in (False, True):
        path = pathlib.Path(folder, str(fewer))
        path.mkdir()
        runs.update({(engine, fewer): run for engine, run in laterals.engine_runs(
            module, threads, path, winograd=fewer).items()})
      for batch in map(int, arguments.batches.split(',')):
        images = tf.constant(np.random.default_rng(0).integers(
            0, 256, [batch, int(size), int(size), 3], np.uint8))
        seconds = timing.interleaved({
            key: functools.partial(run, images) for key, run in runs.items()}, arguments.repeats)
        shares = ''.join(
            f'  {engine} {1e3 * np.median(seconds[engine, False]):.1f} ms, '
            f'{timing.median_ratio(seconds, (engine, True), (engine, False)):.2f}'
            for engine in ('tensorflow', 'openvino'))
        command_line.say(f'{text:52}{batch:4}{threads:4}{shares}')


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--maps', default=','.join(MAPS), help=f'({",".join(MAPS)})')
  parser.add_argument('--kernel', default='3x3', help='such as 5x5 or 5x5d2 (3x3)')
  parser.add_argument('--detectors', metavar='EXPERIMENT:SIDE,...', help='time these instead')
  parser.add_argument('--params_override', default='', help='of the experiments')
  parser.add_argument('--batches', default='1', help='(1)')
  parser.add_argument('--threads', default='1,2', help='of TensorFlow and OpenVINO (1,2)')
  parser.add_argument('--repeats', type=int, default=15, help='interleaved repeats (15)')
  parser.add_argument('--in_process', action='store_true', help=argparse.SUPPRESS)
  return parser


def main() -> None:
  """Measures what the command line says."""
  arguments = make_parser().parse_args()
  laterals.in_processes(
      __file__, arguments, _measure_detectors if arguments.detectors else measure_maps)


if __name__ == '__main__':
  command_line.run(main)
