"""The HTML page is self-contained, and its texts are escaped."""
import base64
import io
import re

from matplotlib import figure
import numpy as np
from PIL import Image

from official_ext.visualization import html_page


def test_pictures_are_inside_the_page_and_come_back():
  page = html_page.HtmlPage('title')
  image = np.zeros([8, 12, 3], np.uint8)
  image[:, 6:] = 255
  page.image(image, 'a picture')
  plot = figure.Figure()
  plot.subplots().plot([1, 2])
  page.figure(plot, 'a plot')
  text = page.html()
  assert not re.search(r'(src|href)="(?!data:)', text)
  jpeg, png = re.findall(r'base64,([^"]+)"', text)
  decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg))))
  assert np.abs(decoded.astype(int) - image).max() < 40
  assert base64.b64decode(png).startswith(b'\x89PNG')


def test_texts_are_escaped():
  page = html_page.HtmlPage('a < b')
  page.heading('x & y')
  page.text('<script>')
  page.table(['name', 'value'], [['<td>', 1]])
  text = page.html()
  for expected in ('a &lt; b', 'x &amp; y', '&lt;script&gt;', '<td>&lt;td&gt;</td><td>1</td>'):
    assert expected in text
