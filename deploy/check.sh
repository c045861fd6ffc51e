#!/bin/sh
# Checks what is in deploy/ with the tools that are here, and says what it leaves out. Run by `make deploy-check`, which
# builds bin/keyway first. It starts one keyway dev of its own, on free ports, for the metrics.
set -eu
cd "$(dirname "$0")/.."

COMPOSE_GO=${COMPOSE_GO:-github.com/compose-spec/compose-go/v2/cmd@v2.16.2}
keyway=$PWD/bin/keyway
tmp=$(mktemp -d)
dev=""
finish() {
	[ -z "$dev" ] || { kill "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; }
	rm -rf "$tmp"
}
trap finish EXIT
skipped=""
have() { # have TOOL WHAT PACKAGE: whether the tool is there; otherwise WHAT is left out
	command -v "$1" >/dev/null 2>&1 && return 0
	skipped="$skipped
  $2 (there is no $1; package $3)"
	return 1
}
fail() {
	echo "deploy/check.sh: $*" >&2
	exit 1
}

# Configurations: valid, and the annotated one complete, with its defaults as they are.
for f in deploy/keyway.yaml deploy/container/keyway.yaml; do
	"$keyway" serve --config "$f" --check >"$tmp/effective.yaml" || fail "$f is not valid"
done
"$keyway" serve --config deploy/keyway.yaml --check >"$tmp/effective.yaml"
for key in $(sed -n 's/^[ -]*\([a-z_0-9]*\):.*/\1/p' "$tmp/effective.yaml" | sort -u); do
	grep -q "\b$key\b" deploy/keyway.yaml || fail "deploy/keyway.yaml does not explain $key"
done
# Every default that is written as a comment, put in force, changes nothing.
sed -e '/# tls:$/,/client_ca_file: .*operators/d' -e '/# *postgres:/d' -e '/# cert_sha256:/d' -e '/# token_serial:/d' -e '/otlp_endpoint:/d' \
	-e 's/^\( *\)# \( *[a-z_0-9]*:\( .*\)\{0,1\}\)$/\1\2/' deploy/keyway.yaml >"$tmp/explicit.yaml"
"$keyway" serve --config "$tmp/explicit.yaml" --check >"$tmp/explicit.out" || fail "the defaults in deploy/keyway.yaml are not valid as they stand"
diff "$tmp/effective.yaml" "$tmp/explicit.out" >&2 || fail "deploy/keyway.yaml tells other defaults than are in force"
[ "$(grep -c '^ *# [a-z_0-9]*:' deploy/keyway.yaml)" -gt 20 ] || fail "the check of the defaults does not see them any more"
echo "configurations: valid, complete, defaults as told"

# systemd.
if have systemd-analyze "the systemd unit" systemd; then
	sed "s#^ExecStart=/usr/local/bin/keyway#ExecStart=$keyway#" deploy/systemd/keyway.service >"$tmp/keyway.service"
	systemd-analyze verify "$tmp/keyway.service" 2>"$tmp/verify" || fail "systemd-analyze verify: $(cat "$tmp/verify")"
	if grep -q 'keyway.service' "$tmp/verify"; then fail "systemd-analyze verify: $(cat "$tmp/verify")"; fi
	echo "systemd unit: valid; $(systemd-analyze security --offline=true --no-pager --threshold=20 "$tmp/keyway.service" | sed -n 's/.*Overall exposure level for keyway.service: \([0-9.]*\).*/exposure \1 of 10/p')"
fi

# Shell.
if have shellcheck "the shell scripts" shellcheck; then
	shellcheck -S warning deploy/*.sh deploy/container/*.sh
	echo "shell scripts: nothing to say"
fi

# Compose: parsed and resolved by the reference library. No engine is asked for anything.
if go run "$COMPOSE_GO" deploy/container/compose.yaml >"$tmp/compose.out" 2>"$tmp/compose.err"; then
	for f in $(sed -n 's/^ *- \(\.[^:]*\):.*:ro$/\1/p' deploy/container/compose.yaml); do
		[ -e "deploy/container/$f" ] || fail "compose.yaml mounts $f, which is not there"
	done
	echo "compose file: conforms to the specification (images are not built, nothing is started)"
elif grep -q 'dial tcp\|no such host\|i/o timeout\|module lookup disabled\|connection refused' "$tmp/compose.err"; then
	skipped="$skipped
  the compose file (its parser cannot be fetched here)"
else
	fail "compose.yaml: $(cat "$tmp/compose.err")"
fi
for f in $(sed -n 's/^COPY \([^-][^ ]*\) .*/\1/p' deploy/container/Containerfile); do
	[ -e "$f" ] || fail "Containerfile copies $f, which is not there"
done
skipped="$skipped
  building the Containerfile (needs a container engine)"

# Every metric that rules and dashboard use is one that a node really shows.
"$keyway" dev --embedded --dir "$tmp/dev" --listen 127.0.0.1:0 --admin 127.0.0.1:0 >"$tmp/dev.out" 2>&1 &
dev=$!
for _ in $(seq 150); do
	[ -e "$tmp/dev/dev.json" ] && break
	sleep 0.2
done
value() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" "$tmp/dev/dev.json"; }
[ -e "$tmp/dev/dev.json" ] || fail "keyway dev did not start: $(cat "$tmp/dev.out")"
curl -fsS -o "$tmp/answer" -H "Authorization: Bearer $(value client_token)" "$(value url)/api/v1/keys/demo-sign/sign" -d '{"message":"aGVsbG8="}'
curl -fsS -o "$tmp/metrics" "$(value admin_url)/metrics"
sed -n 's/^\([a-z_][a-z0-9_]*\)[{ ].*/\1/p' "$tmp/metrics" | sort -u >"$tmp/shown"
{
	sed -n 's/^ *expr: //p; /expr: |/,/for:/p' deploy/prometheus/keyway.rules.yml
	sed -n 's/^ *"expr": "\(.*\)",*$/\1/p' deploy/grafana/keyway.json
	sed -n 's/.*label_values(\([a-z_]*\),.*/\1/p' deploy/grafana/keyway.json
} >"$tmp/exprs"
grep -o '\b\(http\|hsm\|pool\|process\|go\)_[a-z_]*\b' "$tmp/exprs" | sort -u | grep -v '^hsm_\(pool\|member\|operation\)$\|^http_\(route\|response_status_code\)$' >"$tmp/used"
[ "$(wc -l <"$tmp/used")" -ge 15 ] || fail "only $(wc -l <"$tmp/used") metrics were found in rules and dashboard: does the check still see them?"
unknown=$(comm -23 "$tmp/used" "$tmp/shown")
[ -z "$unknown" ] || fail "rules or dashboard use metrics that no node shows: $unknown"
# And the other way round: docs/ops/metrics.md explains every one of ours.
for m in $(sed -n 's/^# TYPE \(\(http\|hsm\|pool\)_[a-z_]*\) .*/\1/p' "$tmp/metrics"); do
	grep -q "\`$m\`" docs/ops/metrics.md || fail "docs/ops/metrics.md does not explain $m"
done
for m in $(grep -o '`\(http\|hsm\|pool\)_[a-z_]*`' docs/ops/metrics.md | tr -d '`' | sort -u); do
	grep -q "\b$m\b" "$tmp/metrics" || fail "docs/ops/metrics.md explains $m, which no node shows"
done
echo "metrics: $(wc -l <"$tmp/used") used by rules and dashboard, all shown by a node; all shown are explained"

# Prometheus: rules, their tests, and the dashboard's expressions as rules.
if have promtool "the Prometheus rules and the dashboard's expressions" prometheus; then
	(
		cd deploy/prometheus
		promtool check config prometheus.yml
		promtool test rules keyway.rules.test.yml
	) >"$tmp/promtool" 2>&1 || fail "promtool: $(cat "$tmp/promtool")"
	{
		echo 'groups: [{name: dashboard, rules: ['
		sed -n 's/^ *"expr": "\(.*\)",*$/\1/p' deploy/grafana/keyway.json | sed -e 's/\\"/"/g' -e 's/\$__rate_interval/5m/g' -e 's/\$[a-z]*/.*/g' -e "s/'/''/g" -e "s/.*/{record: x, expr: '&'},/" | sort -u
		echo ']}]'
	} >"$tmp/dashboard.rules.yml"
	promtool check rules --lint=none "$tmp/dashboard.rules.yml" >"$tmp/promtool" 2>&1 || fail "dashboard: $(cat "$tmp/promtool")"
	echo "Prometheus: rules valid and tested, $(grep -c record: "$tmp/dashboard.rules.yml") dashboard expressions parse"
fi
skipped="$skipped
  how the dashboard looks (needs Grafana)"

echo "left out:$skipped"
