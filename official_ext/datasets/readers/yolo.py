"""YOLO layouts: a text file of relative boxes or polygons for each image."""
import collections

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import interface
from official_ext.datasets.readers import split_builder
from official_ext.datasets.readers import yolo_config
from official_ext.datasets.readers import yolo_labels
from official_ext.datasets.sources import data_folder
from official_ext.datasets.sources import file_names


def _labels(data: data_folder.DataFolder) -> dict[str, str]:
  """Returns image -> label file."""
  return file_names.partners(data.images, yolo_labels.files(data))


def _matches(data: data_folder.DataFolder) -> list[str]:
  """Returns the file of class names and label files, if one of the first label files fits."""
  labels = list(_labels(data).values())
  config = yolo_config.find(data)
  is_yolo = any(yolo_labels.looks_like(data.head(name)) for name in labels[:50])
  says_so = config and config.lower().endswith(('.yaml', '.yml', '.data'))
  return [*filter(None, [config]), *sorted(labels)] if is_yolo or says_so else []


def _read(data: data_folder.DataFolder, findings: findings_lib.Findings) -> annotations.Splits:
  """Reads the label file of each image."""
  from official_ext.datasets.images import image_decoding  # imported here: it loads TensorFlow
  config = yolo_config.read(data, findings)
  labels = _labels(data)
  # A name that two classes have tells neither.
  counts = collections.Counter(config.names.values())
  numbers = {' '.join(name.split()): number for number, name in config.names.items()
             if counts[name] == 1}
  builders: dict[str | None, split_builder.SplitBuilder] = {}
  for split, images in config.splits.items():
    builder = builders[split] = split_builder.SplitBuilder(data.shown(config.source))
    for image in images:
      try:
        size = image_decoding.read_header(data.path(image)).shown_size
      except findings_lib.UnusableError:
        image_id = builder.add_file(image)  # The conversion tells why it cannot be read.
        if image in labels:  # If it can read the image after all, the labels are lost.
          builder.add_object(image_id, labels[image], None, None)
        continue
      image_id = builder.add_file(image, *size)
      if image not in labels:
        findings.add(split or 'all', 'noted', 'image has no label file: taken as without boxes',
                     image)
        continue
      for label in yolo_labels.read(
          data, labels[image], size, config.keypoint_values, numbers, findings):
        builder.add_object(image_id, f'{labels[image]} line {label.line}', label.number, label.box,
                           **({'segmentation': [label.polygon]} if label.polygon else {}))
  paired = set(labels.values())
  for name in yolo_labels.files(data):
    if name not in paired and yolo_labels.looks_like(data.head(name)):
      findings.add('all', 'dropped', 'label file has no image', name)
  return split_builder.build_splits(data, builders, findings, *config.categories(builders.values()))


LAYOUT = interface.Layout('yolo', 'YOLO, darknet, Roboflow YOLO',
                          'text files of class and relative box beside images or in labels/', """\
data.yaml (names, train, val)          or  obj.data, obj.names, train.txt (darknet),
images/train/*.jpg, labels/train/*.txt     or images, *.txt and classes.txt in one folder
   or train/images, train/labels           lines: 0 0.5 0.5 0.2 0.1, or 0 x1 y1 x2 y2 x3 y3 ...""",
                          _matches, _read, rank=80)
