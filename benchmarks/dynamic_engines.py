"""Times FCOS with a dynamic head beside plain FCOS in TensorFlow and in OpenVINO.

    .venv/bin/python benchmarks/dynamic_engines.py [--image_size 512 640] [--channels 128]

The detectors are those of `benchmarks/dynamic_head.py --detector`, from one image to the outputs of
the head, as exports have them: constant weights, folded norms, maps of known size.  Weights are
random; the biases of the gates are set so that each opens at the wanted share of the positions of
all levels of the image.  They open in four round regions, as in that benchmark, or, with
`--places=scattered`, where their random kernels say.  There is one such detector for each share,
one with the same head always on (`fixed`), plain FCOS (`plain`), and the same with convolutions as
they are defined (`definition`), as engines compute them by themselves and exports with
`--no-winograd` have them.  Ratios are medians over interleaved repeats.
"""
import argparse
from collections.abc import Callable
import functools
import pathlib
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import dynamic_head
import graphs
import numpy as np
import tensorflow as tf, tf_keras

from official_ext.modeling.heads import dynamic_head as dynamic_head_lib
from official_ext.ops import routing
from official_ext.ops import export_expectation
from official_ext.serving.compiling import frozen
from official_ext.serving import signatures
from official_ext.utils import command_line
from official_ext.utils import timing

ENGINES = ('tensorflow', 'openvino')
DEFINITION, PLAIN, FIXED = 'definition', 'plain', 'fixed'
PLACES = ('regions', 'scattered')
IMAGE = pathlib.Path(__file__).parents[1] / 'data/demo/images'
Run = Callable[[np.ndarray], Any]
Features = dict[str, tf.Tensor]


def _open(gate: tf_keras.layers.Layer, features: Features, share: float) -> None:
  """Sets the bias of a gate so that it opens at a share of the positions of all levels."""
  gate.conv.bias.assign([0.0])
  logits = np.concatenate([gate.conv(own).numpy().ravel() for own in features.values()])
  # Shares of 0 and 1 are well beyond the last position.
  beyond = np.ptp(logits) + 1
  place = {0.0: logits.max() + beyond, 1.0: logits.min() - beyond}
  gate.conv.bias.assign([-place.get(share, np.quantile(logits, 1 - share))])


def open_scattered(tower: dynamic_head_lib.DynamicTower, features: Features, share: float
                   ) -> None:
  """Sets the biases of all gates so that each opens at a share of all positions.

  Args:
    tower: a built tower of gated steps.
    features: what it gets.
    share: in [0, 1].
  """
  for block in tower.blocks:
    for name in ('coarser', 'finer'):
      _open(block.gates[name], features, share)
    # The gate of the residual block gets what the step between levels gives.
    _open(block.gates['depth'], block.scale(features, block(features).gates), share)
    features = block(features).outputs


def _prepared(args: argparse.Namespace, kind: float | str, image: np.ndarray) -> tf_keras.Model:
  """Returns a detector: plain, with a fixed head, or with gates that open at a share."""
  plain = {'type': 'plain', 'plain': {'num_convs': 2 * args.blocks}}
  towers: dict[float | str, dict[str, Any]] = {
      DEFINITION: plain, PLAIN: plain,
      FIXED: {'type': 'dynamic', 'dynamic': {
          'num_blocks': args.blocks, 'scale_step': 'fixed', 'depth_step': 'fixed'}}}
  gated = {'type': 'dynamic', 'dynamic': {'num_blocks': args.blocks}}
  tf_keras.utils.set_random_seed(0)
  model = dynamic_head.detector(args, towers.get(kind, gated))
  if not isinstance(kind, str):
    features = model.decoder(model.backbone(_scaled(image), training=False), training=False)
    for module in model.submodules:
      if isinstance(module, dynamic_head_lib.DynamicTower):
        if args.places == 'scattered':
          open_scattered(module, features, kind)
        else:
          dynamic_head.let_order_decide(module)
          dynamic_head.open_share(module, kind)
  return model


def _scaled(image: tf.Tensor) -> tf.Tensor:
  """Returns pixels as the backbone gets them."""
  return tf.cast(image, tf.float32) / 255


def _outputs(args: argparse.Namespace, model: tf_keras.Model, image: tf.Tensor) -> Any:
  """Returns the outputs of a detector's head."""
  if args.places == 'regions':
    return dynamic_head.detect(model, dynamic_head.orders(args.image_size), _scaled(image))
  return model.head(model.decoder(model.backbone(_scaled(image), training=False), training=False),
                    training=False)


def frozen_detector(args: argparse.Namespace, kind: float | str, image: np.ndarray
                    ) -> tuple[Any, float]:
  """Returns a detector as a function of `inputs` with constant weights, and the cost of its head.

  Args:
    args: the options of the command.
    kind: `definition`, `plain`, `fixed`, or the share of positions where gates are open.
    image: uint8 `[1, height, width, 3]`, for which they are.

  Returns:
    The function, and the multiply-adds for the image as a share of those with every gate open.
  """
  model = _prepared(args, kind, image)

  def run(inputs):
    return {f'output_{number}': value for number, value in enumerate(
        tf.nest.flatten(_outputs(args, model, inputs)))}

  with routing.RoutingTape() as tape:
    run(image)
  record = tape.routing()
  share = float(record.executed[0] / record.maximum) if record else 1.0
  spec = tf.TensorSpec([None, *image.shape[1:]], tf.uint8, 'inputs')
  with export_expectation.expected():
    traced = signatures.with_names(run, [spec])
  return frozen.freeze(traced, winograd=kind != DEFINITION)[0], share


def _in_tensorflow(function: Any, image: np.ndarray) -> Any:
  return tf.nest.map_structure(lambda value: value.numpy(), function(tf.constant(image)))


def read_image(size: tuple[int, int]) -> np.ndarray:
  """Returns an image of the repository's data set, uint8 `[1, height, width, 3]`."""
  data = tf.io.read_file(str(sorted(IMAGE.iterdir())[0]))
  image = tf.image.resize(tf.io.decode_image(data, channels=3, expand_animations=False), size)
  return tf.cast(image, tf.uint8).numpy()[None]


def benchmark(args: argparse.Namespace) -> None:
  """Prints ratios for every engine and share of open gates."""
  image = read_image(args.image_size)
  found: dict[tuple[str, float | str], Run] = {}
  multiply_adds: dict[float | str, float] = {}
  for kind in command_line.progress([DEFINITION, PLAIN, FIXED, *args.shares], 'detectors'):
    function, multiply_adds[kind] = frozen_detector(args, kind, image)
    if 'tensorflow' in args.engines:
      found['tensorflow', kind] = functools.partial(_in_tensorflow, function)
    if 'openvino' in args.engines:
      found['openvino', kind] = graphs.in_openvino(function, args.threads)
  seconds = timing.interleaved({key: functools.partial(run, image) for key, run in found.items()},
                               args.repeats, label='repeats')
  for engine, kind in found:
    milliseconds = 1e3 * np.median(seconds[engine, kind])
    if isinstance(kind, str):
      command_line.say(f'  {engine}, {kind}: {milliseconds:.0f} ms')
      continue
    definition, plain, fixed = (timing.median_ratio(seconds, (engine, kind), (engine, base))
                                for base in (DEFINITION, PLAIN, FIXED))
    command_line.say(f'  {engine}, {kind:4.0%} open, {multiply_adds[kind]:4.0%} of the head: '
                     f'{definition:.2f} of definition, {plain:.2f} of plain, {fixed:.2f} of fixed, '
                     f'{milliseconds:.0f} ms')


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
  parser.add_argument('--places', choices=PLACES, default=PLACES[0],
                      help='where gates are open (regions)')
  parser.add_argument('--engines', nargs='+', choices=ENGINES, default=ENGINES,
                      help='what runs them (both)')
  parser.add_argument('--threads', type=int, default=1, help='of the engines (1)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  return parser


def main() -> None:
  """Prints ratios for every engine and share of open gates."""
  args = make_parser().parse_args()
  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(args.threads)
  command_line.say(f'FCOS, {args.blocks} blocks, {args.channels} channels, '
                   f'{args.image_size[0]}x{args.image_size[1]} pixels, {args.threads} threads:')
  benchmark(args)


if __name__ == '__main__':
  command_line.run(main)
