"""Writes the TFRecord files of a split."""
from collections.abc import Generator, Iterable
import contextlib
import pathlib

import tensorflow as tf

from official_ext.utils import command_line


def file_pattern(split: str) -> str:
  """Returns the pattern of the names of the files that `write` makes for a split."""
  return f'{split}-*.tfrecord'


def write(examples: Iterable[tf.train.Example], folder: pathlib.Path, split: str,
          num_shards: int) -> None:
  """Writes examples to `num_shards` files in turn.

  Args:
    examples: the examples; an error that they raise is passed on.
    folder: to write into; a temporary folder of `files.atomic_directory`.
    split: begins the names of the files.
    num_shards: number of files.

  Raises:
    CommandError: the files cannot be written.
  """
  with _naming_parent(folder):
    writers = [
        tf.io.TFRecordWriter(str(folder / f'{split}-{number:05d}-of-{num_shards:05d}.tfrecord'))
        for number in range(num_shards)]
  for index, example in enumerate(examples):
    with _naming_parent(folder):
      writers[index % num_shards].write(example.SerializeToString())
  with _naming_parent(folder):
    for writer in writers:
      writer.close()


@contextlib.contextmanager
def _naming_parent(folder: pathlib.Path) -> Generator[None, None, None]:
  """Turns TensorFlow's errors into a sentence that names the folder that holds `folder`."""
  try:
    yield
  except tf.errors.OpError as error:
    raise command_line.CommandError(f'{folder.parent} cannot be written: {error}.') from error
