"""Draws the relative residual of an implicit pyramid against evaluations, for each solver.

    .venv/bin/python benchmarks/plot_residuals.py --images=FOLDER --output=FILE [--model_dir=DIR]

The neck is that of --experiment.  Its weights, and the backbone's, are those of the last checkpoint
in --model_dir; without it the neck is untrained and the backbone is the one in data/.
"""
import argparse
import pathlib

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from official.core import task_factory
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_reading
from official_ext.modeling.decoders import ifpn
from official_ext.ops import fixed_point
from official_ext import registry_imports
from official_ext.utils import checkpoints
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.visualization import residual_curves

SOLVERS = ('unroll', 'anderson', 'broyden')


def arguments() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--experiment', default='retinanet_ifpn_efficientnetlite0_sample',
                      metavar='NAME',
                      help='default: retinanet_ifpn_efficientnetlite0_sample')
  parser.add_argument('--images', type=pathlib.Path, metavar='FOLDER',
                      default=pathlib.Path('runs/sample/coco/images'),
                      help='folder of JPEG or PNG images; default: the composed sample')
  parser.add_argument('--num_images', type=int, default=8, help='number of images (8)')
  parser.add_argument('--model_dir', type=pathlib.Path,
                      help='folder of a training; default: an untrained neck')
  parser.add_argument('--evaluations', type=int, default=16, help='evaluations of each solver (16)')
  parser.add_argument('--params_override', help='overrides of the experiment, as in training')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='PNG file to write')
  return parser.parse_args()


def load_images(folder: pathlib.Path, count: int, size) -> tf.Tensor:
  """Returns normalized images of one size, float32 `[count, height, width, 3]`."""
  paths = image_files.find([folder])
  reader, images = image_reading.ImageReader(), []
  for path in paths[:count]:
    pixels = reader.read(path).pixels
    image = preprocess_ops.normalize_image(
        tf.cast(pixels, tf.float32), preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB)
    images.append(preprocess_ops.resize_and_crop_image(image, size, size)[0])
  return tf.stack(images)


def main() -> None:
  """Solves with every solver and draws the residuals."""
  args = arguments()
  params = experiment.resolve(args.experiment, params_override=args.params_override, lock=False)
  task = task_factory.get_task(params.task)
  model = task.build_model()
  if not isinstance(model.decoder, ifpn.ImplicitFPN):
    raise command_line.CommandError(f'--experiment={args.experiment} has no implicit pyramid.')
  if args.model_dir:
    checkpoints.restore(model, args.model_dir, flag='--model_dir')
  else:
    task.initialize(model)
  images = load_images(args.images, args.num_images, params.task.model.input_size[:2])

  @tf.function(autograph=False)
  def residuals(images):
    basis = model.decoder.basis(model.backbone(images, training=False), training=False)
    function = model.decoder.function(basis)
    start = [tf.zeros_like(level) for level in basis.values()]
    solutions = {
        solver: fixed_point.solve(function, start, solver=solver, memory=args.evaluations,
                                  max_evaluations=args.evaluations) for solver in SOLVERS}
    radius = fixed_point.spectral_radius(function, solutions['anderson'].state)
    deviations = [tf.math.reduce_std(level) for level in basis.values()]
    return {name: found.residuals for name, found in solutions.items()}, radius, deviations

  curves, radius, deviations = residuals(images)
  state = 'trained' if args.model_dir else 'untrained'
  title = f'{args.experiment}, {state}, spectral radius {np.mean(radius):.2f}'
  residual_curves.draw_residuals(
      {name: value.numpy() for name, value in curves.items()}, title).savefig(
          args.output, dpi=110, bbox_inches='tight')
  spread = ', '.join(f'{float(value):.2f}' for value in deviations)
  command_line.say(f'{len(images)} images; deviation of the basis {spread}; spectral radius '
                   f'{np.mean(radius):.2f}; written: {args.output}')


if __name__ == '__main__':
  command_line.run(main)
