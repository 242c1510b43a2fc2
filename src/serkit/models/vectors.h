// Vectors of neighbouring numbers for the compiled parts: as wide as a register of this machine, since
// wider ones would be spilled to memory.
//
// Numbers in memory are float32, or bfloat16 given as the upper half of a float32's bits; arithmetic
// is in float32.

#ifndef SERKIT_VECTORS_H
#define SERKIT_VECTORS_H

#include <string.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int ivec __attribute__((vector_size(4 * LANES)));

inline vec select(ivec condition, vec yes, vec no) {
    return condition ? yes : no;
}

inline vec rectified(vec x) {  // keeps NaN, which a maximum with zero would lose
    return select(x <= 0.0f, vec{}, x);
}

inline float sum_lanes(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += x[i];
    return total;
}

// exp(-h) for h >= 0, to about one unit in the last place: range reduction to |r| <= ln2 / 2 and the
// Taylor polynomial of degree 7. From h = 80 on it stays at 2e-35.
inline vec decay(vec h) {
    const vec limit = h - h + 80.0f;  // keeps NaN
    vec x = -select(h > limit, limit, h);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    vec n = (x * 1.44269504f + magic) - magic;
    vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln2 in two parts
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    ivec exponent = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)exponent;
}

struct bfloat16 {
    unsigned short bits;
};
typedef unsigned short hvec __attribute__((vector_size(2 * LANES)));  // LANES of them
typedef unsigned uvec __attribute__((vector_size(4 * LANES)));

// The first n lanes, zeros behind them; whole vectors, the usual case, without a call.
inline vec load(const float* from, long n = LANES) {
    vec x{};
    if (n == LANES) memcpy(&x, from, sizeof x);
    else memcpy(&x, from, n * sizeof(float));
    return x;
}

inline vec load(const bfloat16* from, long n = LANES) {
    hvec x{};
    if (n == LANES) memcpy(&x, from, sizeof x);
    else memcpy(&x, from, n * sizeof(bfloat16));
    return (vec)(__builtin_convertvector(x, uvec) << 16);
}

inline void store(float* to, vec x, long n = LANES) {
    if (n == LANES) memcpy(to, &x, sizeof x);
    else memcpy(to, &x, n * sizeof(float));
}

// Rounds to the nearest, of two as near to the even one, as PyTorch does.
inline hvec rounded(vec x) {
#if defined(__AVX512BF16__)
    return (hvec)_mm512_cvtneps_pbh((__m512)x);
#else
    const uvec bits = (uvec)x;
    const uvec upper = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(x == x ? upper : uvec{} + 0x7fc0, hvec);
#endif
}

inline void store(bfloat16* to, vec x, long n = LANES) {
    const hvec y = rounded(x);
    if (n == LANES) memcpy(to, &y, sizeof y);
    else memcpy(to, &y, n * sizeof(bfloat16));
}

}  // namespace

#endif
