"""Times exported detectors beside the same networks in PyTorch and in OpenVINO.

    .venv/bin/python benchmarks/peers.py --torch_python=PYTHON [--image_sizes 256 512 800]

PYTHON is the interpreter of an environment with PyTorch (`pip install torch`), which need not be
this one.  Every network runs in a process of its own; the processes take turns, so that all see the
same load of the machine.  Detectors end before suppression: exports decode boxes, PyTorch's do not.
`DyFPN, shut` and `open` have every gate shut or open at every image.  The dynamic head has two
blocks, whose gates open at a share of the positions of the image; PyTorch computes all of them, as
the authors' own code does on a CPU.

Figures are medians in milliseconds, the time as a multiple of PyTorch's in eager mode, and the
share of the machine's limit: multiply-adds per second over those of a matrix product in the same
run.  All networks get images of the padded size, a multiple of 128.
"""
import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import multiprocessing
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np

from official_ext.utils import command_line

_FOLDER = pathlib.Path(__file__).parent
_PRODUCT = 2048**3
_STRIDE = 128
_GATE_BIAS = 30.0
_BLOCKS = 2


class Network(NamedTuple):
  """An export and its peer.

  Attributes:
    experiment: name of the experiment.
    peer: `--network` of `torch_peers.py`.
    gate_bias: added to the last bias of DyFPN's gates for "open"; None: it has none.
    share: of the positions at which gates of the dynamic head open; None: it has none.
  """
  experiment: str
  peer: str
  gate_bias: float | None = None
  share: float | None = None

  def overrides(self, image_size: int) -> str:
    """Returns `--params_override`."""
    blocks = {} if self.share is None else {'task.model.head.tower.dynamic.num_blocks': _BLOCKS}
    fields = {'task.model.input_size': f'[{image_size},{image_size},3]',
              'task.model.detection_generator.apply_nms': 'false', **blocks}
    return ','.join(f'{name}={value}' for name, value in fields.items())


NETWORKS = {
    'RetinaNet, FPN': Network('retinanet_fpn_resnet50_coco', 'retinanet_fpn'),
    'RetinaNet, inception FPN': Network(
        'retinanet_inception_fpn_resnet50_coco', 'retinanet_inception_fpn'),
    'RetinaNet, DyFPN, open': Network(
        'retinanet_dyfpn_resnet50_coco', 'retinanet_inception_fpn', _GATE_BIAS),
    'RetinaNet, DyFPN, shut': Network(
        'retinanet_dyfpn_resnet50_coco', 'retinanet_fpn', -_GATE_BIAS),
    'FCOS, FPN': Network('fcos_fpn_resnet50_coco', 'fcos_fpn'),
    **{f'FCOS, dynamic head, {share:.0%} open': Network(
        'fcos_dynamichead_resnet50_coco', 'fcos_dynamichead', share=share)
       for share in (1.0, 0.2, 0.1)},
}


def export(network: Network, image_size: int, folder: pathlib.Path) -> None:
  """Writes a SavedModel with random weights to `folder/saved_model`, and its conversion beside it.

  Args:
    network: what to export.
    image_size: side in pixels.
    folder: an existing folder.
  """
  from official.core import task_factory
  import tensorflow as tf

  from official_ext import registry_imports
  from official_ext.serving import convert
  from official_ext.serving import export_saved_model
  from official_ext.utils import experiment
  overrides = network.overrides(image_size)
  params = experiment.resolve(network.experiment, params_override=overrides, lock=False)
  model = task_factory.get_task(params.task).build_model()
  _set_gates(model, network, image_size)
  checkpoint = tf.train.Checkpoint(model=model).write(str(folder / 'ckpt'))
  export_saved_model.main([
      f'--experiment={network.experiment}', f'--params_override={overrides}',
      f'--checkpoint_path={checkpoint}', f'--export_dir={folder / "saved_model"}'])
  convert.main(['--to=openvino', f'--saved_model={folder / "saved_model"}',
                f'--output_dir={folder / "openvino"}'])


def _set_gates(model: Any, network: Network, image_size: int) -> None:
  """Gives the gates of a model the biases that a network asks for."""
  from official.vision.ops import preprocess_ops
  import tensorflow as tf

  import dynamic_engines
  if network.gate_bias is not None:
    for variable in model.decoder.gate.trainable_variables:
      if '/output_' in variable.name and 'bias' in variable.name:
        variable.assign([0.0, network.gate_bias])
  if network.share is not None:
    pixels = preprocess_ops.normalize_image(
        tf.cast(_images(image_size, 1), tf.float32), offset=preprocess_ops.MEAN_RGB,
        scale=preprocess_ops.STDDEV_RGB)
    features = model.decoder(model.backbone(pixels, training=False), training=False)
    for module in model.submodules:
      if isinstance(module, dynamic_engines.dynamic_head_lib.DynamicTower):
        dynamic_engines.open_scattered(module, features, network.share)


def _prepare(name: str, size: int, batch: int, folder: pathlib.Path) -> float:
  """Exports a network, and returns what an image costs in 10^9 multiply-adds."""
  export(NETWORKS[name], size, folder)
  return _gmac(folder / 'saved_model', _images(size, batch))


def _gmac(saved_model: pathlib.Path, images: np.ndarray) -> float:
  """Returns what an image costs by the export, in 10^9 multiply-adds."""
  import tensorflow as tf
  signature = tf.saved_model.load(str(saved_model)).signatures['serving_default']
  return float(np.mean(signature(inputs=tf.constant(images))['multiply_adds'])) / 1e9


def _images(size: int, count: int) -> np.ndarray:
  """Returns images that are always the same, uint8 `[count, size, size, 3]`."""
  return np.random.default_rng(0).integers(0, 256, [count, size, size, 3], np.uint8)


def work(folder: pathlib.Path, engine: str, args: argparse.Namespace) -> None:
  """Runs the worker of an export, as `torch_peers.py` describes it."""
  images = _images(args.image_sizes[0], args.batch)
  if engine == 'openvino':
    from official_ext.serving.engines import openvino
    run = openvino.Model(folder / 'openvino', args.threads[0])
  else:
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(args.threads[0])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder / 'saved_model'))
    signature = loaded.signatures['serving_default']
    name, = signature.structured_input_signature[1]

    def run(images):
      return {name: value.numpy() for name, value in signature(**{name: images}).items()}

    images = tf.constant(images)
  serve(lambda: run(images))


def serve(run: Callable[[], Any]) -> None:
  """Says `ready`, calls a function for every line on standard input, and prints the seconds."""
  for _ in range(3):
    run()
  print('ready', flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, flush=True)


@contextlib.contextmanager
def _workers(commands: dict[str, list[str]]) -> Iterator[dict[str, subprocess.Popen]]:
  """Starts workers one after the other, waits for each to be ready, and ends them."""
  started: dict[str, subprocess.Popen] = {}
  try:
    for name, command in commands.items():
      process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                 stderr=subprocess.DEVNULL)
      started[name] = process
      while (line := _answer(process)) != 'ready':
        if not line:
          raise command_line.CommandError(f'{" ".join(command)} ended before it was ready.')
    yield started
  finally:
    for process in started.values():
      process.kill()


def _answer(process: Any) -> str:
  return process.stdout.readline().strip()


def _turn(process: Any) -> float:
  """Returns the seconds of one run of a worker."""
  process.stdin.write('\n')
  process.stdin.flush()
  return float(_answer(process))


def measure(commands: dict[str, list[str]], repeats: int) -> dict[str, np.ndarray]:
  """Returns the seconds of every worker in `repeats` rounds."""
  with _workers(commands) as workers:
    rounds = [{name: _turn(process) for name, process in workers.items()}
              for _ in command_line.progress(range(repeats), 'rounds')]
  return {name: np.array([times[name] for times in rounds]) for name in commands}


def _commands(network: Network, folder: pathlib.Path, size: int, threads: int,
              args: argparse.Namespace) -> dict[str, list[str]]:
  """Returns the command of each worker."""
  common = [f'--batch={args.batch}', f'--threads={threads}']
  torch = [args.torch_python, str(_FOLDER / 'torch_peers.py'), f'--image_size={size}', *common]
  own = [sys.executable, __file__, f'--worker={folder}', f'--image_sizes={size}', *common]
  return {
      'TensorFlow': [*own, '--engine=tensorflow'], 'OpenVINO': [*own, '--engine=openvino'],
      **{f'PyTorch {mode}': [*torch, f'--network={network.peer}', f'--mode={mode}']
         for mode in args.modes},
      'product': [*torch, '--network=product']}


def _say(name: str, seconds: dict[str, np.ndarray], gmac: float, batch: int) -> None:
  """Prints the lines of one network."""
  limit = _PRODUCT / np.median(seconds['product'])
  for engine, times in seconds.items():
    if engine != 'product':
      ratio = np.median(times / seconds['PyTorch eager'])
      share = batch * 1e9 * gmac / np.median(times) / limit
      command_line.say(f'  {name:31}{engine:18}{1e3 * np.median(times):9.1f} ms  '
                       f'{ratio:5.2f} of PyTorch  {share:5.0%} of the limit')


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the benchmark, or one of its workers."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--torch_python', metavar='PYTHON', default=sys.executable,
                      help='interpreter with PyTorch (this one)')
  parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS),
                      metavar='NETWORK',
                      help=f'any of: {"; ".join(NETWORKS)}'.replace('%', '%%'))
  parser.add_argument('--image_sizes', type=int, nargs='+', default=[256, 512, 800],
                      help='sides in pixels (256 512 800), which are padded')
  parser.add_argument('--batch', type=int, default=1, help='images (1)')
  parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='(1 2)')
  parser.add_argument('--modes', nargs='+', choices=('eager', 'compiled'),
                      default=['eager', 'compiled'], help='of PyTorch; eager is always one')
  parser.add_argument('--repeats', type=int, default=9, help='rounds (9)')
  parser.add_argument('--worker', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--engine', help=argparse.SUPPRESS)
  args = parser.parse_args(arguments)
  if args.worker:
    work(args.worker, args.engine, args)
    return
  args.modes = ['eager', *(mode for mode in args.modes if mode != 'eager')]
  for size in (-(-side // _STRIDE) * _STRIDE for side in args.image_sizes):
    for name in args.networks:
      with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        # The memory of an export is free again once its process has ended.
        with multiprocessing.get_context('spawn').Pool(1) as pool:
          gmac = pool.apply(_prepare, (name, size, args.batch, folder))
        for threads in args.threads:
          seconds = measure(_commands(NETWORKS[name], folder, size, threads, args), args.repeats)
          command_line.say(f'{size} pixels, batch {args.batch}, threads {threads}:')
          _say(name, seconds, gmac, args.batch)


if __name__ == '__main__':
  command_line.run(main)
