// An MLP's activation and its derivative. Defined before this text: GELU (1; 0: QuickGELU).

constexpr float LOG2E = 1.4426950408889634f;

// log2 P(X <= -z) of a standard normal X, z >= 0: a polynomial fitted over 0 to 5.5 (benches/gemm/log2_tail.py). What follows for
// GELU and its derivative is off by 1.2e-5 and 5.1e-5 at the most, where bf16 rounds 1 by 2e-3 and f16 by 2.4e-4.
__device__ __forceinline__ float log2_tail(float z) {
    float p = fmaf(z, -0.00030872753f, 0.0057538245f);
    p = fmaf(z, p, -0.048095334f);
    p = fmaf(z, p, -0.464233f);
    p = fmaf(z, p, -1.1491078f);
    return fmaf(z, p, -1.000147f);
}

__device__ __forceinline__ float activated(float x) {
#if GELU
    return fmaf(-fabsf(x), exp2_approx(log2_tail(fabsf(x))), fmaxf(x, 0.0f));
#else
    return x * reciprocal(exp2_approx(x * (-1.702f * LOG2E)) + 1.0f);
#endif
}

// The derivative at x, which becomes what it is activated to.
__device__ __forceinline__ float derivative(float& x) {
#if GELU
    float z = fabsf(x), tail = exp2_approx(log2_tail(z)), bell = exp2_approx(x * (x * (-0.5f * LOG2E)));
    float below = fmaf(z * -0.3989423f, bell, tail);  // the derivative at -z
    float slope = x >= 0.0f ? 1.0f - below : below;
    x = fmaf(-z, tail, fmaxf(x, 0.0f));
    return slope;
#else
    float s = reciprocal(exp2_approx(x * (-1.702f * LOG2E)) + 1.0f);
    float slope = fmaf(x * 1.702f, s * (1.0f - s), s);
    x *= s;
    return slope;
#endif
}
