r"""Times an exported detector on images of few objects against crowded ones.

    .venv/bin/python benchmarks/easy_image.py --saved_model=DIR --experiment=NAME \
      --model_dir=DIR --images=FOLDER --annotation_file=JSON

Easy images are those with the fewest annotated objects, crowded ones those with the most; all
are scaled to one size, so that only their content differs.  Every image is a batch of its own;
times are medians of interleaved repeats.  The outputs are compared with those of the trained
model in memory.
"""
import argparse
import pathlib

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from PIL import Image

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets.images import image_reading
from official_ext.datasets import truth as truth_lib
from official_ext import registry_imports
from official_ext.serving import detectors
from official_ext.utils import command_line
from official_ext.utils import timing

_COMPARED = ('detection_boxes', 'detection_scores', 'multiply_adds')


def count_objects(images: image_ids.ImageSet, truth: truth_lib.Truth) -> dict[image_ids.Id, int]:
  """Returns image id -> number of annotated objects, fewest first."""
  counts = {image: len(truth.annotations[image]) for image in images.paths}
  return dict(sorted(counts.items(), key=lambda item: item[1]))


def _read(path: pathlib.Path, size: list[int]) -> np.ndarray:
  """Returns an image as a batch, uint8 `[1, height, width, 3]`."""
  image = Image.fromarray(image_reading.ImageReader().read(path).pixels)
  return np.asarray(image.resize(size[::-1]))[None]


def difference(detectors, images: list[np.ndarray]) -> float:
  """Returns the largest absolute difference between the outputs of two detectors.

  Args:
    detectors: both.
    images: uint8 `[1, height, width, 3]` each.

  Returns:
    The difference: of multiply-adds in 10^9, of boxes in pixels of the resized image.
  """
  largest = 0.0
  for image in images:
    one, other = (detector(image) for detector in detectors)
    for name in _COMPARED:
      unit = 1e9 if name == 'multiply_adds' else 1.0
      largest = max(largest, float(np.max(np.abs(one[name] - other[name]))) / unit)
  return largest


def main() -> None:
  """Times both kinds of images and prints the ratio."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--saved_model', required=True, type=pathlib.Path, metavar='DIR',
                      help='folder that export_saved_model wrote')
  parser.add_argument('--experiment', required=True, metavar='NAME',
                      help='experiment of the training')
  parser.add_argument('--model_dir', required=True, type=pathlib.Path, metavar='DIR',
                      help='folder of the training')
  parser.add_argument('--images', required=True, type=pathlib.Path, metavar='FOLDER')
  parser.add_argument('--annotation_file', required=True, type=pathlib.Path, metavar='JSON',
                      help='COCO annotations of the images')
  parser.add_argument('--count', type=int, default=4, help='images of either kind (4)')
  parser.add_argument('--repeats', type=int, default=15, help='interleaved repeats (15)')
  args = parser.parse_args()
  truth = truth_lib.Truth(args.annotation_file)
  found = image_ids.assign(image_files.find([args.images]), truth)
  objects = count_objects(found, truth)
  if len(objects) < 2 * args.count:
    raise command_line.CommandError(
        f'--images={args.images} has {len(objects)} annotated images; --count={args.count} needs '
        f'{2 * args.count}.')
  exported = detectors.SavedDetector(args.saved_model)
  size = exported.description['input_image_size']
  ids = {'easy': list(objects)[:args.count], 'crowded': list(objects)[-args.count:]}
  images = {kind: [_read(found.paths[image_id], size) for image_id in chosen]
            for kind, chosen in ids.items()}
  in_memory = detectors.restore(args.experiment, args.model_dir)
  gap = difference((exported, in_memory), images['easy'] + images['crowded'])
  command_line.say(f'largest difference from the model in memory: {gap:.1e}')
  seconds = timing.interleaved(
      {(kind, index): lambda image=image: exported(image)
       for kind, batch in images.items() for index, image in enumerate(batch)}, args.repeats)
  per_image = {kind: np.mean([seconds[kind, index] for index in range(args.count)], axis=0)
               for kind in ids}
  for kind, chosen in ids.items():
    gmac = np.mean([exported(image)['multiply_adds'][0] for image in images[kind]]) / 1e9
    command_line.say(
        f'{kind}: {np.mean([objects[image_id] for image_id in chosen]):.1f} objects, {gmac:.3f} '
        f'GMAC and {1000 * np.median(per_image[kind]):.1f} ms per image')
  ratio = timing.median_ratio(per_image, 'easy', 'crowded')
  command_line.say(f'an easy image takes {ratio:.3f} of the time of a crowded one')


if __name__ == '__main__':
  command_line.run(main)
