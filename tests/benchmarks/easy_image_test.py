"""The benchmark of easy images: how they are chosen, and how outputs are compared."""
import json

import easy_image
import numpy as np

from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib


def test_images_are_sorted_by_the_number_of_their_objects(tmp_path):
  path = tmp_path / 'truth.json'
  path.write_text(json.dumps({
      'categories': [{'id': 1, 'name': 'cat'}],
      'images': [{'id': image, 'file_name': f'{image}.jpg'} for image in (1, 2, 3, 7)],
      'annotations': [{'image_id': image, 'category_id': 1, 'bbox': [0, 0, 2, 2]}
                      for image in (3, 1, 3, 3, 7, 7)]}))
  images = image_ids.ImageSet(dict.fromkeys((1, 2, 3, 7), path), [], [])
  objects = easy_image.count_objects(images, truth_lib.Truth(path))
  assert list(objects.items()) == [(2, 0), (1, 1), (7, 2), (3, 3)]


def test_the_largest_difference_of_all_images_counts():
  def detector(shift):
    return lambda image: {
        'detection_boxes': image + shift, 'detection_scores': image,
        'multiply_adds': 1e9 * (image + 2 * (shift > 1))}

  images = [np.zeros([1]), np.ones([1])]
  for shift, expected in ((0, 0), (0.5, 0.5), (1.5, 2)):
    assert easy_image.difference((detector(0), detector(shift)), images) == expected
