"""More layouts of `drawn_data`: how the tools that people label with write a data set."""
from collections.abc import Iterator
import csv
import io
import json
import pathlib
from xml.sax import saxutils

import drawn_data
from drawn_data import DataSet
from drawn_data import DrawnImage
from drawn_data import layout

_CLASSES = list(drawn_data.COLORS)
_ROBOFLOW = {'train': 'train', 'val': 'valid'}


def _flat(image: DrawnImage) -> pathlib.PurePosixPath:
  """Returns the file name of an image without folders."""
  return pathlib.PurePosixPath(pathlib.PurePosixPath(image.file_name).name)


def _write_images(data: DataSet, folder: pathlib.Path, place: str
                  ) -> Iterator[tuple[str, DrawnImage, pathlib.Path]]:
  """Writes every image to a place, in which {} is its split; yields split, image and path."""
  for split, images in data.splits.items():
    for image in images:
      path = folder / place.format(split) / _flat(image)
      drawn_data.write_image(image, path)
      yield split, image, path


def _write_text(path: pathlib.Path, text: str, encoding: str = 'utf-8') -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text.encode(encoding))


def _table(rows: list[list[object]]) -> str:
  buffer = io.StringIO()
  csv.writer(buffer).writerows(rows)
  return buffer.getvalue()


@layout('roboflow_coco', has_sizes=True, has_entries=True)
def write_roboflow_coco(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train/ and valid/ with _annotations.coco.json beside the images."""
  for split, images in data.splits.items():
    for image in images:
      drawn_data.write_image(image, folder / _ROBOFLOW[split] / image.file_name)
    content = drawn_data.coco_content(data, split, 0 if split == 'train' else 1000)
    _write_text(folder / _ROBOFLOW[split] / '_annotations.coco.json', json.dumps(content),
                data.encoding)


@layout('roboflow_csv', has_sizes=True)
def write_roboflow_csv(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train/ and valid/ with _annotations.csv beside the images."""
  for split in data.splits:
    _write_text(folder / _ROBOFLOW[split] / '_annotations.csv', _tutorial_table(data, split),
                data.encoding)
  for split, _, path in list(_write_images(data, folder, '{}')):
    if split == 'val' and path.exists():
      path.rename(folder / 'valid' / path.name)


@layout('tutorial_csv', has_sizes=True)
def write_tutorial_csv(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train_labels.csv, val_labels.csv and images/."""
  list(_write_images(data, folder, 'images'))
  for split in data.splits:
    _write_text(folder / f'{split}_labels.csv', _tutorial_table(data, split), data.encoding)


def _tutorial_table(data: DataSet, split: str) -> str:
  rows: list[list[object]] = [
      ['filename', 'width', 'height', 'class', 'xmin', 'ymin', 'xmax', 'ymax']]
  for image in data.splits[split]:
    size = [round(image.width * image.scale), round(image.height * image.scale)]
    rows += [[_flat(image), *size, box.color, *drawn_data.corners(image, box)]
             for box in image.boxes] or [[_flat(image), *size, '', '', '', '', '']]
  return _table(rows)


@layout('keras_retinanet')
def write_keras_retinanet(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train.csv and val.csv without a first line, and classes.csv."""
  rows: dict[str, list[list[object]]] = {split: [] for split in data.splits}
  for split, image, path in _write_images(data, folder, 'images'):
    name = f'images/{path.name}'
    rows[split] += [[name, *map(round, drawn_data.corners(image, box)), box.color]
                    for box in image.boxes] or [[name, '', '', '', '', '']]
  for split in data.splits:
    _write_text(folder / f'{split}.csv', _table(rows[split]), data.encoding)
  _write_text(folder / 'classes.csv', _table([[name, n] for n, name in enumerate(_CLASSES)]))


def _write_yolo(data: DataSet, folder: pathlib.Path, images: str, labels: str) -> None:
  for split, image, path in _write_images(data, folder, images):
    lines = []
    for box in image.boxes:
      left, top, right, bottom = drawn_data.corners(image, box)
      values = ((left + right) / 2 / image.width, (top + bottom) / 2 / image.height,
                (right - left) / image.width, (bottom - top) / image.height)
      lines.append(' '.join([str(_CLASSES.index(box.color)), *(f'{v:.6f}' for v in values)]))
    _write_text(folder / labels.format(split) / f'{path.stem}.txt', '\n'.join(lines))
  val = images.format('val' if 'val' in data.splits else 'train')
  _write_text(folder / 'data.yaml', f'train: {images.format("train")}\nval: {val}\n'
              f'nc: {len(_CLASSES)}\nnames: {json.dumps(_CLASSES)}\n')


@layout('yolo')
def write_yolo(data: DataSet, folder: pathlib.Path) -> None:
  """Writes data.yaml, images/SPLIT and labels/SPLIT."""
  _write_yolo(data, folder, 'images/{}', 'labels/{}')


@layout('yolo_by_split')
def write_yolo_by_split(data: DataSet, folder: pathlib.Path) -> None:
  """Writes data.yaml, SPLIT/images and SPLIT/labels."""
  _write_yolo(data, folder, '{}/images', '{}/labels')


@layout('labelimg', has_sizes=True)
def write_labelimg(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train/ and val/ with an XML file beside each image."""
  for _, image, path in _write_images(data, folder, '{}'):
    _write_text(path.with_suffix('.xml'), drawn_data.voc_text(image, path.name))


@layout('labelme', has_sizes=True)
def write_labelme(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train/ and val/ with a JSON file beside each image."""
  for _, image, path in _write_images(data, folder, '{}'):
    shapes = []
    for box in image.boxes:
      left, top, right, bottom = drawn_data.corners(image, box)
      shapes.append(dict(label=box.color, shape_type='rectangle', flags={}, group_id=None,
                         points=[[left, top], [right, bottom]]))
    _write_text(path.with_suffix('.json'), json.dumps(dict(
        version='5.2.1', flags={}, shapes=shapes, imagePath=path.name, imageData=None,
        imageWidth=round(image.width * image.scale),
        imageHeight=round(image.height * image.scale))))


@layout('cvat', has_sizes=True)
def write_cvat(data: DataSet, folder: pathlib.Path) -> None:
  """Writes annotations.xml and images/."""
  entries = []
  for number, (split, image, path) in enumerate(_write_images(data, folder, 'images')):
    subset = {'train': 'Train', 'val': 'Validation'}[split]
    boxes = ''.join(
        f'<box label="{box.color}" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'
        for box in image.boxes for x1, y1, x2, y2 in [drawn_data.corners(image, box)])
    entries.append(
        f'<image id="{number}" name={saxutils.quoteattr(path.name)} subset="{subset}" '
        f'width="{round(image.width * image.scale)}" '
        f'height="{round(image.height * image.scale)}">{boxes}</image>')
  _write_text(folder / 'annotations.xml',
              f'<annotations><version>1.1</version>{"".join(entries)}</annotations>')
