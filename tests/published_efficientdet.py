"""The published rows of EfficientDet, and that of the dynamic head in its place."""
import dataclasses
import math
from typing import Any

import published_schedules


@dataclasses.dataclass(frozen=True)
class CosineSchedule(published_schedules.Schedule):
  """SGD with momentum 0.9, a linear warm-up that begins at a tenth of the rate, then a cosine."""
  drops: tuple[int, int] = (0, 0)
  weight_decay: float = 4e-5
  global_clipnorm: float | None = 10.0

  def rates(self) -> dict[int, float]:
    """Returns the learning rate in the warm-up, after it, halfway and at the end."""
    length = self.steps - self.warmup
    after = {step: self.rate * (1 + math.cos(math.pi * step / length)) / 2
             for step in (self.warmup, length // 2, length * 3 // 4)}
    first, half = self.rate / 10, self.warmup // 2
    return {0: first, half: first + half / self.warmup * (after[self.warmup] - first), **after}


_EPOCHS_300 = CosineSchedule(128, 281_250, 937, 0.16)
# Scale -> backbone, side of the images, channels, cells, convolutions in a tower; weights of the
# decoder in the authors' code.
_SCALES = {
    'd0': ('b0', 512, 64, 3, 3, 196_281), 'd1': ('b1', 640, 88, 4, 3, 390_972),
    'd2': ('b2', 768, 112, 5, 3, 708_159), 'd3': ('b3', 896, 160, 6, 4, None),
    'd4': ('b4', 1024, 224, 7, 4, None)}
ROWS = tuple(f'row D{number}.' for number in range(5))
_SIZES = {f'{name}_300epochs': row[1] for name, row in _SCALES.items()}


def _tower_parameters(channels: int, convs: int) -> int:
  """Returns the weights of separable convolutions, and of their norms on five levels."""
  return convs * (9 * channels + channels**2 + channels + 5 * 2 * channels)


def plain(name: str) -> published_schedules.Expected:
  """Returns what the file of a scale must resolve to."""
  backbone, _, channels, cells, convs, decoder = _SCALES[name.partition('_')[0]]
  return published_schedules.Expected(
      _EPOCHS_300, decoder, _tower_parameters(channels, convs), same_as_experiment=True, fields={
          'model.backbone.imported.network': f'efficientnet_{backbone}',
          'model.decoder.type': 'bifpn', 'model.decoder.bifpn.num_filters': channels,
          'model.decoder.bifpn.num_repeats': cells, 'model.head.num_filters': channels,
          'model.head.tower.type': 'separable', 'model.head.use_separable_conv': True})


def dynamic_head() -> published_schedules.Expected:
  """Returns what the file of the dynamic head's row must resolve to: ten blocks of 88 channels."""
  gate = 9 * 88 + 1
  block = 2 * (9 * 88**2 + 2 * 88) + gate + 2 * (9 * 88 + 3 * 88 + gate) + 2
  return published_schedules.Expected(
      _EPOCHS_300, 390_972, 10 * block, same_as_experiment=True,
      fields={'budget.weight': 0.1, 'model.head.use_separable_conv': True})


def image_sizes(name: str) -> dict[str, Any]:
  """Returns fields of the task: the size of images, and that all stages train."""
  side = _SIZES[name.removeprefix('dynamichead_')]
  return {'resize.rule': 'garden', 'model.input_size': [side, side, 3], 'frozen_stages': []}
