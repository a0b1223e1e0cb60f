"""The polynomial of kernels/gemm/hopper/activation.cu: log2 P(X <= -z) of a standard normal X over 0 <= z <= 5.5.

Least squares, weighted anew until the largest weighted error stops shrinking; the weight asks for a relative error where
GELU's value is above 0.01 and for less below. Prints the coefficients, constant first, and what they are off by in f32.
"""
from math import erfc, sqrt

import numpy as np

REACH, DEGREE = 5.5, 5
z = np.linspace(0, REACH, 4000)
tail = np.array([0.5 * erfc(v / sqrt(2)) for v in z])
target, powers = np.log2(tail), np.stack([z**i for i in range(DEGREE + 1)], 1)
weight = np.clip(np.sqrt(tail * z / 1e-2), 3e-2, 1)
turn, best, coefficients = np.ones_like(z), np.inf, None
for _ in range(300):
    scale = weight * np.sqrt(turn)
    fitted = np.linalg.lstsq(powers * scale[:, None], target * scale, rcond=None)[0]
    error = np.abs(powers @ fitted - target) * weight
    if error.max() < best:
        best, coefficients = error.max(), fitted.astype(np.float32)
    turn *= (error / error.max() + 1e-3) ** 0.7
    turn /= turn.mean()

x = z.astype(np.float32)
sum_ = np.full_like(x, coefficients[-1])
for coefficient in coefficients[-2::-1]:
    sum_ = sum_ * x + coefficient
got = np.exp2(sum_.astype(np.float64))
print(", ".join(repr(float(c)) for c in coefficients))
print(f"GELU off by {np.abs(z * (got - tail)).max():.1e}, its derivative by {np.abs(got - tail).max():.1e}")
print(f"the tail, relative: {np.abs(got / tail - 1)[z < 3].max():.1e} up to 3, {np.abs(got / tail - 1).max():.1e} up to {REACH}")
