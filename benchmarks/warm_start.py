r"""Counts what i-FPN saves on a sequence if it starts each solve from the previous pyramid.

    .venv/bin/python benchmarks/warm_start.py --experiment=NAME --model_dir=DIR --image=FILE \
      [--steps 1 4 16] [--frames 12] [--tolerances 0.1 0.03 0.01]

The sequence is a crop, of the size of the network's input, that moves over a real image by so many
pixels for each frame.  Every frame is solved from zero and from the pyramid of the frame before,
until its residual is at the tolerance.  Evaluations are of the map, means over the frames but the
first; times are those of the neck alone, summed over these frames, from zero and from the previous
pyramid in turn.  The difference is that of the two results, as a share of the norm of the one from
zero: both are as near to the fixed point as the tolerance says.
"""
import argparse
from collections.abc import Mapping, Sequence
import pathlib
import time
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from PIL import Image
import tensorflow as tf

from official_ext import registry_imports
from official_ext.datasets.images import image_reading
from official_ext.ops import routing
from official_ext.serving import export_modules
from official_ext.utils import command_line
from official_ext.utils import experiment

_SOLVER = 'task.model.decoder.ifpn.solver.'
_EVALUATIONS = 30  # at most, for the smallest tolerances

Features = Mapping[str, tf.Tensor]


class Solved(NamedTuple):
  """The result of one solve, and its cost.

  Attributes:
    outputs: the pyramid.
    evaluations: of the map.
    seconds: of the neck.
  """
  outputs: Features
  evaluations: float
  seconds: float


def crops(image: np.ndarray, size: Sequence[int], step: int, frames: int) -> list[np.ndarray]:
  """Returns the crops of a sequence, uint8 `[height, width, 3]`.

  Args:
    image: uint8 `[height, width, 3]`; enlarged if the last crop would not be inside.
    size: height and width of the crops.
    step: pixels to the right, and half as many down, between two crops.
    frames: number of crops.
  """
  height, width = size[0] + (frames - 1) * step // 2, size[1] + (frames - 1) * step
  scale = max(1.0, height / image.shape[0], width / image.shape[1])
  if scale > 1:
    shape = [int(np.ceil(side * scale)) for side in image.shape[1::-1]]
    image = np.asarray(Image.fromarray(image).resize(shape))
  return [image[number * step // 2:][:size[0], number * step:][:, :size[1]]
          for number in range(frames)]


def _neck(decoder: Any) -> Any:
  """Returns a traced function of the backbone's features and of a pyramid to start from."""

  @tf.function(reduce_retracing=True)
  def solve(features, initial):
    with routing.RoutingTape() as tape:
      outputs = decoder(features, training=False, initial=initial)
    return outputs, tape.routing().metrics[f'{decoder.name}/evaluations']

  return solve


def _solve(solve: Any, features: Features, initial: Features) -> Solved:
  start = time.perf_counter()
  outputs, evaluations = solve(features, initial)
  count = float(np.mean(evaluations))  # Reads a result, so that the work is done.
  return Solved(outputs, count, time.perf_counter() - start)


def _distance(one: Features, other: Features) -> float:
  """Returns the norm of a difference as a share of the norm of the second."""
  squares = [(np.sum((one[level] - other[level])**2), np.sum(other[level]**2)) for level in other]
  difference, whole = np.sum(squares, axis=0)
  return float(np.sqrt(difference / whole))


def measure(solve: Any, features: Sequence[Features], zero: Features) -> str:
  """Returns a row of figures of one sequence: from zero, and from the previous pyramid."""
  _solve(solve, features[0], zero)  # a warm-up
  previous = _solve(solve, features[0], zero).outputs
  cold, warm, distances = [], [], []
  for frame in features[1:]:
    cold.append(_solve(solve, frame, zero))
    warm.append(_solve(solve, frame, previous))
    previous = warm[-1].outputs
    distances.append(_distance(previous, cold[-1].outputs))
  counts = [np.mean([one.evaluations for one in solved]) for solved in (cold, warm)]
  ratio = sum(one.seconds for one in warm) / sum(one.seconds for one in cold)
  return f'{counts[0]:12.2f}{counts[1]:12.2f}{ratio:12.2f}{np.mean(distances):12.4f}'


def main() -> None:
  """Measures every tolerance and step."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--experiment', required=True, help='with the decoder ifpn, trained')
  parser.add_argument('--model_dir', required=True, type=pathlib.Path, help='of the training')
  parser.add_argument('--image', required=True, type=pathlib.Path, help='larger than the input')
  parser.add_argument('--steps', nargs='+', type=int, default=[1, 4, 16], help='pixels (1 4 16)')
  parser.add_argument('--frames', type=int, default=12, help='of a sequence (12)')
  parser.add_argument('--tolerances', nargs='+', type=float, default=[0.1, 0.03, 0.01])
  args = parser.parse_args()
  pixels = image_reading.ImageReader().read(args.image).pixels
  command_line.say(f'{"tolerance":>10}{"pixels":>8}{"from zero":>12}{"previous":>12}'
                   f'{"time":>12}{"difference":>12}')
  for tolerance in args.tolerances:
    params = experiment.resolve(
        args.experiment, [str(args.model_dir / 'params.yaml')], lock=False,
        params_override=f'{_SOLVER}tolerance={tolerance},'
        f'{_SOLVER}inference_evaluations={_EVALUATIONS}')
    module = export_modules.build_module(params, args.model_dir, flag='--model_dir')
    solve = _neck(module.model.decoder)
    for step in args.steps:
      frames = crops(pixels, module.image_size, step, args.frames)
      features = [module.model.backbone(module.network_inputs([frame])[0], training=False)
                  for frame in frames]
      pyramid = module.model.decoder(features[0], training=False)
      zero = {level: tf.zeros_like(values) for level, values in pyramid.items()}
      command_line.say(f'{tolerance:10g}{step:8}{measure(solve, features, zero)}')


if __name__ == '__main__':
  command_line.run(main)
