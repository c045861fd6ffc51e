/* Devices whose service times and limits can be imitated. */
#ifndef FAULTHSM_DEVICE_H
#define FAULTHSM_DEVICE_H

#include "ck.h"

/* What a device's figures are given for. */
enum work {
	WORK_RSA2048, WORK_RSA3072, WORK_RSA4096, WORK_P256, WORK_P384, WORK_P521, WORK_ED25519,
	WORK_AES, WORK_HMAC, WORK_HMAC512, WORK_WRAP, WORK_OTHER, WORK_COUNT, WORK_NONE = -1
};

struct device {
	const char *name;
	unsigned servers;            /* operations at once */
	double ms[WORK_COUNT];       /* service times; 0: the device does not wait */
	double sigma;                /* of the logarithm; 0: always the same time */
	uint64_t sessions;           /* 0: no limit */
	int64_t linger;              /* ns that sessions of a process that died still count */
	uint64_t objects;            /* 0: no limit */
	uint64_t opens; int64_t opens_per; CK_RV opens_code; /* 0: no limit */
};

const struct device *device_named(const char *name);
/* device_at returns the i-th device, NULL after the last. */
const struct device *device_at(size_t i);

/*
 * device_work says which figure a call falls under: function, mechanism of the operation, and how many
 * bytes went in and came out, by which RSA moduli and curves are told apart. WORK_NONE for calls that
 * reach no device.
 */
enum work device_work(enum fn f, CK_ULONG mechanism, CK_ULONG in, CK_ULONG out);

#endif
