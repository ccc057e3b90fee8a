"""Pascal VOC layout: Annotations/*.xml, JPEGImages, and lists of images in ImageSets/Main."""
from collections.abc import Iterable
import dataclasses
import pathlib
from xml.etree import ElementTree

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import image_files
from official_ext.datasets.readers import interface

# A GIF is found only by the name in its XML file: VOC itself has none in JPEGImages.
_SUFFIXES = tuple(suffix for suffix in image_files.SUFFIXES if suffix != '.gif')


@dataclasses.dataclass(frozen=True)
class _Object:
  """An object of an XML file; `box` is `[x, y, width, height]` in pixels, None if unreadable."""
  id: str
  name: str
  box: list[float] | None
  is_difficult: bool


@dataclasses.dataclass(frozen=True)
class _Image:
  """The content of an XML file; sizes in pixels, 0 if not given."""
  file_name: str
  width: int
  height: int
  objects: list[_Object]


def _read_object(element: ElementTree.Element, number: int) -> _Object:
  """Reads the `number`-th <object>, counted from 1."""
  corners = [element.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')]
  try:
    x1, y1, x2, y2 = (float(value or '') for value in corners)
    box = [x1, y1, x2 - x1, y2 - y1]
  except ValueError:
    box = None
  return _Object(f'object {number}', (element.findtext('name') or '').strip(), box,
                 (element.findtext('difficult') or '0').strip() == '1')


def _read_file(path: pathlib.Path) -> _Image:
  """Reads an XML file; raises ValueError if it is missing or broken."""
  try:
    root = ElementTree.parse(path).getroot()
  except (ElementTree.ParseError, OSError) as error:
    raise ValueError(str(error)) from error
  width, height = (int(float(root.findtext(f'size/{key}') or 0)) for key in ('width', 'height'))
  objects = [_read_object(element, number) for number, element in enumerate(root.iter('object'), 1)]
  return _Image((root.findtext('filename') or '').strip(), width, height, objects)


def _list_stems(folder: pathlib.Path) -> dict[str, list[str]]:
  """Returns the stems of the XML files of each split; all are `train` if there is no list."""
  lists = {}
  for name in ('train', 'val'):
    path = folder / 'ImageSets' / 'Main' / f'{name}.txt'
    if path.is_file():
      lists[name] = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
  return lists or {'train': sorted(path.stem for path in folder.glob('Annotations/*.xml'))}


def _read_images(folder: pathlib.Path, name: str, stems: Iterable[str],
                 findings: findings_lib.Findings) -> dict[str, _Image]:
  """Reads the XML files of the split `name`; returns stem -> content."""
  images = {}
  for stem in stems:
    path = folder / 'Annotations' / f'{stem}.xml'
    try:
      images[stem] = _read_file(path)
    except ValueError as error:
      findings.add(name, 'dropped', 'annotation file is broken or missing', path.name, str(error))
  return images


def _read(folder: pathlib.Path, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the splits that the lists name."""
  by_split = {name: _read_images(folder, name, stems, findings)
              for name, stems in _list_stems(folder).items()}
  categories = interface.number_categories(
      {item.name for images in by_split.values() for image in images.values()
       for item in image.objects if item.name})
  category_ids = {category['name']: category['id'] for category in categories}
  image_dir = folder / 'JPEGImages'
  file_names = {path.stem: path.name for path in sorted(image_dir.glob('*'))
                if path.suffix.lower() in _SUFFIXES}
  splits = {}
  for name, images in by_split.items():
    split = annotations.Split(name, str(folder / 'Annotations'), [], [], categories, [image_dir])
    for number, (stem, image) in enumerate(images.items(), 1):
      # The name of the XML file is what lists refer to; the one inside is often outdated.
      split.images.append(dict(id=number, file_name=file_names.get(stem, image.file_name),
                               width=image.width, height=image.height))
      for item in image.objects:
        if item.is_difficult:
          findings.add(name, 'noted', 'object marked difficult: kept', f'{stem}.xml', item.id)
        split.annotations.append(dict(id=f'{stem}.xml {item.id}', image_id=number,
                                      category_id=category_ids.get(item.name), bbox=item.box))
    splits[name] = split
  return splits


LAYOUT = interface.Layout('voc', 'Annotations/*.xml (Pascal VOC)',
                          lambda folder: any(folder.glob('Annotations/*.xml')), _read)
