"""Types of command-line arguments parse values, and say what is allowed."""
import argparse

import pytest

from official_ext.utils import argument_types


@pytest.mark.parametrize('parse, text, expected', [
    (argument_types.positive_int, '1', 1),
    (argument_types.positive_int, '012', 12),
    (argument_types.whole_number, '0', 0),
    (argument_types.positive_number, '1e-3', 0.001),
    (argument_types.number_from_0, '0', 0.0),
    (argument_types.threshold, '0', 0.0),
    (argument_types.threshold, '0.9999', 0.9999),
    (argument_types.image_size, '256,320', (256, 320)),
    (argument_types.list_of(argument_types.threshold), '0.5,0', [0.5, 0.0]),
    (argument_types.list_of(argument_types.positive_int), '3', [3]),
])
def test_values_are_parsed(parse, text, expected):
  value = parse(text)
  assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize('parse, texts, sentence', [
    (argument_types.positive_int, ['0', '-1', '1.0', '', 'a', '²'], 'is not a whole number from 1'),
    (argument_types.whole_number, ['-1', '0.5', ''], 'is not a whole number from 0'),
    (argument_types.positive_number, ['0', '-1', 'inf', 'nan'], 'is not a number above 0'),
    (argument_types.positive_number, ['a', ''], 'is not a number'),
    (argument_types.number_from_0, ['-0.5', 'inf', 'nan'], 'is not a number from 0'),
    (argument_types.threshold, ['-0.1', '1.1', 'nan'], 'is not a number from 0 to 1'),
    (argument_types.image_size, ['64', '64,', '1,2,3', '64, 64', '-1,5'], 'is not height,width'),
    (argument_types.image_size, ['0,64', '64,0'], "'0' is not a whole number from 1"),
    (argument_types.list_of(argument_types.threshold), ['', '0,', '0.5,2'], 'is not a number'),
])
def test_other_values_are_refused_with_what_is_allowed(parse, texts, sentence):
  for text in texts:
    with pytest.raises(argparse.ArgumentTypeError, match=sentence):
      parse(text)
