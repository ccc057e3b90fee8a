"""Runs a detector on image files."""
import numpy as np
from PIL import Image
import pytest

from official_ext.serving import image_runs


class _Detector:
  """Answers as OpenVINO does, which resizes to no pixels at all without an error."""
  description = {'input_image_size': [64, 64]}

  def __call__(self, images):
    height, width = images.shape[1:3]
    scaled = np.round(np.array([height, width]) * 64 / max(height, width))
    info = np.stack([[height, width], [64, 64], scaled / [height, width], [0, 0]])
    return {'image_info': np.tile(info.astype(np.float32), [len(images), 1, 1])}


@pytest.mark.parametrize('batch_size', [1, 3])
def test_images_of_which_resizing_leaves_nothing_are_skipped(tmp_path, batch_size):
  paths = {}
  for number, size in enumerate([(60, 40), (4000, 6), (4000, 6), (40, 60)]):
    paths[number] = tmp_path / f'{number}.png'
    Image.new('RGB', size).save(paths[number])
  run = image_runs.ImageRun(_Detector(), paths, {}, 10**9)
  assert [result.image_id for result in run.results(batch_size)] == [0, 3]
  assert set(run.skipped) == {str(paths[1]), str(paths[2])}
  assert run.skipped[str(paths[1])].startswith('4000 x 6 pixels are too long: resized to 64 x 64')
