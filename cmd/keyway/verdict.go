package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"keyway/hsm/pkcs11"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
)

// wrongField is one thing wrong with a configuration, at a path such as "pools[0].members[1].pin_file".
type wrongField struct {
	path string
	line int // 0 when not known
	err  error
}

func (f *wrongField) Error() string {
	if f.line > 0 {
		return fmt.Sprintf("line %d: %s: %v", f.line, f.path, f.err)
	}
	return fmt.Sprintf("%s: %v", f.path, f.err)
}

func (f *wrongField) Unwrap() error { return f.err }

// MarshalJSON tells the same to programs.
func (f *wrongField) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Line    int    `json:"line,omitempty"`
		Setting string `json:"setting"`
		Problem string `json:"problem"`
	}{f.line, f.path, f.err.Error()})
}

// verdict gathers what is wrong.
type verdict []error

func (v *verdict) bad(path, format string, a ...any) {
	*v = append(*v, &wrongField{path: path, err: fmt.Errorf(format, a...)})
}

func (v *verdict) check(path string, err error) {
	if err != nil {
		*v = append(*v, &wrongField{path: path, err: err})
	}
}

func (v *verdict) address(path, addr string, loopbackOnly bool, advice string) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		v.bad(path, "use host:port, for instance 127.0.0.1:8400, not %q", addr)
	} else if loopbackOnly && !loopback(host) {
		v.bad(path, "%s can be reached from other machines, and there is no TLS: %s", addr, advice)
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (v *verdict) tls(path string, t *tlsConfig) {
	if t == nil {
		return
	}
	if t.CertFile == "" {
		v.bad(path+".cert_file", "name the PEM file of the server's certificate with its chain")
	}
	if t.KeyFile == "" {
		v.bad(path+".key_file", "name the PEM file of the certificate's key")
	}
}

func (v *verdict) digest(path string, d digest) {
	if b, err := hex.DecodeString(string(d)); d != "" && (err != nil || len(b) != 32 || strings.ToLower(string(d)) != string(d)) {
		v.bad(path, "use the 64 lower-case hexadecimal digits of a SHA-256, never the token itself")
	}
}

func (v *verdict) store(s storeConfig) {
	switch {
	case s.Path == "" && s.Postgres == nil:
		v.bad("store.path", "name the file of the database, for instance /var/lib/keyway/keyway.db, or give postgres instead")
	case s.Path != "" && s.Postgres != nil:
		v.bad("store.postgres", "there is a path too: use one of them")
	}
	if p := s.Postgres; p != nil {
		v.check("store.postgres.dsn", sqlstore.CheckDSN(p.DSN))
		if p.MaxConnections < 1 {
			v.bad("store.postgres.max_connections", "use 1 or more, not %d", p.MaxConnections)
		}
	}
}

// member fills in what the record's URI says and puts each of its complaints at its field.
func (v *verdict) member(path string, r *lifecycle.MemberRecord) {
	var all []error
	if j, ok := r.Check().(interface{ Unwrap() []error }); ok { // what errors.Join returns
		all = j.Unwrap()
	}
	for _, e := range all {
		field, rest, ok := strings.Cut(e.Error(), ": ")
		if !ok || strings.ContainsAny(field, " \"") {
			*v = append(*v, &wrongField{path: path, err: e})
			continue
		}
		v.bad(path+"."+field, "%s", rest)
	}
	if r.Driver == "pkcs11" && filepath.IsAbs(r.Profile) {
		if _, err := pkcs11.ReadProfile(r.Profile); err != nil {
			v.bad(path+".profile", "%v", err)
		}
	}
	if r.Isolation == "none" && len(r.Env) > 0 {
		v.bad(path+".env", "a token without isolation has this process's environment: set it there")
	}
}

func (v *verdict) pool(path string, p poolConfig, seen map[string]bool) {
	v.check(path+".name", key.CheckName(p.Name))
	if seen[p.Name] {
		v.bad(path+".name", "%q is taken", p.Name)
	}
	seen[p.Name] = true
	v.span(path+".op_timeout", p.OpTimeout, time.Millisecond, time.Hour)
	v.span(path+".canary_every", p.CanaryEvery, 100*time.Millisecond, 10*time.Second)
	v.span(path+".slow_start", p.SlowStart, 0, time.Hour)
	v.span(path+".bulk_timeout", p.BulkTimeout, p.OpTimeout, time.Hour)
	v.span(path+".join_timeout", p.JoinTimeout, time.Second, time.Hour)
	v.span(path+".hedge", p.Hedge, 0, time.Hour)
	if p.RetryRatio < 0 || p.RetryRatio > 1 {
		v.bad(path+".retry_ratio", "use 0 to 1, not %g", p.RetryRatio)
	}
	if p.Attempts < 1 {
		v.bad(path+".attempts", "use 1 or more")
	}
	names := map[string]bool{}
	for i := range p.Members {
		m := &p.Members[i]
		at := fmt.Sprintf("%s.members[%d]", path, i)
		v.member(at, m)
		if names[m.Name] {
			v.bad(at+".name", "%q is taken", m.Name)
		}
		names[m.Name] = true
	}
}

func (v *verdict) span(path string, d, from, to time.Duration) {
	if d < from || d > to {
		v.bad(path, "use %s to %s, not %s", from, to, d)
	}
}

func (v *verdict) limits(l limitsConfig) {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"read_timeout", l.ReadTimeout}, {"write_timeout", l.WriteTimeout}, {"idle_timeout", l.IdleTimeout},
		{"op_timeout", l.OpTimeout}, {"max_stale", l.MaxStale}, {"shutdown", l.Shutdown},
	} {
		v.span("limits."+d.name, d.d, time.Millisecond, 24*time.Hour)
	}
	for _, n := range []struct {
		name string
		n    int64
	}{
		{"max_body", int64(l.MaxBody)}, {"max_connections", int64(l.MaxConnections)}, {"cache_keys", l.CacheKeys}, {"batch_width", int64(l.BatchWidth)},
	} {
		if n.n < 1 {
			v.bad("limits."+n.name, "use 1 or more, not %d", n.n)
		}
	}
}

func (v *verdict) telemetry(t telemetryConfig) {
	if t.LogFormat != "text" && t.LogFormat != "json" {
		v.bad("telemetry.log_format", "use text or json, not %q", t.LogFormat)
	}
	if _, err := parseLevel(t.LogLevel); err != nil {
		v.check("telemetry.log_level", err)
	}
	// The URL is not repeated: it may hold a password, which is one thing that is wrong with it.
	if u, err := url.Parse(t.OTLPEndpoint); t.OTLPEndpoint != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		v.bad("telemetry.otlp_endpoint", "use a URL, for instance http://127.0.0.1:4318")
	} else if err == nil && (u.User != nil || u.RawQuery != "") {
		v.bad("telemetry.otlp_endpoint", "no secrets here: what the collector wants to know goes into OTEL_EXPORTER_OTLP_HEADERS")
	}
	if t.SampleRatio < 0 || t.SampleRatio > 1 {
		v.bad("telemetry.sample_ratio", "use 0 to 1, not %g", t.SampleRatio)
	}
}
