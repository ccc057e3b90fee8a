"""The figure of accuracy against cost shows the values that it was given."""
import numpy as np

from official_ext.visualization import tradeoff


def point(model, threshold, ap, mean, low, high):
  return {'model': model, 'threshold': threshold, 'ap': ap, 'gmac_mean': mean, 'gmac_min': low,
          'gmac_max': high}


def test_every_model_is_a_line_with_bars_from_the_cheapest_to_the_dearest_image():
  points = [point('dynamic', 0.0, 0.4, 3.0, 2.0, 5.0), point('dynamic', 0.3, 0.3, 2.5, 2.0, 2.75),
            {**point('budgets', None, 0.2, 1.0, 1.0, 1.0), 'budget': 0.7},
            # The mean of equal costs, as rounded.
            point('fixed', None, 0.45, 6.0 - 1e-15, 6.0, 6.0)]
  axes, = tradeoff.draw_tradeoff(points).axes
  dynamic, _, fixed = axes.containers
  np.testing.assert_array_equal(dynamic.lines[0].get_xydata(), [[3.0, 0.4], [2.5, 0.3]])
  np.testing.assert_array_equal(fixed.lines[0].get_xydata(), [[6.0 - 1e-15, 0.45]])
  bars, = dynamic.lines[2]
  np.testing.assert_array_equal(
      bars.get_segments(), [[[2.0, 0.4], [5.0, 0.4]], [[2.0, 0.3], [2.75, 0.3]]])
  assert [text.get_text() for text in axes.texts] == ['0', '0.3', '0.7']
  assert [text.get_text() for text in axes.get_legend().get_texts()] == [
      'dynamic', 'budgets', 'fixed']


def test_a_frontier_has_a_line_for_each_engine_and_size_of_batches():
  def times(median):
    return {'low': median - 1, 'median': median, 'high': median + 2}

  points = [{'budget': budget, 'ap': ap, 'gmac_mean': 2.0, 'gmac_min': 1.0, 'gmac_max': 4.0,
             'milliseconds': {'tensorflow': {'1': times(ms), '8': times(4 * ms)},
                              'onnx': {'1': times(ms / 2)}}}
            for budget, ap, ms in ((0.0, 0.25, 8.0), (1.0, 0.5, 16.0))]
  left, right = tradeoff.draw_frontier(points).axes
  cost, = left.containers
  np.testing.assert_array_equal(cost.lines[0].get_xydata(), [[2.0, 0.25], [2.0, 0.5]])
  one, eight, onnx = right.containers
  np.testing.assert_array_equal(one.lines[0].get_xydata(), [[8.0, 0.25], [16.0, 0.5]])
  np.testing.assert_array_equal(eight.lines[0].get_xydata(), [[4.0, 0.25], [8.0, 0.5]])
  np.testing.assert_array_equal(onnx.lines[0].get_xydata(), [[4.0, 0.25], [8.0, 0.5]])
  bars, = eight.lines[2]
  np.testing.assert_array_equal(
      bars.get_segments(), [[[31 / 8, 0.25], [34 / 8, 0.25]], [[63 / 8, 0.5], [66 / 8, 0.5]]])
  assert [text.get_text() for text in right.get_legend().get_texts()] == [
      'tensorflow, batch of 1', 'tensorflow, batch of 8', 'onnx, batch of 1']
