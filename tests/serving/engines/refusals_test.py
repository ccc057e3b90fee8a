"""The errors about a model that an engine cannot convert."""
import pytest

from official_ext.serving.engines import refusals

GRAPH = 'signature {\n  name: "f"\n}\n'


@pytest.mark.parametrize('operations, text, expected', [
    (['Sort', 'Abs', 'Sort', ''], 'more', 'X has no operations Abs, Sort of the SavedModel.'),
    (['CombinedNonMaxSuppression'], '', 'X has no operation CombinedNonMaxSuppression of the '
     'SavedModel; export with --nms=portable, or, if it has one stage, with --nms=none.'),
    ([], 'Traceback\n  no kernel \n\n', 'X cannot convert the SavedModel: no kernel'),
    ([], f'Two functions f differ: {GRAPH}and {GRAPH}',
     'X cannot convert the SavedModel: Two functions f differ: signature'),
    ([], 'a' * 1000, f'X cannot convert the SavedModel: {"a" * 300}'),
    ([], '', 'X cannot convert the SavedModel: ?')])
def test_one_line_says_why(operations, text, expected):
  assert str(refusals.RefusedError('X', operations, text)) == expected
