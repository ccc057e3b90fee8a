"""Converts COCO, Pascal VOC or CSV data to TFRecords, with a report of what was found."""
import argparse
import json
import pathlib
from typing import Any, Dict

from official_ext.utils import command_line
from official_ext.utils import files

_DESCRIPTION = """\
Converts a detection data set to the TFRecords that Model Garden reads, and writes for each
split the COCO annotation file that matches the records.

Read from --input:
  coco  annotations/*.json with train and val in their names (instances_train2017.json);
        images in images/SPLIT, images or beside, as their file_name says
  voc   Annotations/*.xml, JPEGImages, and ImageSets/Main/train.txt and val.txt if there;
        coordinates are taken as they are written; objects marked difficult are kept
  csv   train.csv and val.csv, or one file with a column split; the first line is
        image,xmin,ymin,xmax,ymax,class (pixels; a row with only image has no boxes);
        images in images/SPLIT, images or beside
Without a val split, 20 % of the images are held out; the same ones every time.

Written to --output_dir:
  train-00000-of-00004.tfrecord ... val-...  the records
  annotations/train.json, val.json           the same boxes as COCO annotations
  classes.txt                                a line 'id name' for each class
  dataset.json                               num_classes as Model Garden counts it (highest
                                             id + 1), names, counts, file patterns
  overrides.yaml                             --config_file that makes an experiment use the data
  report.json                                what was fixed, dropped or noted, file by file
"""
_EPILOG = """\
example:
  python -m official_ext.tools.convert_dataset --input=my_data --output_dir=my_records
  python -m official_ext.tools.check_dataset --data=my_records --output=my_records.png
"""

MARKER = 'dataset.json'


def _parse_arguments():
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.convert_dataset', description=_DESCRIPTION,
      epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--input', required=True, help='folder of the data set')
  parser.add_argument('--output_dir', required=True,
                      help='folder to make; replaced if this command has made it')
  parser.add_argument('--format', choices=('auto', 'coco', 'voc', 'csv'), default='auto',
                      help='layout of --input (auto: told from its files)')
  parser.add_argument('--include_masks', action='store_true',
                      help='write instance masks too; an object without one is dropped')
  parser.add_argument('--num_shards', type=int, default=4,
                      help='record files for each split; never more than images (4)')
  return parser.parse_args()


def _check_arguments(arguments) -> None:
  if arguments.num_shards < 1:
    raise command_line.CommandError(
        f'--num_shards is {arguments.num_shards}; give at least 1.')
  source, target = (pathlib.Path(path).resolve()
                    for path in (arguments.input, arguments.output_dir))
  if source.is_relative_to(target):
    raise command_line.CommandError(
        f'--output_dir {target} holds --input, which it would replace: give another folder.')


def _write_split(converter, name, folder, num_shards) -> Dict[str, Any]:
  """Writes the records and annotations of a split; returns its part of dataset.json."""
  import tensorflow as tf
  from official.vision.data import tfrecord_lib
  num_shards = max(1, min(num_shards, len(converter)))
  examples = command_line.progress(converter.examples(), f'converting {name}', len(converter))
  try:
    tfrecord_lib.write_tf_record_dataset(
        str(folder / name), examples, lambda example: example, num_shards,
        multiple_processes=0, unpack_arguments=False)
  except tf.errors.OpError as error:
    raise command_line.CommandError(f'{folder.parent} cannot be written: {error}.') from error
  annotation_file = folder / 'annotations' / f'{name}.json'
  annotation_file.parent.mkdir(exist_ok=True)
  annotation_file.write_text(json.dumps(converter.coco))
  images, annotations = converter.coco['images'], converter.coco['annotations']
  return dict(num_images=len(images), num_boxes=len(annotations),
              file_pattern=f'{name}-*.tfrecord', num_files=num_shards,
              annotation_file=f'annotations/{name}.json')


def convert(arguments) -> None:
  """Converts `arguments.input` to `arguments.output_dir`; see the command's help."""
  from official_ext.datasets import coco
  from official_ext.datasets import conversion
  from official_ext.datasets import readers
  files.check_own_output(arguments.output_dir, MARKER)
  source = pathlib.Path(arguments.input)
  findings = coco.Findings()
  detected = readers.detect_format(source)
  layout = detected if arguments.format == 'auto' else arguments.format
  splits = readers.read(source, layout, findings)
  categories, shift = conversion.merge_categories(splits, findings)
  found = {name: dict(images=len(split.images), boxes=len(split.annotations))
           for name, split in splits.items()}
  if not arguments.include_masks and any(annotation.get('segmentation') for split in
                                         splits.values() for annotation in split.annotations):
    findings.add('all', 'noted', 'there are masks: write them with --include_masks', str(source))
  with files.atomic_directory(arguments.output_dir) as folder:
    written = {}
    for name, split in splits.items():
      converter = conversion.SplitConverter(
          split, categories, shift, arguments.include_masks, findings)
      written[name] = _write_split(converter, name, folder, arguments.num_shards)
      if not written[name]['num_images']:
        findings.say()
        raise command_line.CommandError(
            f'no image of {name} in {split.source} can be used; the reasons are above.')
    dataset = dict(num_classes=categories[-1]['id'] + 1, include_masks=arguments.include_masks,
                   class_names={str(item['id']): item['name'] for item in categories},
                   splits=written)
    report = dict(input=str(source), format=layout, found=found, written=written,
                  findings=findings.to_json())
    (folder / MARKER).write_text(json.dumps(dataset, indent=2))
    (folder / 'report.json').write_text(json.dumps(report, indent=2))
    (folder / 'overrides.yaml').write_text(_overrides(arguments.output_dir, dataset))
    (folder / 'classes.txt').write_text(
        ''.join(f'{item["id"]} {item["name"]}\n' for item in categories))
  _say_summary(report, dataset)
  findings.say()
  command_line.say(f'written to {arguments.output_dir}; all findings are in report.json there')


def _overrides(output_dir: str, dataset: Dict[str, Any]) -> str:
  """Returns the YAML that makes an experiment use the data set."""
  train, val = dataset['splits']['train'], dataset['splits']['val']
  return '\n'.join([
      '# Makes an experiment use this data set: --config_file=<this file>',
      'task:',
      f"  annotation_file: '{output_dir}/{val['annotation_file']}'",
      f"  model: {{num_classes: {dataset['num_classes']}}}",
      f"  train_data: {{input_path: '{output_dir}/{train['file_pattern']}'}}",
      f"  validation_data: {{input_path: '{output_dir}/{val['file_pattern']}'}}",
  ]) + '\n'


def _say_summary(report, dataset) -> None:
  command_line.say(f'{report["input"]}: {report["format"]}, {len(dataset["class_names"])} classes, '
                   f'num_classes {dataset["num_classes"]} with background')
  for name, split in dataset['splits'].items():
    found = report['found'][name]
    command_line.say(f'  {name}: {split["num_images"]} of {found["images"]} images, '
                     f'{split["num_boxes"]} of {found["boxes"]} boxes in {split["file_pattern"]}')


def main() -> None:
  """Runs the command."""
  arguments = _parse_arguments()
  _check_arguments(arguments)
  convert(arguments)


if __name__ == '__main__':
  command_line.run(main)
