// Attention heads over hidden channels, averaged over the valid places of an utterance and among
// themselves; forward and backward.
//
// The definition is fuse_heads in models/macnn.py; models/head_fusion.py calls this file. A head is a
// product of query and key, a softmax over its channels, and a product with the value: all of them
// within the few numbers of one place and head, which stay in a core's first-level cache. So queries,
// keys and values are read once, the means are all that is written, and on the way back the softmax is
// computed again. The bias of the convolution that made them is added here.
// They lie in memory as [group][utterance][row][frame][copy][head][query, key, value][channel].
//
// Compiled by models/native.py for the machine it runs on; no library is needed.

#include "vectors.h"

namespace {

struct Shape {
    long groups, batch, height, width, copies, heads, hidden;
    long vectors() const { return (hidden + LANES - 1) / LANES; }
    long head() const { return 3 * hidden; }
    long place() const { return copies * heads * head(); }
};

// All lanes in one: halves with each other, which a register does in a few steps.
template <int N>
struct Lanes {
    typedef float type __attribute__((vector_size(4 * N)));
};

template <int N = LANES, class Vector, class Join>
inline float fold(Vector x, Join join) {
    if constexpr (N == 2) {
        return join(x[0], x[1]);
    } else {
        typename Lanes<N / 2>::type low, high;
        memcpy(&low, &x, sizeof low);
        memcpy(&high, (const char*)&x + sizeof low, sizeof high);
        return fold<N / 2>(join(low, high), join);
    }
}

inline float sum_of(vec x) {
    return fold(x, [](auto a, auto b) { return a + b; });
}

// Vectors of a head's channels, and how many lanes of each are channels; those that are usual are
// known to the compiler.
template <long VECTORS>
struct Whole {
    static constexpr long vectors = VECTORS;
    static constexpr long hidden() { return VECTORS * LANES; }
    static constexpr long lanes(long) { return LANES; }
};
struct Any {
    long channels, vectors;
    long hidden() const { return channels; }
    long lanes(long v) const { return v + 1 < vectors ? LANES : channels - v * LANES; }
};

template <class Visit>
inline void by_size(const Shape& s, Visit visit) {
    if (s.hidden == 4 * LANES) visit(Whole<4>{});
    else if (s.hidden == 8 * LANES) visit(Whole<8>{});
    else visit(Any{s.hidden, s.vectors()});
}

// Number i of a place and head: queries, keys, values.
template <class T>
inline vec biased(const T* head, const float* bias, long i, long lanes) {
    return load(head + i, lanes) + load(bias + i, lanes);
}

// Softmax of query times key.
template <class T, class Size>
inline void weigh(Size size, const T* head, const float* bias, vec* weights) {
    const float lowest = -3e38f;  // of lanes that are no channels
    vec top = vec{} + lowest;
#pragma GCC unroll 8
    for (long v = 0; v < size.vectors; ++v) {
        const long lanes = size.lanes(v);
        vec score = biased(head, bias, v * LANES, lanes) *
                    biased(head, bias, size.hidden() + v * LANES, lanes);
        for (long lane = lanes; lane < LANES; ++lane) score[lane] = lowest;
        weights[v] = score;
        top = select(score > top, score, top);
    }
    const float highest = fold(top, [](auto a, auto b) { return a > b ? a : b; });
    vec total{};
#pragma GCC unroll 8
    for (long v = 0; v < size.vectors; ++v) {
        weights[v] = decay(highest - weights[v]);
        total += weights[v];
    }
    const float share = 1.0f / sum_of(total);
#pragma GCC unroll 8
    for (long v = 0; v < size.vectors; ++v) weights[v] *= share;
}

template <class T, class Size>
void forward(const Shape& s, Size size, const T* parts, const float* bias, const long* n_valid,
             T* out, vec* scratch) {
    vec *weights = scratch, *sums = scratch + size.vectors;
    for (long g = 0; g < s.groups; ++g, bias += s.place())
        for (long n = 0; n < s.batch; ++n) {
            for (long v = 0; v < s.copies * size.vectors; ++v) sums[v] = vec{};
            for (long row = 0; row < s.height; ++row)
                for (long frame = 0; frame < n_valid[n]; ++frame) {
                    const T* head =
                        parts + (((g * s.batch + n) * s.height + row) * s.width + frame) * s.place();
                    const float* own = bias;
                    for (long i = 0; i < s.copies * s.heads; ++i) {
                        weigh(size, head, own, weights);
                        vec* to = sums + i / s.heads * size.vectors;
#pragma GCC unroll 8
                        for (long v = 0; v < size.vectors; ++v)
                            to[v] += weights[v] * rectified(biased(head, own,
                                                                   2 * size.hidden() + v * LANES,
                                                                   size.lanes(v)));
                        head += s.head();
                        own += s.head();
                    }
                }
            const float share = 1.0f / (s.height * n_valid[n] * s.heads);
            for (long copy = 0; copy < s.copies; ++copy, out += s.hidden)
                for (long v = 0; v < size.vectors; ++v)
                    store(out + v * LANES, sums[copy * size.vectors + v] * share, size.lanes(v));
        }
}

// Writes a gradient and adds it to that of the bias.
template <class T>
inline void pass_on(T* out, float* bias, long i, vec gradient, long lanes) {
    store(out + i, gradient, lanes);
    store(bias + i, load(bias + i, lanes) + gradient, lanes);
}

template <class T, class Size>
void backward(const Shape& s, Size size, const T* parts, const float* bias, const long* n_valid,
              const T* gradient, T* out, float* bias_gradient, vec* scratch) {
    vec *weights = scratch, *slopes = scratch + size.vectors, *above = slopes + size.vectors;
    const long hidden = size.hidden();
    memset(bias_gradient, 0, s.groups * s.batch * s.place() * sizeof(float));
    for (long g = 0; g < s.groups; ++g, bias += s.place())
        for (long n = 0; n < s.batch; ++n, bias_gradient += s.place()) {
            const float share = 1.0f / (s.height * n_valid[n] * s.heads);
            for (long copy = 0; copy < s.copies; ++copy, gradient += s.hidden)
                for (long v = 0; v < size.vectors; ++v)
                    above[copy * size.vectors + v] =
                        load(gradient + v * LANES, size.lanes(v)) * share;
            for (long row = 0; row < s.height; ++row)
                for (long frame = 0; frame < s.width; ++frame) {
                    if (frame >= n_valid[n]) {
                        memset(out, 0, s.place() * sizeof(T));
                        parts += s.place();
                        out += s.place();
                        continue;
                    }
                    const float* own = bias;
                    float* to = bias_gradient;
                    for (long i = 0; i < s.copies * s.heads; ++i) {
                        const vec* from = above + i / s.heads * size.vectors;
                        weigh(size, parts, own, weights);
                        vec total{};
#pragma GCC unroll 8
                        for (long v = 0; v < size.vectors; ++v) {
                            const long lanes = size.lanes(v), at = 2 * hidden + v * LANES;
                            const vec value = biased(parts, own, at, lanes);
                            slopes[v] = from[v] * rectified(value);
                            total += weights[v] * slopes[v];
                            pass_on(out, to, at,
                                    select(value <= 0.0f, vec{}, from[v] * weights[v]), lanes);
                        }
                        const float mean = sum_of(total);
#pragma GCC unroll 8
                        for (long v = 0; v < size.vectors; ++v) {
                            const long lanes = size.lanes(v), query = v * LANES;
                            const long key = hidden + query;
                            const vec score = weights[v] * (slopes[v] - mean);
                            pass_on(out, to, query, score * biased(parts, own, key, lanes), lanes);
                            pass_on(out, to, key, score * biased(parts, own, query, lanes), lanes);
                        }
                        parts += s.head();
                        out += s.head();
                        own += s.head();
                        to += s.head();
                    }
                }
        }
}

}  // namespace

extern "C" {

// Means (groups, batch, copies, hidden) of parts to which the bias, one for each number of a group's
// place, is yet to be added. half: parts, means and their gradients are bfloat16. scratch: copies + 2
// rows of hidden channels, each completed to whole vectors.
void serkit_forward(long half, long groups, long batch, long height, long width, long copies,
                    long heads, long hidden, const void* parts, const float* bias,
                    const long* n_valid, void* out, void* scratch) {
    const Shape s{groups, batch, height, width, copies, heads, hidden};
    by_size(s, [&](auto size) {
        if (half)
            forward(s, size, (const bfloat16*)parts, bias, n_valid, (bfloat16*)out, (vec*)scratch);
        else
            forward(s, size, (const float*)parts, bias, n_valid, (float*)out, (vec*)scratch);
    });
}

// gradient: of the means; out: of the parts; bias_gradient: of the bias, for each utterance alone.
void serkit_backward(long half, long groups, long batch, long height, long width, long copies,
                     long heads, long hidden, const void* parts, const float* bias,
                     const long* n_valid, const void* gradient, void* out, float* bias_gradient,
                     void* scratch) {
    const Shape s{groups, batch, height, width, copies, heads, hidden};
    by_size(s, [&](auto size) {
        if (half)
            backward(s, size, (const bfloat16*)parts, bias, n_valid, (const bfloat16*)gradient,
                     (bfloat16*)out, bias_gradient, (vec*)scratch);
        else
            backward(s, size, (const float*)parts, bias, n_valid, (const float*)gradient,
                     (float*)out, bias_gradient, (vec*)scratch);
    });
}
}
