/* A wall clock that somebody sets: LD_PRELOAD it, with STEPPING_CLOCK the name of a file that
 * holds one double, by how many seconds the clock is wrong. Monotonic clocks stay as they are.
 * Whoever waits until some wall-clock time waits as long as he meant to; a wait that is under way
 * when the clock is set, which a kernel would end or prolong, is left alone. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define WALL 1000000000 /* no monotonic clock has run for that number of seconds */

static volatile const double *wrong;
static int (*cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    cond_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
    const char *name = getenv("STEPPING_CLOCK");
    int file = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        void *at = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
        if (at != MAP_FAILED)
            wrong = at;
        close(file);
    }
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    long status = syscall(SYS_clock_gettime, id, time);
    if (status == 0 && wrong != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        time->tv_sec += (time_t)*wrong; /* whole seconds */
    return (int)status;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    int status = clock_gettime(CLOCK_REALTIME, &now);
    if (status == 0) {
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return status;
}

time_t time(time_t *out)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return (time_t)-1;
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

static struct timespec meant(const struct timespec *until)
{
    struct timespec real = *until;
    if (wrong != NULL && real.tv_sec > WALL)
        real.tv_sec -= (time_t)*wrong;
    return real;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    struct timespec real = meant(until);
    return cond_timedwait(condition, mutex, &real);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    struct timespec real = meant(until);
    return real_sem_timedwait(semaphore, &real);
}
