"""The classes of a detector as a file: `categories.json` in a training's folder and in exports.

It is a JSON list of COCO category entries: `id` is the number of the class in the network,
`original_id` the category id in the user's own data.
"""
import json
import os
from typing import Any

from absl import logging
import tensorflow as tf

from official_ext.datasets import categories as categories_lib

NAME = 'categories.json'


def read(path: str | os.PathLike) -> categories_lib.Categories:
  """Reads a file that `write` has written.

  Args:
    path: the file.

  Raises:
    ValueError: it is damaged.
  """
  with tf.io.gfile.GFile(os.fspath(path)) as file:
    return _parse(json.loads(file.read()))


def write(categories: categories_lib.Categories, folder: str | os.PathLike) -> str:
  """Writes the classes into a folder, which is made if it is missing.

  Args:
    categories: the classes.
    folder: may be remote.

  Returns:
    The path of the file.
  """
  path = os.path.join(folder, NAME)
  tf.io.gfile.makedirs(os.fspath(folder))
  temporary = f'{path}.{os.getpid()}'  # not that of another process that writes the same file
  with tf.io.gfile.GFile(temporary, 'w') as file:
    file.write(json.dumps(categories.to_coco(), indent=1))
  tf.io.gfile.rename(temporary, path, overwrite=True)
  return path


def of_task(task: Any) -> categories_lib.Categories:
  """Returns the classes that the annotation file of a task tells.

  Args:
    task: a task config; `annotation_file` is COCO JSON under the ids of the records, such as
      convert_dataset writes.

  Returns:
    The classes; none if there is no such file, or if it is not of this model.
  """
  path = getattr(task, 'annotation_file', None)
  if not path or not tf.io.gfile.exists(path):
    return categories_lib.UNKNOWN
  try:
    with tf.io.gfile.GFile(path) as file:
      found = _parse(json.loads(file.read())['categories'])
  except (ValueError, KeyError, TypeError) as error:
    logging.warning('No class names are taken from task.annotation_file %s: %s', path, error)
    return categories_lib.UNKNOWN
  return _that_fit(found, task, path)


def of_training(checkpoint_path: str | os.PathLike, task: Any) -> categories_lib.Categories:
  """Returns the classes of a training: its own file, or else what its annotation file tells.

  Args:
    checkpoint_path: a checkpoint, or the folder of the training.
    task: config of the task that was trained.

  Returns:
    The classes; none if no file tells them.
  """
  for path in _places(os.fspath(checkpoint_path)):
    if tf.io.gfile.exists(path):
      try:
        return _that_fit(read(path), task, path)
      except (ValueError, TypeError) as error:
        logging.warning('%s is damaged (%s)', path, error)
  return of_task(task)


def save_for_training(task: Any, model_dir: str | os.PathLike) -> None:
  """Writes the classes of a task into the folder of its training, if they are known.

  Exports find them there when the records have moved. If there are several workers, only the one
  that writes the checkpoints calls this.

  Args:
    task: config of the task.
    model_dir: folder of the training.
  """
  categories = of_task(task)
  if categories:
    write(categories, model_dir)


def _parse(entries: Any) -> categories_lib.Categories:
  """Returns the classes of a JSON list; raises ValueError if it is none."""
  if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
    raise ValueError('it is no list of categories')
  return categories_lib.from_coco(entries)


def _that_fit(categories: categories_lib.Categories, task: Any, path: str | os.PathLike
              ) -> categories_lib.Categories:
  """Returns the classes if the model has so many, else none."""
  num_classes = getattr(getattr(task, 'model', None), 'num_classes', None)
  if categories and num_classes is not None and categories.num_classes > num_classes:
    logging.warning('%s has category id %d, but task.model.num_classes is %d: its class names are '
                    'not used', path, categories.num_classes - 1, num_classes)
    return categories_lib.UNKNOWN
  return categories


def _places(checkpoint_path: str) -> list[str]:
  """Returns where the file may be; the best checkpoint has a folder of its own."""
  path = checkpoint_path.rstrip('/')
  folder = path if tf.io.gfile.isdir(path) else os.path.dirname(path)
  return [os.path.join(folder, NAME), os.path.join(os.path.dirname(folder), NAME)]
