"""One image at several budgets: boxes, cost, and what is switched off."""
import types

import numpy as np
import pytest

from official_ext.datasets import categories as categories_lib
from official_ext.tools import budget_pictures
from official_ext.tools import report
from official_ext.visualization import html_page

IMAGE = np.full([40, 60, 3], 128, np.uint8)


class Detector:
  """Finds one object below a budget of 0.5, two from there; a gate is open from 0.75."""

  def __init__(self, takes_budget=True):
    self._takes_budget, self.budget = takes_budget, None
    self.categories, self.description = categories_lib.UNKNOWN, {}
    module = types.SimpleNamespace(cost=types.SimpleNamespace(static=600_000_000))
    self.module = types.SimpleNamespace(module_of=lambda size: {(40, 60): module}[size])

  def set_budget(self, budget):
    self.budget = budget
    return self._takes_budget

  def inspect(self, images):
    assert len(images) == 1
    scores = np.float32([[0.9, 0.8 if self.budget >= 0.5 else 0.3]])
    return {
        'detection_boxes': np.float32([[[4, 6, 20, 30], [22, 36, 36, 54]]]),
        'detection_scores': scores, 'detection_classes': np.int32([[1, 1]]),
        'num_detections': np.int32([2]),
        'image_info': np.float32([[[40, 60], [40, 60], [1, 1], [0, 0]]])
    }, types.SimpleNamespace(
        executed=np.float64([1e9 * (0.4 + self.budget)]),
        gates={'neck/3': np.float32([self.budget >= 0.75]),
               'neck/4': np.float32([self.budget > 0])})


def test_every_budget_has_its_boxes_cost_and_gates():
  detector = Detector()
  found = budget_pictures.draw(detector, IMAGE)
  assert [(at.budget, at.gmac, at.objects, at.shut) for at in found] == [
      (0.0, 1.0, 1, 'neck/3, neck/4'), (0.25, 1.25, 1, 'neck/3'), (0.5, 1.5, 2, 'neck/3'),
      (0.75, 1.75, 2, 'nothing'), (1.0, 2.0, 2, 'nothing')]
  assert detector.budget == 1.0
  first, last = found[0].picture, found[-1].picture
  # Eight times as large; the left side of the second box is drawn where it was detected.
  assert first.shape == last.shape == (320, 480, 3)
  assert np.any(last[250:254, 288] != 128) and np.all(first[250:254, 288] == 128)


@pytest.mark.parametrize('gates, expected', [
    ({'a': 1.0, 'b': 0.0}, 'b'), ({'a': np.float32([0, 1])}, 'a path 0'),
    ({'a': np.float32([[[0.5], [0.0], [1.0], [0.2]]]), 'b': np.zeros([2, 2, 1])}, '25% of a, b'),
    ({str(number): float(number == 0) for number in range(10)}, '90% of 10 gates'),
    ({'a': 1.0}, 'nothing')])
def test_what_is_switched_off_in_words(gates, expected):
  assert budget_pictures.switched_off(gates) == expected


@pytest.mark.parametrize('takes_budget', [True, False])
def test_the_report_shows_it_where_the_detector_takes_a_budget(takes_budget):
  asked = []
  predictions = types.SimpleNamespace(
      costs=[{'image_id': number, 'file': f'{number}.png'} for number in range(3)],
      image=lambda image_id: asked.append(image_id) or IMAGE, budget=0.25)
  page = html_page.HtmlPage('report')
  detector = Detector(takes_budget)
  report._write_budgets(page, detector, predictions)
  assert not takes_budget or detector.budget == 0.25
  html = page.html()
  assert ('One image at several budgets' in html) == takes_budget == ('<img' in html)
  assert asked == [1]
  assert not takes_budget or '<td>0.25</td><td>1.250</td><td>1</td><td>neck/3</td>' in html
