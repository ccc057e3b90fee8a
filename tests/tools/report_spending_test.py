"""What the report says of the images that cost more, on costs that are known."""
import types

import numpy as np
import pytest
from scipy import stats

from official_ext.tools import report_spending


@pytest.mark.parametrize('seed', range(5))
def test_the_rank_correlation_is_that_of_scipy(seed):
  random = np.random.default_rng(seed)
  first, second = random.integers(0, 6, 30), random.normal(size=30)
  second[:10] = first[:10]
  np.testing.assert_allclose(report_spending.rank_correlation(first, second),
                             stats.spearmanr(first, second).statistic)


def test_ranks_alone_count_and_equal_values_correlate_with_nothing():
  values = np.array([1.0, 5.0, 2.0, 9.0])
  assert report_spending.rank_correlation(values, np.exp(values)) == pytest.approx(1)
  assert report_spending.rank_correlation(values, -values**3) == pytest.approx(-1)
  assert report_spending.rank_correlation(values, np.ones(4)) == 0


class Predicted:
  """Predictions of images of one gray value each, with squares of a size."""
  has_truth = True

  def __init__(self, number=15):
    self.costs = [{'image_id': f'{index}', 'multiply_adds': 1e9 + 1e8 * index}
                  for index in range(number)]

  def image(self, image_id):
    return np.full([10, 40, 3], 200 - 2 * int(image_id), np.uint8)

  def size(self, image_id):
    return (20, 80)

  def objects(self, image_id):
    side = 4
    return np.array([[0, 0, side, side]] * int(image_id), float).reshape(-1, 4)


def test_properties_of_images():
  seen = report_spending.properties(Predicted())
  assert seen['brightness'] == {f'{index}': 200 - 2 * index for index in range(15)}
  assert seen['the number of objects'] == {f'{index}': index for index in range(15)}
  # The first image has none; sides are relative to that of an image of the same area.
  assert seen['the size of objects'] == {
      f'{index}': pytest.approx(0.1) for index in range(1, 15)}


def test_a_relation_has_the_costs_of_both_ends_and_says_whether_it_is_chance():
  predicted = Predicted()
  found = report_spending.relations(predicted.costs, report_spending.properties(predicted))
  # All objects are of one size.
  assert list(found) == ['the number of objects', 'brightness']
  assert found['the number of objects'] == pytest.approx((1.0, 15, 1.2, 2.2))
  assert found['brightness'] == pytest.approx((-1.0, 15, 2.2, 1.2))
  assert report_spending.sentence('x', found) == (
      'The cost of an image in x rises with the number of objects (rank correlation 1.00; from '
      'the third of the images with the least to that with the most 1.200 to 2.200 GMAC), and it '
      'falls with brightness (rank correlation -1.00; from the third of the images with the least '
      'to that with the most 2.200 to 1.200 GMAC).')
  chance = {name: report_spending.Relation(value, 39, 1.0, 1.0)
            for name, value in (('a', 0.38), ('b', -0.3), ('c', -0.4))}
  assert report_spending.sentence('x', chance).endswith(
      ' GMAC), and it does not follow a (0.38) or b (-0.30) more than chance may.')
  assert report_spending.sentence('x', {'a': chance['a']}) == (
      'The cost of an image in x does not follow a (0.38) more than chance may.')


def test_unrelated_costs_are_mostly_chance():
  random = np.random.default_rng(0)
  said = sum(any(not report_spending.Relation(
      report_spending.rank_correlation(random.normal(size=39), random.normal(size=39)), 39, 0, 0
      ).is_chance for _ in range(3)) for _ in range(1000))
  assert 20 < said < 80


@pytest.mark.parametrize('predicted', [
    Predicted(11),  # too few to say anything
    types.SimpleNamespace(costs=[{'image_id': f'{index}', 'multiply_adds': 1e9}
                                 for index in range(15)])])
def test_nothing_is_said_of_few_images_or_equal_costs(predicted):
  found = report_spending.relations(
      predicted.costs, report_spending.properties(Predicted()))
  assert found == {} and report_spending.sentence('x', found) == ''


def test_without_annotations_brightness_alone_is_seen():
  predicted = Predicted()
  predicted.has_truth = False
  seen = report_spending.properties(predicted)
  assert {name: len(values) for name, values in seen.items()} == {
      'the number of objects': 0, 'the size of objects': 0, 'brightness': 15}
  assert list(report_spending.relations(predicted.costs, seen)) == ['brightness']
