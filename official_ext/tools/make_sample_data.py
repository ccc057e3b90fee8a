"""Composes a detection data set from what installed packages ship, without any download."""
import argparse
from collections.abc import Sequence
import importlib.util
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = """\
Composes a detection data set in COCO layout: handwritten digits (the scans that
scikit-learn ships) at many scales over photographs that scikit-learn and scikit-image
ship.  Nothing is downloaded, and the same options give the same bytes.

  DIR/annotations/train.json, val.json   boxes and masks, categories 1 to 10 = '0' to '9'
  DIR/images/train, DIR/images/val       JPEG files

Some images hold one digit, some a crowd of several scales.  No scan and no part of a
photograph is in both splits.  --image_size=512 --digit_size=0.5 has digits of as many
pixels as the default, so that the photograph is four times as large beside them.
"""
_EPILOG = """\
example:
  python -m official_ext.tools.make_sample_data --output_dir=sample
  python -m official_ext.tools.convert_dataset --input=sample --output_dir=sample_records
"""

# A folder that holds this file was written here; only such a folder may be replaced.
MARKER = 'sample.json'
_WRITES = ('images', 'annotations')
_PHOTOGRAPHS = {
    'sklearn': ('datasets/images/china.jpg', 'datasets/images/flower.jpg'),
    'skimage': ('data/astronaut.png', 'data/brick.png', 'data/camera.png', 'data/chelsea.png',
                'data/coffee.png', 'data/grass.png', 'data/gravel.png', 'data/ihc.png',
                'data/motorcycle_left.png', 'data/rocket.jpg'),
}
_TRAIN_SHARE = 0.7  # of the scans of each digit, and of the width of each photograph
_MIN_VISIBLE = 0.6  # share of a digit that other digits must leave visible
_CONTRAST = 110  # least difference in luminance (0 to 255) of a digit and its background

# Share of the images; least and most small digits; least and most large digits; least and most
# height of a large digit / image size.
_SCENES = (
    (0.30, (0, 0), (1, 1), (0.1, 0.7)),
    (0.35, (0, 2), (1, 4), (0.15, 0.5)),
    (0.35, (7, 16), (0, 2), (0.25, 0.5)),
)
_SMALL = (0.09, 0.2)  # least and most height of a small digit / image size


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.make_sample_data', description=_DESCRIPTION,
      epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--output_dir', required=True, help='folder to make')
  parser.add_argument('--num_train', type=int, default=240, help='images to train on (240)')
  parser.add_argument('--num_val', type=int, default=80, help='images to validate on (80)')
  parser.add_argument('--image_size', type=int, default=256,
                      help='width and height in pixels, 64 to 1024 (256)')
  parser.add_argument('--digit_size', type=float, default=1.0,
                      help='heights of the digits beside the image, times the usual ones, 0.1 to '
                      '1 (1)')
  parser.add_argument('--seed', type=int, default=0, help='another seed, another set (0)')
  return parser.parse_args()


def _check_arguments(args: argparse.Namespace) -> None:
  for name in ('num_train', 'num_val'):
    if getattr(args, name) < 1:
      raise command_line.CommandError(f'--{name} is {getattr(args, name)}; give at least 1.')
  if not 64 <= args.image_size <= 1024:
    raise command_line.CommandError(f'--image_size is {args.image_size}; give 64 to 1024.')
  if not 0.1 <= args.digit_size <= 1:
    raise command_line.CommandError(f'--digit_size is {args.digit_size}; give 0.1 to 1.')
  if args.seed < 0:
    raise command_line.CommandError(f'--seed is {args.seed}; give 0 or more.')


def load_scans() -> dict[str, list[np.ndarray]]:
  """Loads the digit scans and splits them, so that no scan is in both splits.

  Returns:
    `train` and `val` -> a list by digit of float32 `[num_scans, 8, 8]` in [0, 1].

  Raises:
    CommandError: scikit-learn is not installed.
  """
  try:
    from sklearn import datasets  # imported here because it takes seconds
  except ImportError as error:
    raise command_line.CommandError(
        'the sample data needs scikit-learn: pip install scikit-learn scikit-image.') from error
  digits = datasets.load_digits()
  scans: dict[str, list[np.ndarray]] = {'train': [], 'val': []}
  for digit in range(10):
    images = (digits.images[digits.target == digit] / 16).astype(np.float32)
    first_val = round(_TRAIN_SHARE * len(images))
    scans['train'].append(images[:first_val])
    scans['val'].append(images[first_val:])
  return scans


def load_photographs(min_side: int) -> dict[str, list[Image.Image]]:
  """Loads the photographs and cuts each into a left part for training and a right one for val.

  Args:
    min_side: pixels that the shorter side of a part has at least; smaller parts are enlarged.

  Returns:
    `train` and `val` -> the parts in RGB.

  Raises:
    CommandError: a package is not installed or ships other files.
  """
  photographs: dict[str, list[Image.Image]] = {'train': [], 'val': []}
  for package, names in _PHOTOGRAPHS.items():
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
      raise command_line.CommandError(
          f'the sample data needs {package}: pip install scikit-learn scikit-image.')
    for name in names:
      path = pathlib.Path(spec.submodule_search_locations[0], name)
      if not path.is_file():
        raise command_line.CommandError(
            f'{path} is missing: this version of {package} ships other photographs; '
            'use scikit-image 0.26 and scikit-learn 1.9.')
      image = Image.open(path).convert('RGB')
      cut = round(_TRAIN_SHARE * image.width)
      for split, box in (('train', (0, 0, cut, image.height)),
                         ('val', (cut, 0, image.width, image.height))):
        part = image.crop(box)
        scale = max(1.0, min_side / min(part.size))
        size = (round(part.width * scale), round(part.height * scale))
        photographs[split].append(part.resize(size, Image.Resampling.BICUBIC))
  return photographs


def render_scan(scan: np.ndarray, height: int, rng: np.random.Generator) -> np.ndarray:
  """Enlarges a scan smoothly, slightly turned and stretched.

  Args:
    scan: float32 `[8, 8]` in [0, 1].
    height: approximate height of the result in pixels.
    rng: draws the turn and the stretch.

  Returns:
    Opacity, float32 `[about height, width]` in [0, 1].
  """
  padded = Image.fromarray(np.pad(scan, 1))
  width = max(4, round(height * rng.uniform(0.8, 1.15)))
  enlarged = padded.resize((width * 10 // 8, height * 10 // 8), Image.Resampling.BICUBIC)
  turned = np.asarray(enlarged.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC))
  steepness = max(2.0, height / 12)  # makes the edges of every digit one or two pixels wide
  opacity = np.clip((turned - 0.5) * steepness + 0.5, 0, 1).astype(np.float32)
  inside = opacity > 0.5
  rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
  return opacity[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _contrasting_color(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns a random color `[3]` whose luminance differs from the mean of `[pixels, 3]`."""
  weights = np.array([0.299, 0.587, 0.114])
  luminance = float(background.mean(axis=0) @ weights)
  for _ in range(100):
    color = rng.uniform(0, 255, 3)
    if abs(color @ weights - luminance) > _CONTRAST:
      return color
  return np.full(3, 255.0 if luminance < 128 else 0.0)


def _draw_heights(rng: np.random.Generator, scene_size: float) -> list[int]:
  """Draws the heights in pixels of the digits of one scene, large ones first.

  Args:
    rng: draws the scene and its digits.
    scene_size: pixels that the table's heights are shares of.

  Returns:
    At least 12 pixels for each digit.
  """
  shares = [scene[0] for scene in _SCENES]
  _, num_small, num_large, large = _SCENES[rng.choice(len(_SCENES), p=shares)]
  heights: list[float] = []
  for (least, most), (low, high) in ((num_small, _SMALL), (num_large, large)):
    number = rng.integers(least, most, endpoint=True)
    heights.extend(np.exp(rng.uniform(np.log(low), np.log(high), number)) * scene_size)
  return sorted((max(12, round(height)) for height in heights), reverse=True)


def _place(inside: np.ndarray, masks: Sequence[np.ndarray], areas: Sequence[int],
           image_size: int, rng: np.random.Generator) -> tuple[int, int] | None:
  """Draws a corner (y, x) where a digit leaves the others visible.

  Args:
    inside: bool `[height, width]` of the digit.
    masks: bool `[image_size, image_size]` of what is visible of the other digits.
    areas: pixels of each of the other digits when nothing lies on it.
    image_size: width and height of the image in pixels.
    rng: draws the corner.

  Returns:
    The corner; None if none is found in 20 draws.
  """
  height, width = inside.shape
  for _ in range(20):
    y = int(rng.integers(0, image_size - height, endpoint=True))
    x = int(rng.integers(0, image_size - width, endpoint=True))
    window = (slice(y, y + height), slice(x, x + width))
    hidden = [(mask[window] & inside).sum() for mask in masks]
    if all(mask.sum() - number >= _MIN_VISIBLE * area
           for mask, number, area in zip(masks, hidden, areas) if number):
      return y, x
  return None


def compose(scans: Sequence[np.ndarray], photographs: Sequence[Image.Image], image_size: int,
            rng: np.random.Generator,
            digit_size: float = 1.0) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
  """Composes one image.

  Args:
    scans: by digit, float32 `[num_scans, 8, 8]` in [0, 1].
    photographs: RGB images of at least `image_size` on each side.
    image_size: width and height in pixels.
    rng: draws everything: equal generators give equal images.
    digit_size: heights of the digits beside the image, times the usual ones.

  Returns:
    The image, uint8 `[image_size, image_size, 3]`, and for each digit its category (digit
    + 1) and the boolean mask `[image_size, image_size]` of its visible pixels.
  """
  photograph = photographs[int(rng.integers(len(photographs)))]
  x = int(rng.integers(0, photograph.width - image_size, endpoint=True))
  y = int(rng.integers(0, photograph.height - image_size, endpoint=True))
  image = np.asarray(photograph.crop((x, y, x + image_size, y + image_size)), np.float32)
  if rng.random() < 0.5:
    image = image[:, ::-1]
  image = image.copy()
  categories: list[int] = []
  masks: list[np.ndarray] = []
  areas: list[int] = []
  for height in _draw_heights(rng, digit_size * image_size):
    digit = int(rng.integers(10))
    opacity = render_scan(scans[digit][rng.integers(len(scans[digit]))], height, rng)
    inside = opacity > 0.5
    corner = _place(inside, masks, areas, image_size, rng)
    if corner is None:  # this digit would hide another one, which must keep its label
      continue
    window = tuple(slice(start, start + side) for start, side in zip(corner, inside.shape))
    color = _contrasting_color(image[window][inside], rng)
    image[window] += opacity[..., None] * (color - image[window])
    for mask in masks:
      mask[window] &= ~inside
    mask = np.zeros((image_size, image_size), bool)
    mask[window] = inside
    categories.append(digit + 1)
    masks.append(mask)
    areas.append(int(inside.sum()))
  return np.round(image).astype(np.uint8), list(zip(categories, masks))


def _write_split(folder: pathlib.Path, split: str, scans: Sequence[np.ndarray],
                 photographs: Sequence[Image.Image], args: argparse.Namespace) -> int:
  """Writes the images and the annotations of one split; returns the number of digits."""
  from official_ext.datasets import masks  # imported here because it loads SciPy
  num_images = {'train': args.num_train, 'val': args.num_val}[split]
  image_dir = folder / 'images' / split
  image_dir.mkdir(parents=True)
  images: list[dict[str, Any]] = []
  annotations: list[dict[str, Any]] = []
  for image_id in command_line.progress(range(1, num_images + 1), f'composing {split}'):
    # A generator for each image: with more images the first ones stay the same.
    rng = np.random.default_rng([args.seed, split == 'val', image_id])
    image, objects = compose(scans, photographs, args.image_size, rng, args.digit_size)
    name = f'{image_id:06d}.jpg'
    Image.fromarray(image).save(image_dir / name, quality=90)
    images.append(dict(id=image_id, file_name=name, width=args.image_size,
                       height=args.image_size))
    for category, mask in objects:
      annotations.append(dict(
          id=len(annotations) + 1, image_id=image_id, category_id=category, iscrowd=0,
          area=int(mask.sum()), bbox=masks.tight_box(mask),
          segmentation=masks.mask_to_polygons(mask)))
  categories = [dict(id=digit + 1, name=str(digit), supercategory='digit')
                for digit in range(10)]
  target = folder / 'annotations' / f'{split}.json'
  target.parent.mkdir(exist_ok=True)
  target.write_text(json.dumps(
      dict(images=images, annotations=annotations, categories=categories)))
  return len(annotations)


def main() -> None:
  """Runs the command."""
  args = _parse_arguments()
  _check_arguments(args)
  files.check_own_output(args.output_dir, MARKER, _WRITES)
  scans, photographs = load_scans(), load_photographs(args.image_size)
  options = {name: value for name, value in vars(args).items() if name != 'output_dir'}
  with files.atomic_directory(args.output_dir) as folder:
    (folder / MARKER).write_text(json.dumps(options))
    num_digits = {split: _write_split(folder, split, scans[split], photographs[split], args)
                  for split in ('train', 'val')}
  command_line.say(
      f'{args.output_dir}: {args.num_train} images with {num_digits["train"]} digits to '
      f'train on, {args.num_val} with {num_digits["val"]} to validate on.')


if __name__ == '__main__':
  command_line.run(main)
