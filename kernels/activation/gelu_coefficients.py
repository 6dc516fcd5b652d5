"""Prints the coefficients of gelu's polynomials in activation.inc; needs numpy and mpmath.

With t = 2 x^2 / edge^2 - 1 in [-1, 1]: gelu(x) = x (1/2 + x P(t)) and gelu'(x) = 1/2 + x Q(t) for |x| <= edge. Beyond, gelu
is x or 0 up to 2e-7. P and Q are minimax fits of those two, by Lawson's reweighted least squares in Chebyshev polynomials.
"""

import mpmath
import numpy


def fit(name, function, limit, weight, edge, degree):
    t = -numpy.cos(numpy.linspace(0, numpy.pi, 1200))
    x = numpy.sqrt((t + 1) / 2) * edge
    wanted = numpy.array([float(function(mpmath.mpf(v)) if v > 1e-8 else limit) for v in x])
    weights = weight(x)
    terms = numpy.polynomial.chebyshev.chebvander(t, degree)
    attention, best = numpy.ones_like(t), (numpy.inf, None)
    for _ in range(200):
        scale = numpy.sqrt(attention) * weights
        fitted = numpy.linalg.lstsq(terms * scale[:, None], wanted * scale, rcond=None)[0]
        error = numpy.abs((terms @ fitted - wanted) * weights)
        best = min(best, (error.max(), tuple(fitted)))
        attention *= error / error.max() + 1e-3
        attention /= attention.sum()
    print(f"// {name}: edge {edge}, error {best[0]:.1e}, highest power first")
    print(", ".join(f"{c:.9e}f" for c in numpy.polynomial.chebyshev.cheb2poly(best[1])[::-1]))


def above_half(x):
    return mpmath.ncdf(x) - 0.5


root = mpmath.sqrt(2 * mpmath.pi)
fit("P", lambda x: above_half(x) / x, 1 / root, lambda x: numpy.maximum(x * x, 0.05), 5.4, 14)
fit("Q", lambda x: above_half(x) / x + mpmath.npdf(x), 2 / root, lambda x: numpy.maximum(x, 0.3), 5.7, 16)
