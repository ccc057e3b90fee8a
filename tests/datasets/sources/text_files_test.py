"""Text of every usual encoding, numbers with commas, and XML that must not be expanded."""
import pytest

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.sources import text_files
from official_ext.utils import command_line

TEXT = 'café, été\n'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32', 'cp1252'])
def test_encodings(tmp_path, encoding):
  (tmp_path / 'a.txt').write_bytes(TEXT.encode(encoding))
  findings = findings_lib.Findings()
  assert text_files.read_text(tmp_path / 'a.txt', findings, 'a.txt') == TEXT
  found = findings.to_json()
  assert len(found) == (encoding == 'cp1252')
  if found:
    assert found[0]['items'][0]['file'] == 'a.txt' and 'cp1252' in found[0]['reason']


@pytest.mark.parametrize('content, message', [
    (TEXT.encode('utf-16-le'), 'NUL bytes'), (b'\x81\x8d', 'not UTF-8, UTF-16 or cp1252'),
    (b'\xff\xfea', 'not utf-16')])
def test_what_is_no_text_is_named(tmp_path, content, message):
  (tmp_path / 'a.txt').write_bytes(content)
  with pytest.raises(command_line.CommandError, match=f'a.txt cannot be read: .*{message}'):
    text_files.read_text(tmp_path / 'a.txt', findings_lib.Findings())


@pytest.mark.parametrize('text, value', [
    ('12', 12), (' -1.5 ', -1.5), ('10,5', 10.5), ('1e2', 100)])
def test_numbers(text, value):
  assert text_files.number(text) == value


@pytest.mark.parametrize('text', ['', None, 'x', '1,000,000', '1.000,5'])
def test_no_numbers(text):
  with pytest.raises(ValueError):
    text_files.number(text)


@pytest.mark.parametrize('text', [
    'a,b;c,"d;e"\r\n\r\n1,2;3,4\r\n,,\r\n', 'a,b;c,"d;e"\n1,2;3,4\n\n', 'a, b;c, "d;e"\n1, 2;3, 4'])
def test_rows(text):
  assert list(text_files.rows(text)) == [
      (1, ['a', 'b;c', 'd;e']), (3 if '\r' in text else 2, ['1', '2;3', '4'])]
  assert [row.values for row in text_files.rows('a;b\n1,5;2\n')] == [['a', 'b'], ['1,5', '2']]
  assert [row.values for row in text_files.rows('a\tb\n1\t2')] == [['a', 'b'], ['1', '2']]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize('content', [
    '<a><b>é</b></a>'.encode(), '<a><b>é</b></a>'.encode('utf-16'),
    '<?xml version="1.0" encoding="utf-8"?>\n<a><b>é</b></a>'.encode('cp1252'),
    '<?xml version="1.0" encoding="UTF-16"?><a><b>é</b></a>'.encode(),
    '\ufeff<?xml version="1.0"?><a><b>é</b></a>'.encode(),
    '<?xml version="1.0" encoding="unknown"?><a><b>é</b></a>'.encode()])
def test_xml(content):
  assert text_files.parse_xml(content).findtext('b') == 'é'


@pytest.mark.parametrize('content, message', [
    (BOMB.encode(), 'entities'), (b'<a>', 'no element found'), (b'', 'no element found'),
    (BOMB.replace('"aaaa"', 'SYSTEM "file:///etc/passwd"').encode(), 'entities')])
def test_xml_that_is_refused(content, message):
  with pytest.raises(ValueError, match=message):
    text_files.parse_xml(content)
