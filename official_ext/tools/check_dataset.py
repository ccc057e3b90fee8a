"""Says what a model will see in TFRecords: counts, sizes, drawn samples, problems by file."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import pathlib
import sys
from typing import Any, TYPE_CHECKING

import numpy as np
from PIL import Image

from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values
from official_ext.datasets import readers
from official_ext.datasets.records import record_folder
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.visualization import boxes

if TYPE_CHECKING:  # at run time imported in functions, because they load TensorFlow
  from official_ext.datasets.records import record_checks
  from official_ext.datasets.records import record_decoding

_DESCRIPTION = """\
Reads TFRecords as Model Garden does and says what a model will see: images, boxes of each
class, their sizes, and every problem with the file that has it: records that cannot be decoded,
odd ids, classes, boxes and masks, images in two splits.  With --experiment (and its overrides) also
what does not fit it: masks, classes, numbers of boxes, images that its resize leaves empty, image
ids.  The exit status is 1 if there is a problem.
"""
_EPILOG = """\
examples:
  python -m official_ext.tools.check_dataset --data=my_records --output=samples.png
  python -m official_ext.tools.check_dataset --input_path='my_records/val-*.tfrecord' \\
    --annotation_file=my_records/annotations/val.json
  python -m official_ext.tools.check_dataset --data=my_records \\
    --experiment=retinanet_dyfpn_resnet50_coco --config_file=my_records/overrides.yaml
"""

_SAMPLE_SIDE = 480  # pixels of the longer side of a drawn image
_CLASSES_SHOWN = 20
_SIZES_SHOWN = 4


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.check_dataset', description=_DESCRIPTION,
      epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  data = parser.add_mutually_exclusive_group(required=True)
  data.add_argument('--data', help='folder that convert_dataset wrote')
  data.add_argument('--input_path', help='pattern of TFRecord files, in quotes; commas between '
                    'several')
  parser.add_argument('--annotation_file', help='COCO annotation file to compare --input_path with')
  parser.add_argument('--output', help='picture of samples to write, .png or .jpg')
  parser.add_argument('--json', help='file for the same report as JSON')
  parser.add_argument('--num_samples', type=int, default=12,
                      help='how many images to draw (12)')
  experiment.add_arguments(parser, required=False)
  return parser.parse_args()


def _check_arguments(args: argparse.Namespace) -> None:
  if args.annotation_file and args.data:
    raise command_line.CommandError(
        '--annotation_file goes with --input_path; --data brings its own.')
  if not args.experiment and (args.config_file or args.params_override):
    raise command_line.CommandError(
        '--config_file and --params_override change an experiment: give --experiment too.')
  if args.num_samples < 1:
    raise command_line.CommandError(f'--num_samples is {args.num_samples}; give at least 1.')
  if args.output and not args.output.lower().endswith(('.png', '.jpg', '.jpeg')):
    raise command_line.CommandError(
        f'--output is {args.output}; its name must end in .png or .jpg.')
  for flag in ('output', 'json'):
    if getattr(args, flag):
      files.check_file(getattr(args, flag), f'--{flag}')


def _folder_sources(folder: pathlib.Path) -> list[record_checks.Source]:
  """Returns the splits of a folder that convert_dataset wrote."""
  from official_ext.datasets.records import record_checks
  from official_ext.utils import input_checks
  dataset = record_folder.read(folder, alternative=', or use --input_path')
  return [
      record_checks.Source(
          name, input_checks.matching_files(
              record_folder.path_pattern(folder, split.file_pattern), '--data'),
          dataset.num_classes, dataset.class_names,
          readers.load_annotations(folder / split.annotation_file))
      for name, split in dataset.splits.items()]


def _pattern_source(pattern: str, annotation_file: str | None) -> record_checks.Source:
  """Returns the records of `--input_path` as one split."""
  from official_ext.datasets.records import record_checks
  from official_ext.utils import input_checks
  source = record_checks.Source('data', input_checks.matching_files(pattern, '--input_path'))
  if annotation_file:
    source.annotations = readers.load_annotations(pathlib.Path(annotation_file))
    names = {normal_values.normal_id(entry.get('id')): str(entry.get('name'))
             for entry in source.annotations['categories']}
    strange = [number for number in names if not isinstance(number, int) or number < 0]
    if strange:
      raise command_line.CommandError(
          f'--annotation_file={annotation_file} has the category id {strange[0]!r}, but records '
          'have whole numbers: give the file that belongs to the records, such as '
          'annotations/val.json of convert_dataset.')
    source.class_names = {number: name for number, name in names.items() if isinstance(number, int)}
    source.num_classes = max(source.class_names) + 1 if names else None
  return source


def _task(args: argparse.Namespace) -> Any:
  """Returns the task config of `--experiment` with its overrides; None without it.

  Raises:
    CommandError: it cannot be resolved, or is no detector's.
  """
  if not args.experiment:
    return None
  from official_ext import registry_imports
  experiment.import_modules(args.imports)
  task = experiment.resolve(args.experiment, args.config_file, args.params_override).task
  if not hasattr(getattr(task.train_data, 'parser', None), 'max_num_instances'):
    raise command_line.CommandError(
        f'--experiment={args.experiment} reads no boxes: give that of a detector.')
  return task


def compare_with_task(task: Any, name: str, summaries: Mapping[str, Mapping[str, Any]],
                      num_classes: int, findings: findings_lib.Findings) -> None:
  """Reports where an experiment does not fit all records together.

  Args:
    task: its task config.
    name: of the experiment.
    summaries: of each split, from `SplitCheck.summary`.
    num_classes: the number that the data need, background included.
    findings: told what does not fit.
  """
  if task.model.num_classes != num_classes:
    findings.add('all', 'problem' if task.model.num_classes < num_classes else 'noted',
                 f'task.model.num_classes is {task.model.num_classes}, the data need '
                 f'{num_classes}', name)
  limit = task.train_data.parser.max_num_instances
  for split, summary in summaries.items():
    if summary['boxes_per_image']['max'] > limit:
      findings.add(split, 'problem', f'task.train_data.parser.max_num_instances is {limit}, '
                   f'images have up to {summary["boxes_per_image"]["max"]} boxes', name)


def _draw_sample(decoded: record_decoding.Decoded, class_names: Mapping[int, str]) -> np.ndarray:
  """Returns the image of a record with its boxes, names and masks, uint8 `[height, width, 3]`."""
  from official_ext.datasets.records import record_decoding
  image, _ = boxes.fit(decoded['image'], _SAMPLE_SIDE)
  size = np.array(image.shape[:2])
  masks = record_decoding.decode_masks(decoded)
  if masks is not None:
    masks = np.stack([np.asarray(Image.fromarray(mask).resize(size[::-1])) for mask in masks])
  class_ids = decoded['groundtruth_classes'].tolist()
  return boxes.draw_boxes(
      image, decoded['groundtruth_boxes'] * np.tile(size, 2),
      [class_names.get(number, str(number)) for number in class_ids],
      masks=masks, colors=[boxes.class_color(number) for number in class_ids])


def draw_samples(checks: Sequence[record_checks.SplitCheck],
                 decoder: record_decoding.RecordDecoder, path: str) -> None:
  """Draws the records that each split has kept, with boxes, names and masks.

  Args:
    checks: the check of each split, after it has run.
    decoder: decodes the records.
    path: of the picture.

  Raises:
    CommandError: no record can be decoded.
  """
  pictures, titles = [], []
  for split in checks:
    for name, record in split.samples:
      decoded = decoder(record)
      pictures.append(_draw_sample(decoded, split.source.class_names))
      titles.append(f'{split.source.name}/{name}  '
                    f'boxes: {len(decoded["groundtruth_classes"])}')
  if not pictures:
    raise command_line.CommandError(
        f'--output {path} was not written: no record can be decoded.')
  sheet = boxes.draw_grid(pictures, titles, columns=min(4, len(pictures)))
  with files.atomic_file(path) as temporary:
    Image.fromarray(sheet).save(temporary)


def _first_counts(counts: Mapping[str, int], shown: int) -> str:
  """Returns the first `shown` counts as text, and how many more there are."""
  texts = [f'{key} {number}' for key, number in list(counts.items())[:shown]]
  more = f', {len(counts) - shown} more' if len(counts) > shown else ''
  return ', '.join(texts) + more


def _say_summary(name: str, summary: Mapping[str, Any]) -> None:
  """Prints the statistics of a split, from `SplitCheck.summary`."""
  per_image = summary['boxes_per_image']
  command_line.say(
      f'{name}: {summary["num_images"]} images, {summary["num_boxes"]} boxes '
      f'({summary["num_crowd"]} crowd), {summary["num_masks"]} masks')
  command_line.say(f'  boxes per image    mean {per_image["mean"]}, max {per_image["max"]}; '
                   f'{summary["images_without_boxes"]} images without')
  by_number = dict(sorted(summary['boxes_per_class'].items(), key=lambda item: -item[1]))
  command_line.say(f'  boxes per class    {_first_counts(by_number, _CLASSES_SHOWN)}')
  command_line.say(f'  image sizes        {_first_counts(summary["image_sizes"], _SIZES_SHOWN)}')
  for key, label, form in (('box_side_pixels', 'sqrt(area), pixels', '{:.0f}'),
                           ('box_side_relative', 'sqrt(area) / image', '{:.3f}')):
    values = ', '.join(f'{percent} %: {form.format(value)}'
                       for percent, value in summary[key].items())
    command_line.say(f'  {label} {values or "no boxes"}')


def check(args: argparse.Namespace) -> bool:
  """Checks the data and prints the result.

  Args:
    args: the command's arguments.

  Returns:
    Whether there is no problem.

  Raises:
    CommandError: there are no records, or an option does not fit them.
  """
  # Imported here because they load TensorFlow.
  from official_ext.datasets.records import example_checks
  from official_ext.datasets.records import record_checks
  from official_ext.datasets.records import record_decoding
  sources = (_folder_sources(pathlib.Path(args.data)) if args.data
             else [_pattern_source(args.input_path, args.annotation_file)])
  task = _task(args)
  findings = findings_lib.Findings()
  needs = [example_checks.Needs.of_task(task, source.name == 'train') if task else
           example_checks.Needs() for source in sources]
  decoder = record_decoding.RecordDecoder(
      regenerate_source_id=not all(need.source_id for need in needs))
  num_samples = -(-args.num_samples // len(sources)) if args.output else 0
  checks = [record_checks.SplitCheck(source, findings, num_samples, need)
            for source, need in zip(sources, needs)]
  for split in checks:
    split.run(decoder)
  record_checks.check_overlap(checks, findings)
  record_checks.check_classes(checks, findings)
  summaries = {split.source.name: split.summary() for split in checks}
  if task:
    num_classes = max(split.num_classes_needed for split in checks)
    compare_with_task(task, args.experiment, summaries, num_classes, findings)
  for name, summary in summaries.items():
    _say_summary(name, summary)
  findings.say()
  if args.json:
    with files.atomic_file(args.json) as temporary:
      temporary.write_text(json.dumps(dict(splits=summaries, findings=findings.to_json()),
                                      indent=2))
  if args.output:
    draw_samples(checks, decoder, args.output)
  num_problems = findings.count('problem')
  command_line.say(f'{num_problems or "no"} problem{"" if num_problems == 1 else "s"}')
  return not num_problems


def main() -> None:
  """Runs the command; the exit status is 1 if there is a problem."""
  args = _parse_arguments()
  _check_arguments(args)
  if not check(args):
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
