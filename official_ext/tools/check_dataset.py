"""Says what a model will see in TFRecords: counts, sizes, drawn samples, problems by file."""
import argparse
import json
import pathlib
import sys
from typing import Any, Dict, List

from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = """\
Reads TFRecords as Model Garden does and says what a model will see: images, boxes of each
class, their sizes, and every problem with the file that has it.  The exit status is 1 if
there is a problem.
"""
_EPILOG = """\
examples:
  python -m official_ext.tools.check_dataset --data=my_records --output=samples.png
  python -m official_ext.tools.check_dataset --input_path='my_records/val-*.tfrecord' \\
    --annotation_file=my_records/annotations/val.json
"""

_SAMPLE_SIDE = 480  # pixels of the longer side of a drawn image
_CLASSES_SHOWN = 20
_SIZES_SHOWN = 4


def _parse_arguments():
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
  parser.add_argument('--experiment', help='also compare with the defaults of this experiment')
  return parser.parse_args()


def _check_arguments(arguments) -> None:
  if arguments.annotation_file and arguments.data:
    raise command_line.CommandError(
        '--annotation_file goes with --input_path; --data brings its own.')
  if arguments.num_samples < 1:
    raise command_line.CommandError(
        f'--num_samples is {arguments.num_samples}; give at least 1.')
  if arguments.output and not arguments.output.lower().endswith(('.png', '.jpg', '.jpeg')):
    raise command_line.CommandError(
        f'--output is {arguments.output}; its name must end in .png or .jpg.')


def _data_sources(folder: pathlib.Path) -> List[Any]:
  """The splits of a folder that convert_dataset wrote."""
  from official_ext.datasets import record_checks
  from official_ext.datasets import readers
  from official_ext.utils import input_checks
  path = folder / 'dataset.json'
  try:
    dataset = json.loads(path.read_text())
    names = {int(key): name for key, name in dataset['class_names'].items()}
    return [
        record_checks.Source(
            name, input_checks.matching_files(str(folder / split['file_pattern']), '--data'),
            dataset['num_classes'], names,
            readers.load_annotations(folder / split['annotation_file']))
        for name, split in dataset['splits'].items()]
  except OSError as error:
    raise command_line.CommandError(
        f'--data {folder} has no dataset.json: give a folder that convert_dataset wrote, or '
        'use --input_path.') from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise command_line.CommandError(
        f'{path} is damaged ({error!r}): run convert_dataset again.') from error


def _pattern_source(arguments) -> List[Any]:
  """The records of `--input_path` as one split."""
  from official_ext.datasets import record_checks
  from official_ext.datasets import readers
  from official_ext.utils import input_checks
  paths = input_checks.matching_files(arguments.input_path, '--input_path')
  source = record_checks.Source('data', paths)
  if arguments.annotation_file:
    source.annotations = readers.load_annotations(pathlib.Path(arguments.annotation_file))
    source.class_names = {entry.get('id'): str(entry.get('name'))
                          for entry in source.annotations['categories']}
    source.num_classes = max(source.class_names, default=0) + 1
  return [source]


def compare_with_experiment(name: str, summaries: Dict[str, Dict[str, Any]], num_classes: int,
                            findings) -> None:
  """Reports where the defaults of an experiment do not fit the data.

  Args:
    name: of a registered experiment.
    summaries: of each split, from `SplitCheck.summary`.
    num_classes: that the data need, background included.
    findings: `coco.Findings`, told what does not fit.

  Raises:
    CommandError: no such experiment.
  """
  from official.core import exp_factory
  from official_ext import registry_imports
  try:
    task = exp_factory.get_exp_config(name).task
  except (KeyError, LookupError) as error:
    raise command_line.CommandError(
        f'--experiment {name!r} is not registered; see python -m '
        'official_ext.tools.show_config --help.') from error
  if task.model.num_classes < num_classes:
    findings.add('all', 'problem', f'task.model.num_classes is {task.model.num_classes}, the '
                 f'data need {num_classes}', name)
  limit = task.train_data.parser.max_num_instances
  for split, summary in summaries.items():
    if summary['boxes_per_image']['max'] > limit:
      findings.add(split, 'problem', f'task.train_data.parser.max_num_instances is {limit}, '
                   f'images have up to {summary["boxes_per_image"]["max"]} boxes', name)
    if getattr(task.model, 'include_mask', False) and not summary['num_masks']:
      findings.add(split, 'problem', 'task.model.include_mask is true, the records have no '
                   'masks', name)


def draw_samples(checks, decoder, path: str) -> None:
  """Draws the records that each split has kept, with boxes, names and masks.

  Args:
    checks: `SplitCheck` of each split, after it has run.
    decoder: a `RecordDecoder`.
    path: of the picture.
  """
  import numpy as np
  from PIL import Image
  from official_ext.datasets import record_checks
  from official_ext.visualization import boxes
  pictures, titles = [], []
  for check in checks:
    for name, record in check.samples:
      decoded = decoder(record)
      image, _ = boxes.fit(decoded['image'], _SAMPLE_SIDE)
      size = np.array(image.shape[:2])
      masks = record_checks.decode_masks(decoded)
      if masks is not None:
        masks = np.stack([np.asarray(Image.fromarray(mask).resize(size[::-1])) for mask in masks])
      classes = decoded['groundtruth_classes'].tolist()
      pictures.append(boxes.draw_boxes(
          image, decoded['groundtruth_boxes'] * np.tile(size, 2),
          [check.source.class_names.get(number, str(number)) for number in classes],
          masks=masks, colors=[boxes.class_color(number) for number in classes]))
      titles.append(f'{check.source.name}/{name}  boxes: {len(classes)}')
  if not pictures:
    raise command_line.CommandError(
        f'--output {path} was not written: no record can be decoded.')
  sheet = boxes.draw_grid(pictures, titles, columns=min(4, len(pictures)))
  with files.atomic_file(path) as temporary:
    Image.fromarray(sheet).save(temporary)


def _say_summary(name: str, summary: Dict[str, Any]) -> None:
  def most(counts, shown):
    texts = [f'{key} {number}' for key, number in list(counts.items())[:shown]]
    more = f', {len(counts) - shown} more' if len(counts) > shown else ''
    return ', '.join(texts) + more

  per_image = summary['boxes_per_image']
  command_line.say(
      f'{name}: {summary["num_images"]} images, {summary["num_boxes"]} boxes '
      f'({summary["num_crowd"]} crowd), {summary["num_masks"]} masks')
  command_line.say(f'  boxes per image    mean {per_image["mean"]}, max {per_image["max"]}; '
                   f'{summary["images_without_boxes"]} images without')
  by_number = dict(sorted(summary['boxes_per_class'].items(), key=lambda item: -item[1]))
  command_line.say(f'  boxes per class    {most(by_number, _CLASSES_SHOWN)}')
  command_line.say(f'  image sizes        {most(summary["image_sizes"], _SIZES_SHOWN)}')
  for key, label, form in (('box_side_pixels', 'sqrt(area), pixels', '{:.0f}'),
                           ('box_side_relative', 'sqrt(area) / image', '{:.3f}')):
    values = ', '.join(f'{percent} %: {form.format(value)}'
                       for percent, value in summary[key].items())
    command_line.say(f'  {label} {values or "no boxes"}')


def check(arguments) -> bool:
  """Checks the data and tells the result; returns whether there is no problem."""
  from official_ext.datasets import coco
  from official_ext.datasets import record_checks
  sources = (_data_sources(pathlib.Path(arguments.data)) if arguments.data
             else _pattern_source(arguments))
  findings = coco.Findings()
  decoder = record_checks.RecordDecoder()
  samples = -(-arguments.num_samples // len(sources)) if arguments.output else 0
  checks = [record_checks.SplitCheck(source, findings, samples) for source in sources]
  for split in checks:
    split.run(decoder)
  record_checks.check_overlap(checks, findings)
  summaries = {split.source.name: split.summary() for split in checks}
  if arguments.experiment:
    num_classes = max(split.num_classes_needed for split in checks)
    compare_with_experiment(arguments.experiment, summaries, num_classes, findings)
  for name, summary in summaries.items():
    _say_summary(name, summary)
  findings.say()
  if arguments.json:
    with files.atomic_file(arguments.json) as temporary:
      temporary.write_text(json.dumps(dict(splits=summaries, findings=findings.to_json()),
                                      indent=2))
  if arguments.output:
    draw_samples(checks, decoder, arguments.output)
  num_problems = findings.count('problem')
  command_line.say(f'{num_problems or "no"} problem{"" if num_problems == 1 else "s"}')
  return not num_problems


def main() -> None:
  """Runs the command; the exit status is 1 if there is a problem."""
  arguments = _parse_arguments()
  _check_arguments(arguments)
  if not check(arguments):
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
