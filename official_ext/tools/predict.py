"""Runs an exported detector on images: drawn boxes, COCO results, cost of every image."""
import argparse
from collections.abc import Callable, Sequence
import csv
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.serving import labels as labels_lib
from official_ext.tools import demo
from official_ext.tools import gate_settings
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import json_list

_DESCRIPTION = """\
Runs an exported detector on images and writes into --output_dir:

  predictions.json  detections in COCO's results format, boxes in pixels of the image
  costs.json, .csv  per image: multiply-adds of the whole network and of its routed parts,
                    gates, seconds; and the files that were left out
  images.json       image ids by file
  categories.json   names of the category ids in predictions.json
  drawn/            the images with boxes of at least --score_threshold
  gates/            the decisions about each image, with --gates
  evaluation.json   average precision, with --evaluate

With --annotation_file, only the images that it describes are predicted, under its image and
category ids; its classes are matched with the model's by name, and it may be your own file or
the one that convert_dataset wrote.  Without it, category ids are those of the data set that was
converted, which the SavedModel knows, and images are numbered from 1.
Images are read as convert_dataset reads them; EXIF orientation is applied unless the annotations
are for the stored pixels, and boxes are in the frame of the annotation file, or else in a viewer's.
Images that cannot be read, or in which the detector fails, are skipped and named.
"""
_EPILOG = """\
examples:
  python -m official_ext.tools.predict --saved_model=runs/dyfpn_saved_model \\
    --images=photos --output_dir=runs/predictions
  python -m official_ext.tools.predict --demo
"""
_NAMED = 3
# A folder with this file was written by this command and may be replaced.
_MARKER = 'predictions.json'
# Further files and folders that the command writes, as patterns.
_WRITES = ('costs.json', 'costs.csv', 'images.json', 'categories.json', 'drawn', 'gates',
           'evaluation.json')


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.predict', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--demo', action='store_true',
                      help='instead of --saved_model: a small detector of nuclei in pictures of '
                      'microscopes, which takes a budget (0.5) and comes with the package, as do '
                      'three images for it; writes into runs/demo')
  parser.add_argument('--saved_model', metavar='DIR',
                      help='folder that export_saved_model or convert wrote')
  parser.add_argument('--images', nargs='+', type=pathlib.Path, metavar='PATH',
                      help='a folder, searched with all folders in it, or image files')
  parser.add_argument('--output_dir', metavar='DIR',
                      help='folder to write; earlier predictions in it are replaced')
  parser.add_argument('--batch_size', type=argument_types.positive_int, default=1, metavar='N',
                      help='images of one size that are run together (1)')
  parser.add_argument('--score_threshold', type=argument_types.threshold, default=0.3,
                      metavar='SCORE',
                      help='least score of a box that is drawn; the JSON holds all (0.3)')
  parser.add_argument('--annotation_file', type=pathlib.Path, metavar='JSON',
                      help='COCO annotations that give image ids and category ids')
  parser.add_argument('--evaluate', action='store_true',
                      help='compute average precision with pycocotools; needs --annotation_file')
  parser.add_argument('--resamples', type=argument_types.positive_int, metavar='N',
                      help='with --evaluate, the 95 %% interval of AP by a bootstrap of so many '
                      'draws of the images')
  parser.add_argument('--draw', action=argparse.BooleanOptionalAction, default=True,
                      help='draw the boxes')
  parser.add_argument('--gates', action='store_true',
                      help='draw the decisions about each image: open gates per position, or a '
                      'route; takes about a second per picture')
  gate_settings.add_arguments(parser, limits=True)
  image_files.add_max_pixels_argument(parser)
  args = parser.parse_args(arguments)
  if args.evaluate and not args.annotation_file:
    parser.error('--evaluate needs --annotation_file')
  if args.resamples and not args.evaluate:
    parser.error('--resamples needs --evaluate')
  if args.demo and args.saved_model:
    parser.error('--demo brings a detector along: leave out --saved_model')
  if args.demo and (args.max_ms or args.max_gmac):
    parser.error('--demo has no table of what budgets cost: give --budget in place of a limit')
  missing = [f'--{name}' for name in ('saved_model', 'images', 'output_dir')
             if not getattr(args, name)]
  if missing and not args.demo:
    parser.error(f'the following arguments are required: {", ".join(missing)}')
  if args.demo:
    demo.fill(args)
  return args


def _draw(image: np.ndarray, found: list[dict[str, Any]], labels: labels_lib.Labels,
          path: pathlib.Path) -> None:
  from official_ext.serving import detection_pictures
  drawn = detection_pictures.draw(image, found, labels)
  path.parent.mkdir(exist_ok=True)
  Image.fromarray(drawn).save(path, quality=92)


def _draw_gates(image: np.ndarray, outputs: dict[str, np.ndarray], row: int,
                description: dict[str, Any], stem: pathlib.Path) -> None:
  """Writes `<stem>_<picture>.png` for every picture of the decisions about an image."""
  from official_ext.serving import coco_results
  from official_ext.visualization import routing_figures
  gates = coco_results.gates(outputs, row)
  bounds = description.get('gmac')
  pictures = routing_figures.draw_decisions(
      image, gates, float(outputs['executed_multiply_adds'][row]) if gates else 0.0,
      1e9 * (bounds['maximum'] - bounds['static']) if bounds else None,
      outputs['image_info'][row, 2])
  if not pictures:
    raise command_line.CommandError(
        '--gates: the outputs of --saved_model have no gate that is drawn over an image; '
        'costs.json has what gates there are. Leave it out.')
  stem.parent.mkdir(exist_ok=True)
  for name, plot in pictures.items():
    plot.savefig(f'{stem}_{name}.png', dpi=110)


def predict(detector: Any, images: image_ids.ImageSet, labels: labels_lib.Labels,
            args: argparse.Namespace, folder: pathlib.Path,
            add: Callable[[list[dict[str, Any]]], Any]
            ) -> tuple[list[dict[str, Any]], dict[str, str]]:
  """Runs a detector on every image that can be read, and draws.

  Args:
    detector: one of `serving.detectors`.
    images: the images to predict.
    labels: what classes are written as, and called.
    args: `batch_size`, `max_pixels`, `draw`, `gates` and, for drawing, `score_threshold`.
    folder: folder to draw into.
    add: called with the detections of each image in COCO's results format.

  Returns:
    An entry on cost per image, and skipped file -> reason.
  """
  from official_ext.datasets.images import image_orientation
  from official_ext.serving import coco_results
  from official_ext.serving import image_runs
  costs: list[dict[str, Any]] = []
  normalized = detector.description.get('normalized_boxes', False)
  listed = {number: image_orientation.listed(entry) for number, entry in images.entries.items()}
  stems = _file_stems(images.paths)
  run = image_runs.ImageRun(detector, images.paths, listed, args.max_pixels)
  for result in run.results(detector.batch_size or args.batch_size):
    image_id, outputs, row = result.image_id, result.outputs, result.row
    found = coco_results.detections(outputs, row, image_id, normalized, labels)
    if 'detection_masks' in outputs:
      coco_results.add_masks(found, outputs['detection_masks'][row], *result.image.shape[:2])
    add(found)
    costs.append({'image_id': image_id, 'file': str(result.path),
                  'seconds': round(result.seconds, 4), **coco_results.cost_entry(outputs, row)})
    if args.draw:
      shown = [d for d in found if d['score'] >= args.score_threshold]
      _draw(result.image, shown, labels, folder / 'drawn' / f'{stems[image_id]}.jpg')
    if args.gates:
      _draw_gates(result.image, outputs, row, detector.description,
                  folder / 'gates' / stems[image_id])
  return costs, run.skipped


def _file_stems(paths: dict[image_ids.Id, pathlib.Path]) -> dict[image_ids.Id, str]:
  """Returns image id -> stem of its pictures; an id or a name may be too long for a file."""
  return {image_id: f'{path.stem[:50]}_{image_id if isinstance(image_id, int) else f"no{number}"}'
          for number, (image_id, path) in enumerate(paths.items(), 1)}


def _write_csv(costs: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """Writes one line per image, with one column per gate."""
  rows = []
  for cost in costs:
    row = {name: value for name, value in cost.items() if name != 'gates'}
    for name, gate in cost.get('gates', {}).items():
      paths = enumerate(gate) if isinstance(gate, list) else [('', gate)]
      row.update({f'gate_{name}_{path}'.rstrip('_'): value for path, value in paths})
    rows.append(row)
  # The names of files may have bytes that are no text.
  with open(path, 'w', encoding='utf-8', errors='surrogateescape', newline='') as file:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def _write_json(value: Any, path: pathlib.Path) -> None:
  path.write_text(json.dumps(value, indent=1), encoding='utf-8')


def _evaluate(truth: truth_lib.Truth, predictions: list[dict[str, Any]],
              image_ids: Sequence[Any], resamples: int | None, folder: pathlib.Path) -> None:
  """Writes evaluation.json and prints the average precision."""
  from official_ext.serving import coco_results
  for reason, places in truth.dropped().items():
    command_line.say_names(f'Not evaluated, {reason}', places)
  evaluation = coco_results.average_precision(truth, predictions, image_ids)
  is_known = evaluation['ap'] >= 0
  if resamples and is_known:
    evaluation['ap_low'], evaluation['ap_high'] = coco_results.precision_interval(
        truth, predictions, image_ids, resamples)
  _write_json(evaluation, folder / 'evaluation.json')
  interval = (f' ({evaluation["ap_low"]:.3f} to {evaluation["ap_high"]:.3f})'
              if 'ap_low' in evaluation else '')
  end = '' if is_known else ': the annotation file has no object in them'
  command_line.say(f'AP {evaluation["ap"]:.3f}{interval}, AP50 {evaluation["ap50"]:.3f} on '
                   f'{len(image_ids)} images{end}')
  if 'mask_ap' in evaluation:
    command_line.say(f'Masks: AP {evaluation["mask_ap"]:.3f}, AP50 {evaluation["mask_ap50"]:.3f}')


def run(images: image_ids.ImageSet, truth: truth_lib.Truth | None, args: argparse.Namespace,
        folder: pathlib.Path) -> None:
  """Predicts, writes all files into a folder, and prints a summary.

  Args:
    images: the images to predict.
    truth: the annotation file, if one is given.
    args: the command's arguments.
    folder: folder to write into.

  Raises:
    CommandError: no image could be read, or the annotation file is of other classes.
  """
  from official_ext.serving import converted_detectors

  detector = demo.load() if args.demo else converted_detectors.load(args.saved_model)
  budget = gate_settings.apply(
      detector, args, '--demo' if args.demo else f'--saved_model={args.saved_model}')
  labels = labels_lib.of_detector(detector, truth)
  shown: list[int] = []
  with json_list.writer(folder / _MARKER) as append:

    def add(found: list[dict[str, Any]]) -> None:
      shown.append(sum(detection['score'] >= args.score_threshold for detection in found))
      append(found)

    costs, skipped = predict(detector, images, labels, args, folder, add)
  if not costs:
    file, reason = next(iter(skipped.items()))
    raise command_line.CommandError(
        f'no image could be predicted ({len(skipped)} tried), such as {file}: {reason}.')
  _write_json({'images': costs, 'budget': budget, 'skipped': skipped, 'absent': images.absent,
               'not_in_annotation_file': [str(path) for path in images.unknown]},
              folder / 'costs.json')
  _write_csv(costs, folder / 'costs.csv')
  _write_json({str(path): image_id for image_id, path in images.paths.items()},
              folder / 'images.json')
  _write_json(labels.to_json(), folder / 'categories.json')
  command_line.say_names(
      'Skipped', [f'{file}: {reason}' for file, reason in skipped.items()], '; ')
  image_ids.say_left_out(images)
  if args.evaluate and truth:
    predictions = json.loads((folder / _MARKER).read_text(encoding='utf-8'))
    _evaluate(truth, predictions, [cost['image_id'] for cost in costs], args.resamples, folder)
  if len(costs) <= _NAMED:
    for cost, count in zip(costs, shown):
      command_line.say(_image_summary(cost, count))
  command_line.say(f'Images: {len(costs)}; objects with a score of at least '
                   f'{args.score_threshold:g}: {sum(shown)}{_cost_summary(costs)}.')


def _image_summary(cost: dict[str, Any], count: int) -> str:
  """Says what was found in an image, what that cost, and how long it took."""
  spent = (f', {cost["multiply_adds"] / 1e9:.3f} * 10^9 multiply-adds'
           if 'multiply_adds' in cost else '')
  return (f'{pathlib.Path(cost["file"]).name}: objects: {count}{spent}, '
          f'{1e3 * cost["seconds"]:.1f} ms')


def _cost_summary(costs: Sequence[dict[str, Any]]) -> str:
  if 'multiply_adds' not in costs[0]:
    return ''
  gmac = [cost['multiply_adds'] / 1e9 for cost in costs]
  return (f'; {np.mean(gmac):.3f} * 10^9 multiply-adds per image ({min(gmac):.3f} to '
          f'{max(gmac):.3f})')


def main(arguments: Sequence[str] | None = None) -> None:
  """Predicts; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  truth = truth_lib.Truth(args.annotation_file) if args.annotation_file else None
  if truth and args.evaluate and not truth.categories:
    raise command_line.CommandError(
        f'--annotation_file={truth.path} has no categories, so --evaluate cannot compare classes.')
  images = image_ids.assign(image_files.find(args.images), truth)
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=filter(
      None, [*args.images, args.annotation_file, args.saved_model]))
  with files.atomic_directory(args.output_dir) as folder:
    run(images, truth, args, folder)
  command_line.say(f'Wrote {args.output_dir}')


if __name__ == '__main__':
  command_line.run(main)
