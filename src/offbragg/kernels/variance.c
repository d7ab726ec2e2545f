/* Variance of what the parts of divided pixels count; see transform.h.
 *
 * Of a piece of a row, the pixels that count something are listed, and the places of all of them
 * are found part by part, in loops that the compiler makes vectors of. Then each pixel's places
 * are counted in a table of twice as many entries, so that the next free one is near.
 */
#include "transform.h"

#include <stdlib.h>

enum { PIECE = 256 };

/* Places of n pixels of a row, by their columns */
__attribute__((always_inline)) static inline void find_block(const ob_row *r,
                                                             const int32_t *column,
                                                             const double *inverse, size_t n,
                                                             uint32_t *place)
{
    for (size_t j = 0; j < n; j++) {
        double x = (double)column[j] + r->x;
        uint32_t here = 0, good = 1;
        for (int i = 0; i < 3; i++) {
            double at = (r->along[i] + x * r->across[i]) * inverse[column[j]] + r->shift[i];
            uint32_t inside = (at >= 0.0) & (at < (double)r->shape[i]);
            uint32_t cell = (uint32_t)(int32_t)(inside ? at : 0.0);
            good &= inside;
            here += (cell >> 5) * r->stride[i] + (ob_spread(cell & 31) << i);
        }
        place[j] = good ? here : OB_NOWHERE;
    }
}

typedef void (*find_block_fn)(const ob_row *, const int32_t *, const double *, size_t, uint32_t *);

static void find_portable(const ob_row *r, const int32_t *column, const double *inverse, size_t n,
                          uint32_t *place)
{
    find_block(r, column, inverse, n, place);
}

#if OB_X86
OB_AVX2 static void find_avx2(const ob_row *r, const int32_t *column, const double *inverse,
                              size_t n, uint32_t *place)
{
    find_block(r, column, inverse, n, place);
}

OB_AVX512 static void find_avx512(const ob_row *r, const int32_t *column, const double *inverse,
                                  size_t n, uint32_t *place)
{
    find_block(r, column, inverse, n, place);
}
#endif

typedef struct {
    uint32_t *place, *times, *used; /* the table, and which of its entries are taken */
    size_t mask;
} table;

/* Count the parts of a pixel in each cell, and add what they contribute. */
static void add_pixel(table *t, const uint32_t *place, size_t parts, size_t stride, int32_t count,
                      const ob_fold *fold, ob_sums *sums, int subtract)
{
    size_t taken = 0, slot = 0;
    uint32_t last = OB_NOWHERE;
    for (size_t part = 0; part < parts; part++) {
        uint32_t here = place[part * stride];
        if (here == OB_NOWHERE)
            continue;
        if (here != last) { /* most often it is where the part before was */
            slot = here * 2654435761u & t->mask;
            while (t->times[slot] && t->place[slot] != here)
                slot = (slot + 1) & t->mask;
            if (!t->times[slot]) {
                t->place[slot] = here;
                t->used[taken++] = (uint32_t)slot;
            }
            last = here;
        }
        t->times[slot]++;
    }
    for (size_t i = 0; i < taken; i++) {
        uint64_t n = t->times[t->used[i]], sum = (uint64_t)count * n * n;
        uint32_t to = t->place[t->used[i]];
        t->times[t->used[i]] = 0;
        if (subtract)
            sum = 0 - sum;
        if (fold)
            ob_fold_places(OB_PORTABLE, fold, &to, 1);
        if (to != OB_NOWHERE && fold)
            ob_add_shared(sums, to, sum, 0);
        else if (to != OB_NOWHERE)
            ob_add(sums, to, sum, 0);
    }
}

int ob_variance(int level, const ob_exposures *what, const ob_band *band, size_t sides,
                size_t turns, const ob_fold *fold, ob_sums *sums, int subtract)
{
    size_t parts = sides * sides * turns, size = 4, pixels = what->rows * what->columns;
    const ob_grid *grid = fold ? &fold->grid : &sums->grid;
    find_block_fn find = find_portable;
    int32_t column[PIECE], count[PIECE];

#if OB_X86
    if (level == OB_LEVEL_AVX2)
        find = find_avx2;
    if (level == OB_LEVEL_AVX512)
        find = find_avx512;
#else
    (void)level;
#endif
    while (size < 2 * parts)
        size *= 2;
    table t = {malloc(4 * size), calloc(size, 4), malloc(4 * parts), size - 1};
    uint32_t *place = malloc(4 * PIECE * parts);
    int failed = !t.place || !t.times || !t.used || !place;
    for (size_t row = band->row[0]; !failed && row < band->row[1]; row++)
        for (size_t frame = 0; frame < what->frames; frame++) {
            const int32_t *counts = what->counts + frame * pixels + row * what->columns;
            const float *factor = what->factor + row * what->columns;
            for (size_t j = band->column[0]; j < band->column[1];) {
                size_t n = 0;
                for (; j < band->column[1] && n < PIECE; j++) {
                    column[n] = (int32_t)j;
                    count[n] = counts[j];
                    n += (counts[j] > 0) & (counts[j] <= what->most) & (factor[j] > 0.0f);
                }
                for (size_t part = 0; part < parts; part++) {
                    size_t turn = part / (sides * sides), within = part % (sides * sides);
                    ob_exposures at = *what;
                    ob_row r;
                    at.y = ((double)(within / sides) + 0.5) / (double)sides;
                    at.x = ((double)(within % sides) + 0.5) / (double)sides;
                    ob_begin_row(&r, &at, what->turns + frame * turns + turn, row, grid);
                    find(&r, column, what->inverse + within * pixels + row * what->columns, n,
                         place + part * PIECE);
                }
                for (size_t i = 0; i < n; i++)
                    add_pixel(&t, place + i, parts, PIECE, count[i], fold, sums, subtract);
            }
        }
    free(t.place);
    free(t.times);
    free(t.used);
    free(place);
    return failed;
}
