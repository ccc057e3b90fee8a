"""Fixed points x = f(x) of a batch: solvers, and gradients through the solution."""
from official_ext.ops.fixed_point.solving import Function
from official_ext.ops.fixed_point.solving import GRADIENTS
from official_ext.ops.fixed_point.solving import Levels
from official_ext.ops.fixed_point.solving import SOLVERS
from official_ext.ops.fixed_point.solving import Solution
from official_ext.ops.fixed_point.solving import check_options
from official_ext.ops.fixed_point.solving import solve
from official_ext.ops.fixed_point.solving import solve_with_gradient
from official_ext.ops.fixed_point.solving import spectral_radius

__all__ = [
    'Function',
    'GRADIENTS',
    'Levels',
    'SOLVERS',
    'Solution',
    'check_options',
    'solve',
    'solve_with_gradient',
    'spectral_radius',
]
