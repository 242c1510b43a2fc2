// What follows a convolution: batch norm, pool, ReLU, zeros behind the ends; forward and backward in
// training, and evaluation.
//
// The definition is models/norming.py; models/norm_pool.py calls this file. Each of these operations
// costs a few instructions per number, far fewer than carrying the map through memory for it. So the
// map of the convolution is all that is kept, and it is read
//   * once for the sums that mean and variance are made of;
//   * once for norm, pool and ReLU, whose results never lie in memory one by one;
//   * on the way back once for the sums that the gradients of scale and offset are made of, and once
//     to write the gradient of the map. Norm, ReLU and the winners of a pool are computed again.
// A map lies in memory as [utterance][row][frame][channel], and a vector holds neighbouring channels.
// Sums are of one utterance each, so that they are the same whoever computes the others.
//
// Compiled by models/native.py for the machine it runs on; no library is needed.

#include "vectors.h"

namespace {

// Places whose sum single precision can hold; longer sums are in double precision.
constexpr int CHUNK = 64;

// A map, and the windows of the pool: rows by cols, which do not overlap. A maximum is taken over
// whole windows only; an average is of what there is of a window.
struct Shape {
    long batch, height, width, channels;
    long rows, cols;
    bool maximum;

    long pooled(long size, long window) const {
        return maximum ? size / window : (size + window - 1) / window;
    }
    long pooled_height() const { return pooled(height, rows); }
    long pooled_width() const { return pooled(width, cols); }
};

struct Norm {
    const float *scale, *offset;
};

// Sums over places of two values per channel.
struct Sums {
    long channels, n_places;
    float *first, *second;   // of the places since the last flush; whole vectors
    double *totals;          // channels, then as many of the second

    Sums(long channels, float* scratch, double* totals)
        : channels(channels), n_places(0), first(scratch),
          second(scratch + (channels + LANES - 1) / LANES * LANES), totals(totals) {
        memset(totals, 0, 2 * channels * sizeof(double));
        memset(first, 0, 2 * (second - first) * sizeof(float));
    }
    void add(long b, vec x, vec y) {
        store(first + b, load(first + b) + x);
        store(second + b, load(second + b) + y);
    }
    void place_done() {
        if (++n_places == CHUNK) flush();
    }
    void flush() {
        for (long c = 0; c < channels; ++c) totals[c] += first[c];
        for (long c = 0; c < channels; ++c) totals[channels + c] += second[c];
        memset(first, 0, 2 * (second - first) * sizeof(float));
        n_places = 0;
    }
};

template <class T>
void statistics(long batch, long places, long channels, const T* x, const float* shift,
                double* totals, float* scratch) {
    for (long n = 0; n < batch; ++n, totals += 2 * channels) {
        Sums sums(channels, scratch, totals);
        for (long place = 0; place < places; ++place, x += channels) {
            for (long b = 0; b < channels; b += LANES) {
                const long lanes = channels - b < LANES ? channels - b : LANES;
                const vec centred = load(x + b, lanes) - load(shift + b, lanes);
                sums.add(b, centred, centred * centred);
            }
            sums.place_done();
        }
        sums.flush();
    }
}

// Size of what counts of a window; those that are usual are known to the compiler.
template <long ROWS, long COLS>
struct Usual {
    static constexpr long rows = ROWS, cols = COLS;
};
struct Any {
    long rows, cols;
};

// What of a window counts; nothing where it lies behind an utterance's end.
struct Window {
    long rows, cols;
    float share;

    Window(const Shape& s, long n_valid, long r, long j) {
        rows = s.height - r * s.rows < s.rows ? s.height - r * s.rows : s.rows;
        cols = n_valid - j * s.cols < s.cols ? n_valid - j * s.cols : s.cols;
        if (s.maximum && cols < s.cols) cols = 0;
        if (cols < 0) cols = 0;
        share = cols > 0 ? 1.0f / (rows * cols) : 0.0f;
    }
    template <class Visit>
    void by_size(Visit visit) const {
        if (rows == 1 && cols == 1) visit(Usual<1, 1>{});
        else if (rows == 1 && cols == 2) visit(Usual<1, 2>{});
        else if (rows == 2 && cols == 2) visit(Usual<2, 2>{});
        else visit(Any{rows, cols});
    }
};

// Calls visit(n, window, place of its first number in the map, place in the pooled map).
template <class Visit>
inline void windows(const Shape& s, const long* n_valid, Visit visit) {
    const long height = s.pooled_height(), width = s.pooled_width();
    for (long n = 0; n < s.batch; ++n)
        for (long r = 0; r < height; ++r)
            for (long j = 0; j < width; ++j)
                visit(n, Window(s, n_valid[n], r, j),
                      ((n * s.height + r * s.rows) * s.width + j * s.cols) * s.channels,
                      ((n * height + r) * width + j) * s.channels);
}

// Largest of a window after the norm, where it is and what it was before; of equals the first. NaN
// is larger than any number.
struct Winner {
    vec normed, before;
    ivec place;
};

template <class T, class Size>
inline Winner find_winner(const Shape& s, Size size, const T* x, vec scale, vec offset, long lanes) {
    Winner best{load(x, lanes) * scale + offset, load(x, lanes), ivec{}};
#pragma GCC unroll 2
    for (long i = 0; i < size.rows; ++i)
#pragma GCC unroll 2
        for (long c = 0; c < size.cols; ++c) {
            if (i == 0 && c == 0) continue;
            const vec here = load(x + (i * s.width + c) * s.channels, lanes);
            const vec z = here * scale + offset;
            const ivec better = (z > best.normed) | (z != z);
            best.normed = select(better, z, best.normed);
            best.before = select(better, here, best.before);
            best.place = better ? ivec{} + (int)(i * size.cols + c) : best.place;
        }
    return best;
}

// Calls visit(b, lanes) for every vector of channels.
template <class Visit>
inline void vectors(long channels, Visit visit) {
    long b = 0;
    for (; b + LANES <= channels; b += LANES) visit(b, (long)LANES);
    if (b < channels) visit(b, channels - b);
}

template <class T>
void forward(const Shape& s, const T* x, const long* n_valid, const Norm& norm, T* out) {
    windows(s, n_valid, [&](long, const Window& w, long from, long to) {
        if (w.cols == 0) {
            memset(out + to, 0, s.channels * sizeof(T));
            return;
        }
        w.by_size([&](auto size) {
            vectors(s.channels, [&](long b, long lanes) {
                const vec scale = load(norm.scale + b, lanes), offset = load(norm.offset + b, lanes);
                vec y{};
                if (s.maximum) {
                    y = rectified(find_winner(s, size, x + from + b, scale, offset, lanes).normed);
                } else {
#pragma GCC unroll 2
                    for (long i = 0; i < size.rows; ++i)
#pragma GCC unroll 2
                        for (long c = 0; c < size.cols; ++c) {
                            const T* at = x + from + (i * s.width + c) * s.channels + b;
                            y += rectified(load(at, lanes) * scale + offset);
                        }
                    y *= w.share;
                }
                store(out + to + b, y, lanes);
            });
        });
    });
}

// Sums over an utterance's places of the gradient before the ReLU, and of its products with what the
// map is above the mean.
template <class T>
void backward_sums(const Shape& s, const T* x, const long* n_valid, const Norm& norm,
                   const float* mean, const T* gradient, double* totals, float* scratch) {
    for (long n = 0; n < s.batch; ++n) {
        const Shape one{1, s.height, s.width, s.channels, s.rows, s.cols, s.maximum};
        Sums sums(s.channels, scratch, totals + n * 2 * s.channels);
        windows(one, n_valid + n, [&](long, const Window& w, long from, long to) {
            if (w.cols == 0) return;
            w.by_size([&](auto size) {
                vectors(s.channels, [&](long b, long lanes) {
                    const vec scale = load(norm.scale + b, lanes);
                    const vec offset = load(norm.offset + b, lanes), centre = load(mean + b, lanes);
                    vec above = load(gradient + to + b, lanes), sum{}, product{};
                    if (s.maximum) {
                        const Winner best =
                            find_winner(s, size, x + from + b, scale, offset, lanes);
                        sum = select(best.normed <= 0.0f, vec{}, above);
                        product = sum * (best.before - centre);
                    } else {
                        above *= w.share;
#pragma GCC unroll 2
                        for (long i = 0; i < size.rows; ++i)
#pragma GCC unroll 2
                            for (long c = 0; c < size.cols; ++c) {
                                const T* at = x + from + (i * s.width + c) * s.channels + b;
                                const vec here = load(at, lanes);
                                const vec open =
                                    select(here * scale + offset <= 0.0f, vec{}, above);
                                sum += open;
                                product += open * (here - centre);
                            }
                    }
                    sums.add(b, sum, product);
                });
            });
            sums.place_done();
        });
        sums.flush();
        x += s.height * s.width * s.channels;
        gradient += s.pooled_height() * s.pooled_width() * s.channels;
    }
}

// Gradient of the map: scale x gradient before the ReLU + slope x map + constant, the latter two the
// part of the statistics.
template <class T>
void backward_map(const Shape& s, const T* x, const long* n_valid, const Norm& norm,
                  const float* slope, const float* constant, const T* gradient, T* out) {
    // Places that no window counts have a part in the statistics.
    const auto outside = [&](long n, long row, long col) {
        const long from = ((n * s.height + row) * s.width + col) * s.channels;
        vectors(s.channels, [&](long b, long lanes) {
            const vec y = load(x + from + b, lanes) * load(slope + b, lanes) +
                          load(constant + b, lanes);
            store(out + from + b, y, lanes);
        });
    };
    windows(s, n_valid, [&](long n, const Window& w, long from, long to) {
        w.by_size([&](auto size) {
            vectors(s.channels, [&](long b, long lanes) {
                const vec scale = load(norm.scale + b, lanes), offset = load(norm.offset + b, lanes);
                const vec along = load(slope + b, lanes), rest = load(constant + b, lanes);
                vec above = load(gradient + to + b, lanes) * scale;
                ivec winner{};
                if (s.maximum && w.cols > 0) {
                    const Winner best = find_winner(s, size, x + from + b, scale, offset, lanes);
                    above = select(best.normed <= 0.0f, vec{}, above);
                    winner = best.place;
                } else {
                    above *= w.share;
                }
#pragma GCC unroll 2
                for (long i = 0; i < size.rows; ++i)
#pragma GCC unroll 2
                    for (long c = 0; c < size.cols; ++c) {
                        const long at = from + (i * s.width + c) * s.channels + b;
                        const vec here = load(x + at, lanes);
                        const ivec shut = s.maximum ? winner != (int)(i * size.cols + c)
                                                    : here * scale + offset <= 0.0f;
                        store(out + at, here * along + rest + select(shut, vec{}, above), lanes);
                    }
            });
        });
    });
    const long height = s.maximum ? s.height / s.rows * s.rows : s.height;
    for (long n = 0; n < s.batch; ++n) {
        long counted = n_valid[n] < s.width ? n_valid[n] : s.width;
        if (s.maximum) counted = counted / s.cols * s.cols;
        for (long row = 0; row < s.height; ++row)
            for (long col = row < height ? counted : 0; col < s.width; ++col) outside(n, row, col);
    }
}

}  // namespace

extern "C" {

// Sums (batch, 2, channels) of what a map (batch, places, channels) is above the shift, and of its
// squares. half: maps and their gradients are bfloat16. scratch: two rows of
// channels, each completed to whole vectors.
void serkit_statistics(long half, long batch, long places, long channels, const void* x,
                       const float* shift, double* totals, float* scratch) {
    if (half)
        statistics(batch, places, channels, (const bfloat16*)x, shift, totals, scratch);
    else
        statistics(batch, places, channels, (const float*)x, shift, totals, scratch);
}

// Outputs (batch, pooled height, pooled width, channels).
void serkit_forward(long half, long maximum, long rows, long cols, long batch, long height,
                    long width, long channels, const void* x, const long* n_valid,
                    const float* scale, const float* offset, void* out) {
    const Shape s{batch, height, width, channels, rows, cols, maximum != 0};
    const Norm norm{scale, offset};
    if (half)
        forward(s, (const bfloat16*)x, n_valid, norm, (bfloat16*)out);
    else
        forward(s, (const float*)x, n_valid, norm, (float*)out);
}

// gradient: of the outputs. Sums (batch, 2, channels).
void serkit_backward_sums(long half, long maximum, long rows, long cols, long batch, long height,
                          long width, long channels, const void* x, const long* n_valid,
                          const float* scale, const float* offset, const float* mean,
                          const void* gradient, double* totals, float* scratch) {
    const Shape s{batch, height, width, channels, rows, cols, maximum != 0};
    const Norm norm{scale, offset};
    if (half)
        backward_sums(s, (const bfloat16*)x, n_valid, norm, mean, (const bfloat16*)gradient, totals,
                      scratch);
    else
        backward_sums(s, (const float*)x, n_valid, norm, mean, (const float*)gradient, totals,
                      scratch);
}

// Gradient of the map, of the map's size.
void serkit_backward_map(long half, long maximum, long rows, long cols, long batch, long height,
                         long width, long channels, const void* x, const long* n_valid,
                         const float* scale, const float* offset, const float* slope,
                         const float* constant, const void* gradient, void* out) {
    const Shape s{batch, height, width, channels, rows, cols, maximum != 0};
    const Norm norm{scale, offset};
    if (half)
        backward_map(s, (const bfloat16*)x, n_valid, norm, slope, constant,
                     (const bfloat16*)gradient, (bfloat16*)out);
    else
        backward_map(s, (const float*)x, n_valid, norm, slope, constant, (const float*)gradient,
                     (float*)out);
}
}
