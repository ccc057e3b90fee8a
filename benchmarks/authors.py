"""Times modules of ours, as exports have them, beside those that the papers' authors released.

    .venv/bin/python benchmarks/authors.py --torch_python=PYTHON --dyfpn=FILE --dynamic_head=FILE

PYTHON is the interpreter of an environment with PyTorch (`pip install torch numpy`).  The first
FILE is `mmdet/models/necks/DyFPN_B_CNNGate.py` of https://github.com/Mingjian-Zhu/DyFPN, the neck
with block B on C2 to C5 of ResNet-50; the second `cvpods/layers/dynamic_conv.py` of
https://github.com/StevenGrove/DynamicHead, of which one block with 256 channels runs on P3 to P7.
mmdetection and cvpods are not needed.  Features and weights are random, of one image, because the
authors' neck takes no more.  Every gate of DyFPN is open or shut; gates of our dynamic head open at
a share of the positions, in four round regions, where the authors' compute all on a CPU.

Every engine runs in a process of its own; they take turns.  Figures are medians in milliseconds,
and the medians of the ratios to PyTorch's time.
"""
import argparse
from collections.abc import Sequence
import pathlib
import sys
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import peers

from official_ext.utils import command_line

_FOLDER = pathlib.Path(__file__).parent
ENGINES = ('TensorFlow', 'OpenVINO')
SHARES = {'dyfpn': (1.0, 0.0), 'dynamic_head': (1.0, 0.2, 0.1)}
_CHANNELS = 256
_RESNET_CHANNELS = {'2': 256, '3': 512, '4': 1024, '5': 2048}
_GATE_BIAS = 30.0


def _dyfpn(image_size: int, share: float) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the neck of DyFPN, every gate open (1) or shut (0), and random features."""
  from official_ext.modeling.decoders import dyfpn
  features = _features(image_size, _RESNET_CHANNELS)
  neck = dyfpn.DyFPN(input_specs={level: value.shape for level, value in features.items()},
                     min_level=2, max_level=6, num_filters=_CHANNELS, inference='skip')
  neck(features)
  for variable in neck.gate.trainable_variables:
    if '/output_' in variable.name and 'bias' in variable.name:
      variable.assign([0.0, _GATE_BIAS * (2 * share - 1)])
  return neck, features


def _dynamic_head(image_size: int, share: float) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns a tower of one block with a share of positions open, and features with their order."""
  import dynamic_head
  features = _features(image_size, dict.fromkeys(dynamic_head.LEVELS, _CHANNELS))
  for level, order in dynamic_head.orders((image_size, image_size)).items():
    features[level][..., :1] = order
  tower = dynamic_head.dynamic_head.DynamicTower(_CHANNELS, 1)
  tower(features)
  dynamic_head.let_order_decide(tower)
  dynamic_head.open_share(tower, share)
  return tower, features


def _features(image_size: int, channels: dict[str, int]) -> dict[str, np.ndarray]:
  """Returns random features of one image, level -> float32 `[1, side, side, channels]`."""
  random = np.random.default_rng(0)
  return {level: random.normal(size=[1, *[image_size >> int(level)] * 2, depth]).astype(np.float32)
          for level, depth in channels.items()}


def build(module: str, image_size: int, share: float, fourier: bool = False
          ) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns a module as exports have it, and its features.

  Args:
    module: a key of `SHARES`.
    image_size: side in pixels.
    share: of open gates.
    fourier: whether it is as exports with `--laterals=fourier` have it.

  Returns:
    A concrete function of features by name, and these.
  """
  import tensorflow as tf

  from official_ext.ops import export_expectation
  from official_ext.serving import signatures
  from official_ext.serving.compiling import frozen
  layer, features = {'dyfpn': _dyfpn, 'dynamic_head': _dynamic_head}[module](image_size, share)

  def run(*values):
    return {f'output_{level}': value for level, value in _levels(
        layer(dict(zip(features, values)), training=False)).items()}

  specs = [tf.TensorSpec([None, *value.shape[1:]], value.dtype, f'feature_{level}')
           for level, value in features.items()]
  with export_expectation.expected():
    traced = signatures.with_names(run, specs)
  return (frozen.freeze(traced, fourier, largest_stay=not fourier)[0],
          {spec.name: value for spec, value in zip(specs, features.values())})


def _levels(outputs: Any) -> dict[str, Any]:
  """Returns the features of a layer, of which a tower's are beside its record."""
  return getattr(outputs, 'outputs', outputs)


def work(args: argparse.Namespace) -> None:
  """Runs the worker of a module of ours, as `torch_peers.py` describes it."""
  import tensorflow as tf
  tf.config.threading.set_intra_op_parallelism_threads(args.threads[0])
  tf.config.threading.set_inter_op_parallelism_threads(1)
  function, features = build(args.worker, args.image_sizes[0], args.share, args.fourier)
  if args.engine == 'OpenVINO':
    import graphs
    compiled = graphs.in_openvino(function, args.threads[0]).compile(1)

    def run():
      compiled(features, share_outputs=True)
  else:
    tensors = {name: tf.constant(value) for name, value in features.items()}

    def run():
      tf.nest.map_structure(lambda value: value.numpy(), function(**tensors))

  peers.serve(run)


def _commands(module: str, share: float, size: int, threads: int, args: argparse.Namespace
              ) -> dict[str, list[str]]:
  """Returns the command of each worker."""
  common = [f'--image_size={size}', f'--threads={threads}', f'--share={share}']
  own = [sys.executable, __file__, f'--worker={module}', f'--image_sizes={size}', *common[1:],
         *(['--fourier'] if args.fourier else [])]
  return {
      'PyTorch': [args.torch_python, str(_FOLDER / 'torch_authors.py'), f'--module={module}',
                  f'--source={getattr(args, module)}', *common],
      **{engine: [*own, f'--engine={engine}'] for engine in ENGINES}}


def benchmark(args: argparse.Namespace) -> None:
  """Prints one line for every module, share, size and number of threads."""
  for module, shares in SHARES.items():
    if getattr(args, module) is None:
      continue
    for size, threads, share in ((size, threads, share) for size in args.image_sizes
                                 for threads in args.threads for share in shares):
      seconds = peers.measure(_commands(module, share, size, threads, args), args.repeats)
      times = ', '.join(
          f'{name} {1e3 * np.median(own):.1f} ms'
          + ('' if name == 'PyTorch' else f' ({np.median(own / seconds["PyTorch"]):.2f})')
          for name, own in seconds.items())
      command_line.say(f'{module}, {share:.0%} open, {size} pixels, {threads} threads: {times}')


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the benchmark, or one of its workers."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--torch_python', metavar='PYTHON', default=sys.executable,
                      help='interpreter with PyTorch (this one)')
  parser.add_argument('--dyfpn', metavar='FILE', help="the authors' DyFPN (not timed)")
  parser.add_argument('--dynamic_head', metavar='FILE',
                      help="the authors' dynamic head (not timed)")
  parser.add_argument('--image_sizes', type=int, nargs='+', default=[256, 512],
                      help='sides in pixels (256 512), multiples of 128')
  parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='(1 2)')
  parser.add_argument('--repeats', type=int, default=9, help='rounds (9)')
  parser.add_argument('--fourier', action='store_true',
                      help='ours as exports with --laterals=fourier have it')
  for option, kind in (('--worker', str), ('--engine', str), ('--share', float)):
    parser.add_argument(option, type=kind, help=argparse.SUPPRESS)
  args = parser.parse_args(arguments)
  if args.worker:
    work(args)
    return
  if not (args.dyfpn or args.dynamic_head):
    parser.error('give --dyfpn=FILE, --dynamic_head=FILE or both: the modules to time.')
  benchmark(args)


if __name__ == '__main__':
  command_line.run(main)
