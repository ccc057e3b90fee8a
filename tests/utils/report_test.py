"""The HTML page: self-contained, escaped, replaced only when complete."""
import base64
import io
import re

from matplotlib import figure
import numpy as np
from PIL import Image
import pytest

from official_ext.utils import report


def test_pictures_are_inside_the_page_and_come_back(tmp_path):
  page = report.Report('title')
  image = np.zeros([8, 12, 3], np.uint8)
  image[:, 6:] = 255
  page.image(image, 'a picture')
  plot = figure.Figure()
  plot.subplots().plot([1, 2])
  page.figure(plot, 'a plot')
  page.write(tmp_path / 'report.html')
  text = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert not re.search(r'(src|href)="(?!data:)', text)
  jpeg, png = re.findall(r'base64,([^"]+)"', text)
  decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg))))
  assert np.abs(decoded.astype(int) - image).max() < 40
  assert base64.b64decode(png).startswith(b'\x89PNG')


def test_texts_are_escaped(tmp_path):
  page = report.Report('a < b')
  page.heading('x & y')
  page.text('<script>')
  page.table(['name', 'value'], [['<td>', 1]])
  page.write(tmp_path / 'report.html')
  text = (tmp_path / 'report.html').read_text(encoding='utf-8')
  for expected in ('a &lt; b', 'x &amp; y', '&lt;script&gt;', '<td>&lt;td&gt;</td><td>1</td>'):
    assert expected in text


def test_a_failure_keeps_the_earlier_page(tmp_path):
  path = tmp_path / 'report.html'
  path.write_text('earlier')
  page = report.Report('title')
  page._parts.append(None)  # what cannot be joined
  with pytest.raises(TypeError):
    page.write(path)
  assert path.read_text() == 'earlier'
  assert [file.name for file in tmp_path.iterdir()] == ['report.html']
