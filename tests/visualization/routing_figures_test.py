"""Figures of gates and costs show the values that they were given."""
from matplotlib import figure
import numpy as np

from official_ext.visualization import routing_figures


def test_gate_matrix_shows_every_image_once_with_its_gates():
  gates = {'dyfpn_3': np.array([1.0, 0, 1, 1]), 'dyfpn_4': np.array([0.0, 0, 1, 0])}
  axes = routing_figures.draw_gate_matrix(gates).axes[0]
  drawn = np.asarray(axes.images[0].get_array())
  assert sorted(map(tuple, drawn.T)) == sorted(zip(gates['dyfpn_3'], gates['dyfpn_4']))
  assert list(drawn[0]) == sorted(drawn[0], reverse=True)
  labels = [label.get_text() for label in axes.get_yticklabels()]
  assert '75% open' in labels[0] and '25% open' in labels[1]


def test_histogram_counts_every_image_and_marks_other_networks():
  costs = np.array([1e9, 2e9, 2e9, 3e9])
  axes = routing_figures.draw_cost_histogram(costs, {'FPN': 0.5e9, 'inception FPN': 4e9}).axes[0]
  assert sum(patch.get_height() for patch in axes.patches) == 4
  marks = sorted(line.get_xdata()[0] for line in axes.lines)
  np.testing.assert_allclose(marks, [0.5, 2.0, 4.0])


def test_feature_grid_draws_mean_magnitudes_on_one_scale():
  maps = {'1x1': np.full([4, 4, 2], -2.0), '3x3': np.ones([4, 4, 2])}
  axes = routing_figures.draw_feature_grid(np.zeros([8, 8, 3], np.uint8), maps, 'level 3').axes
  first, second = axes[1].images[0], axes[2].images[0]
  np.testing.assert_array_equal(first.get_array(), 2 * np.ones([4, 4]))
  np.testing.assert_array_equal(second.get_array(), np.ones([4, 4]))
  assert first.get_clim() == second.get_clim() == (0, 2)


def test_decisions_have_a_picture_for_each_path_with_the_cost_in_its_title():
  gates = {'tower/block_0/depth_3': np.array([[[1.0], [0]]]), 'dyfpn/3': np.float32(1),
           'tower/block_0/finer_4': np.ones([1, 1, 1]), 'dyfpn/4': np.array([0.0, 1])}
  plots = routing_figures.draw_decisions(np.zeros([8, 16, 3], np.uint8), gates, 2e9, 4e9)
  assert list(plots) == ['depth', 'finer']
  assert plots['depth'].get_suptitle() == (
      'depth gates: 50% of positions open\nrouted parts: 2 of 4 GMAC')
  assert plots['finer'].get_suptitle().startswith('finer gates: 100% of')
  assert not routing_figures.draw_decisions(np.zeros([8, 16, 3], np.uint8), {'dyfpn/3': 1.0}, 1.0)


def test_a_rendered_figure_has_its_size_and_color():
  plot = figure.Figure(figsize=(2, 1), facecolor=(1, 0, 0))
  pixels = routing_figures.render(plot, 50)
  assert pixels.shape == (50, 100, 3) and pixels.dtype == np.uint8
  assert (pixels == [255, 0, 0]).all()


def test_items_picked_evenly_include_both_ends():
  assert routing_figures.pick_evenly(list('abcdefgh'), 3) == ['a', 'e', 'h']
  assert routing_figures.pick_evenly([1, 2], 6) == [1, 2]
