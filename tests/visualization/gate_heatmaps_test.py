"""Heatmaps show every gate in its place over the image."""
import numpy as np
import pytest

from official_ext.visualization import gate_heatmaps

IMAGE = np.arange(20 * 40 * 3, dtype=np.uint8).reshape(20, 40, 3)


def random_gate(height, width, seed=0):
  gate = np.random.default_rng(seed).uniform(-1, 1, [height, width, 1])
  return np.maximum(gate, 0)


@pytest.mark.parametrize('separator', '/_')
def test_gates_are_sorted_by_path(separator):
  """Names of a tape and of a SavedModel are read alike; gates per image are left out."""
  names = ['class_tower/block_0/depth_3', 'class_tower/block_0/finer_4',
           'box_tower/block_1/depth_3']
  gates = {name.replace('/', separator): random_gate(2, 3, seed) for seed, name in enumerate(names)}
  paths = gate_heatmaps.by_path({'dyfpn_3': np.float32(1), 'choice_3': np.ones([2]), **gates})
  assert {path: list(maps) for path, maps in paths.items()} == {
      'depth': [('class tower block 0', 3), ('box tower block 1', 3)],
      'finer': [('class tower block 0', 4)]}
  values = list(gates.values())
  np.testing.assert_array_equal(paths['depth']['box tower block 1', 3], values[2][..., 0])
  np.testing.assert_array_equal(paths['finer']['class tower block 0', 4], values[1][..., 0])


def test_a_gate_per_position_with_another_name_is_refused():
  with pytest.raises(ValueError, match="named 'mask'; expected a name that ends in <path>_<level>"):
    gate_heatmaps.by_path({'mask': random_gate(2, 3)})


def test_every_map_lies_where_the_network_saw_it():
  """Rows are levels and columns are blocks; a position covers `2**level` pixels of the input."""
  maps = {(f'tower block {block}', level): random_gate(48 >> level, 80 >> level, block)[..., 0]
          for block in (10, 2) for level in (4, 3) if (block, level) != (2, 4)}
  plot = gate_heatmaps.draw_heatmaps(IMAGE, maps, scale=(2.0, 1.6), title='a title')
  assert plot.get_suptitle() == 'a title'
  (first, second, _, last), color_bar = plot.axes[:4], plot.axes[4]
  assert [axis.get_title() for axis in (first, second)] == ['tower block 2', 'tower block 10']
  assert (first.get_ylabel(), plot.axes[2].get_ylabel()) == ('level 3', 'level 4')
  assert not plot.axes[2].get_visible()
  for axis, key in ((first, ('tower block 2', 3)), (second, ('tower block 10', 3)),
                    (last, ('tower block 10', 4))):
    below, above = axis.images
    np.testing.assert_allclose(below.get_array(), IMAGE.mean(axis=-1))
    np.testing.assert_array_equal(above.get_array(), maps[key])
    np.testing.assert_array_equal(above.get_alpha() > 0, maps[key] > 0)
    rows, columns = maps[key].shape
    left, right, bottom, top = above.get_extent()
    np.testing.assert_allclose([left, top], -0.5)
    np.testing.assert_allclose(bottom + 0.5, rows * 2**key[1] / 2.0)
    np.testing.assert_allclose(right + 0.5, columns * 2**key[1] / 1.6)
    assert above.get_clim() == (0, 1)
    # The picture ends where the image ends, without the padding.
    assert axis.get_xlim() == (-0.5, 39.5) and axis.get_ylim() == (19.5, -0.5)
    assert [text.get_text() for text in axis.texts] == [f'{np.mean(maps[key] > 0):.0%}']
  assert color_bar.get_ylabel() == 'gate' and color_bar.get_ylim() == (0, 1)


def test_open_share_is_of_all_positions():
  maps = {('a', 3): np.array([[0.5, 0, 0.1], [0, 0, 1]]), ('a', 4): np.array([[0.0, 0.2]])}
  assert gate_heatmaps.open_share(maps) == 4 / 8
