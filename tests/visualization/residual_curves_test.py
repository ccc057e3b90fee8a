"""The figure of residuals shows the values that it was given."""
import numpy as np

from official_ext.visualization import residual_curves


def test_every_solver_is_a_line_of_medians_in_a_band():
  residuals = {'anderson': np.array([[1.0, 0.5, 0.8], [0.1, 0.02, 0.03]]),
               'unroll': np.array([[1.0, 1.0, 1.0], [0.5, 0.25, 0.125], [0.2, 0.1, 0.3]])}
  axes = residual_curves.draw_residuals(residuals, 'untrained').axes[0]
  assert axes.get_yscale() == 'log' and axes.get_title() == 'untrained'
  for line, values in zip(axes.get_lines(), residuals.values()):
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(values) + 1))
    np.testing.assert_array_equal(line.get_ydata(), np.median(values, axis=1))
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ['anderson: 3.0e-02 after 2', 'unroll: 2.0e-01 after 3']
  for band, values in zip(axes.collections, residuals.values()):
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (values.min(), values.max())
