"""The picture and the table of networks side by side show the values that they were given."""
import types

import numpy as np

from official_ext.visualization import html_page
from official_ext.visualization import networks


def network(name, ap, ms, low, high, gates=0):
  return types.SimpleNamespace(
      name=name, ap=ap, ap50=None if ap is None else ap + 0.1, gmac_mean=1.5, gmac_min=1.0,
      gmac_max=2.0, ms_mean=ms, ms_min=low, ms_max=high, decides=1, gates=gates)


PLAIN, ROUTED = network('plain', 0.4, 10.0, 9.0, 12.0), network('routed', 0.5, 20.0, 15.0, 21.0, 3)


def test_bars_reach_from_the_fastest_to_the_slowest_image_and_the_best_are_joined():
  axes, = networks.draw_accuracy_against_time([PLAIN, ROUTED], [PLAIN, ROUTED]).axes
  plain, routed = axes.containers
  np.testing.assert_array_equal(plain.lines[0].get_xydata(), [[10.0, 0.4]])
  bar, = routed.lines[2]
  np.testing.assert_array_equal(bar.get_segments(), [[[15.0, 0.5], [21.0, 0.5]]])
  assert [text.get_text() for text in axes.texts] == ['plain', 'routed']
  steps = axes.lines[-1]
  np.testing.assert_array_equal(steps.get_xydata(), [[10.0, 0.4], [20.0, 0.5]])
  assert steps.get_drawstyle() == 'steps-post'


def test_the_page_has_the_advice_the_table_and_the_picture():
  page = html_page.HtmlPage('title')
  networks.write(page, [PLAIN, ROUTED], [PLAIN], ['Use plain.'])
  text = page.html()
  assert '<p>Use plain.</p>' in text and text.count('<figure>') == 1
  assert 'Which network to use' in text
  assert all(f'<td>{cell}</td>' in text for cell in (
      '0.400', '0.500', '1.000 to 2.000', '15.0 to 21.0',
      'no gates', '1 of 3'))


def test_unknown_accuracy_is_said_and_not_drawn():
  page = html_page.HtmlPage('title')
  networks.write(page, [network('one', None, 1.0, 1.0, 1.0)], [], [])
  assert page.html().count('<td>unknown</td>') == 2 and '<figure>' not in page.html()
  assert 'This network' in page.html()
