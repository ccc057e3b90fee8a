"""Ids and boxes become valid, and every change is found under its reason."""
import numpy as np
import pytest

from dataset_files import by_reason, coco_annotation, coco_image
from official_ext.datasets import annotations
from official_ext.datasets import findings as findings_lib


def split(name='train', images=(), entries=(), categories=(), folders=()) -> annotations.Split:
  return annotations.Split(name, f'{name}.json', list(images), list(entries), list(categories),
                           list(folders))


def test_the_first_folder_that_has_a_file_wins(tmp_path):
  for folder in ('a', 'b'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'both').touch()
  (tmp_path / 'b' / 'one').touch()
  (tmp_path / 'outside').touch()
  (tmp_path / 'a' / 'link').symlink_to(tmp_path / 'outside')
  data = split(folders=[tmp_path / 'a', tmp_path / 'b'])
  assert data.find_image('both') == tmp_path / 'a' / 'both'
  assert data.find_image('one') == tmp_path / 'b' / 'one'
  for name in ('none', '../outside', str(tmp_path / 'outside'), 'link'):
    assert data.find_image(name) is None


def test_of_images_that_share_a_name_or_an_id_none_is_kept():
  findings = findings_lib.Findings()
  images = annotations.unique_images(split(images=[
      coco_image(3, 'a.jpg'), coco_image(4, './a.jpg'), coco_image(7, 'b.jpg'), dict(id=5),
      dict(id=6, file_name='c.jpg'), coco_image('7.0', 'd.jpg'), coco_image(9, 'e.jpg'),
      coco_image(9, 'e.jpg'), dict(file_name='f.jpg')]), findings)
  assert images == [annotations.ListedImage(6, 6, 'c.jpg', (None, None)),
                    annotations.ListedImage(9, 9, 'e.jpg', (40, 30))]
  assert by_reason(findings.to_json(), 'dropped') == {
      'image is listed several times: all are dropped, because their labels cannot be told apart':
          ['a.jpg id 3', './a.jpg id 4'],
      'image id is that of another image too: both are dropped, because their labels cannot be '
      'told apart': ['b.jpg id 7, also of d.jpg', 'd.jpg id 7, also of b.jpg'],
      'image entry has no id that annotations can name': ['f.jpg id None'],
      'image entry has no file_name': ['train.json id 5']}
  assert by_reason(findings.to_json(), 'fixed') == {
      'image is listed twice with the same id: taken once': ['e.jpg']}


@pytest.mark.parametrize('ids', [('x', 7), ('007', 7), (-1, 7), (2**63, 7), (1.5, 7)])
def test_ids_that_are_no_int64_are_renumbered(ids):
  findings = findings_lib.Findings()
  images = annotations.unique_images(
      split(images=[coco_image(number, f'{number}.jpg') for number in ids]), findings)
  first = '1.5' if ids[0] == 1.5 else ids[0]
  assert [(image.id, image.original_id) for image in images] == [(1, first), (2, ids[1])]
  assert findings.count('fixed') == 1


def test_whole_numbers_are_ids_however_they_are_written():
  findings = findings_lib.Findings()
  images = annotations.unique_images(
      split(images=[coco_image(number, f'{number}.jpg') for number in (0, 1.0, '2', '3.0')]),
      findings)
  assert [image.id for image in images] == [0, 1, 2, 3]
  assert [repr(image.original_id) for image in images] == ['0', '1', "'2'", "'3.0'"]
  assert not findings.to_json()
  data = split(images=[], entries=[
      coco_annotation(1, image, [1, 1, 2, 2]) for image in ('0', '1', 2.0, 3, None)])
  groups = annotations.group_by_image(data, images, findings)
  assert {key: [entry['image_id'] for entry in group] for key, group in groups.items()} == {
      0: ['0'], 1: ['1'], 2: [2.0], 3: [3]}
  assert findings.count('dropped') == 1


def test_annotations_are_grouped_by_the_original_id():
  findings = findings_lib.Findings()
  data = split(images=[coco_image('x', 'a.jpg'), coco_image('y', 'b.jpg')], entries=[
      coco_annotation(1, 'y', [1, 1, 2, 2]), coco_annotation(2, 'z', [1, 1, 2, 2]),
      coco_annotation(3, 'y', [1, 1, 2, 2])])
  images = annotations.unique_images(data, findings)
  groups = annotations.group_by_image(data, images, findings)
  assert {key: [entry['id'] for entry in group] for key, group in groups.items()} == {'y': [1, 3]}
  assert by_reason(findings.to_json(), 'dropped') == {
      'annotation is for an image that is not listed': ['train.json annotation 2, image id z']}


@pytest.mark.parametrize('box, factor, expected, change', [
    ([1, 2, 10, 11], 1, [1, 2, 10, 11], ''),
    ([30, 20, 20, 20], 1, [30, 20, 10, 10], annotations.CLIPPED),
    ([-5, -5, 10, 10], 1, [0, 0, 5, 5], annotations.CLIPPED),
    (['1', 2.5, 3, ' 4 '], 1, [1, 2.5, 3, 4], 'box was text: read as numbers'),
    ([20, 10, 40, 8], 0.5, [10, 5, 20, 4], ''),
    ([10, 5, 15, 4], 2, [20, 10, 20, 8], annotations.CLIPPED)])
def test_a_box_is_scaled_and_clipped_to_its_image(box, factor, expected, change):
  cleaned, said = annotations.clean_box(box, 40, 30, factor)
  np.testing.assert_allclose(cleaned, expected)
  assert said == change


def test_the_numbers_of_a_box_inside_its_image_are_kept_to_the_last_digit():
  box = [2.7, 0.7, 12.9, 3.3]
  assert (box[0] + box[2]) - box[0] != box[2]
  assert annotations.clean_box(box, 40, 30) == (box, '')


def test_start_and_length_never_exceed_the_image():
  rng = np.random.default_rng(0)
  for _ in range(1000):
    x = rng.uniform(0, 40)
    (start, _, length, _), _ = annotations.clean_box([x, 0, 40.0, 5], 40, 30)
    assert start + length <= 40


@pytest.mark.parametrize('box, reason', [
    (None, 'box is not four numbers'), ([1, 2, 3], 'box is not four numbers'),
    ([1, 2, 3, 'x'], 'box is not four numbers'), ([1, 2, float('nan'), 4], 'box is not finite'),
    ([1, 2, float('inf'), 4], 'box is not finite'), ([1, 2, 0, 4], 'box has no area'),
    ([1, 2, 3, -4], 'negative width or height'), ([1, 2, 0.001, 4], 'box has no area'),
    ([10**400, 2, 3, 4], 'box is not finite'), ([1, 2, -10**400, 4], 'box is not finite'),
    ([True, 2, 3, 4], 'box is not four numbers'), ([[1, 2, 3, 4]], 'box is not four numbers'),
    ([[1], [2], [3], [4]], 'box is not four numbers'), ('1234', 'box is not four numbers'),
    (dict(x=1, y=2, w=3, h=4), 'box is not four numbers'), (7, 'box is not four numbers'),
    ([0.25, 0.5, 0.5, 0.5], r'box is in parts of the image \(0 to 1\), not in pixels'),
    ([40, 2, 3, 4], 'box is outside the image'), ([1, -9, 3, 4], 'box is outside the image')])
def test_a_box_that_cannot_be_used_is_refused(box, reason):
  with pytest.raises(findings_lib.UnusableError, match=reason):
    annotations.clean_box(box, 40, 30)
