"""Times DyFPN's laterals as exports have them: as convolutions, and in the Fourier domain.

    .venv/bin/python benchmarks/laterals.py [--image_sizes 256,512] [--batches 1,8] [--threads 1,2]
    .venv/bin/python benchmarks/laterals.py --detectors --image_sizes 512

Prints how many times faster than convolutions the tiles of several sizes are; `*` marks the tiling
that an export with `--laterals=fourier` has, `none` that it keeps the convolutions.  With
`--detectors` it times whole detectors with random weights, as shares of the folded ones.  Every
number of threads is a process of its own; all are medians of interleaved repeats.
"""
import argparse
from collections.abc import Callable
import functools
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import tensorflow as tf

from official_ext.ops import fourier_conv
from official_ext.ops import halved_conv
from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_fourier
from official_ext.serving import signatures
from official_ext.serving.engines import catalog
from official_ext.utils import command_line
from official_ext.utils import timing
import export

# Channels of levels 3 to 5, and filters.
BACKBONES = {'lite0': ((40, 112, 320), 64), 'resnet50': ((512, 1024, 2048), 256)}
DETECTORS = ('retinanet_inception_fpn_efficientnetlite0_sample',
             'retinanet_dyfpn_efficientnetlite0_sample')
# An export folds the seven branches into three 5x5 convolutions: their dilation rates, the number
# of their weights for a pair of channels, and how far they reach.
_RATES, _TAPS, _REACH = (1, 2, 3), 75, 6
_TILES = (24, 28, 32)
# Above this the weights of a lateral do not fit into the graph of an export.
_MANY_BYTES = 9e8


def _concrete(function: Callable[[tf.Tensor], tf.Tensor], shape: list[int | None]) -> Any:
  return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape))


def _fourier(weights: tf.Tensor, tiling: fourier_conv.Tiling, shape: list[int | None]) -> Any:
  return _concrete(lambda x: fourier_conv.convolve(x, weights, tiling), shape)


def _laterals(side: int, channels: int, filters: int, batch: int) -> dict[str, Any]:
  """Returns functions of maps: `folded`, and one for each size of tiles."""
  random = np.random.default_rng(0)
  kernels = [random.normal(size=[5, 5, channels, filters], scale=1 / channels).astype(np.float32)
             for _ in _RATES]
  whole = np.zeros([2 * _REACH + 1, 2 * _REACH + 1, channels, filters], np.float32)
  for rate, kernel in zip(_RATES, kernels):
    places = slice(_REACH - 2 * rate, _REACH + 2 * rate + 1, rate)
    whole[places, places] += kernel
  shape = [None, side, side, channels]
  is_large = halved_conv.is_worth_it(shape, [5, 5], 4)

  def convolve(x: tf.Tensor, kernel: np.ndarray, rate: int) -> tf.Tensor:
    return halved_conv.convolve(x, kernel, (rate, rate)) if is_large else (
        tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=rate))

  functions = {'folded': _concrete(lambda x: tf.add_n([
      convolve(x, kernel, rate) for rate, kernel in zip(_RATES, kernels)]), shape)}
  found = graph_fourier.best_tiling([batch, side, side, channels], _TAPS, (_REACH, _REACH), filters)
  best = found[0] if found else None
  tilings = {str(tile): fourier_conv.Tiling(*[fourier_conv.Axis(side, _REACH, tile)] * 2)
             for tile in _TILES}
  if best and best not in tilings.values():
    tilings[f'{best.rows.tile}x{best.columns.tile}'] = best
  for name, tiling in tilings.items():
    if 4 * tiling.products * channels * filters < _MANY_BYTES:
      weights = tf.constant(fourier_conv.weights(whole, tiling))
      functions[f'{name}{"*" if tiling == best else ""}'] = _fourier(weights, tiling, shape)
  return functions


def _run(function: Any, maps: tf.Tensor) -> None:
  """Runs a lateral, and waits for its result."""
  function(maps).numpy()


def _measure_laterals(arguments: argparse.Namespace, threads: int) -> None:
  for backbone in arguments.backbones.split(','):
    depths, filters = BACKBONES[backbone]
    for size in map(int, arguments.image_sizes.split(',')):
      for level, channels in zip((3, 4, 5), depths):
        for batch in map(int, arguments.batches.split(',')):
          side = -(-size // 2**level)
          functions = _laterals(side, channels, filters, batch)
          if len(functions) == 1:
            continue
          maps = tf.random.stateless_normal([batch, side, side, channels], [0, level])
          seconds = timing.interleaved({
              name: functools.partial(_run, run, maps) for name, run in functions.items()},
              arguments.repeats)
          ratios = ''.join(f'{name:>8} {timing.median_ratio(seconds, "folded", name):5.2f}'
                           for name in functions if name != 'folded')
          command_line.say(
              f'{backbone:9}{size:5} C{level}{batch:6}{threads:8}'
              f'{1e3 * np.median(seconds["folded"]):10.1f} ms{ratios}'
              f'{"" if "*" in ratios else "  none"}')


def engine_runs(module: Any, threads: int, folder: pathlib.Path, **options: bool
                ) -> dict[str, Callable[[tf.Tensor], Any]]:
  """Returns a detector as functions of images in TensorFlow and in OpenVINO.

  Args:
    module: what is exported.
    threads: of OpenVINO.
    folder: an existing one, for files.
    **options: of `frozen.freeze`.
  """
  network = signatures.network_function(module, 'image_tensor')
  function, _ = frozen.freeze(network, **options)
  tf.saved_model.save(
      tf.Module(), str(folder / 'saved'), signatures=signatures.signatures(function))
  loaded = tf.saved_model.load(str(folder / 'saved'))
  engine = catalog.engine('openvino')
  (folder / 'converted').mkdir()
  engine.convert(str(folder / 'saved'), signatures.widest(loaded.signatures),
                 folder / 'converted', None)
  model = engine.Model(folder / 'converted', num_threads=threads)
  return {'tensorflow': lambda images: tf.nest.map_structure(
      lambda value: value.numpy(), loaded.signatures['serving_default'](inputs=images)),
          'openvino': lambda images: model(images.numpy())}


def _measure_detectors(arguments: argparse.Namespace, threads: int) -> None:
  for name in DETECTORS:
    for size in map(int, arguments.image_sizes.split(',')):
      module = export.make_module(name, size)
      with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for fourier in (False, True):
          path = pathlib.Path(folder, str(fourier))
          path.mkdir()
          runs.update({(engine, fourier): run for engine, run in engine_runs(
              module, threads, path, fourier=fourier).items()})
        for batch in map(int, arguments.batches.split(',')):
          images = tf.constant(np.random.default_rng(0).integers(
              0, 256, [batch, size, size, 3], np.uint8))
          seconds = timing.interleaved({
              key: functools.partial(run, images) for key, run in runs.items()}, arguments.repeats)
          shares = ''.join(
              f'  {engine} {1e3 * np.median(seconds[engine, False]):.1f} ms, '
              f'{timing.median_ratio(seconds, (engine, True), (engine, False)):.2f}'
              for engine in ('tensorflow', 'openvino'))
          command_line.say(f'{name:52}{size:5}{batch:6}{threads:8}{shares}')


def in_processes(script: str, arguments: argparse.Namespace,
                 measure: Callable[[argparse.Namespace, int], None]) -> None:
  """Measures in a process of its own for each number of threads.

  Args:
    script: path of the benchmark, which comes here again in each process.
    arguments: its `threads`, separated by commas, and `in_process`.
    measure: gets the arguments and the number of threads.
  """
  if not arguments.in_process:
    for threads in arguments.threads.split(','):
      subprocess.run([sys.executable, script, *sys.argv[1:], f'--threads={threads}',
                      '--in_process'], check=True)
    return
  threads = int(arguments.threads)
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  measure(arguments, threads)


def main() -> None:
  """Measures what the command line says."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--backbones', default=','.join(BACKBONES), help='(lite0,resnet50)')
  parser.add_argument('--image_sizes', default='256,512', help='sides in pixels (256,512)')
  parser.add_argument('--batches', default='1,8', help='(1,8)')
  parser.add_argument('--threads', default='1,2', help='of TensorFlow and OpenVINO (1,2)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  parser.add_argument('--detectors', action='store_true', help='time whole detectors')
  parser.add_argument('--in_process', action='store_true', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  in_processes(__file__, arguments,
               _measure_detectors if arguments.detectors else _measure_laterals)


if __name__ == '__main__':
  command_line.run(main)
