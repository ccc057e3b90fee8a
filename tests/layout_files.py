"""One small drawn data set, written in every layout that the readers know.

Each writer takes an empty folder. `TRUTH` says what is drawn: rectangles of one color, whose name
is the class.
"""
import base64
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import io
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageDraw

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import masks
from official_ext.datasets import readers
from official_ext.datasets.sources import data_folder

SIZE = (60, 40)  # width and height in pixels
COLORS = {'red': (230, 20, 20), 'green': (20, 200, 20)}
Box = tuple[str, int, int, int, int]  # class, and x, y, width, height in pixels

TRUTH: dict[str, dict[str, list[Box]]] = {
    'train': {'a0.png': [('red', 4, 5, 20, 12), ('green', 30, 20, 16, 10)],
              'a1.png': [('green', 2, 3, 9, 30)],
              'a2.png': [('red', 40, 8, 11, 13), ('red', 10, 25, 14, 9)]},
    'val': {'b0.png': [('red', 22, 2, 10, 30), ('green', 1, 1, 12, 7)],
            'b1.png': [('green', 33, 15, 20, 20)]}}


def draw(boxes: list[Box], size=SIZE) -> Image.Image:
  """Returns gray with a filled rectangle for each box."""
  image = Image.new('RGB', size, (128, 128, 128))
  for name, x, y, width, height in boxes:
    ImageDraw.Draw(image).rectangle([x, y, x + width - 1, y + height - 1], fill=COLORS[name])
  return image


def save(path: pathlib.Path, boxes: list[Box], size=SIZE) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  draw(boxes, size).save(path)


def write(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding='utf-8')


def each() -> Iterator[tuple[str, str, list[Box]]]:
  """Yields split, name and boxes of each image."""
  for split, images in TRUTH.items():
    for name, boxes in images.items():
      yield split, name, boxes


def save_all(folder: pathlib.Path, place: str = 'images') -> None:
  """Saves the images; `{}` in `place` is the split."""
  for split, name, boxes in each():
    save(folder / place.format(split) / name, boxes)


def outline(box: Box) -> list[int]:
  _, x, y, width, height = box
  return [x, y, x + width, y, x + width, y + height, x, y + height]


def coco_text(split: str, prefix: str = '') -> str:
  images, annotations = [], []
  for name, boxes in TRUTH[split].items():
    images.append(dict(id=len(images) + 1, file_name=prefix + name, width=SIZE[0], height=SIZE[1]))
    annotations += [dict(id=len(annotations) + number, image_id=len(images), bbox=list(box[1:]),
                         category_id=list(COLORS).index(box[0]) + 1, iscrowd=0,
                         area=box[3] * box[4], segmentation=[outline(box)])
                    for number, box in enumerate(boxes, 1)]
  categories = [dict(id=number, name=name) for number, name in enumerate(COLORS, 1)]
  return json.dumps(dict(images=images, annotations=annotations, categories=categories))


def coco(annotations: str, images: str, prefix: str = ''):
  def writer(folder):
    save_all(folder, images)
    for split in TRUTH:
      write(folder / annotations.format(split), coco_text(split, prefix))
  return writer


def roboflow(suffix, text):
  """Exports of Roboflow: train/ and valid/, each with its annotation file beside the images."""
  def writer(folder):
    for split, folder_name in (('train', 'train'), ('val', 'valid')):
      for name, boxes in TRUTH[split].items():
        save(folder / folder_name / name, boxes)
      write(folder / folder_name / suffix, text(split))
  return writer


def voc_text(name: str, boxes: list[Box]) -> str:
  objects = ''.join(
      f'<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>{y}'
      f'</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>'
      for label, x, y, width, height in boxes)
  return (f'<annotation><folder>x</folder><filename>{name}</filename><size><width>{SIZE[0]}</width>'
          f'<height>{SIZE[1]}</height><depth>3</depth></size>{objects}</annotation>')


def voc(annotations: str, images: str, lists: dict[str, str] | None = None):
  """XML files; `lists` is split -> file of stems; without, folders say the split."""
  def writer(folder):
    save_all(folder, images)
    for split, name, boxes in each():
      stem = name.partition('.')[0]
      write(folder / annotations.format(split) / f'{stem}.xml', voc_text(name, boxes))
    for split, path in (lists or {}).items():
      write(folder / path, ''.join(f'{name.partition(".")[0]}\n' for name in TRUTH[split]))
  return writer


def voc_by_class(folder):
  voc('Annotations', 'JPEGImages')(folder)
  for split, images in TRUTH.items():
    for color in COLORS:
      write(folder / 'ImageSets' / 'Main' / f'{color}_{split}.txt', ''.join(
          f'{name.partition(".")[0]} {1 if any(box[0] == color for box in boxes) else -1:2}\n'
          for name, boxes in images.items()))


def csv_text(split: str, line: str, first: str = '') -> str:
  return first + ''.join(
      line.format(name=name, label=label, x1=x, y1=y, x2=x + width, y2=y + height) + '\n'
      for name, boxes in TRUTH[split].items() for label, x, y, width, height in boxes)


def csv(files: str, line: str, first: str = '', images: str = 'images', val: str = 'val'):
  def writer(folder):
    save_all(folder, images)
    for split in TRUTH:
      write(folder / files.format(val if split == 'val' else split), csv_text(split, line, first))
  return writer


TUTORIAL = ('filename,width,height,class,xmin,ymin,xmax,ymax\n',
            '{name},60,40,{label},{x1},{y1},{x2},{y2}')


def keras_retinanet(folder):
  csv('{}.csv', 'images/{name},{x1},{y1},{x2},{y2},{label}')(folder)
  write(folder / 'classes.csv', 'red,0\ngreen,1\n')


def yolo_text(boxes: list[Box], polygons: bool = False) -> str:
  lines = []
  for box in boxes:
    label, x, y, width, height = box
    values = outline(box) if polygons else [x + width / 2, y + height / 2, width, height]
    scaled = (value / SIZE[index % 2] for index, value in enumerate(values))
    lines.append(' '.join([str(list(COLORS).index(label)), *(f'{value:.6f}' for value in scaled)]))
  return '\n'.join(lines) + '\n'


def yolo(images: str, labels: str, files: dict[str, str], polygons: bool = False):
  """`files` are path -> text; of an empty text, the names of the classes."""
  def writer(folder):
    save_all(folder, images)
    for split, name, boxes in each():
      stem = name.partition('.')[0]
      write(folder / labels.format(split) / f'{stem}.txt', yolo_text(boxes, polygons))
    for path, text in files.items():
      write(folder / path, text)
  return writer


NAMES = 'names: [red, green]\nnc: 2\n'
DEVKIT = 'VOCdevkit/VOC2007'


def darknet(folder):
  yolo('data/obj_{}_data', 'data/obj_{}_data', {
      'obj.data': 'classes = 2\ntrain = data/train.txt\nvalid = data/test.txt\n'
                  'names = data/obj.names\nbackup = backup/\n',
      'data/obj.names': 'red\ngreen\n',
      **{f'data/{file}.txt': ''.join(f'data/obj_{split}_data/{name}\n' for name in TRUTH[split])
         for split, file in (('train', 'train'), ('val', 'test'))}})(folder)


def labelme(images: str, shapes: Callable[[Box], dict], embedded: bool = False):
  def writer(folder):
    for split, name, boxes in each():
      place = folder / images.format(split)
      content = io.BytesIO()
      draw(boxes).save(content, 'PNG')
      if not embedded:
        save(place / name, boxes)
      write(place / f'{name.partition(".")[0]}.json', json.dumps(dict(
          version='5.0.1', flags={}, shapes=[shapes(box) for box in boxes],
          imagePath=f'..\\somewhere\\{name}', imageHeight=SIZE[1], imageWidth=SIZE[0],
          imageData=base64.b64encode(content.getvalue()).decode() if embedded else None)))
  return writer


def labelme_rectangle(box: Box) -> dict:
  label, x, y, width, height = box
  return dict(label=label, points=[[x + width, y + height], [x, y]], group_id=None,
              shape_type='rectangle')


def labelme_polygon(box: Box) -> dict:
  return dict(label=box[0], points=np.reshape(outline(box), (-1, 2)).tolist(), group_id=None,
              shape_type='polygon')


def cvat(folder):
  save_all(folder, 'images/{}')
  images = []
  for split, name, boxes in each():
    shapes = []
    for index, (label, x, y, width, height) in enumerate(boxes):
      points = ';'.join(f'{px},{py}' for px, py in np.reshape(outline(boxes[index]), (-1, 2)))
      shapes.append([
          f'<box label="{label}" xtl="{x}" ytl="{y}" xbr="{x + width}" ybr="{y + height}"/>',
          f'<polygon label="{label}" points="{points}"/>',
          f'<mask label="{label}" rle="0, {width * height}" left="{x}" top="{y}" '
          f'width="{width}" height="{height}"/>'][(index + len(images)) % 3])
    subset = {'train': 'Train', 'val': 'Validation'}[split]
    images.append(f'<image id="{len(images)}" name="{name}" subset="{subset}" width="{SIZE[0]}" '
                  f'height="{SIZE[1]}">{"".join(shapes)}<tag label="red"/></image>')
  write(folder / 'annotations.xml', '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>'
        f'1.1</version><meta/>{"".join(images)}</annotations>')


@dataclasses.dataclass(frozen=True)
class Written:
  """A layout as a program writes it: the reader, the writer, and whether it has masks."""
  layout: str
  writer: Callable[[pathlib.Path], None]
  has_masks: bool = False


WRITTEN = {
    'coco': Written('coco', coco('annotations/{}.json', 'images'), True),
    'coco_2017': Written('coco', coco('annotations/instances_{}2017.json', '{}2017'), True),
    'coco_2014': Written('coco', coco('annotations/instances_{}2014.json', 'images/{}2014'), True),
    'coco_windows': Written('coco', coco('{}.json', 'images', 'C:\\me\\images\\'), True),
    'roboflow_coco': Written('coco', roboflow('_annotations.coco.json', coco_text), True),
    'voc_lists': Written('voc', voc('Annotations', 'JPEGImages', {
        split: f'ImageSets/Main/{split}.txt' for split in TRUTH})),
    'voc_2007': Written('voc', voc(f'{DEVKIT}/Annotations', f'{DEVKIT}/JPEGImages', {
        'train': f'{DEVKIT}/ImageSets/Main/trainval.txt',
        'val': f'{DEVKIT}/ImageSets/Main/test.txt'})),
    'voc_by_class': Written('voc', voc_by_class),
    'voc_beside': Written('voc', voc('{}', '{}')),
    'voc_nested': Written('voc', voc('Annotations/{}', 'JPEGImages/{}')),
    'voc_kaggle': Written('voc', voc('annotations', 'images', {
        split: f'{split}.txt' for split in TRUTH})),
    'csv': Written('csv', csv('{}.csv', '{name},{x1},{y1},{x2},{y2},{label}',
                              'image,xmin,ymin,xmax,ymax,class\n')),
    'csv_tutorial': Written('csv', csv('{}_labels.csv', TUTORIAL[1], TUTORIAL[0], val='test')),
    'csv_raccoon': Written('csv', csv('data/{}_labels.csv', TUTORIAL[1], TUTORIAL[0], val='test')),
    'roboflow_csv': Written('csv', roboflow('_annotations.csv', lambda split: csv_text(
        split, TUTORIAL[1], TUTORIAL[0]))),
    'keras_retinanet': Written('keras_retinanet', keras_retinanet),
    'yolo': Written('yolo', yolo('images/{}', 'labels/{}', {
        'data.yaml': NAMES + 'path: /content/data\ntrain: images/train\nval: images/val\n'})),
    'yolo_roboflow': Written('yolo', yolo('{}/images', '{}/labels', {
        'data.yaml': NAMES + 'train: ../train/images\nval: ../val/images\n'})),
    'yolo_map': Written('yolo', yolo('d/images/{}', 'd/labels/{}', {
        'd/my.yml': 'names: {1: green, 0: red}\ntrain: C:\\me\\d\\images\\train\n'
                    'val: [images/val]\n'})),
    'yolo_polygons': Written('yolo', yolo('images/{}', 'labels/{}', {
        'labels/classes.txt': 'red\ngreen\n'}, polygons=True), True),
    'yolo_beside': Written('yolo', yolo('{}', '{}', {'classes.txt': 'red\ngreen\n'})),
    'darknet': Written('yolo', darknet),
    'labelme': Written('labelme', labelme('{}', labelme_rectangle), True),
    'labelme_polygons': Written('labelme', labelme('{}', labelme_polygon), True),
    'labelme_embedded': Written('labelme', labelme('{}', labelme_polygon, embedded=True), True),
    'cvat': Written('cvat', cvat, True),
}


class Opened(NamedTuple):
  """A data set that was read: the choice of its layout, its splits and what was found."""
  choice: readers.Choice
  splits: annotations.Splits
  findings: list[dict[str, Any]]


@contextlib.contextmanager
def opened(path: pathlib.Path, layout: str = 'auto', **options) -> Iterator[Opened]:
  """Opens and reads a data set; `options` go to `data_folder.open_input`."""
  findings = findings_lib.Findings()
  with data_folder.open_input(path, **options) as data:
    choice = readers.choose(data) if layout == 'auto' else readers.Choice(layout, '')
    splits = readers.read(data, choice.layout, findings)
    yield Opened(choice, splits, findings.to_json())


def read(path: pathlib.Path, layout: str = 'auto', **options) -> Opened:
  """Reads a data set; images that are not files of their own are gone afterwards."""
  with opened(path, layout, **options) as result:
    return result


def assert_on_its_color(image, box, name, mask=None):
  """Asserts that a COCO box, and a mask, hold all pixels of one color and nothing else."""
  pixels = np.abs(image.astype(int) - COLORS[name]).max(axis=-1) < 40
  x, y, width, height = (round(value) for value in box)
  np.testing.assert_allclose(box, [x, y, width, height], atol=0.01)
  assert pixels[y:y + height, x:x + width].all()
  if mask is not None:
    inside = np.zeros(pixels.shape, bool)
    inside[y:y + height, x:x + width] = True
    np.testing.assert_array_equal(mask.astype(bool), inside)


def assert_is_truth(splits, has_masks):
  assert set(splits) == set(TRUTH)
  for name, split in splits.items():
    names = {category['id']: category['name'] for category in split.categories}
    assert sorted(names.values()) == sorted(COLORS)
    images = {image['id']: image for image in split.images}
    assert len(images) == len(split.images)
    boxes = {}
    for annotation in split.annotations:
      image = images[annotation['image_id']]
      assert (image.get('width', SIZE[0]), image.get('height', SIZE[1])) == SIZE
      with Image.open(split.find_image(image['file_name'])) as file:
        pixels = np.asarray(file.convert('RGB'))
      label = names[annotation['category_id']]
      mask = masks.decode_mask(annotation['segmentation'], *SIZE[::-1]) if has_masks else None
      assert_on_its_color(pixels, annotation['bbox'], label, mask)
      stem = split.locate_image(image['file_name']).name.split('/')[-1].split('.')[0]
      boxes.setdefault(stem, []).append((label, *(round(value) for value in annotation['bbox'])))
    assert {stem: sorted(found) for stem, found in boxes.items()} == {
        file.split('.')[0]: sorted(truth) for file, truth in TRUTH[name].items()}
