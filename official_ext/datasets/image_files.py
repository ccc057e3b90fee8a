"""The image files that a command runs on, and their ids in an annotation file."""
import json
import pathlib
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image

from official_ext.utils import command_line

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp')


class ImageSet(NamedTuple):
  """Images to run a detector on.

  Attributes:
    paths: image id -> file.
    names: category id -> name; empty without an annotation file.
    unknown: files that the annotation file does not have.
    absent: file names of the annotation file that were not among the images.
  """
  paths: Dict[int, pathlib.Path]
  names: Dict[int, str]
  unknown: List[pathlib.Path]
  absent: List[str]


def find(paths: Sequence[pathlib.Path]) -> List[pathlib.Path]:
  """Returns the image files of files and folders, each once.

  Raises:
    CommandError: a path does not exist, or there is no image.
  """
  found: Dict[pathlib.Path, None] = {}
  for path in paths:
    if path.is_dir():
      inside = (file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES)
      found.update(dict.fromkeys(sorted(file for file in inside if file.is_file())))
    elif path.is_file():
      found[path] = None
    else:
      raise command_line.CommandError(f'--images={path}: no such file or folder.')
  if not found:
    raise command_line.CommandError(
        f'--images={" ".join(map(str, paths))} holds no image: give a folder with files that end '
        f'in {", ".join(SUFFIXES)}.')
  return list(found)


def assign_ids(found: Sequence[pathlib.Path], annotation_file: Optional[pathlib.Path]) -> ImageSet:
  """Gives every image its id: the annotation file's, or a running number from 1.

  An image belongs to an entry if its path ends in the entry's `file_name`.

  Raises:
    CommandError: the annotation file cannot be read, or two images fit one entry.
  """
  if annotation_file is None:
    return ImageSet(dict(enumerate(found, 1)), {}, [], [])
  try:
    annotations = json.loads(annotation_file.read_text(encoding='utf-8'))
    names = {category['id']: category['name'] for category in annotations['categories']}
    ids = {image['file_name']: image['id'] for image in annotations['images']}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise command_line.CommandError(
        f'--annotation_file={annotation_file} cannot be read as COCO annotations ({error!r}).'
    ) from error
  paths, unknown = {}, []
  for path in found:
    endings = ('/'.join(path.parts[start:]) for start in range(len(path.parts)))
    image_id = next((ids[ending] for ending in endings if ending in ids), None)
    if image_id is None:
      unknown.append(path)
    elif image_id in paths:
      raise command_line.CommandError(
          f'{paths[image_id]} and {path} both fit one entry of --annotation_file='
          f'{annotation_file}: give the folder of its images only, with --images.')
    else:
      paths[image_id] = path
  absent = [name for name, image_id in ids.items() if image_id not in paths]
  if not paths:
    raise command_line.CommandError(
        f'--annotation_file={annotation_file} has none of the {len(found)} images, such as '
        f'{found[0]}: its file names are like {", ".join(absent[:3]) or "nothing"}.')
  return ImageSet(paths, names, unknown, absent)


def read(path: pathlib.Path) -> np.ndarray:
  """Reads an image as it is stored, uint8 `[height, width, 3]`; annotations know no rotation."""
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))
