r"""Prints how many samples of deformable convolutions lie outside of their maps, before and after.

    .venv/bin/python scripts/sampled_positions.py --experiment=NAME --model_dir=DIR \
      --records='runs/detectors/records/val-*.tfrecord'

A sample outside is 0 and has no gradient.  At the start, with offsets of 0, those of the taps
beside the border are outside.  The experiment is that of the training, whose `params.yaml` is read.
"""
import argparse
import glob

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from official.core import task_factory
import tensorflow as tf

from official_ext import registry_imports
from official_ext.modeling.layers import deformable
from official_ext.ops import deformable_conv
from official_ext.tools import profile
from official_ext.utils import command_line
from official_ext.utils import experiment


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--experiment', required=True, metavar='NAME')
  parser.add_argument('--model_dir', required=True, metavar='DIR', help='of the training')
  parser.add_argument('--records', required=True, metavar='PATTERN', help='TFRecords of images')
  parser.add_argument('--images', type=int, default=16, metavar='N', help='how many (16)')
  return parser.parse_args()


def outside(positions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Returns which positions `[..., 2]` are a pixel or more outside of a map of a size."""
  return np.any((positions <= -1) | (positions >= size), -1)


def shares(model: tf.Module, images: tf.Tensor) -> tuple[float, float, float]:
  """Runs a model, and measures its deformable convolutions of one set of offsets.

  Args:
    model: the model.
    images: `[batch, height, width, 3]`, normalized.

  Returns:
    Share of samples outside with offsets of 0, and with those of the model; and the mean distance
    by which offsets move a sample, in pixels of the map.
  """
  counts = []
  convolve = deformable_conv.deformable_conv2d

  def measured(features, kernel, offsets, masks=None, stride=1, dilation=1):
    rows, columns = kernel.shape[:2]
    taps = np.stack(np.meshgrid(np.arange(rows) - rows // 2, np.arange(columns) - columns // 2,
                                indexing='ij'), -1).reshape(-1, 2)
    grid = np.stack(np.meshgrid(*map(np.arange, offsets.shape[1:3]), indexing='ij'), -1)
    start = stride * grid[:, :, None] + dilation * taps
    moved = offsets.numpy().reshape(*offsets.shape[:3], len(taps), 2)
    size = features.shape[1:3]
    counts.append((moved[..., 0].size, len(moved) * outside(start, size).sum(),
                   outside(start + moved, size).sum(), np.linalg.norm(moved, axis=-1).sum()))
    return convolve(features, kernel, offsets, masks, stride, dilation)

  deformable.deformable_conv.deformable_conv2d = measured
  try:
    model.backbone(images, training=False)
  finally:
    deformable.deformable_conv.deformable_conv2d = convolve
  total, *sums = np.sum(counts, 0)
  return tuple(float(each / total) for each in sums)


def main() -> None:
  """Prints the shares of a training."""
  args = _arguments()
  params = experiment.resolve(args.experiment, [f'{args.model_dir}/params.yaml'], lock=False)
  if not glob.glob(args.records):
    raise command_line.CommandError(f'--records={args.records}: there are no such files.')
  model = profile.build_model(params, args.model_dir)
  data = params.task.validation_data.replace(
      input_path=args.records, global_batch_size=args.images)
  images, _ = next(iter(task_factory.get_task(params.task).build_inputs(data)))
  before, after, distance = shares(model, images)
  command_line.say(f'{before:.1%} of the samples are outside with offsets of 0, {after:.1%} with '
                   f'those of the training, which move a sample by {distance:.2f} pixels.')


if __name__ == '__main__':
  command_line.run(main)
