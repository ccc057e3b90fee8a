"""Records of a file are counted and read up to the place where it is damaged."""
import pytest
import tensorflow as tf

from official_ext.datasets import findings
from official_ext.datasets.records import record_decoding

RECORDS = [b'a' * 10, b'', b'b' * 300]


def write(path) -> str:
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in RECORDS:
      writer.write(record)
  return str(path)


def test_records_are_counted_and_read(tmp_path):
  path = write(tmp_path / 'a.tfrecord')
  assert record_decoding.count_records(path) == 3
  assert list(record_decoding.read_records(path)) == RECORDS
  assert record_decoding.describe(path, 2, '') == 'a.tfrecord record 2'


def test_records_before_the_damage_are_read(tmp_path):
  path = write(tmp_path / 'a.tfrecord')
  (tmp_path / 'a.tfrecord').write_bytes((tmp_path / 'a.tfrecord').read_bytes()[:-100])
  assert record_decoding.count_records(path) == 2
  read = []
  with pytest.raises(findings.UnusableError, match='file is truncated or damaged: after 2 records'):
    for record in record_decoding.read_records(path):
      read.append(record)
  assert read == RECORDS[:2]


@pytest.mark.parametrize('content, reason', [
    (b'', 'file has no records'), (b'{"images": [1, 2, 3]}' * 9, 'file is no TFRecord file')])
def test_files_without_records_are_refused(tmp_path, content, reason):
  path = tmp_path / 'a'
  path.write_bytes(content)
  with pytest.raises(findings.UnusableError, match=reason):
    list(record_decoding.read_records(str(path)))


def test_a_record_that_is_no_example_is_refused():
  with pytest.raises(ValueError, match='parse|Example'):
    record_decoding.RecordDecoder()(b'text')
