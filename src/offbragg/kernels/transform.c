/* Pixels of frames into cells of an hkl grid; see transform.h for the arithmetic.
 *
 * Row by row, and in each row frame by frame: neighbouring frames meet the same cells, which are
 * still in the cache then. Pixels that follow each other in one cell are summed first (a run), so
 * that a cell is loaded once for all of them; the runs of a row are collected, and cells that will
 * be needed are fetched ahead.
 */
#include "transform.h"

enum {
    AHEAD = 24,   /* runs between fetching a cell and adding to it */
    PIECE = 2048, /* pixels of a row that are worked on at a time */
};

/* Runs: where, and what is added there: counts, and the weight in the upper 32 bits. Vectors are
 * written whole, and AHEAD places are looked at behind the last. */
typedef struct {
    uint32_t place[PIECE + 16 + AHEAD];
    uint64_t sums[PIECE + 16];
} runs;

/* A row of a frame, and what is the same in all of it */
typedef struct {
    const int32_t *counts, *next; /* next: those of the row that follows, to be fetched ahead */
    const double *inverse;
    const float *factor, *rate; /* a rate takes the place of the counts; or NULL */
    float flux, rate_flux;
    int32_t most;
} row_of_frame;

int ob_make_grid(const int32_t *shape, ob_grid *grid)
{
    uint64_t cells = OB_BRICK;
    for (int i = 0; i < 3; i++) {
        if (shape[i] < 1 || shape[i] > 1 << 20)
            return 1;
        grid->shape[i] = shape[i];
        grid->bricks[i] = ((uint32_t)shape[i] + OB_SIDE - 1) / OB_SIDE;
        cells *= grid->bricks[i];
        if (cells >= OB_NOWHERE)
            return 1;
    }
    return 0;
}

/* A row in which a run may count more than 32 bits hold */
static void add_row_64(const row_of_frame *in, const ob_row *r, size_t begin, size_t end,
                       const ob_fold *fold, ob_sums *sums, int subtract)
{
    for (size_t j = begin; j < end; j++) {
        if (in->counts[j] < 0 || in->counts[j] > in->most || !(in->factor[j] > 0.0f))
            continue;
        uint32_t place = ob_place_of(r, j, in->inverse[j]);
        if (fold)
            ob_fold_places(OB_PORTABLE, fold, &place, 1);
        if (place == OB_NOWHERE)
            continue;
        uint64_t first = (uint64_t)in->counts[j];
        uint64_t second = (uint64_t)ob_weight(in->factor[j], in->flux);
        if (subtract) {
            first = 0 - first;
            second = 0 - second;
        }
        if (fold)
            ob_add_shared(sums, place, first, second);
        else
            ob_add(sums, place, first, second);
    }
}

static inline int is_large(const row_of_frame *in, size_t begin, size_t end)
{
    uint32_t any = 0;
    if (in->most < OB_MOST_COUNTS || in->rate)
        return 0;
    for (size_t j = begin; j < end; j++)
        any |= in->counts[j] < 0 ? 0 : (uint32_t)in->counts[j];
    return any >= OB_MOST_COUNTS;
}

/* Both sums of a cell are one number: a carry out of either is seen, and only then are they two. */
static inline void add_runs(const runs *w, size_t n, ob_sums *sums, int subtract)
{
    ob_pair *low = (ob_pair *)sums->low;
    uint8_t *changed = sums->changed;

    for (size_t i = 0; i < n; i++) {
        uint64_t before = low[w->place[i]], more = w->sums[i];
        uint64_t after = subtract ? before - more : before + more;
        __builtin_prefetch(low + w->place[i + AHEAD], 1);
        changed[w->place[i] >> 15] = 1;
        int over = subtract ? (after > before) | ((uint32_t)after > (uint32_t)before)
                            : (after < before) | ((uint32_t)after < (uint32_t)before);
        if (__builtin_expect(over, 0)) {
            uint64_t first = (uint32_t)more, second = more >> 32;
            ob_add(sums, w->place[i], subtract ? 0 - first : first, subtract ? 0 - second : second);
        } else {
            low[w->place[i]] = after;
        }
    }
}

/* The same while other threads add to the same cells */
static void add_runs_shared(const runs *w, size_t n, ob_sums *sums, int subtract)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t first = (uint32_t)w->sums[i], second = w->sums[i] >> 32;
        __builtin_prefetch((ob_pair *)sums->low + w->place[i + AHEAD], 1);
        ob_add_shared(sums, w->place[i], subtract ? 0 - first : first,
                      subtract ? 0 - second : second);
    }
}

/* Fold the places of runs; those that have none any more go. */
static size_t fold_runs(int level, const ob_fold *fold, runs *w, size_t n)
{
    size_t kept = 0;
    ob_fold_places(level, fold, w->place, n);
    for (size_t i = 0; i < n; i++) {
        w->place[kept] = w->place[i];
        w->sums[kept] = w->sums[i];
        kept += w->place[i] != OB_NOWHERE;
    }
    return kept;
}

/* A run ends where the cell changes, and after 16 pixels. */
static size_t find_runs_portable(const row_of_frame *in, const ob_row *r, size_t begin, size_t end, runs *w)
{
    const int32_t *counts = in->counts;
    const double *inverse = in->inverse;
    const float *factor = in->factor, *rate = in->rate;
    enum { BLOCK = 16 };
    double at[3][BLOCK], top[3];
    uint32_t place[BLOCK + 1];
    int32_t weight[BLOCK];
    uint32_t most = (uint32_t)in->most;
    size_t n = 0;

    for (int i = 0; i < 3; i++)
        top[i] = (double)r->shape[i];
    for (size_t first = begin; first < end; first += BLOCK) {
        size_t size = end - first < BLOCK ? end - first : BLOCK;
        for (int i = 0; i < 3; i++)
            for (size_t j = 0; j < size; j++) {
                double x = (double)(int32_t)(first + j) + r->x;
                at[i][j] = (r->along[i] + x * r->across[i]) * inverse[first + j] + r->shift[i];
            }
        for (size_t j = 0; j < size; j++)
            weight[j] = ob_weight(factor[first + j], in->flux);
        for (size_t j = 0; j < size; j++) {
            int good = ((uint32_t)counts[first + j] <= most) & (factor[first + j] > 0.0f);
            for (int i = 0; i < 3; i++)
                good &= (at[i][j] >= 0.0) & (at[i][j] < top[i]);
            uint32_t here = 0;
            for (int i = 0; i < 3; i++) {
                uint32_t cell = good ? (uint32_t)(int32_t)at[i][j] : 0;
                here += (cell >> 5) * r->stride[i] + (ob_spread(cell & 31) << i);
            }
            place[j] = good ? here : OB_NOWHERE;
        }
        place[size] = OB_NOWHERE;
        uint32_t sum = 0, time = 0;
        for (size_t j = 0; j < size; j++) {
            /* written at every pixel, kept at the last one of a run: no branch to guess */
            uint32_t good = place[j] == OB_NOWHERE ? 0 : 0xFFFFFFFFu;
            uint32_t ends = place[j] != place[j + 1];
            sum += (rate ? (uint32_t)ob_weight(rate[first + j], in->rate_flux)
                         : (uint32_t)counts[first + j]) & good;
            time += (uint32_t)weight[j] & good;
            w->place[n] = place[j];
            w->sums[n] = sum | (uint64_t)time << 32;
            n += ends & good & 1;
            sum &= ends - 1;
            time &= ends - 1;
        }
    }
    return n;
}

#if OB_X86
/* How the lanes of a mask come to the front, and what is behind them: nothing */
static uint32_t FRONT[256][8];

void ob_transform_init(void)
{
    for (int mask = 0; mask < 256; mask++)
        for (int lane = 0, to = 0; lane < 8; lane++)
            if (mask >> lane & 1)
                FRONT[mask][to++] = (uint32_t)lane;
}

OB_AVX2 static inline __m256i sum_up(__m256i v)
{
    const __m256i zero = _mm256_setzero_si256();
    v = _mm256_add_epi32(v, _mm256_slli_si256(v, 4));
    v = _mm256_add_epi32(v, _mm256_slli_si256(v, 8));
    __m256i below = _mm256_permutevar8x32_epi32(v, _mm256_set1_epi32(3));
    return _mm256_add_epi32(v, _mm256_blend_epi32(zero, below, 0xF0));
}

OB_AVX2 static inline __m256i differences(__m256i v)
{
    __m256i before = _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
    return _mm256_sub_epi32(v, _mm256_blend_epi32(before, _mm256_setzero_si256(), 1));
}

/* 8 pixels at a time; runs end with them */
OB_AVX2 static size_t find_runs_avx2(const row_of_frame *in, const ob_row *r, size_t begin, size_t end, runs *w)
{
    const int32_t *counts = in->counts;
    const double *inverse = in->inverse;
    const float *factor = in->factor, *rate = in->rate;
    const __m256i nowhere = _mm256_set1_epi32(-1);
    const __m256i low_nibbles = _mm256_set1_epi32(15), upper = _mm256_set1_epi32(16);
    /* where the lowest 4 bits of an index go: bits 0, 3, 6 and 9 in two bytes */
    const __m256i first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 8, 9, 64, 65, 72, 73, 0, 1, 8, 9, 64, 65, 72, 73));
    const __m256i second = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2));
    const __m256i most = _mm256_set1_epi32(in->most);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 times = _mm256_set1_ps(in->flux), rate_times = _mm256_set1_ps(in->rate_flux);
    const __m256 heaviest = _mm256_set1_ps(OB_MOST_WEIGHT);
    const __m256d ladder = _mm256_setr_pd(0, 1, 2, 3), within = _mm256_set1_pd(r->x);
    __m256d along[3], across[3], shift[3];
    __m256i last[3], stride[3];
    size_t n = 0;

    for (int i = 0; i < 3; i++) {
        along[i] = _mm256_set1_pd(r->along[i]);
        across[i] = _mm256_set1_pd(r->across[i]);
        shift[i] = _mm256_set1_pd(r->shift[i]);
        last[i] = _mm256_set1_epi32(r->shape[i] - 1);
        stride[i] = _mm256_set1_epi32((int32_t)(r->stride[i]));
    }
    for (size_t j = begin; j < end; j += 8) {
        __m256i count, good;
        __m256 part;
        if (!(j & 8))
            __builtin_prefetch(in->next + j);
        __m256d w0, w1;
        if (end - j >= 8) {
            count = _mm256_loadu_si256((const __m256i *)(counts + j));
            part = _mm256_loadu_ps(factor + j);
            w0 = _mm256_loadu_pd(inverse + j);
            w1 = _mm256_loadu_pd(inverse + j + 4);
        } else {
            __m256i here = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(end - j)), lanes);
            count = _mm256_maskload_epi32(counts + j, here);
            part = _mm256_maskload_ps(factor + j, here); /* 0 beyond the end: not good */
            w0 = _mm256_maskload_pd(inverse + j,
                                    _mm256_cvtepi32_epi64(_mm256_castsi256_si128(here)));
            w1 = _mm256_maskload_pd(inverse + j + 4,
                                    _mm256_cvtepi32_epi64(_mm256_extracti128_si256(here, 1)));
        }
        good = _mm256_cmpeq_epi32(_mm256_min_epu32(count, most), count);
        if (rate) {
            __m256i here = _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)(end - j)), lanes);
            __m256 first_weight = _mm256_min_ps(
                _mm256_mul_ps(_mm256_maskload_ps(rate + j, here), rate_times), heaviest);
            count = _mm256_cvtps_epi32(_mm256_max_ps(first_weight, _mm256_setzero_ps()));
        }
        good = _mm256_and_si256(
            good, _mm256_castps_si256(_mm256_cmp_ps(part, _mm256_setzero_ps(), _CMP_GT_OQ)));
        if (_mm256_testz_si256(good, good))
            continue;
        __m256d x0 = _mm256_add_pd(_mm256_add_pd(_mm256_set1_pd((double)(int32_t)j), ladder),
                                   within);
        __m256d x1 = _mm256_add_pd(
            _mm256_add_pd(_mm256_set1_pd((double)(int32_t)(j + 4)), ladder), within);
        __m256i place = _mm256_setzero_si256();
        for (int i = 0; i < 3; i++) {
            __m256d a0 = _mm256_add_pd(along[i], _mm256_mul_pd(x0, across[i]));
            __m256d a1 = _mm256_add_pd(along[i], _mm256_mul_pd(x1, across[i]));
            a0 = _mm256_floor_pd(_mm256_add_pd(_mm256_mul_pd(a0, w0), shift[i]));
            a1 = _mm256_floor_pd(_mm256_add_pd(_mm256_mul_pd(a1, w1), shift[i]));
            /* what does not fit becomes 0x80000000, which is in no grid */
            __m256i cell = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvttpd_epi32(a0)),
                                                   _mm256_cvttpd_epi32(a1), 1);
            good = _mm256_and_si256(
                good, _mm256_cmpeq_epi32(_mm256_min_epu32(cell, last[i]), cell));
            /* a shuffle of bytes reads the other three bytes of each lane as 0, which gives 0 */
            __m256i nibble = _mm256_and_si256(cell, low_nibbles);
            __m256i inner = _mm256_or_si256(
                _mm256_or_si256(_mm256_shuffle_epi8(first, nibble),
                                _mm256_slli_epi32(_mm256_shuffle_epi8(second, nibble), 8)),
                _mm256_slli_epi32(_mm256_and_si256(cell, upper), 8));
            __m256i brick = _mm256_mullo_epi32(_mm256_srli_epi32(cell, 5), stride[i]);
            place = _mm256_add_epi32(place,
                                     _mm256_add_epi32(brick, _mm256_slli_epi32(inner, i)));
        }
        place = _mm256_blendv_epi8(nowhere, place, good);
        __m256i next = _mm256_permutevar8x32_epi32(place, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 7));
        next = _mm256_blend_epi32(next, nowhere, 0x80);
        __m256i ends = _mm256_andnot_si256(_mm256_cmpeq_epi32(place, next), good);
        unsigned mask = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(ends));
        __m256i weight = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(part, times), heaviest));
        count = sum_up(_mm256_and_si256(count, good));
        weight = sum_up(_mm256_and_si256(weight, good));
        __m256i front = _mm256_loadu_si256((const __m256i *)FRONT[mask]);
        place = _mm256_permutevar8x32_epi32(place, front);
        count = differences(_mm256_permutevar8x32_epi32(count, front));
        weight = differences(_mm256_permutevar8x32_epi32(weight, front));
        _mm256_storeu_si256((__m256i *)(w->place + n), place);
        const __m256i even = _mm256_unpacklo_epi32(count, weight);
        const __m256i odd = _mm256_unpackhi_epi32(count, weight);
        _mm256_storeu_si256((__m256i *)(w->sums + n), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256((__m256i *)(w->sums + n + 4),
                            _mm256_permute2x128_si256(even, odd, 0x31));
        n += (size_t)__builtin_popcount(mask);
    }
    return n;
}

/* 16 pixels at a time; runs end with them */
OB_AVX512 static size_t find_runs_avx512(const row_of_frame *in, const ob_row *r, size_t begin, size_t end, runs *w)
{
    const int32_t *counts = in->counts;
    const double *inverse = in->inverse;
    const float *factor = in->factor, *rate = in->rate;
    const __m512i spread_low =
        _mm512_setr_epi32(0, 1, 8, 9, 64, 65, 72, 73, 512, 513, 520, 521, 576, 577, 584, 585);
    const __m512i numbers =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i lower =
        _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
    const __m512i zero = _mm512_setzero_si512(), nowhere = _mm512_set1_epi32(-1);
    const __m512i most = _mm512_set1_epi32(in->most);
    const __m512 times = _mm512_set1_ps(in->flux), rate_times = _mm512_set1_ps(in->rate_flux);
    const __m512 heaviest = _mm512_set1_ps(OB_MOST_WEIGHT);
    const __m512d ladder = _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7), step = _mm512_set1_pd(16.0);
    const __m512d within = _mm512_set1_pd(r->x);
    __m512d along[3], across[3], shift[3];
    __m512i shape[3], stride[3], near[3], far[3];
    __m512d x0 = _mm512_add_pd(_mm512_set1_pd((double)begin), ladder);
    __m512d x1 = _mm512_add_pd(x0, _mm512_set1_pd(8.0));
    size_t n = 0;

    for (int i = 0; i < 3; i++) {
        along[i] = _mm512_set1_pd(r->along[i]);
        across[i] = _mm512_set1_pd(r->across[i]);
        shift[i] = _mm512_set1_pd(r->shift[i]);
        shape[i] = _mm512_set1_epi32(r->shape[i]);
        /* (cell >> 5) * stride = cell * stride / 32 - (cell & 31) * stride / 32: the second comes out
         * of the tables in which the lowest bits are spread */
        stride[i] = _mm512_set1_epi32((int32_t)(r->stride[i] / OB_SIDE));
        near[i] = _mm512_sub_epi32(_mm512_slli_epi32(spread_low, (unsigned)i),
                                   _mm512_mullo_epi32(numbers, stride[i]));
        far[i] = _mm512_add_epi32(
            near[i], _mm512_sub_epi32(_mm512_set1_epi32(4096 << i), _mm512_slli_epi32(stride[i], 4)));
    }
    for (size_t j = begin; j < end; j += 16) {
        const __mmask16 here = end - j < 16 ? (__mmask16)((1u << (end - j)) - 1) : (__mmask16)0xFFFF;
        const __m512d at0 = _mm512_add_pd(x0, within), at1 = _mm512_add_pd(x1, within);
        x0 = _mm512_add_pd(x0, step);
        x1 = _mm512_add_pd(x1, step);
        __builtin_prefetch(in->next + j);
        __m512i count = _mm512_maskz_loadu_epi32(here, counts + j);
        __m512 part = _mm512_maskz_loadu_ps(here, factor + j);
        __mmask16 good = _mm512_mask_cmple_epu32_mask(here, count, most);
        good = _mm512_mask_cmp_ps_mask(good, part, _mm512_setzero_ps(), _CMP_GT_OQ);
        if (!good)
            continue;
        __m512d w0 = _mm512_maskz_loadu_pd((__mmask8)here, inverse + j);
        __m512d w1 = _mm512_maskz_loadu_pd((__mmask8)(here >> 8), inverse + j + 8);
        __m512i place = zero;
        for (int i = 0; i < 3; i++) {
            __m512d a0 = _mm512_add_pd(along[i], _mm512_mul_pd(at0, across[i]));
            __m512d a1 = _mm512_add_pd(along[i], _mm512_mul_pd(at1, across[i]));
            a0 = _mm512_add_pd(_mm512_mul_pd(a0, w0), shift[i]);
            a1 = _mm512_add_pd(_mm512_mul_pd(a1, w1), shift[i]);
            /* what does not fit becomes 0x80000000, which is in no grid */
            __m256i c0 = _mm512_cvt_roundpd_epi32(a0, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
            __m256i c1 = _mm512_cvt_roundpd_epi32(a1, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
            __m512i cell = _mm512_inserti64x4(_mm512_castsi256_si512(c0), c1, 1);
            good = _mm512_mask_cmplt_epu32_mask(good, cell, shape[i]);
            place = _mm512_add_epi32(
                place, _mm512_add_epi32(_mm512_mullo_epi32(cell, stride[i]),
                                        _mm512_permutex2var_epi32(near[i], cell, far[i])));
        }
        place = _mm512_mask_mov_epi32(nowhere, good, place);
        __m512i next = _mm512_alignr_epi32(nowhere, place, 1);
        __mmask16 ends = _mm512_mask_cmpneq_epi32_mask(good, place, next);
        if (rate) {
            __m512 first_weight = _mm512_min_ps(
                _mm512_mul_ps(_mm512_maskz_loadu_ps(here, rate + j), rate_times), heaviest);
            count = _mm512_cvtps_epi32(_mm512_max_ps(first_weight, _mm512_setzero_ps()));
        }
        __m512i weight = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_mul_ps(part, times), heaviest));
        count = _mm512_maskz_mov_epi32(good, count);
        weight = _mm512_maskz_mov_epi32(good, weight);
        count = _mm512_add_epi32(count, _mm512_alignr_epi32(count, zero, 15));
        weight = _mm512_add_epi32(weight, _mm512_alignr_epi32(weight, zero, 15));
        count = _mm512_add_epi32(count, _mm512_alignr_epi32(count, zero, 14));
        weight = _mm512_add_epi32(weight, _mm512_alignr_epi32(weight, zero, 14));
        count = _mm512_add_epi32(count, _mm512_alignr_epi32(count, zero, 12));
        weight = _mm512_add_epi32(weight, _mm512_alignr_epi32(weight, zero, 12));
        count = _mm512_add_epi32(count, _mm512_alignr_epi32(count, zero, 8));
        weight = _mm512_add_epi32(weight, _mm512_alignr_epi32(weight, zero, 8));
        place = _mm512_maskz_compress_epi32(ends, place);
        count = _mm512_maskz_compress_epi32(ends, count);
        weight = _mm512_maskz_compress_epi32(ends, weight);
        count = _mm512_sub_epi32(count, _mm512_alignr_epi32(count, zero, 15));
        weight = _mm512_sub_epi32(weight, _mm512_alignr_epi32(weight, zero, 15));
        _mm512_storeu_si512(w->place + n, place);
        _mm512_storeu_si512(w->sums + n, _mm512_permutex2var_epi32(count, lower, weight));
        _mm512_storeu_si512(w->sums + n + 8, _mm512_permutex2var_epi32(count, upper, weight));
        n += (size_t)__builtin_popcount(ends);
    }
    return n;
}
#else
void ob_transform_init(void) {}
#endif

typedef size_t (*find_runs_fn)(const row_of_frame *, const ob_row *, size_t, size_t, runs *);

void ob_transform(int level, const ob_exposures *what, const ob_band *band, const ob_fold *fold,
                  ob_sums *sums, int subtract)
{
    const ob_grid *grid = fold ? &fold->grid : &sums->grid;
    find_runs_fn find_runs = find_runs_portable;
    size_t pixels = what->rows * what->columns;
    runs w;
    ob_row r;

#if OB_X86
    if (level == OB_LEVEL_AVX2)
        find_runs = find_runs_avx2;
    if (level == OB_LEVEL_AVX512)
        find_runs = find_runs_avx512;
#endif
    for (size_t row = band->row[0]; row < band->row[1]; row++)
        for (size_t begin = band->column[0]; begin < band->column[1]; begin += PIECE) {
            size_t left = band->column[1] - begin, end = begin + (left < PIECE ? left : PIECE);
            row_of_frame in = {
                .inverse = what->inverse + row * what->columns,
                .factor = what->factor + row * what->columns,
                .rate = what->rate ? what->rate + row * what->columns : NULL,
                .most = what->most,
            };
            for (size_t frame = 0; frame < what->frames; frame++) {
                in.counts = what->counts + frame * pixels + row * what->columns;
                in.flux = what->flux[frame];
                in.next = frame + 1 < what->frames ? in.counts + pixels : in.counts;
                in.rate_flux = what->rate ? what->rate_flux[frame] : 0.0f;
                ob_begin_row(&r, what, what->turns + frame, row, grid);
                if (is_large(&in, begin, end)) {
                    add_row_64(&in, &r, begin, end, fold, sums, subtract);
                    continue;
                }
                size_t n = find_runs(&in, &r, begin, end, &w);
                memset(w.place + n, 0, AHEAD * sizeof *w.place);
                if (fold)
                    add_runs_shared(&w, fold_runs(level, fold, &w, n), sums, subtract);
                else if (subtract)
                    add_runs(&w, n, sums, 1);
                else
                    add_runs(&w, n, sums, 0);
            }
        }
}

void ob_places(const ob_exposures *what, const ob_band *band, const ob_grid *grid, uint32_t *out)
{
    ob_row r;
    for (size_t row = band->row[0]; row < band->row[1]; row++) {
        const double *inverse = what->inverse + row * what->columns;
        ob_begin_row(&r, what, what->turns, row, grid);
        for (size_t j = band->column[0]; j < band->column[1]; j++)
            *out++ = ob_place_of(&r, j, inverse[j]);
    }
}
