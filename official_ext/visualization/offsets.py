"""Draws where a network samples a map, as arrows over the image."""
from matplotlib import figure
import numpy as np

_INCHES = 6.0
_MOST = 24  # arrows side by side


def draw_offsets(image: np.ndarray, starts: np.ndarray, ends: np.ndarray, title: str = ''
                 ) -> figure.Figure:
  """Draws the sampling offsets of a level, such as those of DRFPN's spatial refinement.

  Reference: Jialiang Ma, Bin Chen, Dual Refinement Feature Pyramid Networks for Object Detection,
  https://arxiv.org/abs/2012.01733, section 3.1.

  Args:
    image: uint8 `[height, width, 3]`.
    starts: `[map_height, map_width, 2]`, row and column in pixels of the image where each
      position would be sampled without an offset.
    ends: the same with the offsets.
    title: text above the picture.

  Returns:
    A figure with an arrow from start to end, in the length of the offset, for at most 24
    positions along each side; all positions are in the mean length, which the title has.
  """
  height, width = image.shape[:2]
  plot = figure.Figure(figsize=(_INCHES, _INCHES * height / width + 0.6), layout='constrained')
  axes = plot.subplots()
  axes.imshow(image)
  rows, columns = (-(-side // _MOST) for side in starts.shape[:2])
  start, end = (values[::rows, ::columns].reshape(-1, 2) for values in (starts, ends))
  moved = end - start
  axes.quiver(start[:, 1], start[:, 0], moved[:, 1], moved[:, 0], angles='xy', scale_units='xy',
              scale=1, color='red', width=0.004)
  axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
  mean = float(np.mean(np.linalg.norm(ends - starts, axis=-1)))
  axes.set_title(f'{title}\nmean offset {mean:.2f} pixels'.strip(), fontsize=10)
  return plot
