/* Preloaded into another process: the time of day is off by as many seconds as a file says, and may
   jump while the process runs. Durations (CLOCK_MONOTONIC) stay right, and so do all waits.

   SQLite is left alone, as if it were a database server: it runs within the process, so its clock
   would be off as well, and two processes would never disagree about the database's time. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*gettime)(clockid_t, struct timespec *);
static const volatile long long *off_by;

__attribute__((constructor)) static void load(void) {
    gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CLOCK_OFF_BY");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *off_by, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        off_by = mapped;
    close(file);
}

static int look(clockid_t id, struct timespec *now, void *caller) {
    if (!gettime)
        load(); /* asked before the constructor has run */
    int failed = gettime(id, now);
    Dl_info info;
    if (failed || !off_by || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
        return failed;
    if (!(dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "sqlite3")))
        now->tv_sec += *off_by;
    return 0;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    return look(id, now, __builtin_return_address(0));
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int failed = look(CLOCK_REALTIME, &precise, __builtin_return_address(0));
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *to) {
    struct timespec now;
    look(CLOCK_REALTIME, &now, __builtin_return_address(0));
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}
