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
