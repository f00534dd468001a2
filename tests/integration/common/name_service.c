/* A name service that a test scripts: preloaded into the daemon, it answers for the names that have a file in
 * the directory $NAME_SERVICE, "user-NAME" or "group-NAME". The file has a number, "missing", "fail", or "hang",
 * which lasts until the file has something else. Other names go to the real name service. A lookup by number,
 * which the daemon never makes, leaves the file "by-number". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum answer { UNSCRIPTED, FOUND, MISSING, FAILED };

static enum answer ask(const char *kind, const char *name, unsigned *number) {
    const char *dir = getenv("NAME_SERVICE");
    char path[4096], text[64];
    snprintf(path, sizeof path, "%s/%s-%s", dir ? dir : "", kind, name);
    for (;;) {
        FILE *file = fopen(path, "re");
        if (!file) return UNSCRIPTED;
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        if (strcmp(text, "hang")) break;
        usleep(10000);
    }
    if (!strcmp(text, "missing")) return MISSING;
    if (!strcmp(text, "fail")) return FAILED;
    *number = (unsigned)strtoul(text, NULL, 10);
    return FOUND;
}

static int fail(void) {
    errno = EIO;
    return EIO;
}

static void note_lookup_by_number(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/by-number", getenv("NAME_SERVICE") ? getenv("NAME_SERVICE") : "");
    FILE *file = fopen(path, "we");
    if (file) fclose(file);
}

int getpwnam_r(const char *name, struct passwd *user, char *buffer, size_t size, struct passwd **result) {
    unsigned number;
    *result = NULL;
    switch (ask("user", name, &number)) {
    case MISSING: return 0;
    case FAILED: return fail();
    case FOUND:
        snprintf(buffer, size, "%s", name);
        char *empty = buffer + strlen(buffer);
        *user = (struct passwd){buffer, empty, number, number, empty, empty, empty};
        *result = user;
        return 0;
    default: break;
    }
    int (*real)(const char *, struct passwd *, char *, size_t, struct passwd **) = dlsym(RTLD_NEXT, "getpwnam_r");
    return real(name, user, buffer, size, result);
}

int getgrnam_r(const char *name, struct group *group, char *buffer, size_t size, struct group **result) {
    static char *no_members[] = {NULL};
    unsigned number;
    *result = NULL;
    switch (ask("group", name, &number)) {
    case MISSING: return 0;
    case FAILED: return fail();
    case FOUND:
        snprintf(buffer, size, "%s", name);
        *group = (struct group){buffer, buffer + strlen(buffer), number, no_members};
        *result = group;
        return 0;
    default: break;
    }
    int (*real)(const char *, struct group *, char *, size_t, struct group **) = dlsym(RTLD_NEXT, "getgrnam_r");
    return real(name, group, buffer, size, result);
}

int getpwuid_r(uid_t uid, struct passwd *user, char *buffer, size_t size, struct passwd **result) {
    note_lookup_by_number();
    int (*real)(uid_t, struct passwd *, char *, size_t, struct passwd **) = dlsym(RTLD_NEXT, "getpwuid_r");
    return real(uid, user, buffer, size, result);
}

int getgrgid_r(gid_t gid, struct group *group, char *buffer, size_t size, struct group **result) {
    note_lookup_by_number();
    int (*real)(gid_t, struct group *, char *, size_t, struct group **) = dlsym(RTLD_NEXT, "getgrgid_r");
    return real(gid, group, buffer, size, result);
}
