"""Figures of routes, costs and similarities show the values that they were given."""
import numpy as np
import pytest

from official_ext.visualization import routes
from official_ext.visualization import routing_figures

# The gates of an entry node, layer 1 with two scales, layer 2 with three, and a last layer.
GATES = {
    (0, 0): {'keep': 0.9, 'down': 0.4}, (1, 0): {'keep': 0.0, 'down': 0.0},
    (1, 1): {'up': 0.0, 'keep': 0.5, 'down': 0.0}, (2, 0): {'keep': 0.0, 'down': 0.2},
    (2, 1): {'up': 0.0, 'keep': 0.0, 'down': 0.0}, (2, 2): {'up': 0.0, 'keep': 0.0},
    (3, 0): {'keep': 0.0}, (3, 1): {'keep': 1.0}, (3, 2): {'keep': 0.0}}


def named(separator='/', gates=None):
  return {separator.join(['caddet', f'layer_{layer:02}', f'scale_{scale}', path]): np.float32(gate)
          for (layer, scale), node in (gates or GATES).items() for path, gate in node.items()}


@pytest.mark.parametrize('separator', '/_')
def test_gates_of_a_tape_and_of_a_saved_model_are_found_among_others(separator):
  gates = dict(reversed(named(separator).items()))
  gates |= {'dyfpn_3': np.float32(1), 'class_tower_block_0_depth_3': np.zeros([2, 2, 1])}
  paths = routes.supernet_paths(gates)
  assert list(paths) == list(GATES)
  assert paths == {node: {path: np.float32(gate) for path, gate in leaving.items()}
                   for node, leaving in GATES.items()}


def test_a_route_follows_open_paths_and_nodes_that_hand_on():
  route = routes.follow_route(GATES)
  assert route.running == [(0, 0), (1, 1), (2, 0), (3, 1)]
  # With every gate shut, `keep` hands the input on; a node that no path reaches does nothing.
  assert route.passed == [(1, 0), (2, 1)]
  assert route.edges == {
      (0, 0, 'keep'): 0.9, (0, 0, 'down'): 0.4, (1, 0, 'keep'): 1.0, (1, 1, 'keep'): 0.5,
      (2, 0, 'down'): 0.2, (2, 1, 'keep'): 1.0, (3, 1, 'keep'): 1.0}


def lines(plot):
  """Returns (layer, scale, step) -> width and color of a line."""
  return {(line.get_xdata()[0], line.get_ydata()[0], line.get_ydata()[1] - line.get_ydata()[0]):
          (line.get_linewidth(), line.get_color()) for line in plot.axes[0].lines}


def test_picture_has_every_path_once_and_open_ones_bold():
  plot = routes.draw_route(named(), 2.5e9, 1e10)
  drawn, route = lines(plot), routes.follow_route(GATES)
  steps = {'up': -1, 'keep': 0, 'down': 1}
  assert len(plot.axes[0].lines) == len(drawn) == sum(map(len, GATES.values()))
  shut = {(layer, scale, steps[path]) for (layer, scale), leaving in GATES.items()
          for path in leaving} - {(*edge[:2], steps[edge[2]]) for edge in route.edges}
  assert shut and all(drawn[key][0] < 1 for key in shut)
  for (layer, scale, path), gate in route.edges.items():
    assert drawn[layer, scale, steps[path]][0] == pytest.approx(1.5 + 2.5 * gate)
  # A path that hands features on has another color than one that computes.
  assert drawn[1, 0, 0][1] != drawn[1, 1, 0][1] != drawn[2, 2, 0][1]
  assert plot.axes[0].get_title() == '2.500 GMAC, 25% of 10.000; 4 nodes run, 2 hand on'
  nodes = [set(map(tuple, dots.get_offsets())) for dots in plot.axes[0].collections]
  assert nodes == [set(GATES), set(route.passed), set(route.running)]
  labels = [label.get_text() for label in plot.axes[0].get_yticklabels()]
  assert labels == ['1/8', '1/16', '1/32']


def test_the_same_route_gives_the_same_picture_and_another_one_does_not():
  first, again = (routing_figures.render(routes.draw_route(named(), 1e9))
                  for _ in range(2))
  np.testing.assert_array_equal(first, again)
  other = {**named(), 'caddet/layer_01/scale_0/keep': np.float32(1)}
  assert np.any(routing_figures.render(routes.draw_route(other, 1e9)) != first)


def test_a_supernet_has_a_route_among_the_pictures_of_an_image():
  image = np.zeros([8, 8, 3], np.uint8)
  pictures = routing_figures.draw_decisions(image, named('_'), 2e9)
  assert list(pictures) == ['route']
  assert pictures['route'].axes[0].get_title().startswith('2.000 GMAC; 4 nodes')
  assert not routing_figures.draw_decisions(image, {'dyfpn_3': np.float32(1)}, 2e9)


def test_gates_of_something_else_are_refused():
  with pytest.raises(ValueError, match='dyfpn_3'):
    routes.draw_route({'dyfpn_3': np.float32(1)}, 1e9)


def test_cost_by_scales_shows_every_image_and_the_means():
  costs = np.array([1e9, 3e9, 5e9, 2e9])
  axes = routes.draw_cost_by_scales(costs, np.array([1, 1, 3, 0])).axes[0]
  (mean,) = [line for line in axes.lines if line.get_label() == 'mean']
  np.testing.assert_array_equal(mean.get_xydata(), [[0, 2], [1, 2], [3, 5]])
  points = np.concatenate([dots.get_offsets() for dots in axes.collections])
  np.testing.assert_allclose(sorted(points[:, 1]), [1, 2, 3, 5])
  assert [label.get_text() for label in axes.get_xticklabels()] == [
      '0\n1 images', '1\n2 images', '3\n1 images']


def test_similarity_by_scales_counts_every_pair_once():
  paths = np.array([[1, 0.9, 0.3], [0.9, 1, 0.5], [0.3, 0.5, 1]])
  scales = np.array([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]])
  axes = routes.draw_similarity_by_scales(paths, scales).axes[0]
  (mean,) = [line for line in axes.lines if line.get_label() == 'mean']
  np.testing.assert_allclose(mean.get_xydata(), [[0.5, 0.4], [1, 0.9]])


def test_pictures_of_a_data_set_join_gates_costs_and_scales():
  gates = {name: np.array([gate, gate, 1.0]) for name, gate in named().items()}
  presence = np.array([[1, 0], [1, 1], [0, 0]])
  plots = routes.draw_scale_relations(gates, np.array([1e9, 2e9, 3e9]), presence)
  means = {name: next(line for line in plot.axes[0].lines if line.get_label() == 'mean')
           for name, plot in plots.items()}
  np.testing.assert_array_equal(means['cost_by_scales'].get_xydata(), [[0, 3], [1, 1], [2, 2]])
  (vector,) = {tuple(float(gate) for gate in named().values())}
  cosine = sum(vector) / np.linalg.norm(vector) / np.sqrt(len(vector))
  np.testing.assert_allclose(
      means['similarity_by_scales'].get_xydata(), [[0, cosine], [0.5, (1 + cosine) / 2]], rtol=1e-5)
  assert not routes.draw_scale_relations({'dyfpn/3': np.ones(3)}, np.ones(3), presence)
