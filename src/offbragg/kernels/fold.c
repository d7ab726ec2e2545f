/* Cells folded into the part of a grid that a group does not repeat; see transform.h. */
#include "transform.h"

typedef struct {
    const int8_t *W;
    int64_t key[3]; /* key . x orders the images of x: by h first, then by k, then by l */
} operation;

/* Bits 0, 3, 6, 9 and 12, side by side */
static inline int32_t gather(uint32_t x)
{
    x &= 0x1249;
    x = (x | x >> 2) & 0x10C3;
    x = (x | x >> 4) & 0x100F;
    return (int32_t)((x | x >> 8) & 0x1F);
}

static void read_operations(const ob_fold *fold, operation *out)
{
    for (size_t a = 0; a < fold->count; a++) {
        out[a].W = fold->operations + 9 * a;
        for (int j = 0; j < 3; j++)
            out[a].key[j] = (int64_t)out[a].W[j] * ((int64_t)1 << 42) +
                            (int64_t)out[a].W[3 + j] * ((int64_t)1 << 21) + out[a].W[6 + j];
    }
}

static uint32_t place_in_part(const ob_fold *fold, const int32_t *label)
{
    const ob_grid *part = &fold->part;
    uint32_t stride = OB_BRICK, place = 0;
    for (int i = 0; i < 3; i++) {
        int32_t cell = label[i] - fold->to_first[i];
        if (cell < 0 || cell >= part->shape[i])
            return OB_NOWHERE;
        place += ((uint32_t)cell >> 5) * stride + (ob_spread((uint32_t)cell & 31) << i);
        stride *= part->bricks[i];
    }
    return place;
}

void ob_fold_places(const ob_fold *fold, uint32_t *place, size_t n)
{
    operation all[OB_MOST_OPERATIONS];
    const uint32_t *bricks = fold->grid.bricks;
    uint32_t end = bricks[0] * bricks[1] * bricks[2], brick = OB_NOWHERE;
    uint64_t known = fold->count < 64 ? ((uint64_t)1 << fold->count) - 1 : 0, candidates = 0;
    int32_t corner[3] = {0, 0, 0};

    read_operations(fold, all);
    for (size_t i = 0; i < n; i++) {
        if (place[i] >> 15 != brick) { /* most often it is the one before */
            brick = place[i] >> 15;
            uint32_t at[3] = {brick % bricks[0], brick / bricks[0] % bricks[1],
                              brick / bricks[0] / bricks[1]};
            for (int j = 0; j < 3; j++)
                corner[j] = fold->first[j] + (int32_t)(at[j] * OB_SIDE);
            candidates = brick < end ? fold->candidates[brick] & known : 0;
        }
        if (!candidates) {
            place[i] = OB_NOWHERE;
            continue;
        }
        const int32_t x[3] = {corner[0] + gather(place[i]), corner[1] + gather(place[i] >> 1),
                              corner[2] + gather(place[i] >> 2)};
        int best = __builtin_ctzll(candidates);
        uint64_t left = candidates & (candidates - 1);
        if (left) {
            int64_t most = INT64_MIN;
            for (left = candidates; left; left &= left - 1) {
                int a = __builtin_ctzll(left);
                int64_t key = all[a].key[0] * x[0] + all[a].key[1] * x[1] + all[a].key[2] * x[2];
                best = key > most ? a : best;
                most = key > most ? key : most;
            }
        }
        const int8_t *W = all[best].W;
        int32_t y[3];
        for (int j = 0; j < 3; j++)
            y[j] = W[3 * j] * x[0] + W[3 * j + 1] * x[1] + W[3 * j + 2] * x[2];
        place[i] = place_in_part(fold, y);
    }
}
