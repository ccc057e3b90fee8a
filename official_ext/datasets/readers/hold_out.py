"""The val split of a data set that has none."""
import collections
import random

from official_ext.datasets import annotations
from official_ext.datasets import normal_values
from official_ext.utils import command_line

_SHARE = 0.2


def hold_out(split: annotations.Split) -> annotations.Split:
  """Moves a fifth of the images to a new split.

  A draw with a fixed seed over the sorted file names chooses the images, so that every run
  chooses the same ones.

  Args:
    split: loses the images that are held out, and their annotations.

  Returns:
    The split `val`.

  Raises:
    CommandError: there are fewer than two images.
  """
  # Images that share an id stay together, so that the check of ids sees all of them.
  id_counts = collections.Counter(
      normal_values.normal_id(image.get('id')) for image in split.images)
  names = sorted({str(image.get('file_name')) for image in split.images
                  if id_counts[normal_values.normal_id(image.get('id'))] == 1})
  if len(names) < 2:
    raise command_line.CommandError(
        f'{split.source} has {len(names)} images: at least 2, each with an id of its own, are '
        'needed for a train and a val split.')
  held_out = set(random.Random(0).sample(names, max(1, round(_SHARE * len(names)))))

  def is_held_out(image: annotations.Entry) -> bool:
    return str(image.get('file_name')) in held_out

  val_images = [image for image in split.images if is_held_out(image)]
  val_ids = {normal_values.normal_id(image.get('id')) for image in val_images}

  def is_val(annotation: annotations.Entry) -> bool:
    return normal_values.normal_id(annotation.get('image_id')) in val_ids

  val = annotations.Split('val', split.source, val_images,
                          list(filter(is_val, split.annotations)), split.categories,
                          split.folders, split.found)
  split.images = [image for image in split.images if not is_held_out(image)]
  split.annotations = [annotation for annotation in split.annotations if not is_val(annotation)]
  return val
