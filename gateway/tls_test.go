package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyway/lifecycle/key"
)

// authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	last int64
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	c := a.issue(name, true)
	a.cert, a.key, a.pem = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	return a
}

// issue makes a certificate for loopback; the authority's own when it has none yet.
func (a *authority) issue(name string, ca bool) tls.Certificate {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.last++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := a.cert, a.key
	if ca {
		c.KeyUsage |= x509.KeyUsageCertSign
		parent, signer = c, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
}

// write puts a certificate and its key where a server reads them.
func write(t testing.TB, files TLSConfig, c tls.Certificate) {
	t.Helper()
	k, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for f, b := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: k}} {
		if err := os.WriteFile(f, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// secure is a gate on TLS whose server certificate comes from ca, and which trusts clients of clients.
func secure(t testing.TB, ca, clients *authority) (*gate, TLSConfig) {
	t.Helper()
	dir := t.TempDir()
	files := TLSConfig{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), ClientCAFile: filepath.Join(dir, "ca.pem")}
	write(t, files, ca.issue("first", false))
	if err := os.WriteFile(files.ClientCAFile, clients.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGate(t, func(c *Config) { c.TLS = &files; c.ReadTimeout = 2 * time.Second })
	g.client = ca.client(nil)
	return g, files
}

// client returns a client that trusts the authority and shows cert.
func (a *authority) client(cert *tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	cfg := &tls.Config{RootCAs: pool}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg, DisableCompression: true}
	a.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func certHash(c tls.Certificate) string {
	h := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(h[:])
}

func TestCertificatesIdentifyClients(t *testing.T) {
	ca, clients, strangers := newAuthority(t, "servers"), newAuthority(t, "clients"), newAuthority(t, "strangers")
	g, _ := secure(t, ca, clients)
	known, unknown, foreign := clients.issue("known", false), clients.issue("unknown", false), strangers.issue("known", false)
	with := func(c ...key.Client) {
		g.shelf.dir.Store(key.NewDirectory(append(c, key.Client{Name: "app", TokenHashes: []string{key.HashToken(appToken)}}),
			[]key.Grant{{Client: "certified", Pattern: "k-sign", Usages: key.Sign}, {Client: "app", Pattern: "*", Usages: key.MAC}}))
	}
	with(key.Client{Name: "certified", CertHashes: []string{certHash(known), certHash(foreign)}})
	sign := func() answer { return g.key("k-sign", "sign", `{"message":"aGk="}`) }

	g.token, g.client = "", ca.client(&known)
	if a := sign(); a.status != 200 {
		t.Fatalf("a known certificate: %d %s", a.status, a.raw)
	}
	g.refused(g.key("k-mac", "mac", `{"message":"aGk="}`), NotFound, "")
	// A token counts before a certificate, and a wrong one is not made good by it.
	if a := g.as(appToken, func() answer { return g.key("k-mac", "mac", `{"message":"aGk="}`) }); a.status != 200 {
		t.Errorf("a token beside a certificate: %d", a.status)
	}
	g.refused(g.as("kw_nobody", sign), Unauthenticated, "token")
	// A client that was removed is refused at the next request on the same connection.
	conns := g.s.http.GetOpenConnectionsCount()
	with()
	g.refused(sign(), Unauthenticated, "certificate")
	if n := g.s.http.GetOpenConnectionsCount(); n != conns {
		t.Errorf("%d connections, want the same %d", n, conns)
	}
	with(key.Client{Name: "certified", CertHashes: []string{certHash(known)}, Disabled: true})
	g.refused(sign(), Unauthenticated, "certificate")
	with(key.Client{Name: "certified", CertHashes: []string{certHash(known), certHash(foreign)}})
	if a := sign(); a.status != 200 {
		t.Errorf("a client that is back: %d", a.status)
	}

	g.client = ca.client(&unknown)
	g.refused(sign(), Unauthenticated, "certificate")
	g.client = ca.client(nil)
	g.refused(sign(), Unauthenticated, "client certificate")
	g.client = ca.client(&foreign) // Go's client does not even show it; one that does is refused in the handshake
	if a, err := g.try("POST", "/api/v1/keys/k-sign/sign", `{"message":"aGk="}`); err == nil && a.status != 401 {
		t.Errorf("a certificate of another authority: %d %s", a.status, a.raw)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c, err := tls.Dial("tcp", g.addr, &tls.Config{RootCAs: roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }})
	if err == nil {
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if err == nil {
		t.Error("a certificate of another authority was taken")
	}
}

func TestOldVersionsOfTLSAreRefused(t *testing.T) {
	ca := newAuthority(t, "servers")
	g, _ := secure(t, ca, newAuthority(t, "clients"))
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for v, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", g.addr, &tls.Config{RootCAs: roots, MinVersion: v, MaxVersion: v})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(v), err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	// Clear text, and handshakes that never end, hurt nobody and end.
	for _, what := range []string{"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00", ""} {
		c := g.dial()
		_, _ = io.WriteString(c, what)
		defer func() {
			if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("%q: %v", what, err)
			}
		}()
	}
	g.key("k-sign", "sign", `{"message":"aGk="}`)
}

// A certificate is replaced under traffic: no request fails, new connections get the new one, and a file that is half written, or
// that does not go with its key, changes nothing.
func TestACertificateIsReplacedUnderTraffic(t *testing.T) {
	ca := newAuthority(t, "servers")
	g, files := secure(t, ca, newAuthority(t, "clients"))
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	shown := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", g.addr, &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	var n atomic.Int64
	for range 4 {
		client := ca.client(nil)
		traffic.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if i%5 == 0 {
					client.CloseIdleConnections()
				}
				res, err := client.Get(g.url + "/healthz")
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				n.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	if who := shown(); who != "first" {
		t.Errorf("the server shows %q", who)
	}
	whole, err := os.ReadFile(files.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.CertFile, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the half-written certificate to be seen", func() bool { _ = shown(); return strings.Contains(g.log.String(), "the old one stays") })
	if who := shown(); who != "first" {
		t.Errorf("with a half-written certificate the server shows %q", who)
	}
	// Key and certificate cannot be replaced in one step; between the two the old pair stays.
	second := ca.issue("second", false)
	k, _ := x509.MarshalPKCS8PrivateKey(second.PrivateKey)
	if err := os.WriteFile(files.CertFile, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the key that does not fit to be seen", func() bool { _ = shown(); return strings.Contains(g.log.String(), "does not match") })
	if who := shown(); who != "first" {
		t.Errorf("between key and certificate the server shows %q", who)
	}
	write(t, files, second)
	waitFor(t, "the new certificate", func() bool { return shown() == "second" })
	if bytes.Count([]byte(g.log.String()), []byte("the old one stays")) > 4 {
		t.Error("the log repeats itself")
	}
	close(stop)
	traffic.Wait()
	if n.Load() == 0 {
		t.Error("there was no traffic")
	}
}

func TestCertificatesMustBeThereAtTheStart(t *testing.T) {
	dir := t.TempDir()
	cfg, _, _, _ := config()
	cfg.TLS = &TLSConfig{CertFile: filepath.Join(dir, "none"), KeyFile: filepath.Join(dir, "none")}
	if _, err := New(cfg); err == nil {
		t.Error("a server without its certificate")
	}
	files := TLSConfig{CertFile: filepath.Join(dir, "c"), KeyFile: filepath.Join(dir, "k"), ClientCAFile: filepath.Join(dir, "ca")}
	write(t, files, newAuthority(t, "x").issue("x", false))
	if err := os.WriteFile(files.ClientCAFile, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.TLS = &files
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
		t.Errorf("a client CA that is none: %v", err)
	}
}

// A connection that waits for its first request has shaken hands before: that has to come within the read timeout.
func TestAHandshakeThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	g, _ := secure(t, newAuthority(t, "servers"), newAuthority(t, "clients"))
	begun := time.Now()
	c := g.dial()
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 || time.Since(begun) < time.Second {
		t.Errorf("%q, %v after %s, want the connection closed after 2 s", b, err, time.Since(begun))
	}
}
