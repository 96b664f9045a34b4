/* What an Android program expects of its C library, on top of glibc: enough to run benchmark_model under QEMU in a test.
 *
 * Most functions are called the same and take the same in both. Here are those that are not: other numbers (sysconf), other sizes
 * (sets of signals, mallinfo), standard streams that are places in an array, and the start of the program. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <dlfcn.h>

/* Bionic keeps the stack protector's value 0x28 bytes into a thread's block; here nothing else may lie there and change. The
 * first library's variables come first. */
__thread char pad[64] __attribute__((tls_model("initial-exec")));

char __sF[3][152];
static FILE *real(void *stream) {
    for (int i = 0; i < 3; i++)
        if (stream == (void *)__sF[i]) return i == 0 ? stdin : i == 1 ? stdout : stderr;
    return stream;
}
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
size_t fwrite(const void *data, size_t size, size_t n, FILE *to) { return NEXT(fwrite)(data, size, n, real(to)); }
int fflush(FILE *to) { return NEXT(fflush)(to ? real(to) : NULL); }
int fputc(int c, FILE *to) { return NEXT(fputc)(c, real(to)); }
int fputs(const char *text, FILE *to) { return NEXT(fputs)(text, real(to)); }
int fileno(FILE *of) { return NEXT(fileno)(real(of)); }
int getc(FILE *from) { return NEXT(getc)(real(from)); }
int ungetc(int c, FILE *to) { return NEXT(ungetc)(c, real(to)); }
int vfprintf(FILE *to, const char *format, va_list list) { return NEXT(vfprintf)(real(to), format, list); }
int fprintf(FILE *to, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = vfprintf(to, format, list);
    va_end(list);
    return n;
}

int *__errno(void) { return __errno_location(); }
size_t __strlen_chk(const char *text, size_t size) { (void)size; return strlen(text); }
extern int __xpg_strerror_r(int, char *, size_t);
int posix_strerror_r(int, char *, size_t) __asm__("strerror_r");
int posix_strerror_r(int number, char *text, size_t size) { return __xpg_strerror_r(number, text, size); }
long sysconf(int name) {
    switch (name) {
        case 39: case 40: return NEXT(sysconf)(_SC_PAGESIZE);
        case 96: return NEXT(sysconf)(_SC_NPROCESSORS_CONF);
        case 97: return NEXT(sysconf)(_SC_NPROCESSORS_ONLN);
        case 98: return NEXT(sysconf)(_SC_PHYS_PAGES);
    }
    errno = EINVAL;
    return -1;
}
int sigfillset(sigset_t *set) { memset(set, 0xff, 8); return 0; }
int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    sigset_t mine, was;
    sigemptyset(&mine);
    if (set) memcpy(&mine, set, 8);
    int status = NEXT(sigprocmask)(how, set ? &mine : NULL, &was);
    if (old) memcpy(old, &was, 8);
    return status;
}
struct mallinfo2 mallinfo_of_size_t(void) __asm__("mallinfo");
struct mallinfo2 mallinfo_of_size_t(void) { return mallinfo2(); }

int __system_property_get(const char *name, char *value) { (void)name; *value = 0; return 0; }
void android_set_abort_message(const char *text) { (void)text; }
int __android_log_write(int level, const char *tag, const char *text) { (void)level; (void)tag; (void)text; return 1; }
int __android_log_vprint(int level, const char *tag, const char *format, va_list list) {
    (void)level; (void)tag; (void)format; (void)list; return 1;
}
int __android_log_print(int level, const char *tag, const char *format, ...) { (void)level; (void)tag; (void)format; return 1; }

/* The program's own start calls this: its constructors, between -1 and 0, then its main. */
typedef void Constructor(int, char **, char **);
struct structors { Constructor **preinit, **init, **fini; };
void __libc_init(void *arguments, void (*at_exit)(void), int (*main)(int, char **, char **), const struct structors *of) {
    (void)at_exit;
    int argc = (int)*(uintptr_t *)arguments;
    char **argv = (char **)arguments + 1, **environment = argv + argc + 1;
    pad[0] = 1;
    for (Constructor **one = of->init; *one; one++)
        if (*one != (Constructor *)-1) (*one)(argc, argv, environment);
    exit(main(argc, argv, environment));
}
