/* What the parts of the module know of each other. */
#ifndef FAULTHSM_H
#define FAULTHSM_H

#include "ck.h"
#include "lang.h"

#include <stdatomic.h>
#include <stdio.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* --- load.c: configuration and the real module --- */

struct settings {
	char *module, *control, *sockets, *state; /* NULL when not configured */
};
extern struct settings settings;
extern CK_FUNCTION_LIST *real;

/* load_real loads the real module once and returns CKR_OK, or says on standard error why it cannot. */
CK_RV load_real(void);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- calls_*.c: the functions that callers see --- */

extern CK_FUNCTION_LIST list;
void calls_forked(void);
/* session_limit is how many sessions there may be, 0 for no limit; UINT64_MAX for none at all. */
struct plan;
uint64_t session_limit(const struct plan *p, CK_RV *code, int64_t *linger);

/* One call on its way through. */
struct call {
	enum fn fn;
	int has_slot, has_key, has_mechanism;
	int armed;   /* before_slow has run */
	int end;     /* answered without the token, whose pending operation is to be ended */
	int altered; /* the caller did not get what the token said */
	CK_SESSION_HANDLE session; /* 0 when the function takes none */
	CK_SLOT_ID slot;
	CK_OBJECT_HANDLE key, key2; /* as the caller sees them, 0 when there is none */
	CK_ULONG mechanism;
	CK_ULONG in; /* bytes that went in */
	CK_BYTE *out; /* where the result goes, or NULL */
	CK_ULONG *len;
	CK_RV rv;
	int64_t start;
	struct plan *plan;
	struct fired *fired; /* rules with effects still to come */
	int fired_count, fired_room;
};

/* index is which fitting call of the rule this was; only: just the one effect, not those after it. */
struct fired { struct item *it; uint64_t index; int next, only; };

/* Counters of one function, each in a cache line of its own. */
struct counters { _Atomic uint64_t calls, returned, failed, altered; } __attribute__((aligned(64)));
extern struct counters counters[FN_COUNT];

/* --- engine.c: what rules do to a call --- */

/* armed is not 0 while anything but the plain way is to be looked at. */
extern _Atomic int armed;
/* before_slow returns 1 when the token is to be called, else the answer is in c->rv. */
int before_slow(struct call *c);
void after_slow(struct call *c);
/* engine_now carries out one effect at once, on every slot; NULL or why it cannot be. */
const char *engine_now(const struct effect *f);

/* --- plan.c: which statements are in force --- */

struct plan {
	atomic_int refs;
	struct item **at;
	size_t n;
	uint64_t seed;
	/* The statements there may be one of, or NULL. */
	struct item *limit_sessions, *limit_objects, *limit_opens, *pin_tries, *clock, *token, *device;
};

/* plan_hold returns the plan in force, which stays valid until plan_drop. */
struct plan *plan_hold(void);
void plan_drop(struct plan *p);
/* plan_file puts text in the place of all that came from the file; plan_add adds to what came from the socket. An error changes nothing. */
int plan_file(const char *text, size_t len, struct lang_error *e);
int plan_add(const char *text, size_t len, struct lang_error *e);
/* plan_remove takes one statement out of force, plan_clear all; plan_release lets hanging calls go on (id NULL: all). They return how many. */
size_t plan_remove(const char *id);
size_t plan_clear(void);
size_t plan_release(const char *id);
/* plan_arm looks again at whether anything is to be looked at. */
void plan_arm(void);
void plan_fork_prepare(void);
void plan_fork_parent(void);
void plan_fork_child(void);

/* --- wait.c: time and chance --- */

int64_t now_ns(void);
/* wait_until waits in an item until a time (INT64_MAX: for ever), or until the item is gone or, if hang, released. */
void wait_until(struct item *it, int64_t until, int hang);
/* chance is the i-th random number of an item: the same for the same seed, item and i, whatever else happens. */
uint64_t chance(uint64_t seed, const struct item *it, uint64_t i);
double dist_sample(const struct dist *d, uint64_t random);
/* serve reserves one of n servers for length ns from start on and returns when it will be done; backlog is how long a call would wait. */
int64_t serve(_Atomic int64_t *free_at, unsigned n, int64_t start, int64_t length);
int64_t backlog(_Atomic int64_t *free_at, unsigned n, int64_t now);

/* --- shared.c: what processes with the same state file share --- */

/* shared_servers returns room for n servers under a name, shared if there is a state file, else private. */
_Atomic int64_t *shared_servers(const char *name, unsigned n, int *private);
/* shared_sessions tells the others how many sessions this process has; shared_others is how many they have. */
void shared_sessions(uint64_t n);
uint64_t shared_others(int64_t linger);
void shared_forked(void);

/* --- track.c: sessions, their operations, their objects --- */

enum op { OP_ENCRYPT, OP_DECRYPT, OP_DIGEST, OP_SIGN, OP_SIGN_RECOVER, OP_VERIFY, OP_VERIFY_RECOVER, OP_COUNT };

void track_open(CK_SESSION_HANDLE h, CK_SLOT_ID slot);
void track_close(CK_SESSION_HANDLE h);
void track_close_slot(CK_SLOT_ID slot);
void track_clear(void);
int track_slot(CK_SESSION_HANDLE h, CK_SLOT_ID *slot);
void track_op(CK_SESSION_HANDLE h, enum op op, CK_ULONG mechanism, CK_OBJECT_HANDLE key);
int track_op_of(CK_SESSION_HANDLE h, enum op op, CK_ULONG *mechanism, CK_OBJECT_HANDLE *key);
uint64_t track_sessions(void);
/* track_some returns one session of each slot that has any, at most max. */
struct tracked { CK_SESSION_HANDLE h; CK_SLOT_ID slot; };
size_t track_some(struct tracked *out, size_t max);
void track_object(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, int private);
void track_object_gone(CK_OBJECT_HANDLE object);
void track_logged_out(CK_SLOT_ID slot);
uint64_t track_objects(void);
void track_fork_prepare(void);
void track_fork_done(int child);

/* --- token.c: what is done to the token itself --- */

/* Calls into the real module pass the gate; whoever changes the token under their feet closes it first. */
void gate_enter(void);
void gate_leave(void);
void gate_forked(void);

#define HANDLE_BITS 48
extern _Atomic uint64_t object_epoch;

const char *token_logout(const CK_SLOT_ID *slot, int has_code, CK_RV code);
const char *token_close_session(CK_SESSION_HANDLE h);
const char *token_close_sessions(const CK_SLOT_ID *slot);
void token_forget_objects(void);
const char *token_remove(int64_t for_ns);
void token_return(void);
/* token_away is the code calls in a session get while the token is away, CKR_OK while it is there. */
CK_RV token_away(const struct plan *p);
/* token_login_code is what calls with keys get after a logout with a code, until the next login. */
CK_RV token_login_code(CK_SLOT_ID slot);
void token_logged_in(CK_SLOT_ID slot);
void token_finalized(void);
int token_disturbed(void);

/* --- pin.c: wrong PINs --- */

/* pin_begin locks the count of a token; returns 1 if its PIN is locked. pin_end counts rv and unlocks. */
struct pin_count { int fd; char key[40]; unsigned wrong; };
int pin_begin(struct pin_count *p, CK_SLOT_ID slot, unsigned tries);
void pin_end(struct pin_count *p, CK_RV rv);
unsigned pin_wrong(const CK_UTF8CHAR serial[16]);
void pin_reset(CK_SLOT_ID slot);
void pin_reset_all(void);
void pin_forked(void);

/* --- log.c: what was done, for people --- */

void log_effect(const struct call *c, const char *id, const struct effect *f);
void log_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_print(FILE *out, size_t most);
void log_forked(void);

/* --- control.c, socket.c, verbs.c: control file and socket --- */

struct control_status {
	char file[16];        /* none, absent, ok or error */
	struct lang_error error;
	uint64_t hash;        /* FNV-1a of the text last looked at, whether it was good or not */
	uint64_t loads;       /* how often it was looked at */
};
void control_load(void);                     /* looks at the control file now */
int control_reload(struct lang_error *e);    /* the same, for the verb */
void control_start(void);                    /* starts the thread, once in a process */
void control_status_get(struct control_status *s);
void control_forked(void);

/* verb carries out a command and writes its answer. in_batch keeps what came since "begin". */
struct client { int fd; char *batch; size_t batch_len; int batching; char line[LINE_MAX_LEN + 2]; size_t used; int too_long; };
void verb(struct client *cl, char *line, FILE *out);

#define CLIENTS 16
/* socket_open returns 0 and errno when it cannot; socket_close also removes the name from the directory. */
int socket_open(void);
void socket_close(int also_name);
int socket_fd(void);
const char *socket_where(void);
void client_welcome(struct client *clients);
void client_hear(struct client *cl);
void client_hang_up(struct client *cl);

/* Where leaked memory is kept, so that it is neither freed nor lost to a leak checker. */
extern _Atomic uint64_t leaked;
extern _Atomic int initialized;

#endif
