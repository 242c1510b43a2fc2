// A TIM-Net chain on one CPU core: forward and backward of its blocks in training, and evaluation.
//
// The definition of the network is models/timnet.py; this file computes the same numbers. A layer
// of 39 channels is so narrow that a framework spends most of its time carrying maps through
// memory. Here a map is laid out as [tile][frame][channel][lane]: as many utterances side by side as
// a vector has lanes, then everything of one frame, then the frames of these utterances. So
//   * a causal two-tap convolution reads two contiguous frames and writes one, whatever its
//     dilation, with the sums of batch norm taken while the result is in registers;
//   * norm, ReLU, dropout and gate are recomputed where they are needed instead of stored: of each
//     block three maps are kept (two convolutions, one output);
//   * the rows of a product are blocked by registers, not by cache, so any width up to a few
//     hundred channels runs near the arithmetic limit of the core.
// Lanes beyond the batch hold zeros throughout.
//
// Compiled by models/native.py for the machine it runs on; no library is needed.

#include <math.h>

#include "vectors.h"

namespace {

// Register blocking of a product: ROWS output channels by FRAMES frames (39 channels are three times 13
// rows); of a kernel's gradient, a sum of outer products: OUT by IN channels. Both leave registers for
// the factors.
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int ROWS = 13, FRAMES = 2, OUT = 5, IN = 5;  // 32 registers
#else
constexpr int ROWS = 6, FRAMES = 2, OUT = 3, IN = 3;  // 16 registers
#endif

struct Size {
    long tiles, frames, channels;
    long frame() const { return channels; }           // vectors
    long tile() const { return frames * channels; }   // vectors
};

// 1 / (1 + exp(-h)) for h >= 0.
inline vec sigmoid(vec h) { return 1.0f / (1.0f + decay(h)); }

// ---- products -----------------------------------------------------------------------------------

// Block heights that are compiled; others are rounded up.
constexpr bool compiled(int rows) {
    return rows <= ROWS && (rows > 9 || rows == ROWS || rows == 2 || rows == 4 || rows == 8);
}

// A kernel as the products read it: for each block of rows, tap and input, the rows side by side.
// Tap 1 meets the frame itself, tap 0 its neighbour. Returns the number of rows per block.
int pack(const float* weight, long n_out, long n_in, int n_taps, bool transposed, float* packed) {
    const long rows_total = transposed ? n_in : n_out, inner = transposed ? n_out : n_in;
    const long n_blocks = (rows_total + ROWS - 1) / ROWS;
    int rows = 1;
    while (rows * n_blocks < rows_total || !compiled(rows)) ++rows;
    for (long block = 0; block < n_blocks; ++block)
        for (int tap = 0; tap < n_taps; ++tap)
            for (long k = 0; k < inner; ++k)
                for (int r = 0; r < rows; ++r) {
                    const long row = block * rows + r;
                    const long o = transposed ? k : row, i = transposed ? row : k;
                    *packed++ = row < rows_total ? weight[(o * n_in + i) * n_taps + tap] : 0.0f;
                }
    return rows;
}

template <int R, int F>
inline void accumulate(const float* w, long inner, const vec* const* x, vec (&sums)[R][F]) {
    for (long k = 0; k < inner; ++k, w += R) {
        vec in[F];
        for (int f = 0; f < F; ++f) in[f] = x[f][k];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
            for (int f = 0; f < F; ++f) sums[r][f] += w[r] * in[f];
        }
    }
}

// F frames from t on, all rows; done(t, channel, value) takes every result.
template <int R, int F, class Done>
inline void product_frames(const vec* x, const vec* zeros, const float* packed, long frames,
                           long inner, long n_rows, int n_taps, long shift, long t, Done& done) {
    const vec *here[F], *there[F];
    bool any = false;
    for (int f = 0; f < F; ++f) {
        const long neighbour = t + f - shift;
        const bool inside = n_taps == 2 && neighbour >= 0 && neighbour < frames;
        here[f] = x + (t + f) * inner;
        there[f] = inside ? x + neighbour * inner : zeros;
        any = any || inside;
    }
    for (long row = 0; row < n_rows; row += R, packed += n_taps * inner * R) {
        vec sums[R][F];
        for (int r = 0; r < R; ++r)
            for (int f = 0; f < F; ++f) sums[r][f] = vec{};
        if (any) accumulate<R, F>(packed, inner, there, sums);
        accumulate<R, F>(packed + (n_taps - 1) * inner * R, inner, here, sums);
        for (int f = 0; f < F; ++f)
            for (int r = 0; r < R; ++r)
                if (row + r < n_rows) done(t + f, row + r, sums[r][f]);
    }
}

template <int R, class Done>
void product_tile_rows(const vec* x, const vec* zeros, const float* packed, long frames, long inner,
                       long n_rows, int n_taps, long shift, Done& done) {
    long t = 0;
    for (; t + FRAMES <= frames; t += FRAMES)
        product_frames<R, FRAMES>(x, zeros, packed, frames, inner, n_rows, n_taps, shift, t, done);
    for (; t < frames; ++t)
        product_frames<R, 1>(x, zeros, packed, frames, inner, n_rows, n_taps, shift, t, done);
}

// All frames of one tile: row(t) = tap1 * x[t] + tap0 * x[t - shift], zero outside the utterance.
template <class Done>
void product_tile(int rows, const vec* x, const vec* zeros, const float* packed, long frames,
                  long inner, long n_rows, int n_taps, long shift, Done done) {
#define CASE(R)                                                                                    \
    case R:                                                                                        \
        if constexpr (compiled(R))                                                                \
            product_tile_rows<R>(x, zeros, packed, frames, inner, n_rows, n_taps, shift, done);    \
        break;
    switch (rows) {
        CASE(2) CASE(4) CASE(6) CASE(8) CASE(10) CASE(11) CASE(12) CASE(13)
    }
#undef CASE
}

template <int O, int I>
void outer_block(const vec* g, const vec* x, long frames, long n_out, long n_in, vec* sums) {
    vec s[O][I];
    for (int o = 0; o < O; ++o)
        for (int i = 0; i < I; ++i) s[o][i] = sums[o * n_in + i];
    for (long t = 0; t < frames; ++t, g += n_out, x += n_in) {
        vec in[I];
        for (int i = 0; i < I; ++i) in[i] = x[i];
#pragma GCC unroll 8
        for (int o = 0; o < O; ++o) {
            const vec out = g[o];
#pragma GCC unroll 8
            for (int i = 0; i < I; ++i) s[o][i] += out * in[i];
        }
    }
    for (int o = 0; o < O; ++o)
        for (int i = 0; i < I; ++i) sums[o * n_in + i] = s[o][i];
}

template <int O>
void outer_row(const vec* g, const vec* x, long frames, long n_out, long n_in, vec* sums) {
    long i = 0;
    for (; i + IN <= n_in; i += IN) outer_block<O, IN>(g, x + i, frames, n_out, n_in, sums + i);
    switch (n_in - i) {
        case 4: outer_block<O, 4>(g, x + i, frames, n_out, n_in, sums + i); break;
        case 3: outer_block<O, 3>(g, x + i, frames, n_out, n_in, sums + i); break;
        case 2: outer_block<O, 2>(g, x + i, frames, n_out, n_in, sums + i); break;
        case 1: outer_block<O, 1>(g, x + i, frames, n_out, n_in, sums + i); break;
    }
}

// sums[o][i] += sum over frames of g[t][o] * x[t - shift][i], lanes kept apart.
void outer_tile(const vec* g, const vec* x, long frames, long n_out, long n_in, long shift,
                vec* sums) {
    if (shift >= frames) return;
    g += shift * n_out;
    frames -= shift;
    long o = 0;
    for (; o + OUT <= n_out; o += OUT)
        outer_row<OUT>(g + o, x, frames, n_out, n_in, sums + o * n_in);
    switch (n_out - o) {
        case 4: outer_row<4>(g + o, x, frames, n_out, n_in, sums + o * n_in); break;
        case 3: outer_row<3>(g + o, x, frames, n_out, n_in, sums + o * n_in); break;
        case 2: outer_row<2>(g + o, x, frames, n_out, n_in, sums + o * n_in); break;
        case 1: outer_row<1>(g + o, x, frames, n_out, n_in, sums + o * n_in); break;
    }
}

// ---- one half of a block: convolution, norm, ReLU, dropout ---------------------------------------

struct Half {
    const float *weight, *gamma, *beta;  // (out, in, 2), (channels), (channels)
    const vec* mask;                     // [tile][channel], dropout factors, 0 in unused lanes
    float *mean, *var;                   // results, (channels), of the convolution without bias
    float *scale, *offset, *inverse;     // norm as scale * y + offset; 1 / standard deviation
    vec* y;                              // the convolution
};

inline vec activate(const Half& half, long c, vec y, vec mask) {
    const vec z = half.scale[c] * y + half.offset[c];
    return select(z < 0.0f, vec{}, z) * mask;
}

struct Work {
    Size size;
    const vec* valid;   // [tile], 1 in the lanes that hold an utterance
    const ivec* length; // [tile], frames of each utterance that count
    double n;           // positions in a batch: utterances x frames
    float eps;
    vec* zeros;         // [channel]
    float* packed;
    long n_packed;
    vec *first, *second;  // [frame][channel] each
    vec* sums;            // [2 channels]
    double* totals;       // [2 channels]
    vec* kernel;          // [2][out][in]
};

void add_totals(const Work& w) {
    for (long i = 0; i < 2 * w.size.channels; ++i) {
        w.totals[i] += sum_lanes(w.sums[i]);
        w.sums[i] = vec{};
    }
}

// half.y = convolution of input(tile), and its statistics. Sums are taken around one frame's mean,
// lest a mean far from zero drown the variance in rounding.
template <class Input>
void convolve(const Work& w, const Half& half, long dilation, Input input) {
    const Size& s = w.size;
    const long channels = s.channels;
    const int rows = pack(half.weight, channels, channels, 2, false, w.packed);
    float* anchor = half.mean;
    memset(w.totals, 0, 2 * channels * sizeof(double));
    for (long i = 0; i < 2 * channels; ++i) w.sums[i] = vec{};
    for (long tile = 0; tile < s.tiles; ++tile) {
        const vec* x = input(tile);
        vec* y = half.y + tile * s.tile();
        const vec valid = w.valid[tile];
        if (tile == 0) {
            const float used = sum_lanes(valid);
            auto first = [&](long, long c, vec value) { anchor[c] = sum_lanes(value) / used; };
            const long middle = s.frames / 2;
            product_tile(rows, x + middle * channels, w.zeros, w.packed, 1, channels, channels, 2,
                         s.frames, first);
        }
        vec *sum = w.sums, *square = w.sums + channels;
        product_tile(rows, x, w.zeros, w.packed, s.frames, channels, channels, 2, dilation,
                     [&](long t, long c, vec value) {
                         y[t * channels + c] = value;
                         const vec centred = (value - anchor[c]) * valid;
                         sum[c] += centred;
                         square[c] += centred * centred;
                     });
        add_totals(w);
    }
    for (long c = 0; c < channels; ++c) {
        const double mean = w.totals[c] / w.n;
        const double var = w.totals[channels + c] / w.n - mean * mean;
        half.mean[c] = (float)(anchor[c] + mean);
        half.var[c] = (float)(var > 0 || var != var ? var : 0);
        half.inverse[c] = (float)(1.0 / sqrt(half.var[c] + (double)w.eps));
        half.scale[c] = half.inverse[c] * half.gamma[c];
        half.offset[c] = half.beta[c] - half.mean[c] * half.scale[c];
    }
}

// Back through the norm: turn [frame][channel] gradients into those of the convolution.
void norm_backward(const Work& w, const Half& half, const vec* grad, const vec* y, vec valid,
                   const float* grad_gamma, const float* grad_beta, vec* result) {
    const long channels = w.size.channels;
    float *slope = w.packed + w.n_packed, *level = slope + channels;
    for (long c = 0; c < channels; ++c) {
        slope[c] = (float)(half.scale[c] * half.inverse[c] * grad_gamma[c] / w.n);
        level[c] = (float)(half.scale[c] * grad_beta[c] / w.n);
    }
    for (long t = 0; t < w.size.frames; ++t, grad += channels, y += channels, result += channels)
        for (long c = 0; c < channels; ++c)
            result[c] = (half.scale[c] * grad[c] - level[c] - (y[c] - half.mean[c]) * slope[c]) *
                        valid;
}

void kernel_start(const Work& w, long n) {
    for (long i = 0; i < n; ++i) w.kernel[i] = vec{};
}

void kernel_finish(const Work& w, long n_out_in, int n_taps, float* grad_weight) {
    for (long i = 0; i < n_out_in; ++i)
        for (int tap = 0; tap < n_taps; ++tap)
            grad_weight[i * n_taps + tap] = sum_lanes(w.kernel[tap * n_out_in + i]);
}

void read_totals(const Work& w, float* first, float* second) {
    for (long c = 0; c < w.size.channels; ++c) {
        first[c] = (float)w.totals[c];
        second[c] = (float)w.totals[w.size.channels + c];
    }
}

}  // namespace

extern "C" {

// Utterances in a tile.
int serkit_lanes() { return LANES; }

// How many floats of scratch the calls below need.
long serkit_scratch(long frames, long channels, long features) {
    const long wide = channels > features ? channels : features;
    const long packed = 4 * (wide + ROWS) * wide;
    const long vectors = wide + 2 * frames * channels + 2 * channels + 2 * wide * channels;
    return packed + vectors * LANES + 6 * channels;
}

static Work make_work(long tiles, long frames, long channels, long features, const float* valid,
                      const int* length, double n, float eps, float* scratch) {
    const long wide = channels > features ? channels : features;
    Work w;
    w.size = Size{tiles, frames, channels};
    w.valid = (const vec*)valid;
    w.length = (const ivec*)length;
    w.n = n;
    w.eps = eps;
    vec* v = (vec*)scratch;
    w.zeros = v, v += wide;
    w.first = v, v += frames * channels;
    w.second = v, v += frames * channels;
    w.sums = v, v += 2 * channels;
    w.kernel = v, v += 2 * wide * channels;
    w.totals = (double*)v;
    w.packed = (float*)v + 4 * channels;
    w.n_packed = 4 * (wide + ROWS) * wide;  // two kernels of two taps
    for (long i = 0; i < wide; ++i) w.zeros[i] = vec{};
    return w;
}

// x = weight * features + bias; all maps as [tile][frame][.][lane].
void serkit_entry_forward(long tiles, long frames, long channels, long features,
                          const float* valid, const float* input, const float* weight,
                          const float* bias, float* output, float* scratch) {
    Work w = make_work(tiles, frames, channels, features, valid, nullptr, 0, 0, scratch);
    const int rows = pack(weight, channels, features, 1, false, w.packed);
    for (long tile = 0; tile < tiles; ++tile) {
        vec* out = (vec*)output + tile * frames * channels;
        product_tile(rows, (const vec*)input + tile * frames * features, w.zeros, w.packed, frames,
                     features, channels, 1, 0, [&](long t, long c, vec value) {
                         out[t * channels + c] = (value + bias[c]) * w.valid[tile];
                     });
    }
}

void serkit_entry_backward(long tiles, long frames, long channels, long features,
                           const float* valid, const float* input, const float* grad,
                           float* grad_weight, float* grad_bias, float* scratch) {
    Work w = make_work(tiles, frames, channels, features, valid, nullptr, 0, 0, scratch);
    kernel_start(w, channels * features);
    for (long c = 0; c < channels; ++c) grad_bias[c] = 0;
    for (long tile = 0; tile < tiles; ++tile) {
        const vec* g = (const vec*)grad + tile * frames * channels;
        outer_tile(g, (const vec*)input + tile * frames * features, frames, channels, features, 0,
                   w.kernel);
        for (long c = 0; c < channels; ++c) {
            vec sum{};
            for (long t = 0; t < frames; ++t) sum += g[t * channels + c];
            grad_bias[c] += sum_lanes(sum);
        }
    }
    kernel_finish(w, channels * features, 1, grad_weight);
}

// One block. Per half h the arrays below hold two rows: gamma[h * channels + c] and so on.
// pooled: [tile][channel][lane], sums of the output over the frames that count.
void serkit_block_forward(long tiles, long frames, long channels, long dilation,
                          const float* valid, const int* length, double n, float eps,
                          const float* x, const float* weight1, const float* weight2,
                          const float* gamma, const float* beta, const float* mask, float* y1,
                          float* y2, float* statistics, float* output, float* pooled,
                          float* scratch) {
    Work w = make_work(tiles, frames, channels, channels, valid, length, n, eps, scratch);
    const Size& s = w.size;
    Half half[2];
    for (int h = 0; h < 2; ++h) {
        float* row = statistics + h * 5 * channels;
        half[h] = Half{h ? weight2 : weight1, gamma + h * channels, beta + h * channels,
                       (const vec*)mask + h * tiles * channels, row, row + channels,
                       row + 2 * channels, row + 3 * channels, row + 4 * channels,
                       (vec*)(h ? y2 : y1)};
    }
    convolve(w, half[0], dilation, [&](long tile) { return (const vec*)x + tile * s.tile(); });
    convolve(w, half[1], dilation, [&](long tile) {
        const vec* y = half[0].y + tile * s.tile();
        for (long t = 0; t < frames; ++t)
            for (long c = 0; c < channels; ++c)
                w.first[t * channels + c] = activate(half[0], c, y[t * channels + c],
                                                     half[0].mask[tile * channels + c]);
        return (const vec*)w.first;
    });
    for (long tile = 0; tile < tiles; ++tile) {
        const vec* in = (const vec*)x + tile * s.tile();
        vec* out = (vec*)output + tile * s.tile();
        vec* pool = (vec*)pooled + tile * channels;
        for (long c = 0; c < channels; ++c) pool[c] = vec{};
        for (long t = 0; t < frames; ++t) {
            const ivec counts = w.length[tile] > (int)t;
            for (long c = 0; c < channels; ++c) {
                const long i = t * channels + c;
                const vec h = activate(half[1], c, half[1].y[tile * s.tile() + i],
                                       half[1].mask[tile * channels + c]);
                out[i] = in[i] * sigmoid(h);
                pool[c] += select(counts, out[i], vec{});
            }
        }
    }
}

// One block in evaluation: scale and offset, two rows each, are norm and convolution bias in one.
// output may be x. Frame by frame nothing is shared between tiles, so a tile goes all the way.
void serkit_block_evaluate(long tiles, long frames, long channels, long dilation,
                           const float* valid, const int* length, const float* x,
                           const float* weight1, const float* weight2, const float* scale,
                           const float* offset, float* output, float* pooled, float* scratch) {
    Work w = make_work(tiles, frames, channels, channels, valid, length, 0, 0, scratch);
    float* packed2 = w.packed + w.n_packed / 2;
    const int rows = pack(weight1, channels, channels, 2, false, w.packed);
    pack(weight2, channels, channels, 2, false, packed2);
    for (long tile = 0; tile < tiles; ++tile) {
        const vec* in = (const vec*)x + tile * w.size.tile();
        vec* out = (vec*)output + tile * w.size.tile();
        vec* pool = (vec*)pooled + tile * channels;
        for (long c = 0; c < channels; ++c) pool[c] = vec{};
        product_tile(rows, in, w.zeros, w.packed, frames, channels, channels, 2, dilation,
                     [&](long t, long c, vec value) {
                         const vec z = scale[c] * value + offset[c];
                         w.first[t * channels + c] = select(z < 0.0f, vec{}, z);
                     });
        product_tile(rows, w.first, w.zeros, packed2, frames, channels, channels, 2, dilation,
                     [&](long t, long c, vec value) {
                         const long i = t * channels + c;
                         const vec z = scale[channels + c] * value + offset[channels + c];
                         const ivec counts = w.length[tile] > (int)t;
                         out[i] = in[i] * sigmoid(select(z < 0.0f, vec{}, z));
                         pool[c] += select(counts, out[i], vec{});
                     });
    }
}

// grad: on entry the gradient of the output, on return that of the input (in place).
// grad_pooled: [tile][channel][lane]. grads of gamma and beta: two rows each.
void serkit_block_backward(long tiles, long frames, long channels, long dilation,
                           const float* valid, const int* length, double n, float eps,
                           const float* x, const float* weight1, const float* weight2,
                           const float* gamma, const float* beta, const float* mask,
                           const float* y1, const float* y2, const float* statistics,
                           const float* grad_pooled, float* grad, float* grad_weight1,
                           float* grad_weight2, float* grad_gamma, float* grad_beta,
                           float* inner_map, float* scratch) {
    Work w = make_work(tiles, frames, channels, channels, valid, length, n, eps, scratch);
    const Size& s = w.size;
    Half half[2];
    for (int h = 0; h < 2; ++h) {
        float* row = (float*)statistics + h * 5 * channels;
        half[h] = Half{h ? weight2 : weight1, gamma + h * channels, beta + h * channels,
                       (const vec*)mask + h * tiles * channels, row, row + channels,
                       row + 2 * channels, row + 3 * channels, row + 4 * channels,
                       (vec*)(h ? y2 : y1)};
    }
    vec* inner = (vec*)inner_map;
    vec *sum_beta = w.sums, *sum_gamma = w.sums + channels;

    // Through the gate: inner = gradient after the second norm, grad = the part that went past.
    memset(w.totals, 0, 2 * channels * sizeof(double));
    for (long i = 0; i < 2 * channels; ++i) w.sums[i] = vec{};
    for (long tile = 0; tile < tiles; ++tile) {
        const long base = tile * s.tile();
        const vec* pool = (const vec*)grad_pooled + tile * channels;
        for (long t = 0; t < frames; ++t) {
            const ivec counts = w.length[tile] > (int)t;
            for (long c = 0; c < channels; ++c) {
                const long i = base + t * channels + c;
                const vec mask = half[1].mask[tile * channels + c];
                const vec y = half[1].y[i];
                const vec z = half[1].scale[c] * y + half[1].offset[c];
                const vec gate = sigmoid(select(z < 0.0f, vec{}, z) * mask);
                const vec g = ((vec*)grad)[i] + select(counts, pool[c], vec{});
                ((vec*)grad)[i] = g * gate;
                const vec through = g * ((const vec*)x)[i] * gate * (1.0f - gate) * mask;
                const vec open = select(z > 0.0f, through, vec{});
                inner[i] = open;
                sum_beta[c] += open;
                sum_gamma[c] += open * (y - half[1].mean[c]) * half[1].inverse[c];
            }
        }
        add_totals(w);
    }
    read_totals(w, grad_beta + channels, grad_gamma + channels);

    // Through the second convolution, ReLU and dropout of the first half: inner = gradient after
    // the first norm.
    const long square = channels * channels;
    memset(w.totals, 0, 2 * channels * sizeof(double));
    kernel_start(w, 2 * square);
    int rows = pack(weight2, channels, channels, 2, true, w.packed);
    for (long tile = 0; tile < tiles; ++tile) {
        const long base = tile * s.tile();
        const vec* y = half[0].y + base;
        const vec* mask = half[0].mask + tile * channels;
        for (long t = 0; t < frames; ++t)
            for (long c = 0; c < channels; ++c)
                w.first[t * channels + c] = activate(half[0], c, y[t * channels + c], mask[c]);
        norm_backward(w, half[1], inner + base, half[1].y + base, w.valid[tile],
                      grad_gamma + channels, grad_beta + channels, w.second);
        outer_tile(w.second, w.first, frames, channels, channels, dilation, w.kernel);
        outer_tile(w.second, w.first, frames, channels, channels, 0, w.kernel + square);
        product_tile(rows, w.second, w.zeros, w.packed, frames, channels, channels, 2, -dilation,
                     [&](long t, long c, vec value) {
                         const long i = t * channels + c;
                         const vec z = half[0].scale[c] * y[i] + half[0].offset[c];
                         const vec g = select(z > 0.0f, value * mask[c], vec{});
                         inner[base + i] = g;
                         sum_beta[c] += g;
                         sum_gamma[c] += g * (y[i] - half[0].mean[c]) * half[0].inverse[c];
                     });
        add_totals(w);
    }
    read_totals(w, grad_beta, grad_gamma);
    kernel_finish(w, square, 2, grad_weight2);

    // Through the first convolution.
    kernel_start(w, 2 * square);
    rows = pack(weight1, channels, channels, 2, true, w.packed);
    for (long tile = 0; tile < tiles; ++tile) {
        const long base = tile * s.tile();
        const vec* in = (const vec*)x + base;
        norm_backward(w, half[0], inner + base, half[0].y + base, w.valid[tile], grad_gamma,
                      grad_beta, w.second);
        outer_tile(w.second, in, frames, channels, channels, dilation, w.kernel);
        outer_tile(w.second, in, frames, channels, channels, 0, w.kernel + square);
        vec* out = (vec*)grad + base;
        product_tile(rows, w.second, w.zeros, w.packed, frames, channels, channels, 2, -dilation,
                     [&](long t, long c, vec value) { out[t * channels + c] += value; });
    }
    kernel_finish(w, square, 2, grad_weight1);
}
}
