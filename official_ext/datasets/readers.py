"""Reads detection data sets in COCO, Pascal VOC and CSV layout, as they are, into splits."""
import collections
import csv
import json
import pathlib
import random
from typing import Any, Dict, List, Optional
import xml.etree.ElementTree

from official_ext.datasets import coco
from official_ext.utils import command_line

_HELD_OUT = 0.2
_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_CSV_COLUMNS = ('image', 'xmin', 'ymin', 'xmax', 'ymax', 'class')

Splits = Dict[str, coco.Split]


def detect_format(folder: pathlib.Path) -> str:
  """Tells the layout of a data set: `coco`, `voc` or `csv`.

  Raises:
    CommandError: the folder is missing or empty, or has no annotations that we know.
  """
  if not folder.is_dir():
    raise command_line.CommandError(f'--input {folder} is not a folder.')
  if not any(folder.iterdir()):
    raise command_line.CommandError(f'--input {folder} is empty.')
  if any(folder.glob('Annotations/*.xml')):
    return 'voc'
  if _json_files(folder):
    return 'coco'
  if any(folder.glob('*.csv')):
    return 'csv'
  raise command_line.CommandError(
      f'--input {folder} has no annotation file: expected annotations/*.json (COCO), '
      'Annotations/*.xml (Pascal VOC) or train.csv (CSV).')


def read(folder: pathlib.Path, layout: str, findings: coco.Findings) -> Splits:
  """Reads the splits `train` and `val`.

  Without a val split every fifth image or so is held out; always the same ones.

  Args:
    folder: the data set.
    layout: `coco`, `voc` or `csv`.
    findings: told what could not be read.

  Returns:
    The splits by name.

  Raises:
    CommandError: an annotation file is missing or cannot be understood.
  """
  readers = {'coco': _read_coco, 'voc': _read_voc, 'csv': _read_csv}
  splits = readers[layout](folder, findings)
  if 'train' not in splits:
    raise command_line.CommandError(
        f'--input {folder} has no images to train on: name the annotation file or the list '
        'of images train, for example annotations/train.json.')
  if 'val' not in splits:
    splits['val'] = _hold_out(splits['train'])
    findings.add('all', 'noted', f'no val split: {len(splits["val"].images)} of the images '
                 'held out, the same ones every time', splits['train'].source)
  return splits


def _hold_out(split: coco.Split) -> coco.Split:
  """Moves a fifth of the images, by a seeded draw over the sorted names, to a new split."""
  names = sorted({str(image.get('file_name')) for image in split.images})
  if len(names) < 2:
    raise command_line.CommandError(
        f'{split.source} has {len(names)} images: at least 2 are needed for a train and a val '
        'split.')
  held_out = set(random.Random(0).sample(names, max(1, round(_HELD_OUT * len(names)))))

  def is_held_out(image):
    return str(image.get('file_name')) in held_out

  val_images = [image for image in split.images if is_held_out(image)]
  val_ids = {str(image.get('id')) for image in val_images}

  def is_val(annotation):
    return str(annotation.get('image_id')) in val_ids

  val = coco.Split('val', split.source, val_images, list(filter(is_val, split.annotations)),
                   split.categories, split.folders)
  split.images = [image for image in split.images if not is_held_out(image)]
  split.annotations = [annotation for annotation in split.annotations if not is_val(annotation)]
  return val


def _json_files(folder: pathlib.Path) -> List[pathlib.Path]:
  found = sorted(folder.glob('annotations/*.json')) or sorted(folder.glob('*.json'))
  # COCO keeps captions and key points beside the boxes.
  instances = [path for path in found if path.name.startswith('instances')]
  return instances or found


def _split_of(path: pathlib.Path) -> Optional[str]:
  """The split that a file name speaks of, None if of none."""
  stem = path.stem.lower()
  return next((name for name in ('train', 'val', 'test') if name in stem), None)


def load_annotations(path: pathlib.Path) -> Dict[str, List[Dict[str, Any]]]:
  """Reads a COCO annotation file and checks its outer shape.

  Raises:
    CommandError: it is not JSON, or not a detection file.
  """
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(f'{path} is not a JSON file: {error}.') from error
  for key in ('images', 'annotations', 'categories'):
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
      raise command_line.CommandError(
          f'{path} is not a COCO detection file: it needs a list of objects under "{key}".')
  return content


def _read_coco(folder: pathlib.Path, findings: coco.Findings) -> Splits:
  paths = _json_files(folder)
  if not paths:
    raise command_line.CommandError(f'--input {folder} has no annotations/*.json.')
  by_split = collections.defaultdict(list)
  for path in paths:
    by_split[_split_of(path)].append(path)
  if len(paths) == 1 and None in by_split:
    by_split['train'] = by_split.pop(None)
  splits = {}
  for name, candidates in by_split.items():
    if name not in ('train', 'val'):
      for path in candidates:
        findings.add('all', 'noted', 'annotation file is neither train nor val: not read',
                     str(path))
      continue
    if len(candidates) > 1:
      names = ', '.join(path.name for path in candidates)
      raise command_line.CommandError(
          f'{candidates[0].parent} has several files for {name}: {names}; keep one.')
    path = candidates[0]
    content = load_annotations(path)
    subset = path.stem.replace('instances_', '')
    folders = [folder / 'images' / name, folder / 'images' / subset, folder / name,
               folder / subset, folder / 'images', folder, path.parent]
    splits[name] = coco.Split(name, str(path), content['images'], content['annotations'],
                              content['categories'], folders)
  return splits


def _numbered(names) -> List[Dict[str, Any]]:
  return [dict(id=number, name=name) for number, name in enumerate(sorted(names), 1)]


def _read_voc_file(path: pathlib.Path) -> Dict[str, Any]:
  """Reads one Pascal VOC file; ValueError if it is broken."""
  try:
    root = xml.etree.ElementTree.parse(path).getroot()
  except (xml.etree.ElementTree.ParseError, OSError) as error:
    raise ValueError(str(error)) from error
  objects = []
  for number, entry in enumerate(root.iter('object'), 1):
    name = (entry.findtext('name') or '').strip()
    corners = [entry.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
    try:
      x1, y1, x2, y2 = (float(value) for value in corners)
      box = [x1, y1, x2 - x1, y2 - y1]
    except (TypeError, ValueError):
      box = None
    objects.append(dict(id=f'object {number}', name=name, bbox=box,
                        difficult=(entry.findtext('difficult') or '0').strip() == '1'))
  size = {key: int(float(root.findtext(f'size/{key}') or 0)) for key in ('width', 'height')}
  return dict(size, file_name=(root.findtext('filename') or '').strip(), objects=objects)


def _voc_lists(folder: pathlib.Path) -> Dict[str, List[str]]:
  lists = {}
  for name in ('train', 'val'):
    path = folder / 'ImageSets' / 'Main' / f'{name}.txt'
    if path.is_file():
      lists[name] = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
  return lists or {'train': sorted(path.stem for path in folder.glob('Annotations/*.xml'))}


def _read_voc(folder: pathlib.Path, findings: coco.Findings) -> Splits:
  image_dir = folder / 'JPEGImages'
  by_stem = {path.stem: path.name for path in sorted(image_dir.glob('*'))
             if path.suffix.lower() in _IMAGE_SUFFIXES}
  records = {}
  for name, stems in _voc_lists(folder).items():
    records[name] = {}
    for stem in stems:
      path = folder / 'Annotations' / f'{stem}.xml'
      try:
        records[name][stem] = _read_voc_file(path)
      except ValueError as error:
        findings.add(name, 'dropped', 'annotation file is broken or missing', path.name,
                     str(error))
  categories = _numbered({item['name'] for split in records.values()
                          for record in split.values() for item in record['objects']
                          if item['name']})
  ids = {category['name']: category['id'] for category in categories}
  splits = {}
  for name, split in records.items():
    images, annotations = [], []
    for number, (stem, record) in enumerate(split.items(), 1):
      # The name of the XML file is what lists refer to; the one inside is often outdated.
      images.append(dict(id=number, file_name=by_stem.get(stem, record['file_name']),
                         width=record['width'], height=record['height']))
      for item in record['objects']:
        if item['difficult']:
          findings.add(name, 'noted', 'object marked difficult: kept', f'{stem}.xml', item['id'])
        annotations.append(dict(id=f'{stem}.xml {item["id"]}', image_id=number,
                                category_id=ids.get(item['name']), bbox=item['bbox']))
    splits[name] = coco.Split(name, str(folder / 'Annotations'), images, annotations,
                              categories, [image_dir])
  return splits


def _csv_rows(path: pathlib.Path) -> List[Dict[str, str]]:
  with path.open(newline='', encoding='utf-8-sig') as file:
    reader = csv.DictReader(file)
    missing = [name for name in _CSV_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
      raise command_line.CommandError(
          f'{path} has no column {", ".join(missing)}: its first line must be '
          f'{",".join(_CSV_COLUMNS)}, and may add split.')
    try:
      return [dict(row, line=f'{path.name} line {reader.line_num}') for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
      raise command_line.CommandError(f'{path} is not a CSV file: {error}.') from error


def _csv_splits(folder: pathlib.Path) -> Dict[str, List[Dict[str, str]]]:
  """The rows of each split, from a file for each or from one with a column `split`."""
  named = {name: folder / f'{name}.csv' for name in ('train', 'val')}
  if named['train'].is_file():
    return {name: _csv_rows(path) for name, path in named.items() if path.is_file()}
  paths = sorted(folder.glob('*.csv'))
  if len(paths) != 1:
    raise command_line.CommandError(
        f'--input {folder} needs train.csv, or exactly one CSV file; it has '
        f'{", ".join(path.name for path in paths) or "none"}.')
  rows = _csv_rows(paths[0])
  splits = collections.defaultdict(list)
  for row in rows:
    name = (row.get('split') or 'train').strip().lower()
    if name not in ('train', 'val'):
      raise command_line.CommandError(
          f'{folder / row["line"]}: split is {name!r}; it must be train or val.')
    splits[name].append(row)
  return splits


def _csv_box(row: Dict[str, str]) -> Optional[List[float]]:
  try:
    x1, y1, x2, y2 = (float(row[key]) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
  except (TypeError, ValueError):
    return None
  return [x1, y1, x2 - x1, y2 - y1]


def _read_csv(folder: pathlib.Path, findings: coco.Findings) -> Splits:
  del findings  # a row that cannot be used is found when its box is checked
  rows = _csv_splits(folder)
  names = {(row['class'] or '').strip() for split in rows.values() for row in split} - {''}
  categories = _numbered(names)
  ids = {category['name']: category['id'] for category in categories}
  splits = {}
  for name, split_rows in rows.items():
    images, annotations = {}, []
    for row in split_rows:
      file_name = (row['image'] or '').strip()
      image = images.setdefault(file_name, dict(id=len(images) + 1, file_name=file_name))
      values = [(row[key] or '').strip() for key in _CSV_COLUMNS[1:]]
      if any(values):  # a row with nothing but a name is an image without boxes
        annotations.append(dict(id=row['line'], image_id=image['id'], bbox=_csv_box(row),
                                category_id=ids.get(values[-1])))
    folders = [folder / 'images' / name, folder / name, folder / 'images', folder]
    splits[name] = coco.Split(name, str(folder), list(images.values()), annotations,
                              categories, folders)
  return splits
