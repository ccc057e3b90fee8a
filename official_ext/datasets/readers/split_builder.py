"""Collects the images and objects that a reader finds, and makes splits of them."""
from collections.abc import Iterable, Mapping, Sequence
import itertools
import pathlib
import posixpath
from typing import Any

from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import split_names
from official_ext.datasets.sources import data_folder


def number_categories(names: Iterable[str]) -> list[annotations.Entry]:
  """Returns COCO category entries for class names: the sorted names, numbered from 1."""
  return [dict(id=number, name=name) for number, name in enumerate(sorted(names), 1)]


class SplitBuilder:
  """Collects a split, image by image, for annotations that name classes and files.

  Attributes:
    source: the file or folder that holds the annotations, for messages.
    labels: the classes of the objects.
  """

  def __init__(self, source: str, folders: Iterable[pathlib.Path] = ()):
    """Initializes an empty split.

    Args:
      source: see the attribute.
      folders: where image files are looked for, before the usual folders.
    """
    self.source = source
    self.labels: set[Any] = set()
    self._folders = list(folders)
    self._files: set[str] = set()
    self._content: dict[str, annotations.FoundImage] = {}
    self._images: dict[str, annotations.Entry] = {}
    self._objects: list[annotations.Entry] = []

  def __str__(self):
    """The source, for findings."""
    return self.source

  def add_image(self, file_name: str, width: Any = None, height: Any = None) -> int:
    """Returns the id of an image, which is added if it is new; its size is in pixels."""
    entry = dict(id=len(self._images) + 1, file_name=file_name)
    if width and height:
      entry.update(width=width, height=height)
    return self._images.setdefault(file_name, entry)['id']

  def add_file(self, name: str, width: Any = None, height: Any = None) -> int:
    """Returns the id of an image whose file is known.

    Args:
      name: relative to the data folder. The split names its files without the folders that all
        of them share.
      width: in pixels, None if unknown.
      height: in pixels, None if unknown.
    """
    self._files.add(name)
    return self.add_image(name, width, height)

  def add_content(self, data: data_folder.DataFolder, content: bytes, name: str,
                  width: Any = None, height: Any = None) -> int:
    """Returns the id of an image that has no file of its own; it is written to a temporary one.

    Args:
      data: the data set, whose `scratch` gets the file.
      content: the encoded image.
      name: of the image or of what holds it.
      width: in pixels, None if unknown.
      height: in pixels, None if unknown.

    Raises:
      ValueError: the data set has no `scratch`.
    """
    if data.scratch is None:
      raise ValueError('images that annotation files hold need a data set from open_input')
    folder = data.scratch / str(id(self))
    folder.mkdir(exist_ok=True)
    base = posixpath.basename(name.replace('\\', '/')).strip() or 'image'
    # A name of another image may begin with a number too.
    numbered = (f'{number}_{base}' for number in itertools.count(len(self._content) + 1))
    base = next(each for each in itertools.chain([base], numbered) if each not in self._content)
    path = folder / f'{len(self._content)}'
    path.write_bytes(content)
    self._content[base] = annotations.FoundImage(path, base)
    return self.add_image(base, width, height)

  def add_object(self, image_id: int, place: str, label: Any, box: Sequence[float] | None,
                 **more: Any) -> None:
    """Adds an object.

    Args:
      image_id: from `add_image`.
      place: file and line or number, for findings.
      label: the class; one that is none of the data set is told as unknown.
      box: COCO box in pixels; None if it cannot be read.
      **more: fields of a COCO annotation, such as `segmentation`.
    """
    if label not in ('', None):
      self.labels.add(label)
    self._objects.append(dict(id=place, image_id=image_id, bbox=box, label=label, **more))

  def build(self, name: str, root: pathlib.Path, folders: annotations.Folders,
            categories: list[annotations.Entry], ids: Mapping[Any, int]) -> annotations.Split:
    """Returns the split.

    Args:
      name: of the split.
      root: the data folder.
      folders: where image files are looked for, after those of the builder.
      categories: of all splits, as COCO entries.
      ids: label -> id of its category.
    """
    objects = [{**{key: value for key, value in entry.items()
                   if key != 'label' or entry['label'] not in ids},
                'category_id': ids.get(entry['label'])} for entry in self._objects]
    own_folders = self._folders
    if self._files:
      common = posixpath.commonpath([posixpath.dirname(file) for file in self._files])
      own_folders = [root / common, *own_folders]
      for image in self._images.values():
        if image['file_name'] in self._files:
          image['file_name'] = posixpath.relpath(image['file_name'], common or '.')
    return annotations.Split(name, self.source, list(self._images.values()), objects, categories,
                             [*own_folders, *folders], dict(self._content))


def build_splits(data: data_folder.DataFolder, builders: Mapping[str | None, SplitBuilder],
                 findings: findings_lib.Findings,
                 categories: list[annotations.Entry] | None = None,
                 ids: Mapping[Any, int] | None = None) -> annotations.Splits:
  """Chooses train and val, and builds them with the same categories.

  Args:
    data: the data set.
    builders: split as the data set names it, None if it names none -> its builder.
    findings: told which splits are not read.
    categories: COCO entries; None numbers the classes of the chosen splits from 1, by name.
    ids: label -> id; None: the ids of the categories by their names.
  """
  named = {id(builder): name for name, builder in builders.items()}
  chosen = split_names.choose(builders, 'split', findings)
  if categories is None:
    labels: set[str] = set().union(*(builder.labels for builder in chosen.values()))
    categories = number_categories(labels)
  if ids is None:
    ids = {entry['name']: entry['id'] for entry in categories}
  return {name: builder.build(
      name, data.root, split_names.usual_folders(data, data.root, name, named[id(builder)]),
      categories, ids) for name, builder in chosen.items()}
