"""Pascal VOC layout: an XML file for each image, as LabelImg and others write it."""
import posixpath
from xml.etree import ElementTree

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import image_lists
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import shapes
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names
from official_ext.datasets.sources import text_files


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the XML files; of the first that are of another kind, none."""
  names = data.with_suffix('.xml')
  heads = (data.head(name, 1024) for name in names[:20])
  return names if any('<annotation>' in head or '<annotation ' in head for head in heads) else []


def _add_objects(builder: split_builder.SplitBuilder, image_id: int, base: str,
                 root: ElementTree.Element, split: str, findings: findings_lib.Findings) -> None:
  """Adds the objects of an XML file; their coordinates are taken as they are written."""
  for number, element in enumerate(root.iter('object'), 1):
    try:
      box = shapes.corner_box([text_files.number(element.findtext(f'bndbox/{key}'))
                                  for key in ('xmin', 'ymin', 'xmax', 'ymax')])
    except ValueError:
      box = None
    if (element.findtext('difficult') or '0').strip() == '1':
      findings.add(split, 'noted', 'object marked difficult: kept', base, f'object {number}')
    builder.add_object(image_id, f'{base} object {number}',
                       (element.findtext('name') or '').strip(), box)


def _size(root: ElementTree.Element) -> list[int | None]:
  """Returns width and height in pixels, None for what is not given."""
  try:
    return [round(text_files.number(root.findtext(f'size/{key}'))) for key in ('width', 'height')]
  except (ValueError, OverflowError):
    return [None, None]


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the XML files of each split."""
  names = data.with_suffix('.xml')
  images = file_names.partners(names, data.images)
  by_split = (image_lists.by_lists(data, names, findings) or
              image_lists.by_folder(names, images))
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for split, listed in split_names.choose(by_split, 'split', findings).items():
    builder = builders[split] = split_builder.SplitBuilder(data.shown())
    for name in listed.files:
      base = posixpath.basename(name)
      try:
        root = text_files.parse_xml(data.path(name).read_bytes())
      except ValueError as error:
        findings.add(split, 'dropped', 'annotation file is broken or missing', base, str(error))
        continue
      # The name of the XML file is what lists refer to; the one inside is often outdated.
      said = (root.findtext('filename') or root.findtext('path') or base).strip()
      image_id = (builder.add_file(images[name], *_size(root)) if name in images else
                  builder.add_image(said, *_size(root)))
      _add_objects(builder, image_id, base, root, split, findings)
    for name in listed.missing:
      findings.add(split, 'dropped', 'annotation file is broken or missing', f'{name}.xml')
  return split_builder.build_splits(data, builders, findings)


LAYOUT = interface.Layout('voc', 'Pascal VOC, LabelImg, Roboflow VOC',
                          'XML files with <annotation>', """\
Annotations/*.xml, JPEGImages/*.jpg    or  annotations/*.xml, images/*.jpg,
ImageSets/Main/train.txt, val.txt          or XML files beside the images, in one folder
VOCdevkit/VOC2007/... as published         or in train/, valid/, test/""", _matches, _read, rank=50)
