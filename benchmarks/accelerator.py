"""Times the dynamic head's block on a GPU or a TPU: dense, masked, in tiles and in a list.

    .venv/bin/python benchmarks/accelerator.py [--batches 1 16] [--image_size 800 1344]
    .venv/bin/python benchmarks/accelerator.py --write_hlo FOLDER

`dense` is the block without a gate; `mask` multiplies by it, as `inference: mask` does; `tiles` is
`inference: tiles`, with a tenth more room than the gates need; `list` is `inference: skip`, which
XLA cannot compile.  Names that begin with `xla` are compiled.  Figures are milliseconds of `dense`,
and of all others how many times faster they are, medians of interleaved repeats in one run.

How to use it.  On a machine with a GPU and TensorFlow, the first command finds the device by
itself; under TensorFlow for TPUs it takes the first TPU.  Look at the row of the density that
`tools.profile` prints for a trained head (share of open positions), and at the batch size of the
service: where `xla tiles` is above 1, serve a compiled function with `inference: tiles`, elsewhere
`mask`, or `skip` without XLA.  A machine without TensorFlow but with JAX runs the cases that the
second command wrote elsewhere: `python run_hlo.py FOLDER`; both files need nothing else.
"""
import argparse
from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
import json
import pathlib
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import graphs
import numpy as np
import sparse_conv as blocks
import tensorflow as tf

from official_ext.ops import group_norm
from official_ext.ops import sparse_block
from official_ext.ops import tiled_conv
from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import timing

DTYPES = ('float32', 'bfloat16')
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05)
_TILE = 4
_ROOM = 1.1


class Case(NamedTuple):
  """Inputs of all variants.

  Attributes:
    name: of the case, usable as part of a file name.
    inputs: map, gate and weights.
    variants: name -> function of the inputs; `dense` is the first.
  """
  name: str
  inputs: tuple[tf.Tensor, tf.Tensor, sparse_block.ResidualWeights]
  variants: dict[str, Callable[..., Any]]


def _dense(x, gate, weights):
  """The block without a gate, in the dtype of the map."""
  groups = group_norm.num_groups_of(x.shape[-1])
  hidden = tf.nn.conv2d(x, weights.kernel1, 1, 'SAME')
  hidden = tf.nn.relu(group_norm.group_norm(hidden, weights.gamma1, weights.beta1, groups))
  hidden = tf.nn.conv2d(hidden, weights.kernel2, 1, 'SAME')
  return group_norm.group_norm(hidden, weights.gamma2, weights.beta2, groups)


def _mask(x, gate, weights):
  return sparse_block.residual_block(
      x, gate, weights, group_norm.num_groups_of(x.shape[-1]), mode='mask')


def _list(x, gate, weights):
  return sparse_block.residual_block(x, gate, weights, group_norm.num_groups_of(x.shape[-1]))


def _tiles(capacity: float) -> Callable[..., tf.Tensor]:

  def run(x, gate, weights):
    return tiled_conv.tiled_residual_block(
        x, gate, weights, group_norm.num_groups_of(x.shape[-1]), capacity, _TILE).value

  return run


def cases(args: argparse.Namespace) -> Iterator[Case]:
  """Yields the cases: batch sizes, dtypes and shares of open positions of P3."""
  size = tuple(-(-side // 8) for side in args.image_size)
  for batch, dtype, share in itertools.product(args.batches, args.dtypes, args.shares):
    x = tf.cast(tf.random.stateless_normal([batch, *size, args.channels], [0, 1]), dtype)
    weights = blocks.make_weights(args.channels)
    weights = weights._replace(
        kernel1=tf.cast(weights.kernel1, dtype), kernel2=tf.cast(weights.kernel2, dtype))
    gate = blocks.make_gate('blobs', share, batch, *size)
    capacity = min(1.0, _ROOM * blocks.needed_tiles(gate, _TILE))
    variants = {'dense': _dense, 'mask': _mask, 'tiles': _tiles(capacity), 'list': _list}
    yield Case(f'batch{batch}_{dtype}_open{round(100 * share)}', (x, gate, weights), variants)


def _with_gradients(function: Callable[..., tf.Tensor]) -> Callable[..., Any]:
  """Returns a training step: gradients of the map and the kernels."""

  def step(x, gate, weights):
    return graphs.with_gradients(
        lambda x, kernel1, kernel2: tf.cast(function(
            x, gate, weights._replace(kernel1=kernel1, kernel2=kernel2)), tf.float32))(
                x, weights.kernel1, weights.kernel2)

  return step


def functions(case: Case, training: bool, compiled: bool) -> dict[str, Callable[..., Any]]:
  """Returns the variants of a case that can run in a way.

  Args:
    case: the case.
    training: whether they compute gradients.
    compiled: whether XLA compiles them, which leaves out lists.
  """
  wrap = _with_gradients if training else lambda function: function
  return {name: wrap(function) for name, function in case.variants.items()
          if not compiled or name != 'list'}


def _finished(function: Callable[..., Any], inputs: Any) -> None:
  """Calls a function and waits for its result, also on a device that works in the background."""
  tf.nest.map_structure(lambda tensor: tf.reduce_sum(tensor).numpy(), function(*inputs))


def benchmark(case: Case, training: bool, repeats: int) -> None:
  """Prints a line of milliseconds and speed-ups."""
  traced = {}
  for compiled in (False, True):
    traced.update({
        f'{"xla " if compiled else ""}{name}': graphs.traced(function, *case.inputs,
                                                              compiled=compiled)
        for name, function in functions(case, training, compiled).items()})
  seconds = timing.interleaved(
      {name: functools.partial(_finished, function, case.inputs)
       for name, function in traced.items()}, repeats)
  ratios = '  '.join(f'{name} {timing.median_ratio(seconds, "dense", name):.2f}'
                     for name in traced if name != 'dense')
  command_line.say(f'  {case.name}{"_training" if training else ""}: dense '
                   f'{1e3 * np.median(seconds["dense"]):.2f} ms  {ratios}')


def write_hlo(case: Case, training: bool, folder: pathlib.Path) -> None:
  """Writes the compiled variants of a case as HLO, and their inputs.

  Args:
    case: the case.
    training: whether they compute gradients.
    folder: an existing folder.
  """
  name = f'{case.name}{"_training" if training else ""}'
  inputs = tf.nest.flatten(case.inputs)
  np.savez(folder / f'{name}.npz', **{
      f'{number:02d}': np.asarray(tf.cast(value, tf.float32)) for number, value in
      enumerate(inputs)})
  for variant, function in functions(case, training, compiled=True).items():
    compiled = tf.function(function, autograph=False, jit_compile=True)
    module = compiled.experimental_get_compiler_ir(*case.inputs)(
        stage='hlo_serialized', platform_name='GPU')
    (folder / f'{name}.{variant}.hlo').write_bytes(module)
  (folder / f'{name}.json').write_text(json.dumps(
      {'dtypes': [value.dtype.name for value in inputs]}), encoding='utf-8')


def device_name() -> str:
  """Returns the first TPU, else the first GPU, else the CPU, as TensorFlow names devices."""
  for kind in ('TPU', 'GPU', 'CPU'):
    if tf.config.list_logical_devices(kind):
      return tf.config.list_logical_devices(kind)[0].name
  raise command_line.CommandError('TensorFlow finds no device.')


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the benchmark, or writes its cases."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, nargs=2, default=(800, 1344),
                      help='height and width in pixels; the map is P3 (800 1344)')
  parser.add_argument('--channels', type=int, default=256, help='of the map (256)')
  parser.add_argument('--batches', type=int, nargs='+', default=(1, 4, 16), help='(1 4 16)')
  parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=DTYPES, help='both')
  parser.add_argument('--shares', type=float, nargs='+', default=SHARES,
                      help='shares of open positions (1 .5 .2 .1 .05)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  parser.add_argument('--write_hlo', metavar='FOLDER',
                      help='write the cases for run_hlo.py instead')
  args = parser.parse_args(arguments)
  if args.write_hlo:
    with files.atomic_directory(args.write_hlo) as folder:
      for case in command_line.progress(list(cases(args)), 'lowering'):
        for training in (False, True):
          write_hlo(case, training, pathlib.Path(folder))
    return
  device = device_name()
  command_line.say(f'{device}: milliseconds of the dense block, and times faster than that')
  with tf.device(device):
    for case in cases(args):
      for training in (False, True):
        benchmark(case, training, args.repeats)


if __name__ == '__main__':
  command_line.run(main)
