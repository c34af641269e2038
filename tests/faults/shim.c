/* Makes the n-th file operation below a folder fail, as a full disk or a broken one does: preloaded
   into the process that is tested (LD_PRELOAD), armed through ctypes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static atomic_long count, failing;
static int error_number, for_good, list = -1;

/* Operations below `folder` are counted from 1; number `n` fails with `error`, and all that follow
   if `forever`; n 0: none does, and each is written to the file descriptor `listing`, if there is
   one: number, tab, name, path. A process that is forked goes on counting by itself. */
void fault_arm(const char *folder, long n, int error, int forever, int listing) {
  strncpy(root, folder, sizeof root - 1);
  error_number = error;
  for_good = forever;
  failing = n;
  list = listing;
  count = 0;
}

long fault_disarm(void) {
  root[0] = 0;
  failing = 0;
  list = -1;
  return count;
}

static int path_fails(const char *name, const char *path) {
  if (!root[0] || !path || strncmp(path, root, strlen(root)) != 0) return 0;
  long number = ++count;
  if (list >= 0) {
    char line[PATH_MAX + 32];
    int size = snprintf(line, sizeof line, "%ld\t%s %s\n", number, name, path);
    syscall(SYS_write, list, line, size);
  }
  if (!failing || (for_good ? number < failing : number != failing)) return 0;
  errno = error_number;
  return 1;
}

static int fd_fails(const char *name, int fd) {
  char link[64], path[PATH_MAX];
  if (!root[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return path_fails(name, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                           \
  int name(const char *path, int flags, ...) {                               \
    va_list rest;                                                            \
    va_start(rest, flags);                                                   \
    mode_t mode = va_arg(rest, mode_t);                                      \
    va_end(rest);                                                            \
    const char *kind = flags & (O_WRONLY | O_RDWR) ? "open to write" : "open"; \
    return path_fails(kind, path) ? -1 : REAL(name)(path, flags, mode);      \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                         \
  int name(int at, const char *path, int flags, ...) {                       \
    va_list rest;                                                            \
    va_start(rest, flags);                                                   \
    mode_t mode = va_arg(rest, mode_t);                                      \
    va_end(rest);                                                            \
    const char *kind = flags & (O_WRONLY | O_RDWR) ? "open to write" : "open"; \
    return path_fails(kind, path) ? -1 : REAL(name)(at, path, flags, mode);  \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *bytes, size_t size) {
  return fd_fails("write", fd) ? -1 : REAL(write)(fd, bytes, size);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
  return fd_fails("write", fd) ? -1 : REAL(pwrite)(fd, bytes, size, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
  return fd_fails("write", fd) ? -1 : REAL(pwrite64)(fd, bytes, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int parts_count) {
  return fd_fails("write", fd) ? -1 : REAL(writev)(fd, parts, parts_count);
}
int fsync(int fd) { return fd_fails("fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fd_fails("fsync", fd) ? -1 : REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) {
  return fd_fails("truncate", fd) ? -1 : REAL(ftruncate)(fd, size);
}
int mkdir(const char *path, mode_t mode) {
  return path_fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}
int rename(const char *from, const char *to) {
  return path_fails("rename", from) ? -1 : REAL(rename)(from, to);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
  return path_fails("rename", from) ? -1 : REAL(renameat)(from_at, from, to_at, to);
}

/* A machine without /dev/shm has no named semaphores. */
sem_t *sem_open(const char *name, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  unsigned value = va_arg(rest, unsigned);
  va_end(rest);
  if (getenv("FAULT_NO_SEMAPHORES")) {
    errno = ENOSYS;
    return SEM_FAILED;
  }
  return REAL(sem_open)(name, flags, mode, value);
}
