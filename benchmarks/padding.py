"""Prints how large images become by each rule of sizes, and how much of the input is padding.

    .venv/bin/python benchmarks/padding.py --images=FOLDER

`wide` and `tall` are the pixels of wide and of tall images after the resize, relative to the
papers' rule (short side 800, long side at most 1333).  `input` is the pixels of the network's
input relative to those of the resized images; the rest is padding.
"""
import argparse
from collections.abc import Callable, Sequence
import pathlib

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from PIL import Image

from official_ext.datasets.images import image_files
from official_ext.ops import canvases
from official_ext.utils import command_line

SHORT, LONG = 800, 1333
RATIOS = ([], [1.34], [1.34, 1.51], [1.17, 1.34, 1.51])
# Sizes of the input that Model Garden's rule has in the experiments.
GARDEN = {'RetinaNet': (896, 1408), 'two-stage': (832, 1344), 'FCOS, ATSS': (800, 1344)}

Box = Callable[[Sequence[int]], canvases.Canvas]


def resized(size: np.ndarray, box: Sequence[int]) -> np.ndarray:
  """Returns the (height, width) of an image that is fitted into a box."""
  return np.round(size * min(np.array(box) / size))


def measure(sizes: Sequence[Sequence[int]], canvas_of: Box) -> dict[str, float]:
  """Measures a rule.

  Args:
    sizes: (height, width) of the images, in pixels.
    canvas_of: gives the canvas of an image of this size.
  """
  rows = []
  for size in map(np.array, sizes):
    paper = resized(size, (SHORT, LONG) if size[0] <= size[1] else (LONG, SHORT))
    canvas = canvas_of(size)
    pixels = np.prod(resized(size, canvas.box))
    rows.append((size[0] > size[1], pixels / np.prod(paper), pixels, np.prod(canvas.size)))
  is_tall, relative, pixels, inputs = map(np.array, zip(*rows))
  return {'wide': float(np.mean(relative[~is_tall])), 'tall': float(np.mean(relative[is_tall])),
          'input': float(np.sum(inputs) / np.sum(pixels))}


def main() -> None:
  """Measures Model Garden's rule, and the papers' with several lists of canvases."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--images', type=pathlib.Path, required=True, help='folder of images')
  sizes = []
  for path in image_files.find([parser.parse_args().images]):
    with Image.open(path) as image:
      sizes.append(image.size[::-1])
  rules: dict[str, Box] = {
      f'garden, {name}, {size[0]}x{size[1]}': lambda _, size=size: canvases.Canvas(size, size)
      for name, size in GARDEN.items()}
  for stride in (32, 64, 128):
    for ratios in RATIOS:
      choices = canvases.Canvases(SHORT, LONG, ratios, stride)
      rules[f'paper, stride {stride}, {len(choices)} canvases, {ratios}'] = (
          lambda size, choices=choices: choices[int(choices.index(size))])
  for name, rule in rules.items():
    figures = measure(sizes, rule)
    command_line.say(f'{name:50}' + ''.join(
        f'{key} {value:.2f}  ' for key, value in figures.items()))


if __name__ == '__main__':
  main()
