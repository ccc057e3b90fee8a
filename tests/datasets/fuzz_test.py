"""Random data sets: every kept label is on its pixels, every loss is told, nothing breaks."""
import pathlib
import random as random_lib
import tempfile

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

import dataset_fuzz
import drawn_data
from official_ext.datasets import annotations
from official_ext.datasets import findings


# Smaller examples of a failure would take minutes to look for; `data` says all about the first.
@hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None,
                     phases=[hypothesis.Phase.generate],
                     suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(strategies.randoms(use_true_random=False))
def test_no_label_moves_and_no_loss_is_silent(random):
  data = dataset_fuzz.random_data_set(random)
  with tempfile.TemporaryDirectory() as folder:
    assert not dataset_fuzz.problems_of(data, pathlib.Path(folder)), data


def data_set(layout='coco', **options) -> drawn_data.DataSet:
  """Returns two images in train and one in val, each with a red and a blue rectangle."""
  boxes = [drawn_data.Box('red', 5, 6, 20, 12), drawn_data.Box('blue', 40, 30, 15, 25)]
  images = [drawn_data.DrawnImage(f'im{number:03d}', f'im{number:03d}.png', 80, 60, list(boxes))
            for number in range(3)]
  return drawn_data.DataSet(layout, {'train': images[:2], 'val': images[2:]},
                            dict(red=1, green=2, blue=7), **options)


@pytest.mark.parametrize('layout', drawn_data.LAYOUTS)
def test_a_plain_data_set_has_no_problems(tmp_path, layout):
  assert not dataset_fuzz.problems_of(data_set(layout), tmp_path)
  assert len(list(dataset_fuzz.read_records(tmp_path / 'records'))) == 3


def test_labels_beside_their_pixels_are_noticed(tmp_path, monkeypatch):
  clean = annotations.clean_box

  def shifted(*args, **options):
    (x, y, width, height), *rest = clean(*args, **options)
    return [x + 4, y, width, height], *rest

  monkeypatch.setattr(annotations, 'clean_box', shifted)
  problems = dataset_fuzz.problems_of(data_set(), tmp_path)
  assert sum('nobody has drawn red at [9' in problem for problem in problems) == 3


def test_labels_of_another_class_are_noticed(tmp_path, monkeypatch):
  data, write = data_set(), drawn_data.write_image
  # The files show other colors than the annotations say.
  monkeypatch.setattr(drawn_data, 'write_image', lambda image, path: write(drawn_data.DrawnImage(
      image.token, image.file_name, image.width, image.height,
      [box._replace(color='green') for box in image.boxes]), path))
  problems = dataset_fuzz.problems_of(data, tmp_path)
  assert sum('are not red' in problem for problem in problems) == 3


@pytest.mark.parametrize('damage', sorted(drawn_data.DAMAGES))
def test_silent_losses_are_noticed(tmp_path, monkeypatch, damage):
  data = data_set(oddities={'one image is damaged'})
  data.splits['train'][1].damage = damage
  assert not dataset_fuzz.problems_of(data, tmp_path / 'told')
  monkeypatch.setattr(findings.Findings, 'add', lambda *args: None)
  assert dataset_fuzz.problems_of(data, tmp_path / 'silent') == [
      "im001.png: lost ['the image'], and no finding names it"]


@pytest.mark.parametrize('box, expected', [
    ((5, 6, 25, 18), True), ((6, 7, 24, 17), True), ((9, 6, 29, 18), False),
    ((5, 6, 25, 24), False), ((5, 6, 15, 18), False), ((40, 30, 55, 55), False),
    ((30, 6, 35, 18), False)])
def test_pixels_tell_which_box_is_right(box, expected):
  image = data_set().splits['train'][0]
  for pixels in (drawn_data.draw(image), drawn_data.draw(image).convert('L').convert('RGB')):
    assert dataset_fuzz.is_on_pixels(np.asarray(pixels), 'red', box) == expected


def test_a_seed_makes_the_same_data_set_again():
  first, second = (dataset_fuzz.random_data_set(random_lib.Random(3)) for _ in range(2))
  assert first == second != dataset_fuzz.random_data_set(random_lib.Random(4))
