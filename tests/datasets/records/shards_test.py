"""Examples go to the files in turn; only errors of writing name the folder."""
import pytest
import tensorflow as tf

from official_ext.datasets.records import record_decoding
from official_ext.datasets.records import shards
from official_ext.utils import command_line


def examples(count):
  for number in range(count):
    feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
    yield tf.train.Example(features=tf.train.Features(feature={'number': feature}))


def numbers(path):
  return [tf.train.Example.FromString(record).features.feature['number'].int64_list.value[0]
          for record in record_decoding.read_records(str(path))]


def test_examples_go_to_the_files_in_turn(tmp_path):
  shards.write(examples(5), tmp_path, 'train', 2)
  paths = sorted(tmp_path.glob(shards.file_pattern('train')))
  assert [path.name for path in paths] == [
      'train-00000-of-00002.tfrecord', 'train-00001-of-00002.tfrecord']
  assert [numbers(path) for path in paths] == [[0, 2, 4], [1, 3]]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  with pytest.raises(command_line.CommandError, match=f'{tmp_path} cannot be written'):
    shards.write(examples(1), tmp_path / 'missing', 'train', 1)


def test_an_error_of_the_examples_is_passed_on(tmp_path):
  def damaged():
    yield from examples(1)
    raise tf.errors.DataLossError(None, None, 'damaged input')

  with pytest.raises(tf.errors.DataLossError, match='damaged input'):
    shards.write(damaged(), tmp_path, 'train', 1)
