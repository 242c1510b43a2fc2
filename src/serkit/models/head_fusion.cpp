// Attention heads over hidden channels, averaged over the valid places of an utterance and among
// themselves; forward and backward.
//
// The definition is HeadFusion in models/macnn.py; models/head_fusion.py calls this file. A head is a
// product of query and key, a softmax over its channels, and a product with the value: all of them
// within the few numbers of one place and head, which stay in a core's first-level cache. So queries,
// keys and values are read once, the means are all that is written, and on the way back the softmax is
// computed again.
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
    static constexpr long lanes(long) { return LANES; }
};
struct Any {
    long hidden, vectors;
    long lanes(long v) const { return v + 1 < vectors ? LANES : hidden - v * LANES; }
};

template <class Visit>
inline void by_size(const Shape& s, Visit visit) {
    if (s.hidden == 4 * LANES) visit(Whole<4>{});
    else if (s.hidden == 8 * LANES) visit(Whole<8>{});
    else visit(Any{s.hidden, s.vectors()});
}

// Softmax of query times key.
template <class T, class Size>
inline void weigh(Size size, const T* query, const T* key, vec* weights) {
    const float lowest = -3e38f;  // of lanes that are no channels
    vec top = vec{} + lowest;
#pragma GCC unroll 8
    for (long v = 0; v < size.vectors; ++v) {
        const long lanes = size.lanes(v);
        vec score = load(query + v * LANES, lanes) * load(key + v * LANES, lanes);
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
void forward(const Shape& s, Size size, const T* parts, const long* n_valid, T* out, vec* scratch) {
    vec *weights = scratch, *sums = scratch + size.vectors;
    for (long g = 0; g < s.groups; ++g)
        for (long n = 0; n < s.batch; ++n) {
            for (long v = 0; v < s.copies * size.vectors; ++v) sums[v] = vec{};
            for (long row = 0; row < s.height; ++row)
                for (long frame = 0; frame < n_valid[n]; ++frame) {
                    const T* at =
                        parts + (((g * s.batch + n) * s.height + row) * s.width + frame) * s.place();
                    for (long copy = 0; copy < s.copies; ++copy)
                        for (long head = 0; head < s.heads; ++head, at += s.head()) {
                            weigh(size, at, at + s.hidden, weights);
                            const T* value = at + 2 * s.hidden;
#pragma GCC unroll 8
                            for (long v = 0; v < size.vectors; ++v)
                                sums[copy * size.vectors + v] +=
                                    weights[v] * rectified(load(value + v * LANES, size.lanes(v)));
                        }
                }
            const float share = 1.0f / (s.height * n_valid[n] * s.heads);
            for (long copy = 0; copy < s.copies; ++copy, out += s.hidden)
#pragma GCC unroll 8
                for (long v = 0; v < size.vectors; ++v)
                    store(out + v * LANES, sums[copy * size.vectors + v] * share, size.lanes(v));
        }
}

template <class T, class Size>
void backward(const Shape& s, Size size, const T* parts, const long* n_valid, const T* gradient, T* out,
              vec* scratch) {
    vec *weights = scratch, *slopes = scratch + size.vectors, *above = slopes + size.vectors;
    for (long g = 0; g < s.groups; ++g)
        for (long n = 0; n < s.batch; ++n) {
            const float share = 1.0f / (s.height * n_valid[n] * s.heads);
            for (long copy = 0; copy < s.copies; ++copy, gradient += s.hidden)
#pragma GCC unroll 8
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
                    for (long head = 0; head < s.copies * s.heads; ++head) {
                        const T *query = parts, *key = query + s.hidden, *value = key + s.hidden;
                        const vec* own = above + head / s.heads * size.vectors;
                        weigh(size, query, key, weights);
                        vec total{};
#pragma GCC unroll 8
                        for (long v = 0; v < size.vectors; ++v) {
                            const vec x = load(value + v * LANES, size.lanes(v));
                            slopes[v] = own[v] * rectified(x);
                            total += weights[v] * slopes[v];
                            store(out + 2 * s.hidden + v * LANES,
                                  select(x <= 0.0f, vec{}, own[v] * weights[v]), size.lanes(v));
                        }
                        const float mean = sum_of(total);
#pragma GCC unroll 8
                        for (long v = 0; v < size.vectors; ++v) {
                            const long lanes = size.lanes(v);
                            const vec score = weights[v] * (slopes[v] - mean);
                            store(out + v * LANES, score * load(key + v * LANES, lanes), lanes);
                            store(out + s.hidden + v * LANES,
                                  score * load(query + v * LANES, lanes), lanes);
                        }
                        parts += s.head();
                        out += s.head();
                    }
                }
        }
}

}  // namespace

extern "C" {

// Means (groups, batch, copies, hidden). half: all but the scratch are bfloat16. scratch: copies + 2
// rows of hidden channels, each completed to whole vectors.
void serkit_forward(long half, long groups, long batch, long height, long width, long copies,
                    long heads, long hidden, const void* parts, const long* n_valid, void* out,
                    void* scratch) {
    const Shape s{groups, batch, height, width, copies, heads, hidden};
    by_size(s, [&](auto size) {
        if (half)
            forward(s, size, (const bfloat16*)parts, n_valid, (bfloat16*)out, (vec*)scratch);
        else
            forward(s, size, (const float*)parts, n_valid, (float*)out, (vec*)scratch);
    });
}

// gradient: of the means; out: of the parts.
void serkit_backward(long half, long groups, long batch, long height, long width, long copies,
                     long heads, long hidden, const void* parts, const long* n_valid,
                     const void* gradient, void* out, void* scratch) {
    const Shape s{groups, batch, height, width, copies, heads, hidden};
    by_size(s, [&](auto size) {
        if (half)
            backward(s, size, (const bfloat16*)parts, n_valid, (const bfloat16*)gradient,
                     (bfloat16*)out, (vec*)scratch);
        else
            backward(s, size, (const float*)parts, n_valid, (const float*)gradient, (float*)out,
                     (vec*)scratch);
    });
}
}
