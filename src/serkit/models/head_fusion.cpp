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

// All lanes in one, in pairs: the order is that of a tree, which does not wait for itself.
template <class Join>
inline float fold(vec x, Join join) {
    float lanes[LANES];
    memcpy(lanes, &x, sizeof x);
#pragma GCC unroll 4
    for (int n = LANES / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) lanes[i] = join(lanes[i], lanes[i + n]);
    return lanes[0];
}

inline float sum_of(vec x) {
    return fold(x, [](float a, float b) { return a + b; });
}

// Lanes of a vector of channels that are channels.
inline long lanes_of(const Shape& s, long v) {
    return s.hidden - v * LANES < LANES ? s.hidden - v * LANES : LANES;
}

// Softmax of query times key.
template <class T>
inline void weigh(const Shape& s, const T* query, const T* key, vec* weights) {
    const float lowest = -3e38f;  // of lanes that are no channels
    vec top = vec{} + lowest;
    for (long v = 0; v < s.vectors(); ++v) {
        const long lanes = lanes_of(s, v);
        vec score = load(query + v * LANES, lanes) * load(key + v * LANES, lanes);
        for (long lane = lanes; lane < LANES; ++lane) score[lane] = lowest;
        weights[v] = score;
        top = select(score > top, score, top);
    }
    const float highest = fold(top, [](float a, float b) { return a > b ? a : b; });
    vec total{};
    for (long v = 0; v < s.vectors(); ++v) {
        weights[v] = decay(highest - weights[v]);
        total += weights[v];
    }
    const float share = 1.0f / sum_of(total);
    for (long v = 0; v < s.vectors(); ++v) weights[v] *= share;
}

template <class T>
void forward(const Shape& s, const T* parts, const long* n_valid, T* out, vec* scratch) {
    vec *weights = scratch, *sums = scratch + s.vectors();
    for (long g = 0; g < s.groups; ++g)
        for (long n = 0; n < s.batch; ++n) {
            for (long v = 0; v < s.copies * s.vectors(); ++v) sums[v] = vec{};
            for (long row = 0; row < s.height; ++row)
                for (long frame = 0; frame < n_valid[n]; ++frame) {
                    const T* at =
                        parts + (((g * s.batch + n) * s.height + row) * s.width + frame) * s.place();
                    for (long copy = 0; copy < s.copies; ++copy)
                        for (long head = 0; head < s.heads; ++head, at += s.head()) {
                            weigh(s, at, at + s.hidden, weights);
                            const T* value = at + 2 * s.hidden;
                            for (long v = 0; v < s.vectors(); ++v)
                                sums[copy * s.vectors() + v] +=
                                    weights[v] * rectified(load(value + v * LANES, lanes_of(s, v)));
                        }
                }
            const float share = 1.0f / (s.height * n_valid[n] * s.heads);
            for (long copy = 0; copy < s.copies; ++copy, out += s.hidden)
                for (long v = 0; v < s.vectors(); ++v)
                    store(out + v * LANES, sums[copy * s.vectors() + v] * share, lanes_of(s, v));
        }
}

template <class T>
void backward(const Shape& s, const T* parts, const long* n_valid, const T* gradient, T* out,
              vec* scratch) {
    vec *weights = scratch, *slopes = scratch + s.vectors(), *above = slopes + s.vectors();
    for (long g = 0; g < s.groups; ++g)
        for (long n = 0; n < s.batch; ++n) {
            const float share = 1.0f / (s.height * n_valid[n] * s.heads);
            for (long copy = 0; copy < s.copies; ++copy, gradient += s.hidden)
                for (long v = 0; v < s.vectors(); ++v)
                    above[copy * s.vectors() + v] =
                        load(gradient + v * LANES, lanes_of(s, v)) * share;
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
                        const vec* own = above + head / s.heads * s.vectors();
                        weigh(s, query, key, weights);
                        vec total{};
                        for (long v = 0; v < s.vectors(); ++v) {
                            const vec x = load(value + v * LANES, lanes_of(s, v));
                            slopes[v] = own[v] * rectified(x);
                            total += weights[v] * slopes[v];
                            store(out + 2 * s.hidden + v * LANES,
                                  select(x <= 0.0f, vec{}, own[v] * weights[v]), lanes_of(s, v));
                        }
                        const float mean = sum_of(total);
                        for (long v = 0; v < s.vectors(); ++v) {
                            const long lanes = lanes_of(s, v);
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
    if (half)
        forward(s, (const bfloat16*)parts, n_valid, (bfloat16*)out, (vec*)scratch);
    else
        forward(s, (const float*)parts, n_valid, (float*)out, (vec*)scratch);
}

// gradient: of the means; out: of the parts.
void serkit_backward(long half, long groups, long batch, long height, long width, long copies,
                     long heads, long hidden, const void* parts, const long* n_valid,
                     const void* gradient, void* out, void* scratch) {
    const Shape s{groups, batch, height, width, copies, heads, hidden};
    if (half)
        backward(s, (const bfloat16*)parts, n_valid, (const bfloat16*)gradient, (bfloat16*)out,
                 (vec*)scratch);
    else
        backward(s, (const float*)parts, n_valid, (const float*)gradient, (float*)out,
                 (vec*)scratch);
}
}
