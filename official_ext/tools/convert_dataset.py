"""Converts data of a published layout to TFRecords, with a report of what was found."""
import argparse
from collections.abc import Mapping
import dataclasses
import json
import pathlib
import sys
import textwrap

from official_ext.datasets import annotations
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.images import image_files
from official_ext.datasets import readers
from official_ext.datasets.records import record_folder
from official_ext.datasets.sources import data_folder
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = """\
Converts a detection data set to the TFRecords that Model Garden reads, and writes for each
split the COCO annotation file that matches the records.

--input is a folder or a zip file with one of these layouts:

{layouts}

train, val (valid, validation), trainval and test are told by whole words in the names of files
and folders. trainval is train if there is no train; test is val if there is no val.
Without both, 20 % of the images are held out as val; the same ones every time.
Several COCO files of one split are read as one if no image and no image id is in two of them,
and their categories and the folders of their images are the same.
Text may be UTF-8, UTF-16 with its mark, or cp1252; tables may be separated by , ; or tabs.
An image is found by its name, without regard to the case of letters, composed letters,
backslashes, blanks at the ends, %20 and the first folders of an absolute path; then with another
suffix. If several files fit, none is taken. Nothing outside of --input is read. Files that begin
with a dot are no data.
Images are turned as their EXIF data say, unless the sizes in the annotations are those of the
stored pixels; 16-bit and float values are scaled to 8 bits, alpha is left out, the first page or
frame counts. JPEG and plain PNG files are stored as they are, others as PNG.

Left out and told: images whose labels cannot be trusted (two entries with one id or name, a
file of another shape than annotated) and images of which an annotation had to be dropped.
Boxes of images that were only resized are scaled.  The exit status is 1, with the records
written, if a class or a split lost all its boxes or boxes look as if they had another form.

Written to --output_dir:
  train-00000-of-00004.tfrecord ... val-...  the records
  annotations/train.json, val.json           the same boxes as COCO annotations
  classes.txt                                a line 'id name' for each class
  dataset.json                               num_classes as Model Garden counts it (highest
                                             id + 1), names, original_ids, counts, file
                                             patterns, licence
  overrides.yaml                             --config_file that makes an experiment use the data
  report.json                                what was fixed, dropped or noted, file by file

Category ids that are whole numbers from 1 to at most twice their count + 10 stay as they are (so
the 80 classes of COCO keep num_classes 91); any others are packed to 1..N.  1, 1.0 and "1" are
the same id.  The annotation files hold the ids of the data set as original_id, training and export
carry them along with the names, and predict gives them back.  Splits are matched by class name.
"""
_EPILOG = """\
example:
  python -m official_ext.tools.convert_dataset --input=my_data --output_dir=my_records
  python -m official_ext.tools.check_dataset --data=my_records --output=my_records.png
"""


def _layouts() -> str:
  """Returns the layouts as text for --help."""
  return '\n'.join(f'  {layout.name}: {layout.title}\n{textwrap.indent(layout.tree, " " * 6)}'
                   for layout in readers.LAYOUTS.values())


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.convert_dataset', epilog=_EPILOG,
      description=_DESCRIPTION.format(layouts=_layouts()),
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--input', required=True, help='folder or zip file of the data set')
  parser.add_argument('--output_dir', required=True,
                      help='folder to make; replaced if this command has made it')
  parser.add_argument('--format', choices=('auto', *sorted(readers.LAYOUTS)), default='auto',
                      help='layout of --input (auto: told from its files)')
  parser.add_argument('--follow_links', action='store_true',
                      help='follow symbolic links in --input that lead out of it')
  parser.add_argument('--max_unpacked_gb', type=argument_types.positive_number,
                      default=data_folder.DEFAULT_MAX_UNPACKED,
                      help='size that a zip file may have unpacked, in 10^9 bytes '
                      f'({data_folder.DEFAULT_MAX_UNPACKED}); TMPDIR says where it is unpacked')
  parser.add_argument('--include_masks', action='store_true',
                      help='write instance masks too; an object without one is dropped')
  parser.add_argument('--num_shards', type=int, default=4,
                      help='record files for each split; never more than images (4)')
  parser.add_argument('--keep_images_that_lost_labels', action='store_true',
                      help='write images of which an annotation is dropped; without it they are '
                      'left out, because they would teach that there is nothing')
  parser.add_argument('--allow_losses', action='store_true',
                      help='status 0 although a class or a split lost all its boxes')
  parser.add_argument('--trust_boxes', action='store_true',
                      help='status 0 although boxes look like corners, y first, parts of the '
                      'image or such')
  parser.add_argument('--licence', default='', metavar='TEXT',
                      help='licence of the data set, for the cards of models trained on it (the '
                      'names under "licenses" in COCO files)')
  image_files.add_max_pixels_argument(parser)
  return parser.parse_args()


def _check_arguments(args: argparse.Namespace) -> None:
  if args.num_shards < 1:
    raise command_line.CommandError(f'--num_shards is {args.num_shards}; give at least 1.')
  source, target = (pathlib.Path(path).resolve() for path in (args.input, args.output_dir))
  if source.is_relative_to(target):
    raise command_line.CommandError(
        f'--output_dir {target} holds --input, which it would replace: give another folder.')


def _write_records(splits: annotations.Splits, categories: categories_lib.Categories,
                   folder: pathlib.Path, args: argparse.Namespace, findings: findings_lib.Findings
                   ) -> record_folder.Dataset:
  """Writes the records of all splits and their description into a temporary folder."""
  from official_ext.datasets import conversion  # imported here because it loads TensorFlow
  from official_ext.datasets import doubts
  written, tallies = {}, {}
  for name, split in splits.items():
    converter = conversion.SplitConverter(
        split, categories, args.include_masks, findings, max_pixels=args.max_pixels,
        keep_images_that_lost_labels=args.keep_images_that_lost_labels)
    written[name] = conversion.write_split(converter, name, folder, args.num_shards)
    tallies[name] = converter.tally
  allowed = doubts.Permissions(losses=args.allow_losses, box_forms=args.trust_boxes)
  doubts.tell(tallies, categories, findings, allowed)
  for name, split in splits.items():
    if not written[name].num_images:
      findings.say()
      raise command_line.CommandError(
          f'no image of {name} in {split.source} can be used; the reasons are above.')
  dataset = record_folder.Dataset(categories.num_classes, args.include_masks, categories.names,
                                  written, categories.original_ids,
                                  args.licence or _licences(splits))
  record_folder.write(dataset, folder, args.output_dir)
  return dataset


def _licences(splits: annotations.Splits) -> str:
  """Returns the licences that the annotation files list, each once."""
  return ', '.join(dict.fromkeys(name for split in splits.values() for name in split.licences))


def convert(args: argparse.Namespace) -> bool:
  """Converts a data set and prints a summary.

  Args:
    args: the command's arguments.

  Returns:
    Whether no problem was found: the records are written in any case.

  Raises:
    CommandError: the data set cannot be read or has no usable image, or the records cannot be
      written.
  """
  files.check_own_output(
      args.output_dir, record_folder.MARKER, record_folder.WRITES, reads=[args.input])
  source = pathlib.Path(args.input)
  with data_folder.open_input(source, args.max_unpacked_gb, args.follow_links) as data:
    return _convert(data, source, args)


def _convert(data: data_folder.DataFolder, source: pathlib.Path, args: argparse.Namespace) -> bool:
  """Does what `convert` says with an opened data set; `source` is its name for people."""
  findings = findings_lib.Findings()
  layout, reason = (readers.choose(data) if args.format == 'auto' else
                    readers.Choice(args.format, 'as --format says'))
  command_line.say(f'{source}: layout {layout}, {reason}')
  splits = readers.read(data, layout, findings)
  categories = categories_lib.merge(splits, findings)
  found = {name: dict(images=len(split.images), boxes=len(split.annotations))
           for name, split in splits.items()}
  if not args.include_masks and any(annotation.get('segmentation') for split in splits.values()
                                    for annotation in split.annotations):
    findings.add('all', 'noted', 'there are masks: write them with --include_masks', str(source))
  with files.atomic_directory(args.output_dir) as folder:
    dataset = _write_records(splits, categories, folder, args, findings)
    report = dict(input=str(source), format=layout, format_reason=reason, found=found,
                  written={name: dataclasses.asdict(split)
                           for name, split in dataset.splits.items()},
                  findings=findings.to_json())
    (folder / 'report.json').write_text(json.dumps(report, indent=2))
  command_line.say(f'{len(dataset.class_names)} classes, num_classes '
                   f'{dataset.num_classes} with background')
  _say_splits(dataset, found)
  findings.say()
  command_line.say(f'written to {args.output_dir}; all findings are in report.json there')
  num_problems = findings.count('problem')
  if num_problems:
    command_line.say(
        f'{num_problems} problem{"" if num_problems == 1 else "s"}: look at the data before '
        f'training (check_dataset --data={args.output_dir} --output=samples.png)')
  return not num_problems


def _say_splits(dataset: record_folder.Dataset, found: Mapping[str, Mapping[str, int]]) -> None:
  """Prints how many of the images and boxes that were found are in the records."""
  for name, split in dataset.splits.items():
    command_line.say(f'  {name}: {split.num_images} of {found[name]["images"]} images, '
                     f'{split.num_boxes} of {found[name]["boxes"]} boxes in {split.file_pattern}')


def main() -> None:
  """Runs the command; the exit status is 1 if there is a problem."""
  args = _parse_arguments()
  _check_arguments(args)
  if not convert(args):
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)
