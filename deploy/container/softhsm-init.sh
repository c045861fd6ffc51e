#!/bin/sh
# Makes the SoftHSM tokens that are not there yet, each with the PIN in a file. For trying Keyway out: a PIN on
# softhsm2-util's command line can be seen by whoever may list this container's processes while it runs.
#
#   softhsm-init LABEL=PINFILE...
set -eu

conf=${SOFTHSM2_CONF:?name the configuration of SoftHSM}
mkdir -p "$(sed -n 's/^directories.tokendir *= *//p' "$conf")"
for token; do
	label=${token%%=*}
	pin=$(cat "${token#*=}")
	if softhsm2-util --show-slots | sed -n 's/^ *Label: *\([^ ]*\) *$/\1/p' | grep -qx "$label"; then
		echo "token $label is there"
		continue
	fi
	# The security officer's PIN is thrown away: nobody needs it again.
	so=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	softhsm2-util --init-token --free --label "$label" --pin "$pin" --so-pin "$so" >/dev/null
	echo "made token $label"
done
