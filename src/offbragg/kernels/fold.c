/* Cells folded into the part of a grid that a group does not repeat; see transform.h.
 *
 * Places that follow each other are mostly in one brick, of which most often a single operation
 * leads to the part: a block of such places is folded by loops that the compiler makes vectors of.
 */
#include "transform.h"

enum { BLOCK = 64 };

/* Bits 0, 3, 6, 9 and 12, side by side */
static inline int32_t gather(uint32_t x)
{
    x &= 0x1249;
    x = (x | x >> 2) & 0x10C3;
    x = (x | x >> 4) & 0x100F;
    return (int32_t)((x | x >> 8) & 0x1F);
}

/* n places of the brick that begins with the labels `corner`; at least one candidate */
__attribute__((always_inline)) static inline void fold_block(const ob_fold *fold,
                                                             const int32_t *corner,
                                                             uint64_t candidates, uint32_t *place,
                                                             size_t n)
{
    const ob_grid *part = &fold->part;
    int32_t x[3][BLOCK], most[3][BLOCK];
    int first = 1;

    for (int i = 0; i < 3; i++)
        for (size_t j = 0; j < n; j++)
            x[i][j] = corner[i] + gather(place[j] >> i);
    for (; candidates; candidates &= candidates - 1) {
        const int8_t *entry = fold->operations + 9 * __builtin_ctzll(candidates);
        int32_t W[9];
        for (int i = 0; i < 9; i++)
            W[i] = entry[i];
        for (size_t j = 0; j < n; j++) {
            int32_t h = W[0] * x[0][j] + W[1] * x[1][j] + W[2] * x[2][j];
            int32_t k = W[3] * x[0][j] + W[4] * x[1][j] + W[5] * x[2][j];
            int32_t l = W[6] * x[0][j] + W[7] * x[1][j] + W[8] * x[2][j];
            int32_t a = most[0][j], b = most[1][j], c = most[2][j];
            int more = first | (h > a) | ((h == a) & ((k > b) | ((k == b) & (l > c))));
            most[0][j] = more ? h : a;
            most[1][j] = more ? k : b;
            most[2][j] = more ? l : c;
        }
        first = 0;
    }
    for (size_t j = 0; j < n; j++) {
        uint32_t to = 0, inside = 1, stride = OB_BRICK;
        for (int i = 0; i < 3; i++) {
            uint32_t cell = (uint32_t)(most[i][j] - fold->to_first[i]);
            inside &= cell < (uint32_t)part->shape[i]; /* below 0 it is very large */
            to += (cell >> 5) * stride + (ob_spread(cell & 31) << i);
            stride *= part->bricks[i];
        }
        place[j] = inside ? to : OB_NOWHERE;
    }
}

typedef void (*fold_block_fn)(const ob_fold *, const int32_t *, uint64_t, uint32_t *, size_t);

static void fold_portable(const ob_fold *fold, const int32_t *corner, uint64_t candidates,
                          uint32_t *place, size_t n)
{
    fold_block(fold, corner, candidates, place, n);
}

#if OB_X86
OB_AVX2 static void fold_avx2(const ob_fold *fold, const int32_t *corner, uint64_t candidates,
                              uint32_t *place, size_t n)
{
    fold_block(fold, corner, candidates, place, n);
}

OB_AVX512 static void fold_avx512(const ob_fold *fold, const int32_t *corner, uint64_t candidates,
                                  uint32_t *place, size_t n)
{
    fold_block(fold, corner, candidates, place, n);
}
#endif

void ob_fold_places(int level, const ob_fold *fold, uint32_t *place, size_t n)
{
    const uint32_t *bricks = fold->grid.bricks, end = bricks[0] * bricks[1] * bricks[2];
    const uint64_t known = ((uint64_t)1 << fold->count) - 1;
    fold_block_fn block = fold_portable;

#if OB_X86
    if (level == OB_LEVEL_AVX2)
        block = fold_avx2;
    if (level == OB_LEVEL_AVX512)
        block = fold_avx512;
#else
    (void)level;
#endif
    for (size_t i = 0, m; i < n; i += m) {
        uint32_t brick = place[i] >> 15;
        for (m = 1; m < BLOCK && i + m < n && place[i + m] >> 15 == brick; m++)
            ;
        uint64_t candidates = brick < end ? fold->candidates[brick] & known : 0;
        if (candidates) {
            uint32_t at[3] = {brick % bricks[0], brick / bricks[0] % bricks[1],
                              brick / bricks[0] / bricks[1]};
            int32_t corner[3];
            for (int j = 0; j < 3; j++)
                corner[j] = fold->first[j] + (int32_t)(at[j] * OB_SIDE);
            block(fold, corner, candidates, place + i, m);
        } else {
            for (size_t j = 0; j < m; j++)
                place[i + j] = OB_NOWHERE;
        }
    }
}
