/* Configuration, the real module, and what happens around fork. */
#include "faulthsm.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct settings settings;
CK_FUNCTION_LIST *real;

void complain(const char *format, ...)
{
	char text[1024];
	va_list a;
	va_start(a, format);
	vsnprintf(text, sizeof text, format, a);
	va_end(a);
	fprintf(stderr, "faulthsm: %s\n", text);
	log_note("%s", text);
}

static const struct { const char *word, *environment; char **value; } options[] = {
	{"module", "FAULTHSM_MODULE", &settings.module},
	{"control", "FAULTHSM_CONTROL", &settings.control},
	{"socket-dir", "FAULTHSM_SOCKET_DIR", &settings.sockets},
	{"state", "FAULTHSM_STATE", &settings.state},
};

#define OPTIONS (sizeof options / sizeof *options)

/* read_config reads lines of a word and a path; it returns 0 after complaining. A missing file is none if need is 0. */
static int read_config(const char *path, int need)
{
	FILE *f = fopen(path, "re");
	if (f == NULL) {
		if (need)
			complain("cannot read the configuration %s", path);
		return !need;
	}
	char line[4096];
	int good = 1;
	for (unsigned n = 1; good && fgets(line, sizeof line, f); n++) {
		char *word = line + strspn(line, " \t"), *end = word + strcspn(word, " \t\r\n");
		if (*word == '#' || end == word)
			continue;
		char *value = *end ? end + 1 + strspn(end + 1, " \t") : end;
		*end = 0;
		value[strcspn(value, "\r\n")] = 0;
		size_t i = 0;
		while (i < OPTIONS && strcmp(options[i].word, word) != 0)
			i++;
		if (i == OPTIONS) {
			complain("%s, line %u: unknown word \"%s\": write module, control, socket-dir or state, and a path", path, n, word);
			good = 0;
		} else if (*value == 0) {
			complain("%s, line %u: \"%s\" has no path", path, n, word);
			good = 0;
		} else if (*options[i].value == NULL) { /* the environment has been read */
			*options[i].value = strdup(value);
		}
	}
	fclose(f);
	return good;
}

/* configure reads the environment, then the file it names, else the file beside this library: its own path with .conf. */
static int configure(void)
{
	Dl_info self;
	char beside[4096];
	for (size_t i = 0; i < OPTIONS; i++) {
		const char *v = getenv(options[i].environment);
		if (v && *v)
			*options[i].value = strdup(v);
	}
	const char *file = getenv("FAULTHSM_CONFIG");
	if (file && *file)
		return read_config(file, 1);
	if (dladdr((void *)&list, &self) && self.dli_fname && snprintf(beside, sizeof beside, "%s.conf", self.dli_fname) < (int)sizeof beside)
		return read_config(beside, 0);
	return 1;
}

static void fork_prepare(void)
{
	plan_fork_prepare();
	track_fork_prepare();
}

static void fork_parent(void)
{
	track_fork_done(0);
	plan_fork_parent();
}

/* The child has this thread only. What other threads held is made new; the socket's thread begins with the child's C_Initialize. */
static void fork_child(void)
{
	track_fork_done(1);
	plan_fork_child();
	gate_forked();
	calls_forked();
	pin_forked();
	shared_forked();
	log_forked();
	control_forked();
	atomic_store(&initialized, 0);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **out);

static CK_RV load(void)
{
	CK_RV (*get)(CK_FUNCTION_LIST **);
	if (!configure())
		return CKR_GENERAL_ERROR;
	if (settings.module == NULL) {
		complain("no real module: set FAULTHSM_MODULE, or write \"module /path/to/module.so\" into this library's .conf");
		return CKR_GENERAL_ERROR;
	}
	if (settings.state == NULL && settings.control) {
		size_t n = strlen(settings.control) + sizeof ".state";
		if ((settings.state = malloc(n)) != NULL)
			snprintf(settings.state, n, "%s.state", settings.control);
	}
	void *h = dlopen(settings.module, RTLD_NOW | RTLD_LOCAL);
	if (h == NULL) {
		complain("cannot load the real module: %s", dlerror());
		return CKR_GENERAL_ERROR;
	}
	*(void **)&get = dlsym(h, "C_GetFunctionList");
	if (get == NULL) {
		complain("%s has no C_GetFunctionList: it is no PKCS#11 module", settings.module);
		return CKR_GENERAL_ERROR;
	}
	if (get == C_GetFunctionList) { /* which would wait for itself for ever */
		complain("the real module %s is this module itself", settings.module);
		return CKR_GENERAL_ERROR;
	}
	CK_FUNCTION_LIST *f = NULL;
	CK_RV rv = get(&f);
	if (rv != CKR_OK || f == NULL) {
		complain("C_GetFunctionList of %s returned 0x%lX", settings.module, rv);
		return rv ? rv : CKR_GENERAL_ERROR;
	}
	list.version = f->version;
	real = f;
	control_load();
	pthread_atfork(fork_prepare, fork_parent, fork_child);
	return CKR_OK;
}

CK_RV load_real(void)
{
	static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
	static int tried;
	static CK_RV result;
	pthread_mutex_lock(&mu);
	if (!tried) {
		result = load();
		tried = 1;
	}
	pthread_mutex_unlock(&mu);
	return result;
}

/*
 * The one symbol there is. C_GetInterface of PKCS#11 3.0 is left out on purpose: who does not find it
 * falls back to this, and no call can pass the rules by.
 */
__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST **out)
{
	CK_RV rv = load_real();
	return rv == CKR_OK ? list.C_GetFunctionList(out) : rv;
}
