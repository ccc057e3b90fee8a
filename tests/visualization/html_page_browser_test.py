"""A browser shows the tables and pictures of a page, light and dark, on wide and narrow windows.

It runs where a Chromium is on the machine: on the PATH, or named by the variable CHROMIUM.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess

from matplotlib import figure
import numpy as np
from PIL import Image
import pytest

from official_ext.serving import prediction_files
from official_ext.serving import side_by_side
from official_ext.tools import report
from official_ext.tools import report_networks
from official_ext.visualization import html_page

NUCLEI = pathlib.Path(__file__).resolve().parents[2] / 'data' / 'nuclei'
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
    cells: all('td').map(box), tables: all('.table').map(box),
    images: all('img').map(i => [...box(i), i.naturalWidth]),
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


def layout(page, width, scheme):
  """Returns what the browser has laid out."""
  measured = page.with_name('measured.html')
  measured.write_text(page.read_text(encoding='utf-8').replace('</body>', f'{SCRIPT}</body>'),
                      encoding='utf-8')
  dom = browse(measured, width, scheme, '--dump-dom', '--virtual-time-budget=2000')
  return json.loads(re.search('<pre id="found">(.*?)</pre>', dom)[1])


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

  found = layout(page, width, scheme)
  assert found['page'][0] <= found['page'][1]  # nothing has to be scrolled sideways
  assert len(found['cells']) == 24 and all(w > 20 and h > 10 for _, _, w, h in found['cells'])
  assert len(found['images']) == 2
  for left, _, shown, _, natural in found['images']:
    assert natural > 0 and 0 <= left and left + shown <= width
  text = np.mean([int(value) for value in re.findall(r'\d+', found['text'])[:3]])
  assert abs(text - background) > 120


def _predictions(folder):
  """Predicts the annotated boxes of four of the nuclei, each image for another cost."""
  annotations = NUCLEI / 'annotations' / 'instances_val.json'
  truth = json.loads(annotations.read_text(encoding='utf-8'))
  images = truth['images'][:4]
  found = [{**{key: item[key] for key in ('image_id', 'category_id', 'bbox')}, 'score': 0.9}
           for item in truth['annotations'] if item['image_id'] in [one['id'] for one in images]]
  costs = [{'image_id': one['id'], 'file': one['file_name'], 'multiply_adds': 1e9 + 1e8 * number,
            'gates': {'neck_3': number % 2, 'neck_4': 1}} for number, one in enumerate(images)]
  for name, content in (('predictions', found), ('costs', {'images': costs}),
                        ('evaluation', {'ap': 0.4, 'ap50': 0.7})):
    (folder / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')
  return prediction_files.Predictions(folder, annotations, NUCLEI / 'images')


@pytest.fixture(scope='module')
def report_page(tmp_path_factory):
  """A report without what needs a network: networks side by side, results, costs, detections."""
  folder = tmp_path_factory.mktemp('report')
  predictions, twins = _predictions(folder), {'every branch': 1_500_000_000}
  engine = {'openvino': {'ms_mean': 9.0, 'ms_min': 8.0, 'ms_max': 10.0}}
  networks = [
      side_by_side.Network(name, ap, 0.7, 1.1, 1.0, 1.3, ms, ms - 1, ms + 1, 1, 2, engines=engine,
                           ap_low=ap - 0.05, ap_high=ap + 0.05)
      for name, ap, ms in (('fcos', 0.4, 20.0), ('fcos_dyfpn', 0.3, 25.0),
                           ('dynamic_head_d1_budget', 0.42, 15.0))]
  milliseconds = {'cheapest image': {'median': 14.0, 'low': 13.0, 'high': 16.0}}
  results = report._results(predictions, twins, milliseconds=milliseconds,
                            saved_model_max_abs_diff=1e-6, seconds_by_step={})
  page = html_page.HtmlPage('fcos_dynamichead_efficientnetlite0_sample: 4 images')
  report_networks.write(page, networks, side_by_side.advice(networks))
  report._write_results(page, results, twins)
  report._write_times(page, results, twins)
  report._write_routing(page, predictions, twins)
  report._write_examples(page, predictions)
  (folder / 'report.html').write_text(page.html(), encoding='utf-8')
  return folder / 'report.html'


@pytest.mark.slow
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1200, 500])
def test_report_is_inside_the_window(report_page, width, scheme):
  text, found = report_page.read_text(encoding='utf-8'), layout(report_page, width, scheme)
  assert found['page'][0] <= found['page'][1]
  # Networks side by side, in TensorFlow and in OpenVINO; results; times.
  assert len(found['tables']) == 4 and len(found['cells']) == text.count('<td>') > 40
  # Two of accuracy against time, of costs and of gates, and an image for each of the four.
  assert len(found['images']) == text.count('<img ') == 8
  for left, _, shown, height in [*found['tables'], *(image[:4] for image in found['images'])]:
    assert shown > 200 and height > 30 and 0 <= left and left + shown <= width
  assert all(w > 20 and h > 10 for _, _, w, h in found['cells'])
  assert all(image[4] > 0 for image in found['images'])
  # Light text on a dark page, dark text on a light one.
  color = np.mean([int(value) for value in re.findall(r'\d+', found['text'])[:3]])
  assert color > 180 if scheme == 'dark' else color < 80
