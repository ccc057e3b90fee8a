"""Image files: finds them, gives them their ids in an annotation file, and reads them."""
from collections.abc import Sequence
import io
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageOps

from official_ext.datasets import findings
from official_ext.utils import command_line

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp')

_ORIENTATION = 0x0112  # EXIF tag; values of 5 and more turn the image by 90 degrees
_ENCODINGS = {'JPEG': 'jpg', 'MPO': 'jpg', 'PNG': 'png'}  # format of Pillow -> of Model Garden


class ImageSet(NamedTuple):
  """Images to run a detector on.

  Attributes:
    paths: image id -> file.
    names: category id -> name; empty without an annotation file.
    unknown: files that the annotation file does not have.
    absent: file names of the annotation file that were not among the images.
  """
  paths: dict[int, pathlib.Path]
  names: dict[int, str]
  unknown: list[pathlib.Path]
  absent: list[str]


def find(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the image files of files and folders, each once.

  Args:
    paths: files, which are taken whatever their suffix, and folders, which are searched for
      files with one of `SUFFIXES`.

  Returns:
    The files in the order of `paths`, sorted within a folder.

  Raises:
    CommandError: a path does not exist, or there is no image.
  """
  found: dict[pathlib.Path, None] = {}
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


def assign_ids(found: Sequence[pathlib.Path], annotation_file: pathlib.Path | None) -> ImageSet:
  """Gives every image its id.

  Args:
    found: image files.
    annotation_file: COCO annotation file; an image belongs to an entry if its path ends in the
      `file_name` of the entry. None numbers the images from 1.

  Returns:
    The images that have an id, and what fits nothing.

  Raises:
    CommandError: the annotation file cannot be read, has none of the images, or two images fit
      one entry.
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
  paths: dict[int, pathlib.Path] = {}
  unknown = []
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
  """Reads an image without its EXIF rotation, because annotations are for the stored pixels.

  Args:
    path: the file.

  Returns:
    uint8 `[height, width, 3]`.
  """
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


class EncodedImage(NamedTuple):
  """An image in a form that Model Garden decodes.

  Attributes:
    content: a JPEG or PNG file, 8-bit RGB or gray.
    encoding: `jpg` or `png`.
    size: width and height in pixels.
    change: how it differs from the file that was read; empty if it does not.
  """
  content: bytes
  encoding: str
  size: tuple[int, int]
  change: str


def read_encoded(path: pathlib.Path, listed_size: tuple[Any, Any] = (None, None)) -> EncodedImage:
  """Reads an image file for a record.

  Args:
    path: the file.
    listed_size: (width, height) in pixels of the annotations, None for what they do not give.
      The image is turned as its EXIF data say only if the annotations are for the turned image.

  Returns:
    The image; `content` is that of the file for 8-bit RGB or gray JPEG and PNG.

  Raises:
    UnusableError: the file is not a complete image.
  """
  content = path.read_bytes()
  try:
    with Image.open(io.BytesIO(content)) as image:
      image.load()
      # The EXIF orientation of a photograph is applied by viewers, not by Model Garden.
      is_turned = (image.getexif().get(_ORIENTATION, 1) >= 5 and
                   tuple(listed_size) == image.size[::-1] != image.size)
      if image.format in _ENCODINGS and image.mode in ('RGB', 'L') and not is_turned:
        return EncodedImage(content, _ENCODINGS[image.format], image.size, '')
      change = f'image was {image.format} {image.mode}: stored as PNG RGB'
      pixels: Image.Image = image
      if is_turned:
        pixels, change = ImageOps.exif_transpose(image), 'image turned as its EXIF data say'
      pixels = _to_rgb(pixels)
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise findings.UnusableError('image file is broken', str(error)) from error
  encoded = io.BytesIO()
  pixels.save(encoded, 'PNG')
  return EncodedImage(encoded.getvalue(), 'png', pixels.size, change)


def _to_rgb(image: Image.Image) -> Image.Image:
  """Converts to 8-bit RGB; deeper values above 255 are taken as 16-bit."""
  if image.mode.startswith(('I', 'F')):
    values = np.asarray(image, np.float64)
    scaled = values / 257 if values.max() > 255 else values
    image = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
  return image.convert('RGB')
