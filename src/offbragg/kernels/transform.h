/* Pixels of frames into cells of an hkl grid: what transform.c and its variants share.
 *
 * The arithmetic is that of reference.py, operation by operation, in float64 and without fused
 * multiply-adds (-ffp-contract=off), so that a pixel at an edge falls into the same cell with
 * every variant:
 *
 *     along = base[i] + y * down[i]                       for each row and frame
 *     cell[i] = floor((along + x * across[i]) * inverse + shift[i])
 *
 * x and y are the pixel's place on the panel (pixel, corner convention), `inverse` is 1 / its
 * distance from the crystal. The weight of a pixel in a frame is round(factor * flux), both
 * float32, to the nearest whole number (ties to even), and OB_MOST_WEIGHT at most: Python refuses
 * what is above, and here a run of 16 pixels must not need more than 32 bits.
 */
#ifndef OFFBRAGG_TRANSFORM_H
#define OFFBRAGG_TRANSFORM_H

#include "kernels.h"

#define OB_SIDE 32                  /* cells along a side of a brick */
#define OB_BRICK (32 * 32 * 32)     /* cells of a brick */
#define OB_NOWHERE 0xFFFFFFFFu      /* place of a pixel that is in no cell, or does not count */
#define OB_MOST_COUNTS (1 << 28)    /* from here on a run of 16 pixels is summed with 64 bits */

#define OB_MOST_WEIGHT 268435440.0f /* the largest float32 below 2^28 */

/* One exposure, or a part of one: 12 numbers as they come from Python */
typedef struct {
    double base[3], across[3], down[3], shift[3];
} ob_turn;

/* A grid in bricks. The place of a cell is brick << 15 | its place in the brick; bricks, and the
 * cells within, are in the order (l, k, h), the last running fastest. Within a brick three cubes
 * are nested: of 2 cells (64 bytes), 4 of these (a page of 4 kB) and 4 of these, so that what is
 * near in the crystal is near in memory. */
typedef struct {
    int32_t shape[3];   /* cells along h, k, l */
    uint32_t bricks[3]; /* bricks along h, k, l */
} ob_grid;

/* Sums of a cell: 32 bits of each lie together, what is above lies apart and is touched only when
 * they are full. Both are two's complement: subtracting gives back what was before. */
typedef struct {
    uint32_t *low, *high; /* pairs, one for each cell */
    uint8_t *changed;     /* one for each brick */
    ob_grid grid;
} ob_sums;

typedef struct {
    const int32_t *counts;  /* of all frames, one behind the other */
    const ob_turn *turns;   /* one for each frame */
    const float *flux;      /* one for each frame */
    const double *inverse;  /* 1 / distance, 1/mm, for each pixel */
    const float *factor;    /* for each pixel; 0 where it does not count */
    size_t frames, rows, columns;
    int32_t most;           /* the highest count that is valid */
    double x, y;            /* place of the measured point in a pixel, 0.5 for its middle */
    /* a weight that is added in place of the counts, which say only whether it is: as `factor` and
     * `flux`; or NULL */
    const float *rate, *rate_flux;
} ob_exposures;

typedef struct {
    size_t row[2], column[2]; /* from, and one past the last */
} ob_band;

static inline uint32_t ob_spread(uint32_t x)
{
    /* where the lowest 5 bits of an index go, for h: k is one bit further, l two */
    return (x & 1) | (x & 2) << 2 | (x & 4) << 4 | (x & 8) << 6 | (x & 16) << 8;
}

/* What is the same for a row of a frame */
typedef struct {
    double along[3], across[3], shift[3], x;
    int32_t shape[3];
    uint32_t stride[3]; /* of a brick, in cells */
} ob_row;

static inline void ob_begin_row(ob_row *r, const ob_exposures *what, const ob_turn *turn, size_t row,
                             const ob_grid *grid)
{
    double y = (double)row + what->y;
    for (int i = 0; i < 3; i++) {
        r->along[i] = turn->base[i] + y * turn->down[i];
        r->across[i] = turn->across[i];
        r->shift[i] = turn->shift[i];
        r->shape[i] = grid->shape[i];
    }
    r->x = what->x;
    r->stride[0] = OB_BRICK;
    r->stride[1] = OB_BRICK * grid->bricks[0];
    r->stride[2] = OB_BRICK * grid->bricks[0] * grid->bricks[1];
}

static inline uint32_t ob_place_of(const ob_row *r, size_t column, double inverse)
{
    double x = (double)column + r->x;
    uint32_t place = 0;
    for (int i = 0; i < 3; i++) {
        double at = (r->along[i] + x * r->across[i]) * inverse + r->shift[i];
        if (!(at >= 0.0 && at < (double)r->shape[i])) /* NaN, too */
            return OB_NOWHERE;
        uint32_t cell = (uint32_t)at;
        place += (cell >> 5) * r->stride[i] + (ob_spread(cell & 31) << i);
    }
    return place;
}

/* Of a pixel whose factor is above 0; any other gives a number, too, which is not used. */
static inline int32_t ob_weight(float factor, float flux)
{
    float weight = factor * flux;
    weight = weight < OB_MOST_WEIGHT ? weight : OB_MOST_WEIGHT;
    return (int32_t)__builtin_rintf(weight > 0.0f ? weight : 0.0f);
}

/* A group's operations that bring each cell into a part of the grid that they do not repeat, which
 * is the grid of the sums. Of the images of a cell, that with the greatest label is taken, first by
 * h, then k, then l; `candidates` has a bit for each operation that may lead to it, for each brick
 * in which pixels are looked for. Every image of a cell has the same place. */
typedef struct {
    ob_grid grid, part;           /* where pixels are looked for, and the part */
    int32_t first[3], to_first[3]; /* labels of the first cell of both */
    const int8_t *operations;     /* count matrices of 9, with -1, 0 and 1 */
    const uint64_t *candidates;
    size_t count;
} ob_fold;

enum { OB_MOST_OPERATIONS = 48, OB_MOST_LABEL = 1 << 18 };

/* Replace places in the grid by places in the part; what has none there gets OB_NOWHERE. Labels are
 * below OB_MOST_LABEL. */
void ob_fold_places(int level, const ob_fold *fold, uint32_t *place, size_t n);

/* Make the tables; once, before anything else of it is called. */
void ob_transform_init(void);

/* Nonzero if the cells cannot be numbered. */
int ob_make_grid(const int32_t *shape, ob_grid *grid);

/* Add, or subtract, the pixels of a band of all frames: counts to the first of each pair, weight
 * to the second. With a fold (else NULL) the sums are those of its part. */
void ob_transform(int level, const ob_exposures *what, const ob_band *band, const ob_fold *fold,
                  ob_sums *sums, int subtract);

/* Find the places of the pixels of a band of one frame, whether they count or not. */
void ob_places(const ob_exposures *what, const ob_band *band, const ob_grid *grid, uint32_t *out);

/* Add the variance of what the parts of a pixel count to the first of each pair, in units of
 * 1 / parts²: counts times the square of the number of parts that are in one cell. There are
 * `turns` for each frame, and sides² planes of `inverse`. Parts that are folded into one cell are
 * added as if they were of different pixels, as when whole volumes are. Nonzero if memory is
 * short. */
int ob_variance(int level, const ob_exposures *what, const ob_band *band, size_t sides,
                size_t turns, const ob_fold *fold, ob_sums *sums, int subtract);

typedef uint64_t __attribute__((may_alias)) ob_pair;

/* As ob_add, where other threads may add to the same cell: what is folded meets in the part. Lower
 * halves are added as one number of 64 bits; what the first carries into the second is taken out
 * again, and every carry is kept, so the sums are right once all threads are done. */
static inline void ob_add_shared(ob_sums *sums, uint32_t place, uint64_t first, uint64_t second)
{
    const uint64_t one = (uint64_t)1 << 32;
    ob_pair *low = (ob_pair *)(sums->low + 2 * (size_t)place);
    uint32_t *high = sums->high + 2 * (size_t)place;
    uint64_t more = (first & (one - 1)) | second << 32;
    uint64_t before = __atomic_fetch_add(low, more, __ATOMIC_RELAXED);
    uint64_t carried = ((before & (one - 1)) + (first & (one - 1))) >> 32;
    uint64_t over = ((before >> 32) + (second & (one - 1)) + carried) >> 32;
    uint32_t up[2] = {(uint32_t)(first >> 32) + (uint32_t)carried,
                      (uint32_t)(second >> 32) + (uint32_t)over};
    if (carried) /* below 0 again, if the carry made it go over */
        up[1] -= __atomic_fetch_sub(low, one, __ATOMIC_RELAXED) < one;
    for (int i = 0; i < 2; i++)
        if (up[i]) /* untouched memory is not there */
            __atomic_fetch_add(high + i, up[i], __ATOMIC_RELAXED);
    __atomic_store_n(&sums->changed[place >> 15], 1, __ATOMIC_RELAXED);
}

/* Add 64-bit numbers to the pair at a place. */
static inline void ob_add(ob_sums *sums, uint32_t place, uint64_t first, uint64_t second)
{
    uint32_t *low = sums->low + 2 * (size_t)place, *high = sums->high + 2 * (size_t)place;
    uint64_t a = (uint64_t)low[0] + (uint32_t)first, b = (uint64_t)low[1] + (uint32_t)second;
    uint32_t up = (uint32_t)(first >> 32) + (uint32_t)(a >> 32);
    low[0] = (uint32_t)a;
    low[1] = (uint32_t)b;
    if (up) /* untouched memory is not there */
        high[0] += up;
    up = (uint32_t)(second >> 32) + (uint32_t)(b >> 32);
    if (up)
        high[1] += up;
    sums->changed[place >> 15] = 1;
}

#endif
