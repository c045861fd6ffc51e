/*
 * Published figures of devices, and where they were published. A figure that nobody published is not
 * invented: larger keys of a family then take the time of the largest published one, and operations of a
 * family without any figure take none. Time × rate = servers: where only a rate is published, the
 * number of servers says how the rate comes about.
 */
#include "device.h"

#include <string.h>

#define SECOND 1000000000LL

static const struct device devices[] = {
	{
		/* 10,000 RSA-2048, 20,000 P-256 and 17,000 AES-GCM operations a second at most, model A790 (Microsoft, Azure
		 * Dedicated HSM FAQ); best at about 30 threads per HSM (thalesdocs, luna 7.1, ha/performance). */
		.name = "luna-a790", .servers = 30,
		.ms = {[WORK_RSA2048] = 3, [WORK_RSA3072] = 3, [WORK_RSA4096] = 3, [WORK_P256] = 1.5, [WORK_P384] = 1.5, [WORK_P521] = 1.5,
		       [WORK_ED25519] = 1.5, [WORK_AES] = 30 / 17.0, [WORK_WRAP] = 30 / 17.0},
	},
	{
		/* 1,000 RSA-2048 and 1,500 P-256 signatures a second per HSM (AWS CloudHSM user guide, performance: 2,000 and
		 * 3,000 for two hsm2m.medium). No latency is published: 10 at once is an assumption. 1,024 sessions an
		 * application, 16,666 keys (same guide, quotas). Opening sessions fast fails with
		 * CKR_ARGUMENTS_BAD (awsdocs/aws-cloudhsm-user-guide#27); the rate of 10 a second is an assumption. */
		.name = "cloudhsm-hsm2m", .servers = 10,
		.ms = {[WORK_RSA2048] = 10, [WORK_RSA3072] = 10, [WORK_RSA4096] = 10, [WORK_P256] = 10 / 1.5, [WORK_P384] = 10 / 1.5, [WORK_P521] = 10 / 1.5},
		.sessions = 1024, .objects = 16666, .opens = 10, .opens_per = SECOND, .opens_code = 0x7,
	},
	{
		/* Yubico, YubiHSM 2 device specifications, "Performance": averages of an otherwise idle device, written down from
		 * memory and to be checked there. One command at a time; 16 sessions, which expire after 30 s (yubihsm-shell#81, #541); 256 objects (same page). */
		.name = "yubihsm2", .servers = 1,
		.ms = {[WORK_RSA2048] = 139, [WORK_RSA3072] = 504, [WORK_RSA4096] = 852, [WORK_P256] = 73, [WORK_P384] = 120, [WORK_P521] = 210,
		       [WORK_ED25519] = 105, [WORK_WRAP] = 10, [WORK_AES] = 10, [WORK_HMAC] = 4, [WORK_HMAC512] = 243},
		.sessions = 16, .linger = 30 * SECOND, .objects = 256,
	},
	{
		/* P-256 signatures of the TPMs that Chrome met: median 200 ms, 95th percentile 600 ms ("TPM performance",
		 * stiankri.substack.com), hence sigma = ln 3 / 1.645. One lock per token and 1,024 sessions (tpm2-pkcs11 1.9.0). */
		.name = "tpm", .servers = 1, .sigma = 0.668,
		.ms = {[WORK_RSA2048] = 200, [WORK_RSA3072] = 200, [WORK_RSA4096] = 200, [WORK_P256] = 200, [WORK_P384] = 200, [WORK_P521] = 200,
		       [WORK_ED25519] = 200, [WORK_AES] = 200, [WORK_HMAC] = 200, [WORK_HMAC512] = 200},
		.sessions = 1024,
	},
};

const struct device *device_at(size_t i) { return i < sizeof devices / sizeof *devices ? &devices[i] : NULL; }

const struct device *device_named(const char *name)
{
	for (size_t i = 0; device_at(i); i++)
		if (strcmp(devices[i].name, name) == 0)
			return &devices[i];
	return NULL;
}

static enum work by_size(CK_ULONG n, CK_ULONG small, CK_ULONG middle, enum work first)
{
	return n <= small ? first : n <= middle ? first + 1 : first + 2;
}

enum work device_work(enum fn f, CK_ULONG mechanism, CK_ULONG in, CK_ULONG out)
{
	/* What has the length of the modulus, or of a signature. */
	CK_ULONG size = out;

	switch (f) {
	case FN_C_Decrypt: case FN_C_DecryptFinal: case FN_C_Verify: case FN_C_VerifyFinal: case FN_C_UnwrapKey:
	case FN_C_GenerateKeyPair:
		size = in;
		break;
	case FN_C_Encrypt: case FN_C_EncryptUpdate: case FN_C_EncryptFinal: case FN_C_DecryptUpdate:
	case FN_C_Sign: case FN_C_SignFinal: case FN_C_SignRecover: case FN_C_VerifyRecover:
	case FN_C_WrapKey: case FN_C_DeriveKey: case FN_C_GenerateKey:
		break;
	case FN_C_GenerateRandom:
		return WORK_OTHER;
	default:
		return WORK_NONE;
	}
	switch (mechanism) {
	case 0x0: case 0x1: case 0x3: case 0x6: case 0x9: case 0xD: case 0xE: case 0x40: case 0x41: case 0x42: case 0x43: case 0x44:
	case 0x45: case 0x46: case 0x47: case 0x1054:
		return by_size(size, 256, 384, WORK_RSA2048);
	case 0x1040: case 0x1041: case 0x1042: case 0x1043: case 0x1044: case 0x1045: case 0x1046: case 0x1050: case 0x1051:
		return f == FN_C_GenerateKeyPair ? by_size(size, 32, 48, WORK_P256) : by_size(size, 64, 96, WORK_P256);
	case 0x1055: case 0x1057:
		return WORK_ED25519;
	case 0x221: case 0x251: case 0x256:
		return WORK_HMAC;
	case 0x261: case 0x271:
		return WORK_HMAC512;
	case 0x2109: case 0x210A: case 0x210B:
		return WORK_WRAP;
	}
	return mechanism >= 0x1080 && mechanism <= 0x108E ? WORK_AES : WORK_OTHER;
}
