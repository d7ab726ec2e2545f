/* The steps of lz4_block.c, compiled once for each level: NAME(f) is a level's f. */

TARGET static size_t NAME(planes)(uint8_t *planes, size_t plane, int count, int written,
                                  uint8_t *out, ob_lz4_memory *memory)
{
    const size_t size = (size_t)count * plane;
    const uint8_t *const src = planes;
    uint8_t *const begin = out;

    if (plane < 16)
        for (; written < count; written++)
            memcpy(planes + (size_t)written * plane, planes + (size_t)(written - 1) * plane, plane);
    const size_t there = (size_t)written * plane;
    /* where matches may begin and end: as they like, if what is not written comes behind them */
    const size_t last_end = written < count ? there : size - LAST;
    const size_t last_start = written < count ? there - SIX + 1 : size - MARGIN;
    /* places of other blocks are below this one's base */
    const uint32_t base = memory->base + 1;
    uint32_t *const at = memory->at;
    size_t anchor = 0, ip = 0;

    memory->base += (uint32_t)size;
    for (int p = 0; p < written; p++) {
        size_t end = (size_t)(p + 1) * plane;
        if (ip >= end)
            continue;
        switch (NAME(look)(src + (size_t)p * plane, plane, p == 0)) {
        case NOISY:
            break;
        case REPEAT:
            while (p + 1 < written && NAME(look)(src + end, plane, 0) == REPEAT) {
                end += plane;
                p++;
            }
            if (end == there && written < count)
                goto ended; /* it goes on into the planes that are not written */
            if (ip < last_start) {
                size_t stop = end < last_end ? end : last_end;
                if (stop - ip >= MATCH) {
                    out = put_sequence(out, src + anchor, ip - anchor, plane, stop - ip);
                    anchor = stop;
                }
            }
            break;
        case SEARCH:
            for (size_t stop = end < last_start ? end : last_start; ip < stop;) {
                const uint64_t six = read_six(src + ip);
                const size_t h = hash(six);
                const uint32_t seen = at[h];
                size_t m, length, back;
                at[h] = base + (uint32_t)ip;
                if (seen >= base && read_six(src + (seen - base)) == six)
                    m = seen - base;
                else if (ip >= plane && read_six(src + ip - plane) == six)
                    m = ip - plane;
                else {
                    ip++;
                    continue;
                }
                length = SIX + NAME(same)(src + ip + SIX, src + m + SIX, src + last_end);
                const size_t most = ip - anchor < m ? ip - anchor : m;
                for (back = 0; back < most && src[ip - back - 1] == src[m - back - 1]; back++) {
                }
                out = put_sequence(out, src + anchor, ip - back - anchor, ip - m, length + back);
                ip += length;
                anchor = ip;
                if (ip - 2 + SIX <= there)
                    at[hash(read_six(src + ip - 2))] = base + (uint32_t)(ip - 2);
            }
        }
        if (ip < end)
            ip = end;
    }
ended:
    if (written == count)
        return (size_t)(put_literals(out, src + anchor, size - anchor, 0) - begin);
    out = put_sequence(out, src + anchor, ip - anchor, plane, size - LAST - ip);
    return (size_t)(put_literals(out, src + there - LAST, LAST, 0) - begin);
}
