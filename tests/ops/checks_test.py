"""Errors name the argument, and what a factory adds to them."""
import dataclasses

import pytest

from official_ext.ops import checks


@dataclasses.dataclass
class Gate:
  """A record within another one."""
  rate: float = 1.0


@dataclasses.dataclass
class Options:
  """A record with a field of each type."""
  number: int = 1
  share: float = 1.0
  name: str = ''
  flag: bool = False
  sizes: list[int] = dataclasses.field(default_factory=list)
  seed: int | None = None
  gate: Gate = dataclasses.field(default_factory=Gate)
  other: dict = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize('values', [
    {'number': 0}, {'share': 2}, {'share': -0.5}, {'name': 'x'}, {'flag': True}, {'sizes': [1, 2]},
    {'sizes': ()}, {'seed': None}, {'seed': 3}, {'gate': {'rate': 2}}, {'other': 7},
    {'unknown': 'x'}])
def test_values_of_the_type_of_their_field(values):
  checks.check_types(Options, values)


@pytest.mark.parametrize('values, message', [
    ({'number': 1.5}, 'number is 1.5; it must be a whole number.'),
    ({'number': True}, 'number is True; it must be a whole number.'),
    ({'number': None}, 'number is None; it must be a whole number.'),
    ({'share': 'half'}, "share is 'half'; it must be a finite number."),
    ({'share': False}, 'share is False; it must be a finite number.'),
    ({'share': float('nan')}, 'share is nan; it must be a finite number.'),
    ({'share': float('inf')}, 'share is inf; it must be a finite number.'),
    ({'name': 3}, 'name is 3; it must be a text.'),
    ({'flag': 1}, 'flag is 1; it must be true or false.'),
    ({'flag': 'yes'}, "flag is 'yes'; it must be true or false."),
    ({'sizes': 3}, 'sizes is 3; it must be a list, each of it a whole number.'),
    ({'sizes': [3, 'x']}, "sizes is [3, 'x']; it must be a list, each of it a whole number."),
    ({'seed': 'x'}, "seed is 'x'; it must be a whole number or null."),
    ({'gate': {'rate': 'x'}}, "gate.rate is 'x'; it must be a finite number.")])
def test_values_of_another_type(values, message):
  with pytest.raises(checks.ArgumentError) as caught:
    checks.check_types(Options, values)
  assert str(caught.value) == message
  assert caught.value.argument == message.split()[0]


@pytest.mark.parametrize('value, most, limits', [
    (0.9, 3, 'in [1, 3]'), (3.1, 3, 'in [1, 3]'), (0, float('inf'), 'at least 1'),
    (float('nan'), 3, 'in [1, 3]')])
def test_check_range_names_the_argument_and_the_limits(value, most, limits):
  checks.check_range('rate', 1, 1, most)
  checks.check_range('rate', 3, 1, most)
  with pytest.raises(checks.ArgumentError) as caught:
    checks.check_range('rate', value, 1, most)
  assert str(caught.value) == f'rate is {value}; it must be {limits}.'
  assert caught.value.argument == 'rate'


def test_check_one_of_names_the_argument_and_the_allowed_values():
  checks.check_one_of('block', 'A', ('A', 'B'))
  checks.check_one_of('bits', 16, iter([16, 32]))
  with pytest.raises(
      checks.ArgumentError, match="^block is 'C'; allowed are 'A', 'B'\\.$") as caught:
    checks.check_one_of('block', 'C', iter(['A', 'B']))
  assert caught.value.argument == 'block'
  assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize('value', [0, -1.5, float('nan')])
def test_check_positive_names_the_argument_and_the_number(value):
  checks.check_positive('temperature', 0.5)
  with pytest.raises(
      checks.ArgumentError, match=f'^temperature is {value}; it must be positive') as caught:
    checks.check_positive('temperature', value)
  assert caught.value.argument == 'temperature'


def test_naming_record_prefixes_the_argument():
  with pytest.raises(checks.ArgumentError, match="^gate.type is 'cnn'") as caught:
    with checks.naming_record('gate'):
      checks.check_one_of('type', 'cnn', ['channel'])
  assert caught.value.argument == 'gate.type'


def test_naming_field_adds_the_field_to_change():
  with pytest.raises(ValueError, match=r"^block is 'C'; .* Change decoder\.dyfpn\.block\.$"):
    with checks.naming_field('decoder.dyfpn', {'min_level': 'model.min_level'}):
      checks.check_one_of('block', 'C', ['A', 'B'])


def test_naming_field_knows_arguments_that_come_from_elsewhere():
  with pytest.raises(ValueError, match=r'^min_level is 9\. Change model\.min_level\.$') as caught:
    with checks.naming_field('decoder.dyfpn', {'min_level': 'model.min_level'}):
      raise checks.ArgumentError('min_level', 'min_level is 9.')
  assert not isinstance(caught.value, checks.ArgumentError)


def test_naming_field_and_record_work_together():
  with pytest.raises(ValueError, match=r'gate\.type is .* Change decoder\.dyfpn\.gate\.type\.$'):
    with checks.naming_field('decoder.dyfpn'), checks.naming_record('gate'):
      checks.check_one_of('type', 'cnn', ['channel'])


@pytest.mark.parametrize('context', [checks.naming_field, checks.naming_record])
def test_other_errors_and_results_pass_through(context):
  with context('decoder'):
    pass
  with pytest.raises(ValueError, match='^something else$'):
    with context('decoder'):
      raise ValueError('something else')
