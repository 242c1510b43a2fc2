// The first stage of a network that reads an image of one channel, on one CPU core: convolutions
// side by side, batch norm, ReLU, average pool; forward and backward in training, and evaluation.
//
// The definition is models/reading.py; models/first_stage.py calls this file. An image of one channel
// costs a dozen multiplications per output, far fewer than carrying the outputs through memory once
// for every operation. So nothing is stored before the pool:
//   * batch norm needs the mean and the variance of each output channel. Both follow from the mean
//     and the covariance of the image's taps, which are the same for all channels;
//   * norm folded into the kernels, forward computes outputs, ReLU and pool in registers;
//   * backward computes the outputs once more to know where the ReLU was open, and sums
//     gradient x tap; what batch norm subtracts follows from the taps' moments again.
// A vector holds neighbouring channels. Kernels of different sizes are lists of taps into a padded
// image; a vector whose channels have different kernels has the taps of all, some with weight zero.
//
// Compiled by models/native.py for the machine it runs on; no library is needed.

#include "vectors.h"

namespace {

typedef double dvec __attribute__((vector_size(4 * LANES)));  // half as many
constexpr int DLANES = LANES / 2;

// Outputs of one channel that are computed side by side: enough to hide the latency of an addition.
constexpr int PLACES = 8;

struct Shape {
    long batch, height, width;  // of the outputs before the pool
    long row, image;            // floats from a row of the padded image to the next, and of an image
    long channels;
};

// Vectors of channels: vector b has the taps starts[b] up to starts[b + 1].
struct Kernels {
    long n_vectors;
    const long* starts;
    const long* offsets;   // of a tap, from an output's place in the padded image
    const vec* weights;    // of a tap
};

inline long halves(long n, int pool) { return (n + pool - 1) / pool; }

// Outputs of PH rows by PLACES / PH columns.
template <int PH>
__attribute__((always_inline)) inline void convolve(const Kernels& k, long b, const float* at, long row, vec start,
                     vec (&z)[PH][PLACES / PH]) {
    constexpr int COLS = PLACES / PH;
#pragma GCC unroll 2
    for (int i = 0; i < PH; ++i) {
#pragma GCC unroll 8
        for (int c = 0; c < COLS; ++c) z[i][c] = start;
    }
    for (long t = k.starts[b]; t < k.starts[b + 1]; ++t) {
        const vec w = k.weights[t];
        const float* x = at + k.offsets[t];
#pragma GCC unroll 2
        for (int i = 0; i < PH; ++i) {
#pragma GCC unroll 8
            for (int c = 0; c < COLS; ++c) z[i][c] += w * x[i * row + c];
        }
    }
}

// What of a window of the pool counts: rows inside the map, and columns of valid frames.
struct Window {
    long rows, cols;
    float share() const { return cols > 0 ? 1.0f / (rows * cols) : 0.0f; }
};

template <int PH, int PW>
inline Window window(const Shape& s, long n_valid, long r, long j) {
    const long rows = s.height - r * PH, cols = n_valid - j * PW;
    return {rows < PH ? rows : PH, cols < 0 ? 0 : cols < PW ? cols : PW};
}

template <int PH, int PW, class T>
void forward(const Shape& s, const Kernels& k, const float* image, const long* n_valid,
             const vec* start, T* out) {
    constexpr int COLS = PLACES / PH, STEP = COLS / PW;
    const long height = halves(s.height, PH), width = halves(s.width, PW);
    for (long n = 0; n < s.batch; ++n)
        for (long b = 0; b < k.n_vectors; ++b) {
            const long n_lanes = s.channels - b * LANES < LANES ? s.channels - b * LANES : LANES;
            for (long r = 0; r < height; ++r)
                for (long j = 0; j < width; j += STEP) {
                    vec z[PH][COLS];
                    const float* at = image + n * s.image + r * PH * s.row + j * PW;
                    convolve<PH>(k, b, at, s.row, start[b], z);
#pragma GCC unroll 8
                    for (int g = 0; g < STEP; ++g) {
                        if (j + g >= width) break;
                        const Window w = window<PH, PW>(s, n_valid[n], r, j + g);
                        vec sum{};
#pragma GCC unroll 2
                        for (int i = 0; i < PH; ++i) {
#pragma GCC unroll 2
                            for (int c = 0; c < PW; ++c) {
                                const vec x = z[i][g * PW + c];
                                // keeps NaN, which a maximum with zero would lose
                                if (i < w.rows && c < w.cols) sum += select(x <= 0.0f, vec{}, x);
                            }
                        }
                        store(out + ((n * height + r) * width + j + g) * s.channels + b * LANES,
                              sum * w.share(), n_lanes);
                    }
                }
        }
}

// gradient: of the pooled outputs. Sums over all places of the gradient behind the ReLU, for each
// channel (sums), and of its products with each tap (products).
template <int PH, int PW, class T>
void backward(const Shape& s, const Kernels& k, const float* image, const long* n_valid,
              const vec* start, const T* gradient, double* sums, double* products,
              vec* scratch) {
    constexpr int COLS = PLACES / PH, STEP = COLS / PW;
    const long height = halves(s.height, PH), width = halves(s.width, PW);
    const long n_taps = k.starts[k.n_vectors];
    memset(sums, 0, k.n_vectors * LANES * sizeof(double));
    memset(products, 0, n_taps * LANES * sizeof(double));
    for (long n = 0; n < s.batch; ++n)
        for (long b = 0; b < k.n_vectors; ++b) {
            const long n_lanes = s.channels - b * LANES < LANES ? s.channels - b * LANES : LANES;
            const long first = k.starts[b], last = k.starts[b + 1];
            for (long t = first; t < last; ++t) scratch[t - first] = vec{};
            vec total{};
            for (long r = 0; r < height; ++r)
                for (long j = 0; j < width; j += STEP) {
                    if (j * PW >= n_valid[n]) break;
                    vec z[PH][COLS];
                    const float* at = image + n * s.image + r * PH * s.row + j * PW;
                    convolve<PH>(k, b, at, s.row, start[b], z);
#pragma GCC unroll 8
                    for (int g = 0; g < STEP; ++g) {
                        const Window w = window<PH, PW>(s, n_valid[n], r, j + g);
                        vec above{};
                        if (w.cols > 0)
                            above = load(gradient + ((n * height + r) * width + j + g) * s.channels +
                                             b * LANES, n_lanes) * w.share();
#pragma GCC unroll 2
                        for (int i = 0; i < PH; ++i) {
#pragma GCC unroll 2
                            for (int c = 0; c < PW; ++c) {
                                const vec open = select(z[i][g * PW + c] > 0.0f, above, vec{});
                                z[i][g * PW + c] = i < w.rows && c < w.cols ? open : vec{};
                                total += z[i][g * PW + c];
                            }
                        }
                    }
                    for (long t = first; t < last; ++t) {
                        const float* x = at + k.offsets[t];
                        vec product{};
#pragma GCC unroll 2
                        for (int i = 0; i < PH; ++i) {
#pragma GCC unroll 8
                            for (int c = 0; c < COLS; ++c) product += z[i][c] * x[i * s.row + c];
                        }
                        scratch[t - first] += product;
                    }
                }
            // An image's sums are short enough for single precision, a batch's are not.
            for (int lane = 0; lane < LANES; ++lane) {
                sums[b * LANES + lane] += total[lane];
                for (long t = first; t < last; ++t)
                    products[t * LANES + lane] += scratch[t - first][lane];
            }
        }
}

}  // namespace

extern "C" {

long serkit_lanes() { return LANES; }

// Columns to the right of an image that may be read without having a say.
long serkit_slack() { return PLACES; }

// Means (n_taps,) and covariance (n_taps, n_taps) of the taps over all places of a batch. scratch:
// n_taps rows of doubles, of the width rounded up to whole vectors.
void serkit_moments(long batch, long height, long width, long row, long image, const float* x,
                    long n_taps, const long* offsets, double* mean, double* covariance,
                    void* scratch) {
    const double places = (double)batch * height * width;
    for (long t = 0; t < n_taps; ++t) {
        double total = 0;
        for (long n = 0; n < batch; ++n)
            for (long y = 0; y < height; ++y) {
                const float* from = x + n * image + y * row + offsets[t];
                double lanes[DLANES] = {};
                long c = 0;
                for (; c + DLANES <= width; c += DLANES)
                    for (int lane = 0; lane < DLANES; ++lane) lanes[lane] += from[c + lane];
                for (; c < width; ++c) lanes[0] += from[c];
                for (int lane = 0; lane < DLANES; ++lane) total += lanes[lane];
            }
        mean[t] = total / places;
    }
    memset(covariance, 0, n_taps * n_taps * sizeof(double));
    const long n_vectors = (width + DLANES - 1) / DLANES;
    dvec* rows = (dvec*)scratch;
    memset(scratch, 0, n_taps * n_vectors * sizeof(dvec));
    for (long n = 0; n < batch; ++n)
        for (long y = 0; y < height; ++y) {
            for (long t = 0; t < n_taps; ++t) {
                const float* from = x + n * image + y * row + offsets[t];
                double* centred = (double*)(rows + t * n_vectors);
                for (long c = 0; c < width; ++c) centred[c] = from[c] - mean[t];
            }
            for (long t = 0; t < n_taps; ++t) {
                const dvec* one = rows + t * n_vectors;
                for (long u = t; u < n_taps; u += 4) {  // four sums at a time hide the latency
                    dvec sum[4] = {};
                    const dvec* other[4];
                    for (int i = 0; i < 4; ++i)
                        other[i] = rows + (u + i < n_taps ? u + i : t) * n_vectors;
                    for (long c = 0; c < n_vectors; ++c)
                        for (int i = 0; i < 4; ++i) sum[i] += one[c] * other[i][c];
                    for (int i = 0; i < 4 && u + i < n_taps; ++i)
                        for (int lane = 0; lane < DLANES; ++lane)
                            covariance[t * n_taps + u + i] += sum[i][lane];
                }
            }
        }
    for (long t = 0; t < n_taps; ++t)
        for (long u = t; u < n_taps; ++u)
            covariance[u * n_taps + t] = covariance[t * n_taps + u] /= places;
}

// Outputs (batch, pooled height, pooled width, channels), channels last. pool is 1 or 2. half: outputs
// are bfloat16.
void serkit_forward(long half, long pool, long batch, long height, long width, long row, long image,
                    long channels, long n_vectors, const long* starts, const long* offsets,
                    const void* weights, const void* start, const float* x, const long* n_valid,
                    void* out) {
    const Shape s{batch, height, width, row, image, channels};
    const Kernels k{n_vectors, starts, offsets, (const vec*)weights};
    const auto run = [&](auto* out) {
        if (pool == 2) forward<2, 2>(s, k, x, n_valid, (const vec*)start, out);
        else forward<1, 1>(s, k, x, n_valid, (const vec*)start, out);
    };
    if (half) run((bfloat16*)out);
    else run((float*)out);
}

// scratch: a vector for each entry of a vector of channels. half: the gradient is bfloat16.
void serkit_backward(long half, long pool, long batch, long height, long width, long row, long image,
                     long channels, long n_vectors, const long* starts, const long* offsets,
                     const void* weights, const void* start, const float* x, const long* n_valid,
                     const void* gradient, double* sums, double* products, void* scratch) {
    const Shape s{batch, height, width, row, image, channels};
    const Kernels k{n_vectors, starts, offsets, (const vec*)weights};
    const auto run = [&](const auto* gradient) {
        if (pool == 2)
            backward<2, 2>(s, k, x, n_valid, (const vec*)start, gradient, sums, products,
                           (vec*)scratch);
        else
            backward<1, 1>(s, k, x, n_valid, (const vec*)start, gradient, sums, products,
                           (vec*)scratch);
    };
    if (half) run((const bfloat16*)gradient);
    else run((const float*)gradient);
}
}
