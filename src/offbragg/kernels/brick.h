/* What a volume file has of a brick (brick.c). */
#ifndef OFFBRAGG_BRICK_H
#define OFFBRAGG_BRICK_H

#include "transform.h"

enum { OB_WHAT_COUNTS, OB_WHAT_SPREAD, OB_WHAT_AIR, OB_BRICK_PAIRS };

#define OB_BRICK_ARRAYS 8 /* at most: five sums, counts above background, two ratios */
#define OB_LEVELS 3       /* 2, 4 and 8 cells along an edge */

/* Two sums of one brick: either OB_BRICK pairs of lower and upper halves, aligned for words of 4
 * bytes, and what one means; or the cells of a chunk as they are. */
typedef struct {
    const uint32_t *low, *high;
    double unit[2];
    const double *cells[2]; /* the second one may be NULL where it means nothing */
    int there;
} ob_brick_pair;

/* Sums of a brick: counts and weight, which must be there, the variance and nothing, the background
 * and its variance; and the cells of a chunk along l, k, h, 1 to OB_SIDE of each. */
typedef struct {
    ob_brick_pair pair[OB_BRICK_PAIRS];
    size_t side[3];
} ob_brick_sums;

/* Cells of all levels of a chunk; bytes that a brick needs beside its chunks, and for them. */
size_t ob_coarser_cells(const size_t *side);
size_t ob_brick_scratch(const size_t *side);
size_t ob_brick_bound(const ob_brick_sums *sums);

/* Compress all that is stored of a brick, chunk after chunk, in the order of the file: the sums,
 * intensity, its error, and with a background the counts above it. Nonzero, with nothing said of
 * the rest, if a sum is below 0 or from 2^53 on.
 *
 * scratch: ob_brick_scratch bytes, aligned for float64
 * out:     ob_brick_bound bytes; NULL: only the levels are made
 * lengths: bytes of each chunk, OB_BRICK_ARRAYS of them; 0 where it has nothing but the fill value
 * bits:    which cells of the chunk have a weight, the first of eight the uppermost bit
 * levels:  counts above background and then weights of the coarser cells, ob_coarser_cells each */
int ob_brick(int level, const ob_brick_sums *sums, void *scratch, uint8_t *out, int64_t *lengths,
             uint8_t *bits, double *levels);

/* Where the cells of a brick are: the squared distance of each from the origin is h + k + l, and
 * where axes are oblique twice the products more. */
typedef struct {
    const double *h, *k, *l;
    const double *hk, *hl, *kl; /* [h][k], [h][l], [k][l] of the brick's; all NULL: there are none */
    size_t cut[3], side[3];     /* cells of the brick, and of its chunk, along l, k, h */
    const double *thresholds;   /* ascending */
    size_t count;
} ob_shells;

/* Count the cells whose squared distance is not below each threshold: all, and those whose bit is
 * there, see ob_brick. */
void ob_count_shells(int level, const ob_shells *s, const uint8_t *bits, int64_t *all,
                     int64_t *seen);

#endif
