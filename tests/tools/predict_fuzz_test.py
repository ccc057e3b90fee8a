"""Odd image files and detectors of three kinds: every file is predicted or named with a reason."""
import random

import pytest

import predict_fuzz


@pytest.mark.parametrize('kind', predict_fuzz.KINDS)
def test_no_image_file_is_lost(tmp_path, kind):
  saved_model = predict_fuzz.save(kind, tmp_path)
  written = predict_fuzz.write_images(random.Random(kind), 60, tmp_path / 'images')
  assert sum(not item.image.damage for item in written) > 30
  assert sum(bool(item.image.damage) for item in written) > 5
  assert not predict_fuzz.problems_of(
      written, tmp_path / 'images', saved_model, tmp_path / 'out', 3, kind == 'image_tensor')


def test_lost_files_and_wrong_boxes_are_noticed(tmp_path):
  saved_model = predict_fuzz.save('image_tensor', tmp_path)
  first, second, *_ = written = [
      item for item in predict_fuzz.write_images(random.Random(0), 20, tmp_path / 'images')
      if not item.image.damage and item.image.boxes]
  first.path.unlink()
  second.image.boxes[0] = second.image.boxes[0]._replace(width=30)
  problems = predict_fuzz.problems_of(
      written, tmp_path / 'images', saved_model, tmp_path / 'out', 1, False)
  assert len(problems) == 2
  assert problems[0].startswith(f'{first.path.name}: told 0 times')
  assert problems[1].startswith(f'{second.path.name}: found [[') and ', 30, 12]]' in problems[1]
