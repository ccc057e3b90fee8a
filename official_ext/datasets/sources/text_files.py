"""Reads text of every usual encoding: UTF-8, UTF-16, and what Windows programs write."""
import codecs
from collections.abc import Iterator
import csv
import pathlib
import re
from typing import NamedTuple
from xml.etree import ElementTree

import defusedxml.ElementTree

from official_ext.datasets import findings as findings_lib
from official_ext.utils import command_line

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = ((codecs.BOM_UTF32_LE, 'utf-32'), (codecs.BOM_UTF32_BE, 'utf-32'),
          (codecs.BOM_UTF8, 'utf-8-sig'), (codecs.BOM_UTF16_LE, 'utf-16'),
          (codecs.BOM_UTF16_BE, 'utf-16'))
_NOT_UTF8 = ('file is not UTF-8: read as cp1252 (Windows, Western Europe); if names look wrong, '
             'save it as UTF-8')
_DECIMAL_COMMA = re.compile(r'\s*[-+]?\d*,\d+\s*')


def decode(content: bytes) -> tuple[str, bool]:
  """Decodes text.

  Args:
    content: with the mark of its encoding, or UTF-8, or else cp1252.

  Returns:
    The text, and whether it was taken for cp1252 because it is nothing else.

  Raises:
    ValueError: it is no text.
  """
  encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
  content = content if encoding else content.rstrip(b'\0')
  if encoding is None and b'\0' in content:
    raise ValueError('it holds NUL bytes, so it is not text, or UTF-16 without the mark (BOM) that '
                     'tells so: save it as UTF-8')
  for name in (encoding,) if encoding else ('utf-8', 'cp1252'):
    try:
      return content.decode(name), name == 'cp1252'
    except UnicodeDecodeError:
      continue
  raise ValueError(f'it is not {encoding or "UTF-8, UTF-16 or cp1252"}: save it as UTF-8')


def read_head(path: pathlib.Path, size: int) -> str:
  """Returns the beginning of a file as text, for a look at its kind; never fails to decode.

  Args:
    path: the file.
    size: how many bytes to read; a multiple of 4.
  """
  with path.open('rb') as file:
    content = file.read(size)
  encoding = next((name for mark, name in _MARKS if content.startswith(mark)), 'utf-8')
  return content.decode(encoding, 'replace').replace('\0', '')


def read_text(path: pathlib.Path, findings: findings_lib.Findings, name: str = '') -> str:
  """Reads a text file.

  Args:
    path: the file.
    findings: told if the encoding is a guess.
    name: of the file in findings; empty for `path`.

  Returns:
    The text.

  Raises:
    CommandError: the file is no text.
  """
  try:
    text, is_guess = decode(path.read_bytes())
  except ValueError as error:
    raise command_line.CommandError(f'{path} cannot be read: {error}.') from error
  if is_guess:
    findings.add('all', 'noted', _NOT_UTF8, name or str(path))
  return text


def parse_xml(content: bytes) -> ElementTree.Element:
  """Parses XML without expanding entities.

  Args:
    content: of the file. A wrong declaration of its encoding is ignored.

  Returns:
    The root.

  Raises:
    ValueError: it is not XML, or it defines entities.
  """
  try:
    try:
      return defusedxml.ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
      if isinstance(error, defusedxml.DefusedXmlException):
        raise
      text = re.sub(r'^\s*<\?xml[^>]*\?>', '', decode(content)[0])
      return defusedxml.ElementTree.fromstring(text.encode())
  except defusedxml.DefusedXmlException as error:
    raise ValueError('it defines entities, which are never expanded') from error
  except ElementTree.ParseError as error:
    raise ValueError(str(error)) from error


def number(text: str | None) -> float:
  """Returns a number that may have a decimal comma.

  Args:
    text: such as `12`, `12.5` or `12,5`.

  Raises:
    ValueError: it is not a number.
  """
  text = text or ''
  return float(text.replace(',', '.') if _DECIMAL_COMMA.fullmatch(text) else text)


def is_number(text: str) -> bool:
  """Returns whether `number` can read a text."""
  try:
    number(text)
  except ValueError:
    return False
  return True


class Row(NamedTuple):
  """A row of a table: the number of its line, from 1, and its values without outer blanks."""
  line: int
  values: list[str]


def rows(text: str) -> Iterator[Row]:
  """Yields the rows of a CSV table that are not blank.

  Args:
    text: separated by comma, semicolon or tab, whichever the first line has most of.

  Raises:
    ValueError: the table breaks the rules of quoting.
  """
  first = re.sub(r'"[^"]*"', '', next(filter(str.strip, text.splitlines()), ''))
  delimiter = max(',;\t', key=first.count)
  reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
  try:
    for values in reader:
      values = [value.strip() for value in values]
      if any(values):
        yield Row(reader.line_num, values)
  except csv.Error as error:
    raise ValueError(f'line {reader.line_num}: {error}') from error
