/* Names of functions, return codes and mechanisms, and the numbers behind them. */
#ifndef FAULTHSM_NAMES_H
#define FAULTHSM_NAMES_H

#include "ck.h"

struct named { const char *name; CK_ULONG value; };

/* Names come without CKR_ and CKM_; a number without a name is written as 0x… into the buffer. */
const char *name_function(enum fn f);
const char *name_code(CK_RV rv, char *buffer, size_t size);
const char *name_mechanism(CK_ULONG m, char *buffer, size_t size);

/* Numbers of names, with or without their prefix; 0 when there is no such name. */
int value_function(const char *name, enum fn *f);
int value_code(const char *name, CK_RV *rv);
int value_mechanism(const char *name, CK_ULONG *m);

/* nearest is the name that somebody who wrote a wrong one probably meant, or NULL. */
enum kind_of_name { NAME_FUNCTION, NAME_CODE, NAME_MECHANISM };
const char *nearest(enum kind_of_name kind, const char *wrong);

#endif
