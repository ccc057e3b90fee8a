"""Times FCOS with a dynamic head beside plain FCOS in TensorFlow and in OpenVINO.

    .venv/bin/python benchmarks/dynamic_engines.py [--image_size 512 640] [--channels 128]

The detectors are those of `benchmarks/dynamic_head.py --detector`, from one image to the outputs of
the head, as exports have them: constant weights, folded norms, and a threshold of gates as input.
A gate rises with the place of its position in the order of opening, so that thresholds open the
wanted shares in one export.  Times are ratios of medians over interleaved repeats.
"""
import argparse
from collections.abc import Callable
import functools
import pathlib
import tempfile
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import dynamic_head
import numpy as np
import tensorflow as tf

from official_ext.modeling.heads import dynamic_head as dynamic_head_lib
from official_ext.modeling.heads.dynamic_head import spatial_gates
from official_ext.ops import routing
from official_ext.serving import frozen
from official_ext.serving import signatures
from official_ext.serving.engines import openvino
from official_ext.utils import command_line
from official_ext.utils import timing

ENGINES = ('tensorflow', 'openvino')
SLOPE = 4.0  # Gate logits per unit of the order.
Run = Callable[[np.ndarray, dict[str, float]], Any]


def threshold_of(share: float) -> float:
  """Returns the threshold of gates that leaves this share of positions open."""
  if share in (0.0, 1.0):
    return 1 - share
  return float(spatial_gates.restricted_tanh(tf.constant(SLOPE * (1 - share))))


def export(args: argparse.Namespace, tower: dict[str, Any]) -> Any:
  """Returns a detector as a frozen function of `inputs` and `gate_threshold`.

  Args:
    args: the options of the command.
    tower: options of the head's towers.
  """
  model, maps = dynamic_head.detector(args, tower), dynamic_head.orders(args.image_size)
  for module in model.submodules:
    if isinstance(module, dynamic_head_lib.DynamicTower):
      dynamic_head.let_order_decide(module, SLOPE)

  def run(inputs, gate_threshold):
    image = tf.cast(inputs, tf.float32) / 255
    with routing.shutting_gates(gate_threshold), routing.RoutingTape() as tape:
      results = tf.nest.flatten(dynamic_head.detect(model, maps, image))
    outputs = {f'output_{number}': value for number, value in enumerate(results)}
    record = tape.routing()
    if record is not None:
      outputs['share'] = record.executed / record.maximum
    # Plain towers have no gates; the input has to be used.
    return {**outputs, 'threshold': tf.reshape(gate_threshold, [1])}

  # Exports know the sizes of maps.  With an order of known sizes OpenVINO 2026.4 does not end to
  # compile the network, so that its times here are above those of exports.
  specs = [tf.TensorSpec([None, None, None, 3], tf.uint8, 'inputs'),
           tf.TensorSpec([], tf.float32, 'gate_threshold')]
  return frozen.freeze(signatures.with_names(run, specs))[0]


def _in_openvino(function: Any, folder: pathlib.Path, threads: int) -> Run:
  source, converted = folder / 'source', folder / 'converted'
  converted.mkdir(parents=True)
  module = tf.Module()
  module.run = function
  tf.saved_model.save(module, str(source), signatures={signatures.DEFAULT: function})
  openvino.convert(source, signatures.DEFAULT, converted)
  return openvino.Model(converted, threads)


def _in_tensorflow(function: Any, image: np.ndarray, scalars: dict[str, float]) -> Any:
  return tf.nest.map_structure(lambda value: value.numpy(), function(
      tf.constant(image), tf.constant(scalars['gate_threshold'])))


def runs(args: argparse.Namespace) -> dict[tuple[str, str], Run]:
  """Returns `(engine, kind of tower)` -> function of an image and the threshold."""
  towers: dict[str, dict[str, Any]] = {
      'dynamic': {'type': 'dynamic', 'dynamic': {'num_blocks': args.blocks}},
      'plain': {'type': 'plain', 'plain': {'num_convs': 2 * args.blocks}}}
  found: dict[tuple[str, str], Run] = {}
  for kind, tower in towers.items():
    function = export(args, tower)
    found['tensorflow', kind] = functools.partial(_in_tensorflow, function)
    with tempfile.TemporaryDirectory() as folder:
      found['openvino', kind] = _in_openvino(function, pathlib.Path(folder), args.threads)
  return found


def benchmark(found: dict[tuple[str, str], Run], args: argparse.Namespace) -> None:
  """Prints one line of ratios for every share of open gates."""
  image = np.random.default_rng(0).integers(0, 256, [1, *args.image_size, 3], np.uint8)
  for share in args.shares:
    scalars = {'gate_threshold': threshold_of(share)}
    results = {key: run(image, scalars) for key, run in found.items()}
    shares = [float(np.ravel(results[engine, 'dynamic']['share'])[0]) for engine in ENGINES]
    seconds = timing.interleaved(
        {key: functools.partial(run, image, scalars) for key, run in found.items()}, args.repeats)
    cells = []
    for engine, multiply_adds in zip(ENGINES, shares):
      ratio = timing.median_ratio(seconds, (engine, 'dynamic'), (engine, 'plain'))
      cells.append(f'{engine} {ratio:.2f} of plain at {multiply_adds:.0%} of the multiply-adds')
    faster = timing.median_ratio(seconds, ('openvino', 'plain'), ('tensorflow', 'plain'))
    command_line.say(f'  {share:4.0%} open: {", ".join(cells)}; plain FCOS in OpenVINO takes '
                     f"{faster:.2f} of TensorFlow's time")


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, nargs=2, default=(512, 640),
                      help='height and width in pixels (512 640)')
  parser.add_argument('--channels', type=int, default=128, help='of the features (128)')
  parser.add_argument('--blocks', type=int, default=2, help='of the towers (2)')
  parser.add_argument('--shares', type=float, nargs='+', default=(1.0, 0.2, 0.1, 0.0),
                      help='of open gates (1 0.2 0.1 0)')
  parser.add_argument('--threads', type=int, default=1, help='of the engines (1)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  return parser


def main() -> None:
  """Prints ratios for every share of open gates."""
  args = make_parser().parse_args()
  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(args.threads)
  command_line.say(f'FCOS, {args.blocks} blocks, {args.channels} channels, '
                   f'{args.image_size[0]}x{args.image_size[1]} pixels, {args.threads} threads:')
  benchmark(runs(args), args)


if __name__ == '__main__':
  command_line.run(main)
