"""Data sets of drawn rectangles: the pixels tell which labels are right.

A `DataSet` says what a person sees in the images.  `LAYOUTS` writes it as files; to add a layout,
write one function with `@layout(...)`.
"""
from collections.abc import Callable
import csv
import dataclasses
import io
import json
import pathlib
from typing import Any, NamedTuple
from xml.sax import saxutils
import zlib

import numpy as np
from PIL import Image

# The gray values of the colors differ as well, for images without color.
COLORS = {'red': (230, 20, 20), 'green': (20, 200, 20), 'blue': (20, 20, 230)}
BACKGROUND = 240
_ORIENTATION_TAG = 0x0112
EXIF_SUFFIXES = ('.jpg', '.tif', '.png', '.webp')  # of files that get an orientation
# EXIF orientation -> how the stored pixels come from those that a viewer shows.
_STORED = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
           4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
           6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_270}


class Box(NamedTuple):
  """A rectangle of one color, in pixels of the image as a viewer shows it.

  Attributes:
    color: a key of `COLORS`, which is the name of the class.
    x: of the left edge.
    y: of the upper edge.
    width: at least 8.
    height: at least 8.
    beyond: how far the annotation reaches over the right edge of the image.
  """
  color: str
  x: int
  y: int
  width: int
  height: int
  beyond: int = 0


@dataclasses.dataclass
class DrawnImage:
  """An image, and how its file and its annotations are written.

  Attributes:
    token: part of the file name that no other image has.
    file_name: path below the folder of images.
    width: in pixels, as a viewer shows it.
    height: in pixels, as a viewer shows it.
    boxes: what is drawn and annotated.
    encoding: a key of `ENCODINGS`.
    orientation: EXIF orientation, 1 to 8.
    damage: a key of `DAMAGES`, or empty.
    scale: how many times larger the image was that the annotations were made for.
    junk: annotations beside those of `boxes`, for which there is nothing in the image.
    extra: fields of the image's entry that replace the true ones, for layouts that have them.
  """
  token: str
  file_name: str
  width: int
  height: int
  boxes: list[Box]
  encoding: str = 'png'
  orientation: int = 1
  damage: str = ''
  scale: float = 1
  junk: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class DataSet:
  """A data set.

  Attributes:
    layout: a key of `LAYOUTS`.
    splits: `train` and perhaps `val`.
    category_ids: color -> id, for layouts that have ids.
    encoding: of the annotation files.
    missing: optional fields that annotations do not have.
    has_polygons: whether annotations have polygons, for layouts that can.
    oddities: what may cost images, boxes or the whole data set, for messages.
  """
  layout: str
  splits: dict[str, list[DrawnImage]]
  category_ids: dict[str, Any]
  encoding: str = 'utf-8'
  missing: tuple[str, ...] = ()
  has_polygons: bool = False
  oddities: set[str] = dataclasses.field(default_factory=set)


def draw(image: DrawnImage) -> Image.Image:
  """Returns the pixels that a viewer shows: noise near white, and the rectangles."""
  random = np.random.default_rng(zlib.crc32(image.token.encode()))
  noise = random.integers(-6, 7, [image.height, image.width, 1])
  pixels = np.repeat(BACKGROUND + noise, 3, axis=-1).astype(np.uint8)
  for box in image.boxes:
    pixels[box.y:box.y + box.height, box.x:box.x + box.width] = COLORS[box.color]
  return Image.fromarray(pixels)


def _sixteen_bit(image: Image.Image) -> Image.Image:
  return Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)


# Name -> suffix of the file, conversion of the RGB image, options of Pillow's `save`.
ENCODINGS: dict[str, tuple[str, Callable[[Image.Image], Image.Image], dict[str, Any]]] = {
    'jpg': ('.jpg', lambda image: image, dict(quality=95, subsampling=0)),
    'gray_jpg': ('.jpeg', lambda image: image.convert('L'), dict(quality=95)),
    'cmyk_jpg': ('.jpg', lambda image: image.convert('CMYK'), dict(quality=95, subsampling=0)),
    'progressive_jpg': ('.JPG', lambda image: image,
                        dict(quality=95, subsampling=0, progressive=True)),
    'png': ('.png', lambda image: image, {}),
    'gray_png': ('.png', lambda image: image.convert('L'), {}),
    'palette_png': ('.png', lambda image: image.quantize(32), {}),
    'alpha_png': ('.PNG', lambda image: image.convert('RGBA'), {}),
    'gray_alpha_png': ('.png', lambda image: image.convert('LA'), {}),
    'sixteen_bit_png': ('.png', _sixteen_bit, {}),
    'gif': ('.gif', lambda image: image.quantize(32), {}),
    'bmp': ('.bmp', lambda image: image, {}),
    'tiff': ('.tif', lambda image: image, {}),
    'lzw_tiff': ('.tiff', lambda image: image, dict(compression='tiff_lzw')),
    'webp': ('.webp', lambda image: image, dict(lossless=True)),
    'png_named_jpg': ('.jpg', lambda image: image, dict(format='PNG')),
}

_HUGE_PNG = (b'\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\xff\xff\x00\x00\xff\xff\x08\x02\x00\x00'
             b'\x00')
# Name -> what becomes of the bytes of an image file; None removes the file.
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    'missing': lambda content: None,
    'empty': lambda content: b'',
    'cut': lambda content: content[:len(content) // 2],
    'cut_in_header': lambda content: content[:20],
    'text': lambda content: b'<html>404 Not Found</html>',
    'noise': lambda content: bytes(reversed(content)),
    'huge_header': lambda content: _HUGE_PNG,
    'folder': lambda content: None,
}


def encoded(image: DrawnImage) -> bytes | None:
  """Returns the bytes of an image file; None if there is no file."""
  suffix, convert, options = ENCODINGS[image.encoding]
  pixels = draw(image)
  exif = Image.Exif()
  if image.orientation != 1:
    exif[_ORIENTATION_TAG] = image.orientation
    pixels = pixels.transpose(_STORED[image.orientation])
    options = dict(options, exif=exif)
  buffer = io.BytesIO()
  convert(pixels).save(buffer, **{'format': Image.registered_extensions()[suffix.lower()],
                                  **options})
  content = buffer.getvalue()
  return DAMAGES[image.damage](content) if image.damage else content


def write_image(image: DrawnImage, path: pathlib.Path) -> None:
  """Writes an image file, or what its damage leaves of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  content = encoded(image)
  if content is not None:
    path.write_bytes(content)
  elif image.damage == 'folder':
    path.mkdir(exist_ok=True)


def corners(image: DrawnImage, box: Box) -> tuple[float, float, float, float]:
  """Returns left, top, right, bottom as the annotations of an image give them."""
  return (box.x * image.scale, box.y * image.scale,
          (box.x + box.width + box.beyond) * image.scale, (box.y + box.height) * image.scale)


class Layout(NamedTuple):
  """A way to write a data set.

  Attributes:
    write: called with the data set and an empty folder.
    has_sizes: whether annotations give the sizes of images, so that a scale can be told.
    has_entries: whether images and annotations are COCO entries of any content.
  """
  write: Callable[[DataSet, pathlib.Path], None]
  has_sizes: bool = False
  has_entries: bool = False


LAYOUTS: dict[str, Layout] = {}


def layout(name: str, **options: bool) -> Callable:
  """Registers the function that writes a layout; `options` are fields of `Layout`."""

  def register(write):
    LAYOUTS[name] = Layout(write, **options)
    return write

  return register


def _coco_entry(data: DataSet, image: DrawnImage, box: Box, image_id: Any, number: int
                ) -> dict[str, Any]:
  left, top, right, bottom = corners(image, box)
  entry = dict(id=number, image_id=image_id, category_id=data.category_ids[box.color],
               bbox=[left, top, right - left, bottom - top], iscrowd=0,
               area=(right - left) * (bottom - top))
  if data.has_polygons:
    entry['segmentation'] = [[left, top, right, top, right, bottom, left, bottom]]
  return {key: value for key, value in entry.items() if key not in data.missing}


def coco_content(data: DataSet, split: str, first_id: int = 1) -> dict[str, list[dict[str, Any]]]:
  """Returns a COCO annotation file of a split; images are numbered from `first_id`."""
  images, annotations = [], []
  for number, image in enumerate(data.splits[split], first_id):
    entry = {**dict(id=number, file_name=image.file_name, width=round(image.width * image.scale),
                    height=round(image.height * image.scale)), **image.extra}
    images.append(entry)
    for box in image.boxes:
      annotations.append(_coco_entry(data, image, box, entry['id'], len(annotations) + 1))
    for junk in image.junk:
      annotations.append({**dict(id=len(annotations) + 1, image_id=entry['id'], area=1, iscrowd=0,
                                 category_id=next(iter(data.category_ids.values()))), **junk})
  categories = [dict(id=number, name=name) for name, number in data.category_ids.items()]
  return dict(images=images, annotations=annotations, categories=categories)


def _write_coco(data: DataSet, folder: pathlib.Path, image_folder: str, file: str) -> None:
  for split, images in data.splits.items():
    for image in images:
      write_image(image, folder / image_folder.format(split) / image.file_name)
    path = folder / file.format(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = 1 if split == 'train' else 1001
    path.write_bytes(json.dumps(coco_content(data, split, first)).encode(data.encoding))


@layout('coco', has_sizes=True, has_entries=True)
def write_coco(data: DataSet, folder: pathlib.Path) -> None:
  """Writes annotations/instances_SPLIT.json and images/SPLIT/."""
  _write_coco(data, folder, 'images/{}', 'annotations/instances_{}.json')


@layout('coco_2017', has_sizes=True, has_entries=True)
def write_coco_2017(data: DataSet, folder: pathlib.Path) -> None:
  """Writes the folders of the COCO download."""
  _write_coco(data, folder, '{}2017', 'annotations/instances_{}2017.json')


@layout('voc', has_sizes=True)
def write_voc(data: DataSet, folder: pathlib.Path) -> None:
  """Writes Annotations/, JPEGImages/ and the lists of ImageSets/Main."""
  lists = folder / 'ImageSets' / 'Main'
  lists.mkdir(parents=True)
  (folder / 'Annotations').mkdir()
  for split, images in data.splits.items():
    stems = []
    for image in images:
      name = pathlib.PurePosixPath(image.file_name)
      write_image(image, folder / 'JPEGImages' / name.name)
      stems.append(name.stem)
      (folder / 'Annotations' / f'{name.stem}.xml').write_bytes(voc_text(image, name.name).encode())
    (lists / f'{split}.txt').write_bytes(''.join(f'{stem}\n' for stem in stems).encode())


def voc_text(image: DrawnImage, file_name: str) -> str:
  """Returns the XML file of an image in Pascal VOC's form."""
  objects = ''.join(_voc_object(box.color, corners(image, box)) for box in image.boxes)
  return (f'<annotation><filename>{saxutils.escape(file_name)}</filename><size><width>'
          f'{round(image.width * image.scale)}</width><height>{round(image.height * image.scale)}'
          f'</height><depth>3</depth></size>{objects}</annotation>')


def _voc_object(name: str, box: tuple[float, ...]) -> str:
  ends = ''.join(f'<{key}>{value}</{key}>'
                 for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
  return f'<object><name>{name}</name><bndbox>{ends}</bndbox></object>'


@layout('csv')
def write_csv(data: DataSet, folder: pathlib.Path) -> None:
  """Writes train.csv, val.csv and images/."""
  for split, images in data.splits.items():
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(['image', 'xmin', 'ymin', 'xmax', 'ymax', 'class'])
    for image in images:
      write_image(image, folder / 'images' / image.file_name)
      for box in image.boxes:
        writer.writerow([image.file_name, *corners(image, box), box.color])
      if not image.boxes:
        writer.writerow([image.file_name, '', '', '', '', ''])
    (folder / f'{split}.csv').write_bytes(buffer.getvalue().encode(data.encoding))
