"""A browser shows the tables and pictures of a page, light and dark, on wide and narrow windows.

It runs where a Chromium is on the machine: on the PATH, or named by the variable CHROMIUM.
"""
import json
import os
import re
import shutil
import subprocess

from matplotlib import figure
import numpy as np
from PIL import Image
import pytest

from official_ext.visualization import html_page

BROWSER = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))), None)
pytestmark = pytest.mark.skipif(
    not BROWSER, reason='no Chromium: none is on the PATH, and CHROMIUM names none')

RED = (200, 30, 30)
# Writes what the browser has laid out into the page.
SCRIPT = """<script>window.onload = () => {
  const box = (element) => { const r = element.getBoundingClientRect();
                             return [r.left, r.top, r.width, r.height]; };
  const all = (name) => [...document.querySelectorAll(name)];
  document.body.innerHTML += '<pre id="found">' + JSON.stringify({
    page: [document.documentElement.scrollWidth, window.innerWidth],
    cells: all('td').map(box), images: all('img').map(i => [...box(i), i.naturalWidth]),
    text: getComputedStyle(document.body).color}) + '</pre>'; };</script>"""


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """A page such as the report: a wide table, a picture and a figure."""
  page = html_page.HtmlPage('Report')
  page.heading('Networks')
  page.table([f'column {number}' for number in range(8)],
             [[f'network {row}', *(f'{row}.{column:03d}' for column in range(7))]
              for row in range(3)])
  page.image(np.full([40, 60, 3], RED, np.uint8), 'an image')
  plot = figure.Figure(figsize=(12, 3))
  plot.subplots().plot([0, 1], [1, 0])
  page.figure(plot, 'a figure')
  path = tmp_path_factory.mktemp('page') / 'page.html'
  path.write_text(page.html(), encoding='utf-8')
  return path


def browse(page, width, scheme, *options):
  return subprocess.run(
      [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
       f'--user-data-dir={page.parent}/profile', f'--window-size={width},900',
       f'--blink-settings=preferredColorScheme={0 if scheme == "dark" else 1}', *options,
       page.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1200, 500])
def test_page_is_readable(page, width, scheme):
  screenshot = page.parent / f'{scheme}_{width}.png'
  browse(page, width, scheme, f'--screenshot={screenshot}')
  pixels = np.asarray(Image.open(screenshot).convert('RGB')).astype(int)
  background = pixels[2, 2].mean()
  assert background < 60 if scheme == 'dark' else background > 240
  # The picture is there, in its color and its size.
  red = np.abs(pixels - RED).max(-1) < 12
  assert 0.9 * 40 * 60 < red.sum() < 1.1 * 40 * 60

  measured = page.with_name('measured.html')
  measured.write_text(page.read_text(encoding='utf-8').replace('</body>', f'{SCRIPT}</body>'),
                      encoding='utf-8')
  dom = browse(measured, width, scheme, '--dump-dom', '--virtual-time-budget=2000')
  found = json.loads(re.search('<pre id="found">(.*?)</pre>', dom)[1])
  assert found['page'][0] <= found['page'][1]  # nothing has to be scrolled sideways
  assert len(found['cells']) == 24 and all(w > 20 and h > 10 for _, _, w, h in found['cells'])
  assert len(found['images']) == 2
  for left, _, shown, _, natural in found['images']:
    assert natural > 0 and 0 <= left and left + shown <= width
  text = np.mean([int(value) for value in re.findall(r'\d+', found['text'])[:3]])
  assert abs(text - background) > 120
