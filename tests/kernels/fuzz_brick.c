/* Hostile sums for what is stored of a brick, brick.c; see fuzz.c.
 *
 * All levels must make the same bytes, and these must be what plain loops over the cells make,
 * whatever the sums, the units and the size of a chunk are.
 */
#include "fuzz_numbers.h"

#include "brick.h"

typedef struct {
    double *array[OB_BRICK_PAIRS][2];
    double *above, *variance;
    float *intensity, *sigma;
    int wrong;
} plain;

static size_t place_of(size_t l, size_t k, size_t h)
{
    return ob_spread((uint32_t)h) | ob_spread((uint32_t)k) << 1 | ob_spread((uint32_t)l) << 2;
}

static float ratio(double value, double weight)
{
    return weight > 0.0 ? (float)(value / weight) : NAN;
}

static plain by_hand(const ob_brick_sums *sums)
{
    const size_t *side = sums->side, n = side[0] * side[1] * side[2];
    plain p = {.wrong = 0};
    const int air = sums->pair[OB_WHAT_AIR].there;
    const int spread = sums->pair[OB_WHAT_SPREAD].there ? OB_WHAT_SPREAD : OB_WHAT_COUNTS;
    for (int i = 0; i < OB_BRICK_PAIRS; i++)
        for (int j = 0; sums->pair[i].there && j < 2; j++)
            p.array[i][j] = exactly(8 * n, 0);
    p.above = exactly(8 * n, 0);
    p.variance = exactly(8 * n, 0);
    p.intensity = exactly(4 * n, 0);
    p.sigma = exactly(4 * n, 0);
    for (size_t c = 0; c < n; c++) {
        const size_t at = place_of(c / side[2] / side[1], c / side[2] % side[1], c % side[2]);
        for (int i = 0; i < OB_BRICK_PAIRS; i++)
            for (int j = 0; p.array[i][0] != NULL && j < 2; j++) {
                const ob_brick_pair *pair = &sums->pair[i];
                const int64_t v = (int64_t)((uint64_t)pair->high[2 * at + (size_t)j] << 32 |
                                            pair->low[2 * at + (size_t)j]);
                p.wrong |= v < 0 || v >= (int64_t)1 << 53;
                p.array[i][j][c] = (double)v * pair->unit[j];
            }
        p.above[c] = p.array[0][0][c] - (air ? p.array[OB_WHAT_AIR][0][c] : 0.0);
        p.variance[c] = p.array[spread][0][c];
        if (air)
            p.variance[c] += p.array[OB_WHAT_AIR][1][c];
        p.intensity[c] = ratio(p.above[c], p.array[0][1][c]);
        p.sigma[c] = ratio(sqrt(p.variance[c]), p.array[0][1][c]);
    }
    return p;
}

static void forget(plain *p)
{
    for (int i = 0; i < OB_BRICK_PAIRS; i++)
        for (int j = 0; j < 2; j++)
            free(p->array[i][j]);
    free(p->above);
    free(p->variance);
    free(p->intensity);
    free(p->sigma);
}

/* a chunk holds these cells, or is not there because they are the fill value */
static const uint8_t *check_chunk(const uint8_t *chunk, int64_t length, const void *cells,
                                  size_t width, size_t n)
{
    size_t done;
    int fill = 1;
    for (size_t i = 0; i < n; i++)
        fill &= width == 8 ? ((const double *)cells)[i] == 0.0 : isnan(((const float *)cells)[i]);
    CHECK((length == 0) == fill);
    if (length > 0) {
        uint8_t *own = exactly((size_t)length, 0), *out = exactly(width * n, 1);
        memcpy(own, chunk, (size_t)length);
        CHECK(ob_decode_cells(ob_best_level(), own, (size_t)length, width, n, 0, n, out, &done) ==
              OB_OK);
        for (size_t i = 0; i < n; i++) {
            const uint8_t *a = out + width * i, *b = (const uint8_t *)cells + width * i;
            if (width == 4 && isnan(((const float *)cells)[i]))
                CHECK(isnan(((const float *)out)[i]));
            else
                CHECK(memcmp(a, b, width) == 0);
        }
        free(own);
        free(out);
    }
    return chunk + length;
}

/* halved along h, then k, then l, as NumPy does */
static size_t check_levels(const double *cells, const size_t *side, const double *levels)
{
    size_t now[3] = {side[0], side[1], side[2]}, total = 0;
    for (int level = 0; level < OB_LEVELS; level++) {
        size_t half[3] = {(now[0] + 1) / 2, (now[1] + 1) / 2, (now[2] + 1) / 2};
        for (size_t c = 0; c < half[0] * half[1] * half[2]; c++) {
            const size_t first[3] = {c / half[2] / half[1], c / half[2] % half[1], c % half[2]};
            double of[8] = {0};
            for (size_t i = 0; i < 8; i++) {
                const size_t l = 2 * first[0] + i / 4, k = 2 * first[1] + i / 2 % 2;
                const size_t h = 2 * first[2] + i % 2;
                if (l < now[0] && k < now[1] && h < now[2])
                    of[i] = cells[(l * now[1] + k) * now[2] + h];
            }
            const double sum = ((of[0] + of[1]) + (of[2] + of[3])) +
                               ((of[4] + of[5]) + (of[6] + of[7]));
            CHECK(levels[c] == sum || (isnan(levels[c]) && isnan(sum)));
        }
        cells = levels;
        levels += half[0] * half[1] * half[2];
        total += half[0] * half[1] * half[2];
        memcpy(now, half, sizeof now);
    }
    return total;
}

static void try_shells(source *s, const size_t *side, const uint8_t *bits, size_t octets)
{
    ob_shells where = {.count = below(s, 50)};
    uint8_t *own = exactly(octets, 0);
    memcpy(own, bits, octets);
    for (int i = 0; i < 3; i++) {
        where.side[i] = side[i];
        where.cut[i] = 1 + below(s, side[i]);
    }
    const size_t *cut = where.cut;
    double *axes[6], *thresholds = exactly(8 * where.count, 0);
    const size_t sizes[6] = {
        cut[2], cut[1], cut[0], cut[2] * cut[1], cut[2] * cut[0], cut[1] * cut[0],
    };
    for (int i = 0; i < 6; i++) {
        axes[i] = exactly(8 * sizes[i], 0);
        for (size_t j = 0; j < sizes[i]; j++)
            axes[i][j] = part(s);
    }
    for (size_t i = 0; i < where.count; i++)
        thresholds[i] = i ? thresholds[i - 1] + part(s) / 8 : byte(s) & 1 ? -INFINITY : 0.0;
    where.thresholds = thresholds;
    where.h = axes[0];
    where.k = axes[1];
    where.l = axes[2];
    if (byte(s) & 1) {
        where.hk = axes[3];
        where.hl = axes[4];
        where.kl = axes[5];
    }
    for (int level = 0; level <= ob_best_level(); level++) {
        int64_t *all = exactly(8 * where.count, 1), *seen = exactly(8 * where.count, 1);
        ob_count_shells(level, &where, own, all, seen);
        for (size_t c = 0; c < cut[0] * cut[1] * cut[2]; c++) {
            const size_t l = c / cut[2] / cut[1], k = c / cut[2] % cut[1], h = c % cut[2];
            const size_t at = (l * side[1] + k) * side[2] + h;
            double square = (axes[0][h] + axes[1][k]) + axes[2][l];
            if (where.hk) {
                double mixed = axes[3][h * cut[1] + k] + axes[4][h * cut[0] + l];
                mixed += axes[5][k * cut[0] + l];
                square += mixed * 2;
            }
            for (size_t i = 0; i < where.count && square >= thresholds[i]; i++) {
                all[i]--;
                seen[i] -= own[at / 8] >> (7 - at % 8) & 1;
            }
        }
        for (size_t i = 0; i < where.count; i++)
            CHECK(all[i] == 0 && seen[i] == 0);
        free(all);
        free(seen);
    }
    for (int i = 0; i < 6; i++)
        free(axes[i]);
    free(thresholds);
    free(own);
}

static void fill(source *s, uint32_t *half, int high)
{
    const unsigned kind = byte(s), down = byte(s) & 31;
    size_t run = 0;
    uint32_t value = 0;
    for (size_t i = 0; i < 2 * OB_BRICK; i++, run--) {
        if (run == 0) {
            run = 1 + below(s, kind & 1 ? 9 : 3000);
            raw(s, &value, 4);
            value = kind & 2 && byte(s) & 1 ? 0 : value >> down;
            if (high)
                value = kind & 124 ? 0 : kind & 128 ? value : value >> 11;
        }
        half[i] = value;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    source s = {data, data + size};
    ob_brick_sums sums = {.side = {0}};
    for (int i = 0; i < 3; i++)
        sums.side[i] = byte(&s) & 1 ? OB_SIDE : 1 + below(&s, OB_SIDE);
    const size_t *side = sums.side, n = side[0] * side[1] * side[2], octets = (n + 7) / 8;
    const unsigned which = byte(&s);
    for (int i = 0; i < OB_BRICK_PAIRS; i++)
        if (i == OB_WHAT_COUNTS || which >> i & 1) {
            uint32_t *low = exactly(8 * OB_BRICK, 0), *high = exactly(8 * OB_BRICK, 0);
            fill(&s, low, 0);
            fill(&s, high, 1);
            sums.pair[i] = (ob_brick_pair){
                low, high, {part(&s), ldexp(1.0, -(byte(&s) & 63))}, {NULL, NULL}, 1,
            };
        }
    plain p = by_hand(&sums);
    const size_t coarse = ob_coarser_cells(side), bound = ob_brick_bound(&sums);
    uint8_t *first = exactly(bound, 1), *out = exactly(bound, 2), *bits = exactly(octets, 3);
    for (int level = 0; level <= ob_best_level(); level++) {
        void *scratch = exactly(ob_brick_scratch(side), 4);
        double *levels = exactly(16 * coarse, 5);
        int64_t *lengths = exactly(8 * OB_BRICK_ARRAYS, 6), total = 0;
        const int wrong = ob_brick(level, &sums, scratch, out, lengths, bits, levels);
        CHECK(!p.wrong || wrong); /* cells beyond the chunk may be wrong, too */
        if (!wrong) {
            const uint8_t *at = out;
            int64_t *length = lengths;
            for (int i = 0; i < OB_BRICK_PAIRS; i++)
                for (int j = 0; p.array[i][0] != NULL && j < (i == OB_WHAT_SPREAD ? 1 : 2); j++)
                    at = check_chunk(at, *length++, p.array[i][j], 8, n);
            at = check_chunk(at, *length++, p.intensity, 4, n);
            at = check_chunk(at, *length++, p.sigma, 4, n);
            if (sums.pair[OB_WHAT_AIR].there)
                at = check_chunk(at, *length++, p.above, 8, n);
            while (length < lengths + OB_BRICK_ARRAYS)
                CHECK(*length++ == 0);
            total = at - out;
            CHECK((size_t)total <= bound);
            CHECK(level == 0 || memcmp(first, out, (size_t)total) == 0);
            memcpy(first, out, (size_t)total);
            for (size_t c = 0; c < 8 * octets; c++)
                CHECK((bits[c / 8] >> (7 - c % 8) & 1) == (c < n && p.array[0][1][c] > 0.0));
            CHECK(check_levels(p.above, side, levels) == coarse);
            check_levels(p.array[0][1], side, levels + coarse);
            double *only = exactly(16 * coarse, 7);
            CHECK(ob_brick(level, &sums, scratch, NULL, NULL, NULL, only) == 0);
            CHECK(memcmp(only, levels, 16 * coarse) == 0);
            free(only);
            ob_brick_sums as_cells = {.side = {side[0], side[1], side[2]}};
            for (int i = 0; i < OB_BRICK_PAIRS; i++) {
                as_cells.pair[i].there = sums.pair[i].there;
                for (int j = 0; j < (i == OB_WHAT_SPREAD ? 1 : 2); j++)
                    as_cells.pair[i].cells[j] = p.array[i][j];
            }
            CHECK(ob_brick(level, &as_cells, scratch, out, lengths, bits, levels) == 0);
            CHECK(memcmp(first, out, (size_t)total) == 0);
        }
        free(scratch);
        free(levels);
        free(lengths);
    }
    raw(&s, bits, octets);
    try_shells(&s, side, bits, octets);
    forget(&p);
    free(first);
    free(out);
    free(bits);
    for (int i = 0; i < OB_BRICK_PAIRS; i++) {
        free((void *)sums.pair[i].low);
        free((void *)sums.pair[i].high);
    }
    return 0;
}
