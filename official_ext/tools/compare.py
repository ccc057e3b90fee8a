"""Puts detectors side by side: detections on the same images, pyramids, accuracy against cost."""
import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from matplotlib import figure
import numpy as np
from PIL import Image

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.serving import labels as labels_lib
from official_ext.tools import evaluation
from official_ext.tools import predict
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.visualization import boxes
from official_ext.visualization import html_page
from official_ext.visualization import offsets as offsets_lib
from official_ext.visualization import routing_figures

_DESCRIPTION = """\
Puts detectors side by side and writes into --output_dir:

  compare.html    everything on one page
  detections/     each image once for every --saved_model, with the cost of the image
  levels/         the levels of the neck of every --trained detector, as feature maps, and the
                  same of each of --channels
  offsets/        where DRFPN samples, as arrows over the image
  tradeoff.png    accuracy against cost of every --saved_model, with --annotation_file
  compare.json    what tradeoff.png draws
"""
_EPILOG = """\
example:
  python -m official_ext.tools.compare --saved_model=runs/fpn/saved_model \\
    --saved_model=runs/drfpn/saved_model --images=photos --output_dir=runs/comparison \\
    --trained retinanet_drfpn_efficientnetlite0_sample runs/drfpn/model
"""
_MARKER = 'compare.json'
# Further files and folders that the command writes, as patterns.
_WRITES = ('compare.html', 'tradeoff.png', 'detections', 'levels', 'offsets')
_GIGA = 1e9
_SIDE = 480  # of a picture of detections in pixels


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.compare', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--saved_model', action='append', default=[], type=pathlib.Path,
                      metavar='DIR', help='folder that export_saved_model or convert wrote; may be '
                      'given several times')
  parser.add_argument('--trained', action='append', default=[], nargs=2,
                      metavar=('NAME', 'MODEL_DIR'), help='experiment and folder of a training, '
                      'to draw what its neck computes; may be given several times')
  parser.add_argument('--images', required=True, nargs='+', type=pathlib.Path, metavar='PATH',
                      help='a folder, searched with all folders in it, or image files')
  parser.add_argument('--annotation_file', type=pathlib.Path, metavar='JSON',
                      help='COCO annotations of the images, to evaluate every --saved_model')
  parser.add_argument('--output_dir', required=True, type=pathlib.Path, metavar='DIR',
                      help='folder to write; an earlier comparison in it is replaced')
  parser.add_argument('--number', type=argument_types.positive_int, default=6, metavar='N',
                      help='how many of the images are drawn, at equal distances (6)')
  parser.add_argument('--channels', default=[], metavar='N,N,...',
                      type=argument_types.list_of(argument_types.whole_number),
                      help='channels of the necks of --trained to draw alone, from 0')
  parser.add_argument('--score_threshold', type=argument_types.threshold, default=0.4,
                      metavar='SCORE',
                      help='least score of a box that is drawn (0.4)')
  image_files.add_max_pixels_argument(parser)
  experiment.add_import_argument(parser)
  args = parser.parse_args(arguments)
  if not args.saved_model and not args.trained:
    parser.error('give --saved_model or --trained')
  if args.annotation_file and not args.saved_model:
    parser.error('--annotation_file needs --saved_model')
  if args.channels and not args.trained:
    parser.error('--channels are those of the necks of --trained: give it, or leave them out')
  return args


class _Page:
  """The page, and the folder of the files with the same pictures."""

  def __init__(self, title: str, folder: pathlib.Path):
    self.page = html_page.HtmlPage(title)
    self._folder = folder

  def image(self, image: np.ndarray, path: str, caption: str) -> None:
    """Adds an image, uint8 `[height, width, 3]`, and writes it to a file."""
    self.page.image(image, caption)
    Image.fromarray(image).save(self._made(path), quality=92)

  def figure(self, plot: figure.Figure, path: str, caption: str) -> None:
    """Adds a figure and writes it to a file."""
    self.page.figure(plot, caption)
    plot.savefig(self._made(path), dpi=110, bbox_inches='tight')

  def _made(self, path: str) -> pathlib.Path:
    (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
    return self._folder / path


def _detected(detector: Any, images: image_ids.ImageSet, labels: labels_lib.Labels,
              args: argparse.Namespace) -> tuple[dict[Any, list], dict[Any, dict[str, Any]]]:
  """Returns image id -> detections that are drawn, and image id -> entry on cost."""
  found: dict[Any, list] = {image_id: [] for image_id in images.paths}

  def add(detections: list[dict[str, Any]]) -> None:
    for detection in detections:
      if detection['score'] >= args.score_threshold:
        found[detection['image_id']].append(detection)

  options = argparse.Namespace(batch_size=1, max_pixels=args.max_pixels, draw=False, gates=False)
  costs, skipped = predict.predict(detector, images, labels, options, pathlib.Path(), add)
  for file, reason in skipped.items():
    raise command_line.CommandError(f'--images: {file} cannot be predicted ({reason}).')
  return found, {cost['image_id']: cost for cost in costs}


def _write_detections(page: _Page, models: Mapping[str, Any], shown: image_ids.ImageSet,
                      pixels: Mapping[Any, np.ndarray], truth: truth_lib.Truth | None,
                      args: argparse.Namespace) -> None:
  """Draws what each model detects in the images that are shown, side by side."""
  from official_ext.serving import detection_pictures
  page.page.heading('Detections')
  columns = {}
  for name, detector in models.items():
    labels = labels_lib.of_detector(detector, truth)
    columns[name] = (labels, *_detected(detector, shown, labels, args))
  for number, image_id in enumerate(shown.paths, 1):
    pictures, titles = [], []
    for name, (labels, found, costs) in columns.items():
      enlarged, factor = boxes.fit(pixels[image_id], _SIDE)
      cost = costs[image_id].get('multiply_adds')
      pictures.append(detection_pictures.draw(
          enlarged, [detection_pictures.scaled(item, factor) for item in found[image_id]],
          labels))
      titles.append(name + (f', {cost / _GIGA:.3f} GMAC' if cost is not None else ''))
    page.image(boxes.draw_grid(pictures, titles, len(pictures)),
               f'detections/{_stem(shown, image_id, number)}.jpg', str(shown.paths[image_id]))


def _stem(shown: image_ids.ImageSet, image_id: Any, number: int) -> str:
  return f'{number:03}_{shown.paths[image_id].stem[:50]}'


def _write_pyramid(page: _Page, name: str, detector: Any, shown: image_ids.ImageSet,
                   pixels: Mapping[Any, np.ndarray], channels: Sequence[int]) -> None:
  """Draws the levels of a detector's neck, and the offsets of a DRFPN."""
  from official_ext.serving import pyramid_features
  page.page.heading(f'What the neck of {name} computes')
  for number, image_id in enumerate(shown.paths, 1):
    stem = f'{name.replace("/", "_")}_{_stem(shown, image_id, number)}'
    plots = draw_pyramid(pyramid_features, detector, pixels[image_id], channels)
    for part, plot in plots.items():
      folder = 'offsets' if part.startswith('level_') else 'levels'
      page.figure(plot, f'{folder}/{stem}{"" if part == "levels" else "_" + part}.png',
                  f'{shown.paths[image_id]}, {part}')


def draw_pyramid(features: Any, detector: Any, image: np.ndarray,
                 channels: Sequence[int] = ()) -> dict[str, figure.Figure]:
  """Draws what a neck computes for an image.

  Args:
    features: the module `serving.pyramid_features`, whose import takes seconds.
    detector: an `InMemoryDetector`.
    image: uint8 `[height, width, 3]`.
    channels: channels to draw alone too.

  Returns:
    `levels` -> the mean magnitude of each level's features; `channel_<number>` -> that of one
    channel; for a DRFPN also `level_<number>` -> its sampling offsets.

  Raises:
    CommandError: the neck has not so many channels.
  """
  named = {f'level {level}': value for level, value in features.levels(detector, image).items()}
  plots = {'levels': routing_figures.draw_feature_grid(image, named, 'mean magnitude of features')}
  for channel in channels:
    depth = min(value.shape[-1] for value in named.values())
    if channel >= depth:
      raise command_line.CommandError(
          f'--channels has {channel}, but this neck has the channels 0 to {depth - 1}.')
    plots[f'channel_{channel}'] = routing_figures.draw_feature_grid(
        image, {name: value[..., [channel]] for name, value in named.items()},
        f'magnitude of channel {channel}')
  for level, found in features.offsets(detector, image).items():
    plots[f'level_{level}'] = offsets_lib.draw_offsets(
        image, found.starts, found.ends, f'level {level} samples level {int(level) + 1}')
  return plots


def _points(models: Mapping[str, Any], images: image_ids.ImageSet, truth: truth_lib.Truth
            ) -> list[dict[str, Any]]:
  """Evaluates every model on all images."""
  for name, detector in models.items():
    evaluation.check_costs(detector, name, 'or leave out --annotation_file')
  return [{'model': name, 'threshold': None, **evaluation.evaluate(detector, images, truth)}
          for name, detector in models.items()]


def _write_tradeoff(page: _Page, points: Sequence[Mapping[str, Any]]) -> None:
  from official_ext.visualization import tradeoff as drawing
  page.page.heading('Accuracy against cost')
  page.page.table(['network', 'AP', 'AP50', 'GMAC per image', 'cheapest', 'dearest'], [
      (point['model'], *(f'{point[key]:.3f}' for key in (
          'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max'))) for point in points])
  page.figure(drawing.draw_tradeoff(points), 'tradeoff.png', 'AP against GMAC per image.')


def write(args: argparse.Namespace, folder: pathlib.Path) -> None:
  """Writes the comparison into a folder.

  Args:
    args: the command's arguments.
    folder: to write into.

  Raises:
    CommandError: a detector or an image cannot be read.
  """
  from official_ext import registry_imports
  from official_ext.serving import converted_detectors
  from official_ext.serving import detectors
  from official_ext.serving import image_runs
  experiment.import_modules(args.imports)
  truth = truth_lib.Truth(args.annotation_file) if args.annotation_file else None
  images = image_ids.assign(image_files.find(args.images), truth)
  if truth:
    evaluation.say_left_out(images, truth)
  picked = routing_figures.pick_evenly(list(images.paths), args.number)
  shown = images._replace(paths={image_id: images.paths[image_id] for image_id in picked})
  pixels = image_runs.pixels(shown, args.max_pixels)
  models = {name: converted_detectors.load(path) for name, path in zip(
      files.short_names(args.saved_model) if args.saved_model else [], args.saved_model)}
  page = _Page(f'{len(models) + len(args.trained)} detectors, {len(images.paths)} images', folder)
  points = _points(models, images, truth) if truth else []
  if points:
    _write_tradeoff(page, points)
  if models:
    _write_detections(page, models, shown, pixels, truth, args)
  model_dirs = [pathlib.Path(model_dir) for _, model_dir in args.trained]
  for name, (experiment_name, model_dir) in zip(
      files.short_names(model_dirs) if model_dirs else [], args.trained):
    _write_pyramid(page, name, detectors.restore(experiment_name, model_dir), shown, pixels,
                   args.channels)
  (folder / 'compare.html').write_text(page.page.html(), encoding='utf-8')
  (folder / _MARKER).write_text(json.dumps(points, indent=2) + '\n', encoding='utf-8')


def main(arguments: Sequence[str] | None = None) -> None:
  """Compares; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=[
      *args.images, *filter(None, [args.annotation_file]), *args.saved_model,
      *(model_dir for _, model_dir in args.trained)])
  with files.atomic_directory(args.output_dir) as folder:
    write(args, folder)
  command_line.say(f'Wrote {args.output_dir}/compare.html')


if __name__ == '__main__':
  command_line.run(main)
