/* A wall clock that is WRONG_CLOCK seconds fast, for the programs that LD_PRELOAD this; how time passes stays.

   libfaketime does more and cannot be used: its 0.9.10 fails clock_nanosleep with an absolute time, which is how
   Python 3.11 sleeps. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SINCE_1970 1000000000L /* seconds of a wall clock are more, those since the machine's start fewer */

static long fast(void) {
    const char *told = getenv("WRONG_CLOCK");
    return told ? atol(told) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += fast();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (place) *place = precise.tv_sec;
    return precise.tv_sec;
}

/* Who waits until a time of day has read it from the clock above; the kernel has its own. */
static struct timespec kernels(const struct timespec *told) {
    struct timespec until = *told;
    if (until.tv_sec > SINCE_1970) until.tv_sec -= fast();
    return until;
}

int pthread_cond_timedwait(pthread_cond_t *restrict one, pthread_mutex_t *restrict lock,
                           const struct timespec *restrict told) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec until = kernels(told);
    /* By version: the oldest symbol of this name, which dlsym finds first, takes another structure. */
    if (!real) *(void **)&real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return real(one, lock, &until);
}

int sem_timedwait(sem_t *restrict one, const struct timespec *restrict told) {
    static int (*real)(sem_t *, const struct timespec *);
    struct timespec until = kernels(told);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "sem_timedwait");
    return real(one, &until);
}
