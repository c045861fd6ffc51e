package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keyway/gateway"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// config is the whole configuration of a node, as keyway.yaml writes it. No secret is in it: PINs are
// files, and of tokens there are only hashes.
type config struct {
	// Listen is where the gateway answers, host:port.
	Listen string `yaml:"listen"`
	// ClearText allows the gateway to answer without TLS on other addresses than loopback, behind a proxy that ends TLS.
	ClearText bool            `yaml:"clear_text"`
	TLS       *tlsConfig      `yaml:"tls"`
	Admin     adminConfig     `yaml:"admin"`
	Store     storeConfig     `yaml:"store"`
	Audit     auditConfig     `yaml:"audit"`
	Custody   *custodyConfig  `yaml:"custody"`
	Pools     []poolConfig    `yaml:"pools"`
	Default   string          `yaml:"default_pool"` // serves random bytes and keys made without naming a pool
	Limits    limitsConfig    `yaml:"limits"`
	Telemetry telemetryConfig `yaml:"telemetry"`
}

type tlsConfig struct {
	CertFile     string `yaml:"cert_file"`
	KeyFile      string `yaml:"key_file"`
	ClientCAFile string `yaml:"client_ca_file"` // "" asks for no client certificates
}

type adminConfig struct {
	Listen string        `yaml:"listen"`
	TLS    *tlsConfig    `yaml:"tls"`
	Admins []adminPerson `yaml:"admins"`
}

type adminPerson struct {
	Name        string `yaml:"name"`
	TokenSHA256 digest `yaml:"token_sha256"` // of the bearer token
	CertSHA256  digest `yaml:"cert_sha256"`  // of the certificate's SubjectPublicKeyInfo
}

// digest is a SHA-256 in hexadecimal. It is not shown: nobody needs to compare his guesses with it.
type digest string

// MarshalYAML writes that there is one.
func (d digest) MarshalYAML() (any, error) {
	if d == "" {
		return "", nil
	}
	return "[redacted]", nil
}

// storeConfig is one of the two.
type storeConfig struct {
	Path     string          `yaml:"path,omitempty"` // of the SQLite database
	Postgres *postgresConfig `yaml:"postgres,omitempty"`
}

type postgresConfig struct {
	DSN            string `yaml:"dsn"` // without a password
	PasswordFile   string `yaml:"password_file"`
	MaxConnections int    `yaml:"max_connections"` // that read
}

type auditConfig struct {
	// KeyFile holds the key that this node signs checkpoints of the audit log with. It is made where it is not there.
	KeyFile string `yaml:"key_file"`
}

type custodyConfig struct {
	lifecycle.MemberRecord `yaml:",inline"`
	// AutoRoot gives members their Root KEKs without a ceremony. For development only.
	AutoRoot bool `yaml:"auto_root"`
}

type poolConfig struct {
	Name        string                   `yaml:"name"`
	OpTimeout   time.Duration            `yaml:"op_timeout"`
	CanaryEvery time.Duration            `yaml:"canary_every"`
	RetryRatio  float64                  `yaml:"retry_ratio"`
	Attempts    int                      `yaml:"attempts"`
	SlowStart   time.Duration            `yaml:"slow_start"`
	BulkTimeout time.Duration            `yaml:"bulk_timeout"`
	JoinTimeout time.Duration            `yaml:"join_timeout"`
	VerifyAll   bool                     `yaml:"verify_signatures"` // all of them, not only the first of each loaded key
	Hedge       time.Duration            `yaml:"hedge"`             // 0: when an operation takes unusually long
	Members     []lifecycle.MemberRecord `yaml:"members"`
	// forget names members that are to be taken out of the store.
	forget []string
}

func (p *poolConfig) pool() pool.Config {
	return pool.Config{Name: p.Name, OpTimeout: p.OpTimeout, CanaryEvery: p.CanaryEvery, RetryRatio: p.RetryRatio, Attempts: p.Attempts, SlowStart: p.SlowStart,
		BulkTimeout: p.BulkTimeout, JoinTimeout: p.JoinTimeout, Hedge: p.Hedge, VerifyAll: p.VerifyAll}
}

type limitsConfig struct {
	MaxBody        int           `yaml:"max_body"` // bytes
	ReadTimeout    time.Duration `yaml:"read_timeout"`
	WriteTimeout   time.Duration `yaml:"write_timeout"`
	IdleTimeout    time.Duration `yaml:"idle_timeout"`
	OpTimeout      time.Duration `yaml:"op_timeout"`
	MaxConnections int           `yaml:"max_connections"`
	CacheKeys      int64         `yaml:"cache_keys"`
	BatchWidth     int           `yaml:"batch_width"`
	// MaxStale is how long the gateway serves without an answer of the store.
	MaxStale time.Duration `yaml:"max_stale"`
	// Shutdown is how long requests under way may take to finish.
	Shutdown time.Duration `yaml:"shutdown"`
}

type telemetryConfig struct {
	LogFormat string `yaml:"log_format"` // text or json
	LogLevel  string `yaml:"log_level"`  // debug, info, warn or error
	// OTLPEndpoint is the base URL of an OTLP/HTTP collector, "" for none. Headers for it come from OTEL_EXPORTER_OTLP_HEADERS.
	OTLPEndpoint string  `yaml:"otlp_endpoint"`
	SampleRatio  float64 `yaml:"sample_ratio"` // share of requests that are traced
	ServiceName  string  `yaml:"service_name"`
}

// custodyPool is the name under which the custody token's member is stored and shown.
const custodyPool = "custody"

// newConfig returns a configuration in which nothing is said yet. What may be set to 0 has its default here, the rest is
// filled in by setDefaults.
func newConfig() *config { return &config{Telemetry: telemetryConfig{SampleRatio: 1}} }

// setDefaults fills what was left out, so that the effective configuration can be shown.
func (c *config) setDefaults() {
	or(&c.Listen, "127.0.0.1:8400")
	or(&c.Admin.Listen, "127.0.0.1:8401")
	if c.Default == "" && len(c.Pools) > 0 {
		c.Default = c.Pools[0].Name
	}
	if c.Custody != nil {
		or(&c.Custody.Name, custodyPool)
		or(&c.Custody.Isolation, "worker")
	}
	for i := range c.Pools {
		p := &c.Pools[i]
		or(&p.OpTimeout, 10*time.Second)
		or(&p.CanaryEvery, 5*time.Second)
		or(&p.RetryRatio, 0.2)
		or(&p.Attempts, 3)
		or(&p.SlowStart, 2*time.Second)
		or(&p.BulkTimeout, max(time.Minute, p.OpTimeout))
		or(&p.JoinTimeout, time.Minute)
		for j := range p.Members {
			or(&p.Members[j].Isolation, "worker")
		}
	}
	or(&c.Audit.KeyFile, filepath.Join(c.stateDir(), "audit.key"))
	if c.Store.Postgres != nil {
		or(&c.Store.Postgres.MaxConnections, 8)
	}
	l := &c.Limits
	or(&l.MaxBody, 1<<20)
	or(&l.ReadTimeout, 10*time.Second)
	or(&l.WriteTimeout, 10*time.Second)
	or(&l.IdleTimeout, 2*time.Minute)
	or(&l.OpTimeout, 5*time.Second)
	or(&l.MaxConnections, 20_000)
	or(&l.CacheKeys, 100_000)
	or(&l.BatchWidth, 16)
	or(&l.MaxStale, 15*time.Minute)
	or(&l.Shutdown, 20*time.Second)
	t := &c.Telemetry
	or(&t.LogFormat, "text")
	or(&t.LogLevel, "info")
	or(&t.ServiceName, "keyway")
}

// stateDir is where what a node makes lies: beside its database, or with PostgreSQL where systemd says; otherwise beside the configuration.
func (c *config) stateDir() string {
	if c.Store.Postgres == nil {
		return filepath.Dir(c.Store.Path)
	}
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return first
}

func or[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate returns everything that is wrong, joined, each a *wrongField; nil when nothing is.
func (c *config) Validate() error {
	var v verdict
	v.address("listen", c.Listen, c.TLS == nil && !c.ClearText, "set tls, or clear_text: true where a proxy in front ends TLS")
	v.tls("tls", c.TLS)
	v.address("admin.listen", c.Admin.Listen, c.Admin.TLS == nil, "set admin.tls")
	v.tls("admin.tls", c.Admin.TLS)
	if c.Listen == c.Admin.Listen && !strings.HasSuffix(c.Listen, ":0") {
		v.bad("admin.listen", "the gateway listens on %s too", c.Listen)
	}
	for i, a := range c.Admin.Admins {
		at := fmt.Sprintf("admin.admins[%d]", i)
		v.check(at+".name", key.CheckName(a.Name))
		v.digest(at+".token_sha256", a.TokenSHA256)
		v.digest(at+".cert_sha256", a.CertSHA256)
		if a.TokenSHA256 == "" && a.CertSHA256 == "" {
			v.bad(at, "give %s a token_sha256 or a cert_sha256", a.Name)
		}
		if a.CertSHA256 != "" && (c.Admin.TLS == nil || c.Admin.TLS.ClientCAFile == "") {
			v.bad(at+".cert_sha256", "client certificates need admin.tls.client_ca_file")
		}
	}
	v.store(c.Store)
	if c.Custody != nil {
		v.member("custody", &c.Custody.MemberRecord)
	}
	if len(c.Pools) == 0 {
		v.bad("pools", "name at least one pool")
	}
	seen := map[string]bool{custodyPool: true}
	for i, p := range c.Pools {
		v.pool(fmt.Sprintf("pools[%d]", i), p, seen)
	}
	if len(c.Pools) > 0 && (!seen[c.Default] || c.Default == custodyPool) {
		v.bad("default_pool", "there is no pool %q", c.Default)
	}
	v.limits(c.Limits)
	v.telemetry(c.Telemetry)
	return errors.Join(v...)
}

// gateway returns the gateway's part of the configuration.
func (c *config) gateway() gateway.Config {
	g := gateway.Config{
		DefaultPool: c.Default, MaxBody: c.Limits.MaxBody, ReadTimeout: c.Limits.ReadTimeout, WriteTimeout: c.Limits.WriteTimeout,
		IdleTimeout: c.Limits.IdleTimeout, OpTimeout: c.Limits.OpTimeout, MaxConns: c.Limits.MaxConnections,
		CacheKeys: c.Limits.CacheKeys, BatchWidth: c.Limits.BatchWidth,
	}
	if c.TLS != nil {
		g.TLS = &gateway.TLSConfig{CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ClientCAFile: c.TLS.ClientCAFile}
	}
	return g
}

// absolute makes the paths of a record absolute, from dir, where the configuration file is.
func absolute(dir string, paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}
