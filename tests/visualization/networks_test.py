"""The picture and the table of networks side by side show the values that they were given."""
import numpy as np

from official_ext.serving import side_by_side
from official_ext.visualization import html_page
from official_ext.visualization import networks


def network(name, ap, ms, low, high, gates=0, **budgets):
  return side_by_side.Network(
      name, ap, None if ap is None else ap + 0.1, 1.5, 1.0, 2.0, ms, low, high, 1, gates,
      **budgets)


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


def test_an_interval_of_accuracy_is_a_vertical_bar_and_in_the_tables():
  plain = PLAIN._replace(ap_low=0.3, ap_high=0.45)
  axes, = networks.draw_accuracy_against_time([plain, ROUTED], [plain]).axes
  across, along = axes.containers[0].lines[2]
  np.testing.assert_array_equal(across.get_segments(), [[[9.0, 0.4], [12.0, 0.4]]])
  np.testing.assert_allclose(along.get_segments(), [[[10.0, 0.3], [10.0, 0.45]]])
  assert len(axes.containers[1].lines[2]) == 1
  for write in (lambda page, found: networks.write(page, found, [], []),
                lambda page, found: networks.write_times(page, 'other', found, [])):
    page = html_page.HtmlPage('title')
    write(page, [plain, ROUTED])
    assert '<td>0.400 (0.300 to 0.450)</td>' in page.html()
    assert '<td>0.500</td>' in page.html()


def test_a_budget_is_named_and_all_budgets_are_a_line():
  routed = network('routed', 0.5, 20.0, 15.0, 21.0, 3, budget=0.5, budgets=[
      {'budget': 0.5, 'ap': 0.5, 'ms_mean': 19.0}, {'budget': 1.0, 'ap': 0.6, 'ms_mean': 30.0}])
  axes, = networks.draw_accuracy_against_time([PLAIN, routed], [PLAIN]).axes
  assert [text.get_text() for text in axes.texts] == ['plain', 'routed, budget 0.5']
  assert any(np.array_equal(line.get_xydata(), [[19.0, 0.5], [30.0, 0.6]]) for line in axes.lines)
  page = html_page.HtmlPage('title')
  networks.write_times(page, 'other', [routed], [routed])
  text = page.html()
  assert '<td>routed, budget 0.5</td>' in text and '<td>15.0 to 21.0</td>' in text
  assert 'The same networks in other:' in text and text.count('<figure>') == 1


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


def test_what_gates_decide_is_unknown_with_a_single_image():
  for images, words in ((1, 'unknown'), (2, '1 of 3')):
    page = html_page.HtmlPage('title')
    networks.write(page, [network('routed', 0.5, 20.0, 15.0, 21.0, 3, images=images)], [], [])
    assert f'<td>{words}</td>' in page.html()
