"""Arrows begin and end where the samples are."""
import numpy as np

from official_ext.visualization import offsets
from official_ext.visualization import routing_figures


def test_an_arrow_covers_the_pixels_from_start_to_end():
  image = np.full([40, 60, 3], 255, np.uint8)
  starts = np.array([[[10.0, 20.0]]])
  plot = offsets.draw_offsets(image, starts, starts + [0.0, 25.0], 'level 3')
  assert plot.axes[0].get_title() == 'level 3\nmean offset 25.00 pixels'
  pixels = routing_figures.render(plot, 100).astype(int)
  red = (pixels[..., 0] > 200) & (pixels[..., 1] < 80)
  rows, columns = np.nonzero(red)
  # Figure coordinates count rows from below.
  to_pixels = plot.axes[0].transData.transform
  (x1, y), (x2, _) = to_pixels((20, 10)), to_pixels((45, 10))
  np.testing.assert_allclose([columns.min(), columns.max()], [x1, x2], atol=4)  # of 10 for a pixel
  np.testing.assert_allclose(np.mean(rows), len(pixels) - y, atol=1.5)


def test_many_positions_are_thinned_but_all_are_in_the_mean():
  starts = np.stack(np.meshgrid(np.arange(50.0), np.arange(60.0), indexing='ij'), -1)
  ends = starts.copy()
  ends[0, 0] += [3000.0 * 4, 3000.0 * 3]  # of 3000 positions
  plot = offsets.draw_offsets(np.zeros([50, 60, 3], np.uint8), starts, ends)
  quiver, = plot.axes[0].collections
  assert quiver.N == 17 * 20
  assert plot.axes[0].get_title() == 'mean offset 5.00 pixels'
