#!/bin/sh
# Installs, where the system has apt-get and this user may, what building and testing need; elsewhere
# names what is missing. It does nothing when everything is there.
set -eu

missing=""
need() { # need PACKAGE TEST...: the package is missing when the test fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}
libc() { [ -e /usr/include/stdlib.h ]; }
any() { # any FILE...: one of them is there. Patterns that match nothing stand for themselves, and are not there.
	for f; do
		[ -e "$f" ] && return 0
	done
	return 1
}
softhsm() { any /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so /opt/homebrew/lib/softhsm/libsofthsm2.so; }
nss() { any /usr/lib/*/libsoftokn3.so /usr/lib64/libsoftokn3.so /opt/homebrew/lib/libsoftokn3.dylib; }
postgres() { any /usr/lib/postgresql/*/bin/postgres || command -v initdb; }

need gcc command -v cc
need libc6-dev libc
need softhsm2 softhsm
need libnss3 nss
need postgresql postgres # for tests, which start servers of their own
need openssl command -v openssl
need curl command -v curl

[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null 2>&1; then
	sudo=""
	if [ "$(id -u)" -ne 0 ]; then
		if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo="sudo"; else sudo="none"; fi
	fi
	if [ "$sudo" != none ]; then
		echo "Installing:$missing"
		$sudo apt-get update -qq
		# shellcheck disable=SC2086 # a list of packages
		$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
		exit 0
	fi
fi
echo "Missing here, and cannot be installed by this user:$missing"
echo "Keyway works without SoftHSM (it then uses its embedded tokens); a C compiler is needed to build it."
command -v cc >/dev/null 2>&1
