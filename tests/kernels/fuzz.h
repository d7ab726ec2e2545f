/* What the fuzzed programs share: buffers of exactly the size, and inputs at random.
 *
 * With libFuzzer the inputs are found by coverage; with -DOWN_MAIN they are mutated at random.
 */
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                                               \
    do {                                                                                          \
        if (!(what)) {                                                                            \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what);                                    \
            abort();                                                                              \
        }                                                                                         \
    } while (0)

static void *exactly(size_t n, int fill)
{
    void *p = malloc(n ? n : 1);
    CHECK(p);
    memset(p, fill, n);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef OWN_MAIN
#include <time.h>

static uint64_t state = 88172645463325252u;

static uint64_t chance(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

int main(int argc, char **argv)
{
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    static uint8_t data[20004];
    uint64_t runs = 0;

    for (; time(NULL) < end; runs++) {
        size_t size = 4 + chance() % (chance() % 8 ? 700 : 20000);
        int alphabet = (int)(1 + chance() % 256);
        for (size_t i = 0; i < size; i++)
            data[i] = (uint8_t)(chance() % (uint64_t)alphabet);
        memcpy(data, &state, 4);
        for (uint64_t k = chance() % 30; k > 0 && size > 24; k--) {
            static const uint8_t escape[] = {0x80, 0, 0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0};
            size_t length = 1 + chance() % sizeof escape;
            memcpy(data + 4 + chance() % (size - 4 - length), escape, length);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%llu inputs\n", (unsigned long long)runs);
    return 0;
}
#endif
