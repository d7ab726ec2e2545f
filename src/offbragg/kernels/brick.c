/* All that a volume file has of a brick, from its sums: cells, levels, shells.
 *
 * The arithmetic is that of files/volume_chunks.py and bricks.py, operation by operation, in
 * float64: a whole number below 2^53 times its unit, divisions rounded to float32, blocks of cells
 * added along h, then k, then l. Cells lie in the sums with the bits of h, k and l interleaved; in
 * a chunk they follow each other with h fastest.
 */
#include "brick.h"

#define ALWAYS static inline __attribute__((always_inline))

enum { SIDE = OB_SIDE };

static const double TWO_52 = 4503599627370496.0, TWO_32 = 4294967296.0;

/* a whole number below 2^32 as float64: bits, so that a vector of them is as fast */
ALWAYS double whole(uint64_t value)
{
    double found;
    value |= 0x4330000000000000u; /* 2^52 + value */
    memcpy(&found, &value, 8);
    return found - TWO_52;
}

/* one row of cells, of which h = 0, 2, 4 … begin pairs that lie together */
ALWAYS void gather(const uint32_t *half, size_t place, uint64_t *row)
{
    for (uint32_t j = 0; j < SIDE / 2; j++)
        memcpy(row + 2 * j, half + 2 * (place + (ob_spread(j) << 3)), 16);
}

static int is_zero(const uint32_t *half)
{
    uint32_t any = 0;
    for (size_t i = 0; i < 2 * OB_BRICK && any == 0; i += 1024)
        for (size_t j = i; j < i + 1024; j++)
            any |= half[j];
    return any == 0;
}

/* Write the cells of a chunk; nonzero if one is not exact. */
ALWAYS int values(const ob_brick_pair *pair, const size_t *side, double *first, double *second)
{
    const int wide = !is_zero(pair->high);
    uint64_t beyond = 0;

    for (uint32_t l = 0; l < side[0]; l++)
        for (uint32_t k = 0; k < side[1]; k++) {
            const size_t place = ob_spread(k) << 1 | ob_spread(l) << 2;
            uint64_t low[SIDE], high[SIDE];
            double a[SIDE], b[SIDE];
            gather(pair->low, place, low);
            for (int h = 0; h < SIDE; h++) {
                a[h] = whole(low[h] & 0xffffffffu);
                b[h] = whole(low[h] >> 32);
            }
            if (wide) {
                gather(pair->high, place, high);
                for (int h = 0; h < SIDE; h++) {
                    beyond |= high[h];
                    a[h] += whole(high[h] & 0xffffffffu) * TWO_32;
                    b[h] += whole(high[h] >> 32) * TWO_32;
                }
            }
            for (int h = 0; h < SIDE; h++) {
                a[h] *= pair->unit[0];
                b[h] *= pair->unit[1];
            }
            memcpy(first, a, 8 * side[2]);
            memcpy(second, b, 8 * side[2]);
            first += side[2];
            second += side[2];
        }
    /* from 2^53 on, or below 0: Python has an error for it */
    return (beyond & 0xffe00000ffe00000u) != 0;
}

ALWAYS void subtract(const double *from, const double *what, size_t n, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = from[i] - what[i];
}

ALWAYS void add(const double *to, const double *what, size_t n, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = to[i] + what[i];
}

/* Which cells have a weight, a bit each, the first of eight the uppermost one. */
ALWAYS void measured(const double *weight, size_t n, uint8_t *bits)
{
    for (size_t i = 0; i < n; i += 8) {
        const size_t here = n - i < 8 ? n - i : 8;
        unsigned octet = 0;
        for (size_t j = 0; j < here; j++)
            octet |= (unsigned)(weight[i + j] > 0.0) << (7 - j);
        bits[i / 8] = (uint8_t)octet;
    }
}

/* value / weight as float32, bits of which `keep` has, else one certain NaN */
ALWAYS uint32_t ratio(double value, double weight, uint32_t keep)
{
    const float found = (float)(value / weight);
    uint32_t bits;
    memcpy(&bits, &found, 4);
    return (bits & keep) | (0x7fc00000u & ~keep);
}

/* Write intensity and its error; where nothing was measured, soon. */
ALWAYS void divide(const double *weight, const double *above, const double *variance, size_t n,
                   uint32_t *intensity, uint32_t *sigma)
{
    enum { STEP = 16 };
    for (size_t i = 0; i < n; i += STEP) {
        const size_t end = n - i < STEP ? n : i + STEP;
        uint32_t any = 0;
        for (size_t j = i; j < end; j++)
            any |= weight[j] > 0.0;
        if (!any) {
            for (size_t j = i; j < end; j++)
                intensity[j] = sigma[j] = 0x7fc00000u;
            continue;
        }
        for (size_t j = i; j < end; j++) {
            const uint32_t keep = -(uint32_t)(weight[j] > 0.0);
            intensity[j] = ratio(above[j], weight[j], keep);
            sigma[j] = ratio(__builtin_sqrt(variance[j]), weight[j], keep);
        }
    }
}

/* Sum blocks of 2 x 2 x 2 cells, along h, then k, then l; the last ones may have fewer. */
ALWAYS void halve(const double *in, const size_t *side, double *out)
{
    const size_t row = side[2], layer = side[1] * row;
    for (size_t l = 0; l < side[0]; l += 2)
        for (size_t k = 0; k < side[1]; k += 2) {
            /* what is not there is 0, as where NumPy pads */
            static const double nothing[SIDE] = {0};
            const double *at = in + l * layer + k * row;
            const double *rows[4] = {at, nothing, nothing, nothing};
            if (k + 1 < side[1])
                rows[1] = at + row;
            if (l + 1 < side[0]) {
                rows[2] = at + layer;
                if (k + 1 < side[1])
                    rows[3] = at + layer + row;
            }
            for (size_t h = 0; h < side[2]; h += 2, out++) {
                double of[4];
                for (int i = 0; i < 4; i++)
                    of[i] = rows[i][h] + (h + 1 < side[2] ? rows[i][h + 1] : 0.0);
                *out = (of[0] + of[1]) + (of[2] + of[3]);
            }
        }
}

ALWAYS void coarser(const double *cells, const size_t *side, double *out)
{
    size_t now[3] = {side[0], side[1], side[2]};
    for (int level = 0; level < OB_LEVELS; level++) {
        halve(cells, now, out);
        for (int i = 0; i < 3; i++)
            now[i] = (now[i] + 1) / 2;
        cells = out;
        out += now[0] * now[1] * now[2];
    }
}

typedef struct {
    const double *pair[OB_BRICK_PAIRS][2], *above, *variance;
    double *own;
    uint32_t *intensity, *sigma;
} arrays;

/* Find where everything lies: what is not given in the scratch of a brick. */
static arrays lay_out(const ob_brick_sums *sums, double *scratch)
{
    const ob_brick_pair *pair = sums->pair;
    const size_t n = sums->side[0] * sums->side[1] * sums->side[2];
    arrays a = {.own = scratch};
    for (int i = 0; i < OB_BRICK_PAIRS; i++)
        for (int j = 0; pair[i].there && j < 2; j++) {
            a.pair[i][j] = pair[i].low != NULL ? scratch : pair[i].cells[j];
            scratch += n;
        }
    a.above = a.pair[OB_WHAT_COUNTS][0];
    a.variance = a.pair[pair[OB_WHAT_SPREAD].there ? OB_WHAT_SPREAD : OB_WHAT_COUNTS][0];
    if (pair[OB_WHAT_AIR].there) {
        a.above = scratch;
        a.variance = scratch + n;
        scratch += 2 * n;
    }
    a.intensity = (uint32_t *)scratch;
    a.sigma = a.intensity + n;
    return a;
}

ALWAYS int make(const ob_brick_sums *sums, const arrays *a, int cells, uint8_t *bits, double *levels)
{
    const size_t *side = sums->side;
    const size_t n = side[0] * side[1] * side[2];
    const int air = sums->pair[OB_WHAT_AIR].there;
    double *own = a->own;

    for (int i = 0; i < OB_BRICK_PAIRS; i++) {
        if (sums->pair[i].low != NULL && (cells || i != OB_WHAT_SPREAD) &&
            values(&sums->pair[i], side, own, own + n))
            return 1;
        own += sums->pair[i].there ? 2 * n : 0;
    }
    const double *weight = a->pair[OB_WHAT_COUNTS][1];
    if (air)
        subtract(a->pair[OB_WHAT_COUNTS][0], a->pair[OB_WHAT_AIR][0], n, own);
    coarser(a->above, side, levels);
    coarser(weight, side, levels + ob_coarser_cells(side));
    if (cells) {
        if (air)
            add(a->pair[sums->pair[OB_WHAT_SPREAD].there ? OB_WHAT_SPREAD : OB_WHAT_COUNTS][0],
                a->pair[OB_WHAT_AIR][1], n, own + n);
        measured(weight, n, bits);
        divide(weight, a->above, a->variance, n, a->intensity, a->sigma);
    }
    return 0;
}

static int make_portable(const ob_brick_sums *sums, const arrays *a, int cells, uint8_t *bits,
                         double *levels)
{
    return make(sums, a, cells, bits, levels);
}

#if OB_X86
OB_AVX2 static int make_avx2(const ob_brick_sums *sums, const arrays *a, int cells, uint8_t *bits,
                             double *levels)
{
    return make(sums, a, cells, bits, levels);
}
#endif

size_t ob_coarser_cells(const size_t *side)
{
    size_t total = 0;
    for (size_t level = 2; level <= (size_t)1 << OB_LEVELS; level *= 2)
        total += (side[0] + level - 1) / level * ((side[1] + level - 1) / level) *
                 ((side[2] + level - 1) / level);
    return total;
}

size_t ob_brick_scratch(const size_t *side)
{
    return 8 * side[0] * side[1] * side[2] * (2 * OB_BRICK_PAIRS + 2 + 1);
}

size_t ob_brick_bound(const ob_brick_sums *sums)
{
    const size_t n = sums->side[0] * sums->side[1] * sums->side[2];
    const size_t wide = 2 + (sums->pair[OB_WHAT_SPREAD].there != 0) +
                        3 * (sums->pair[OB_WHAT_AIR].there != 0);
    return wide * (ob_chunk_bound(2 * n) + 4) + 2 * (ob_chunk_bound(n) + 4);
}

/* Compress an array unless it holds nothing but the fill value; says how many bytes it has. */
static size_t put(int level, const void *cells, size_t n, int wide, uint8_t *out)
{
    size_t length = ob_encode_cells(level, cells, wide ? 8 : 4, n, out);
    uint32_t sum = ob_fletcher32(out, length);
    memcpy(out + length, &sum, 4);
    return length + 4;
}

static int any(const double *cells, size_t n)
{
    int found = 0;
    for (size_t i = 0; i < n && !found; i += 1024)
        for (size_t j = i; j < n && j < i + 1024; j++)
            found |= cells[j] != 0.0;
    return found;
}

static int any_number(const uint32_t *cells, size_t n)
{
    int found = 0;
    for (size_t i = 0; i < n && !found; i += 1024)
        for (size_t j = i; j < n && j < i + 1024; j++)
            found |= (cells[j] & 0x7fffffffu) <= 0x7f800000u;
    return found;
}

int ob_brick(int level, const ob_brick_sums *sums, void *scratch, uint8_t *out, int64_t *lengths,
             uint8_t *bits, double *levels)
{
    const size_t n = sums->side[0] * sums->side[1] * sums->side[2];
    const arrays a = lay_out(sums, scratch);
    const double *wide[OB_BRICK_ARRAYS] = {a.pair[OB_WHAT_COUNTS][0], a.pair[OB_WHAT_COUNTS][1]};
    size_t doubles = 2;
    int wrong;

#if OB_X86
    if (level >= OB_LEVEL_AVX2)
        wrong = make_avx2(sums, &a, out != NULL, bits, levels);
    else
#endif
        wrong = make_portable(sums, &a, out != NULL, bits, levels);
    if (wrong || out == NULL)
        return wrong;
    if (sums->pair[OB_WHAT_SPREAD].there)
        wide[doubles++] = a.pair[OB_WHAT_SPREAD][0];
    const int air = sums->pair[OB_WHAT_AIR].there;
    for (int i = 0; air && i < 2; i++)
        wide[doubles++] = a.pair[OB_WHAT_AIR][i];
    memset(lengths, 0, OB_BRICK_ARRAYS * sizeof *lengths);
    /* in the order in which they are stored: sums, ratios, counts above background */
    for (size_t i = 0; i < doubles; i++, lengths++)
        out += *lengths = any(wide[i], n) ? (int64_t)put(level, wide[i], n, 1, out) : 0;
    out += *lengths++ = any_number(a.intensity, n) ? (int64_t)put(level, a.intensity, n, 0, out) : 0;
    out += *lengths++ = any_number(a.sigma, n) ? (int64_t)put(level, a.sigma, n, 0, out) : 0;
    if (air)
        *lengths = any(a.above, n) ? (int64_t)put(level, a.above, n, 1, out) : 0;
    return 0;
}

/* ---- shells ---- */

/* bits of the cells of a row, the first one the uppermost, and 0 behind them */
ALWAYS uint32_t row_of(const uint8_t *bits, size_t at, size_t n)
{
    uint32_t found = 0;
    if (at % 8 == 0 && n == SIDE)
        return __builtin_bswap32(ob_read32(bits + at / 8));
    for (size_t h = 0; h < n; h++)
        found |= (uint32_t)(bits[(at + h) / 8] >> (7 - (at + h) % 8) & 1) << (SIDE - 1 - h);
    return found;
}

ALWAYS void shells(const ob_shells *s, const uint8_t *bits, int64_t *all, int64_t *seen)
{
    const size_t *cut = s->cut, *side = s->side;

    size_t inner = 0; /* thresholds that no cell of a row is below: about as many as of the last row */

    memset(all, 0, 8 * s->count);
    memset(seen, 0, 8 * s->count);
    for (size_t l = 0; l < cut[0]; l++)
        for (size_t k = 0; k < cut[1]; k++) {
            double square[SIDE], least = __builtin_inf(), most = -least;
            const uint32_t is = row_of(bits, (l * side[1] + k) * side[2], cut[2]);
            uint64_t cells = cut[2], weighed = (uint64_t)__builtin_popcount(is);
            for (size_t h = 0; h < cut[2]; h++)
                square[h] = (s->h[h] + s->k[k]) + s->l[l];
            if (s->hk != NULL)
                for (size_t h = 0; h < cut[2]; h++) {
                    double mixed = s->hk[h * cut[1] + k] + s->hl[h * cut[0] + l];
                    mixed += s->kl[k * cut[0] + l];
                    square[h] += mixed * 2;
                }
            for (size_t h = 0; h < cut[2]; h++) {
                least = square[h] < least ? square[h] : least;
                most = square[h] > most ? square[h] : most;
            }
            while (inner < s->count && least >= s->thresholds[inner])
                inner++;
            while (inner > 0 && !(least >= s->thresholds[inner - 1]))
                inner--;
            /* each cell goes to the last threshold that it is not below */
            size_t i = inner;
            for (; i < s->count && most >= s->thresholds[i]; i++) {
                uint64_t beyond = 0, and_seen = 0;
                for (size_t h = 0; h < cut[2]; h++) {
                    const uint64_t is_beyond = square[h] >= s->thresholds[i];
                    beyond += is_beyond;
                    and_seen += is_beyond & is >> (SIDE - 1 - h);
                }
                if (i > 0) {
                    all[i - 1] += (int64_t)(cells - beyond);
                    seen[i - 1] += (int64_t)(weighed - and_seen);
                }
                cells = beyond;
                weighed = and_seen;
            }
            if (i > 0) {
                all[i - 1] += (int64_t)cells;
                seen[i - 1] += (int64_t)weighed;
            }
        }
    for (size_t i = s->count; i-- > 1;) {
        all[i - 1] += all[i];
        seen[i - 1] += seen[i];
    }
}

#if OB_X86
OB_AVX2 static void shells_avx2(const ob_shells *s, const uint8_t *bits, int64_t *all, int64_t *seen)
{
    shells(s, bits, all, seen);
}
#endif

void ob_count_shells(int level, const ob_shells *s, const uint8_t *bits, int64_t *all, int64_t *seen)
{
#if OB_X86
    if (level >= OB_LEVEL_AVX2) {
        shells_avx2(s, bits, all, seen);
        return;
    }
#endif
    (void)level;
    shells(s, bits, all, seen);
}
