package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
	"keyway/lifecycle/key"
)

// nodeConfig writes a keyway.yaml for the tokens and the store of a directory of keyway dev, with more settings at its end, and
// returns its path. The operator is the dev's, by its token.
func nodeConfig(t testing.TB, kind, dir, more string) string {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	member := func(name string) string {
		at := filepath.Join(dir, "tokens", name)
		if kind == onEmbedded {
			return fmt.Sprintf("{name: %s, driver: soft, token_dir: %s, token_label: keyway-%s, pin_file: %s}", name, filepath.Join(at, "store"), name, filepath.Join(at, "pin"))
		}
		module, err := pkcs11.FindModule("softhsm")
		if err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(at, "softhsm2.conf")
		text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\n", filepath.Join(at, "store"))
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil { // dev writes it anew at each start
			t.Fatal(err)
		}
		return fmt.Sprintf("{name: %s, uri: 'pkcs11:token=keyway-%s?module-path=%s&pin-source=file:%s', env: ['SOFTHSM2_CONF=%s']}", name, name, module, filepath.Join(at, "pin"), conf)
	}
	text := fmt.Sprintf("store: {path: %s}\ncustody: %s\npools:\n  - name: default\n    members:\n", filepath.Join(dir, "keyway.db"), member("custody"))
	for _, m := range []string{"m1", "m2", "m3"} {
		text += "      - " + member(m) + "\n"
	}
	text = strings.NewReplacer("HASH", key.HashToken(strings.TrimSpace(string(token))), "DIR", dir).Replace(more) + "\n" + text
	file := filepath.Join(dir, "keyway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// plainNode is the beginning of a configuration without TLS.
const plainNode = `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0", admins: [{name: alice, token_sha256: HASH}]}
`

var serving = regexp.MustCompile(`(?m)msg=serving listen=(\S+) admin=(\S+)`)

// startServe runs keyway serve and waits until it serves.
func startServe(t testing.TB, dir, config string, env ...string) *running {
	t.Helper()
	r := start(t, env, "serve", "--config", config)
	r.dir = dir
	r.within(time.Minute, "serving", func() bool { return serving.MatchString(r.log.String()) })
	m := serving.FindStringSubmatch(r.log.String())
	r.url, r.admin = "http://"+m[1], "http://"+m[2]
	token, err := os.ReadFile(filepath.Join(dir, "client-token"))
	if err != nil {
		t.Fatal(err)
	}
	r.token = strings.TrimSpace(string(token))
	return r
}

// readyz waits until the node is ready.
func (r *running) readyz() {
	r.t.Helper()
	r.within(time.Minute, "ready", func() bool {
		res, err := r.http.Get(r.url + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == 200
	})
}

// A node after a configuration file serves the keys that dev made.
func TestServeServesTheSameKeys(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		dir := newDevDir(t, kind)
		r := startServe(t, dir, nodeConfig(t, kind, dir, plainNode))
		r.readyz()
		r.ok("demo-sign/sign", signBody)
		blob := r.ok("demo-wrap/wrap", `{"plaintext_key":"`+b64([]byte("0123456789abcdef"))+`"}`)["wrapped"]
		out, err := exec.Command(program, "key", "rotate", "demo-wrap", "--admin-url", r.admin, "--admin-token-file", filepath.Join(dir, "admin-token"), "--output", "json").Output()
		if err != nil || !strings.Contains(string(out), `"primary_version": 2`) {
			t.Errorf("rotate: %v %s", err, out)
		}
		if got := unb64(t, r.ok("demo-wrap/unwrap", fmt.Sprintf(`{"wrapped":%q}`, blob))["plaintext_key"]); string(got) != "0123456789abcdef" {
			t.Errorf("after the rotation the blob opens to %q", got)
		}
		r.stop(syscall.SIGTERM)
		if !strings.Contains(r.log.String(), "shutting down") {
			t.Error("it did not say why it ended")
		}
	})
}

// issue makes a certificate, signed by parent (nil: by itself), and writes it and its key as PEM.
func issue(t *testing.T, dir, name string, parent *tls.Certificate, change func(*x509.Certificate)) (tls.Certificate, string, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	change(c)
	signer, by := any(k), c
	if parent != nil {
		signer, by = parent.PrivateKey, parent.Leaf
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &k.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}, certFile, keyFile
}

// TLS on both ports; operator and client are known by certificates, and nobody has a token.
func TestServeWithCertificates(t *testing.T) {
	dir := newDevDir(t, onEmbedded)
	authority := func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
	person := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	ca, caFile, _ := issue(t, dir, "ca", nil, authority)
	_, _, _ = issue(t, dir, "server", &ca, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	alice, aliceCert, aliceKey := issue(t, dir, "alice", &ca, person)
	_, eveCert, eveKey := issue(t, dir, "eve", &ca, person)
	app, _, _ := issue(t, dir, "app", &ca, person)
	hash := func(c tls.Certificate) string {
		h := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
		return hex.EncodeToString(h[:])
	}
	config := nodeConfig(t, onEmbedded, dir, `
listen: 127.0.0.1:0
tls: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}
admin:
  listen: 127.0.0.1:0
  tls: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}
  admins: [{name: alice, cert_sha256: `+hash(alice)+`}]
`)
	r := startServe(t, dir, config)
	order := func(cert, keyFile string, args ...string) (string, int) {
		t.Helper()
		args = append(args, "--admin-url", strings.Replace(r.admin, "http:", "https:", 1), "--admin-ca-file", caFile, "--admin-cert-file", cert, "--admin-key-file", keyFile, "--output", "json")
		c := exec.Command(program, args...)
		out, _ := c.CombinedOutput()
		return string(out), c.ProcessState.ExitCode()
	}
	if out, code := order(aliceCert, aliceKey, "client", "create", "app", "--cert-sha256", hash(app)); code != 0 || strings.Contains(out, "kw_") {
		t.Fatalf("%d %s", code, out)
	}
	if out, code := order(aliceCert, aliceKey, "grant", "create", "--client", "app", "--pattern", "demo-sign", "--usage", "sign"); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	if out, code := order(eveCert, eveKey, "client", "list"); code != exitFailed || !strings.Contains(out, "unauthenticated") {
		t.Errorf("a stranger's certificate: %d %s", code, out)
	}
	if out, err := exec.Command(program, "client", "list", "--admin-url", strings.Replace(r.admin, "http:", "https:", 1), "--admin-cert-file", aliceCert, "--admin-key-file", aliceKey).CombinedOutput(); err == nil || !strings.Contains(string(out), "unknown authority") {
		t.Errorf("without the CA of the server: %v %s", err, out)
	}
	r.says("actor=alice")

	cas := x509.NewCertPool()
	cas.AddCert(ca.Leaf)
	sign := func(certs ...tls.Certificate) int {
		t.Helper()
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cas, Certificates: certs, MinVersion: tls.VersionTLS12}}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Post(strings.Replace(r.url, "http:", "https:", 1)+"/api/v1/keys/demo-sign/sign", "application/json", strings.NewReader(signBody))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	deadline := time.Now().Add(20 * time.Second)
	for sign(app) == 503 && time.Now().Before(deadline) { // members may still be joining
		time.Sleep(20 * time.Millisecond)
	}
	if got := sign(app); got != 200 {
		t.Errorf("the client's certificate: %d", got)
	}
	if got := sign(); got != 401 {
		t.Errorf("no certificate: %d", got)
	}
}

// Everything planted that is secret, and where none of it may be found.
func TestSecretsAreNowhereTheyMayNotBe(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		dir := newDevDir(t, kind)
		config := nodeConfig(t, kind, dir, plainNode+"\ntelemetry: {log_level: debug}\n")
		secrets := map[string]string{"a clear key": b64([]byte("the clear key, 32 bytes of it...")), "its bytes": "the clear key, 32 bytes of it...", "a message": b64([]byte("a plaintext that is secret"))}
		for name, file := range map[string]string{"the operator's token": "admin-token", "the client's token": "client-token", "custody's PIN": "tokens/custody/pin", "m1's PIN": "tokens/m1/pin", "m1's SO PIN": "tokens/m1/so-pin"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || len(strings.TrimSpace(string(b))) < 8 {
				t.Fatalf("%s: %q, %v", file, b, err)
			}
			secrets[name] = strings.TrimSpace(string(b))
		}
		checked, err := exec.Command(program, "serve", "--config", config, "--check").Output()
		if err != nil {
			t.Fatal(err)
		}
		r := startServe(t, dir, config)
		r.readyz()
		// Use all of it, well and badly.
		blob := r.ok("demo-wrap/wrap", `{"plaintext_key":"`+secrets["a clear key"]+`"}`)["wrapped"].(string)
		r.ok("demo-wrap/unwrap", `{"wrapped":"`+blob+`"}`)
		r.ok("demo-wrap/encrypt", `{"plaintext":"`+secrets["a message"]+`"}`)
		data := r.ok("demo-wrap/datakey", `{"bits":256,"plaintext":true}`)
		secrets["a data key"] = data["plaintext_key"].(string)
		for _, bad := range []string{`{"plaintext_key":"` + secrets["a clear key"] + `","aad":7}`, `{"plaintext_key":"` + secrets["a clear key"] + `x"}`, `{"wrapped":"` + blob[:len(blob)-4] + `AAAA"}`, `{"` + secrets["a message"] + `":1}`} {
			if status, _ := r.post("demo-wrap/wrap", bad); status == 200 {
				t.Errorf("%s was accepted", bad)
			}
		}
		operator := func(args ...string) {
			t.Helper()
			c := exec.Command(program, append(args, "--admin-url", r.admin, "--admin-token-file", filepath.Join(dir, "admin-token"), "--output", "json")...)
			out, err := c.Output()
			if err != nil {
				t.Fatalf("keyway %v: %v", args, err)
			}
			var a struct {
				Token string `json:"token"`
			}
			if json.Unmarshal(out, &a) == nil && a.Token != "" {
				secrets["a new client's token"] = a.Token
			}
		}
		operator("client", "create", "app")
		operator("key", "create", "demo-more", "--algorithm", "rsa-2048")
		workers := children(r.cmd.Process.Pid)
		if len(workers) != 4 {
			t.Errorf("%d workers", len(workers))
		}

		places := map[string][]byte{"serve --check": checked, "/metrics": get(t, r.admin+"/metrics")}
		for _, pid := range append(workers, r.cmd.Process.Pid) {
			for _, what := range []string{"cmdline", "environ"} {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
				if err != nil {
					t.Fatal(err)
				}
				places[fmt.Sprintf("%s of %d", what, pid)] = b
			}
		}
		for _, f := range []string{"keyway.db", "keyway.db-wal"} { // while it runs: the log is emptied at the end
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			places[f] = b
		}
		kill(t, workers[0]) // what is logged when something goes wrong
		r.within(30*time.Second, "noticing it", func() bool { return strings.Contains(r.log.String(), "worker ended") })
		r.stop(syscall.SIGTERM)
		places["log"], places["standard output"] = []byte(r.log.String()), []byte(r.out.String())
		if !strings.Contains(string(places["log"]), "request failed") || !strings.Contains(string(places["log"]), "client created") {
			t.Errorf("the log is hardly one: %s", places["log"])
		}
		for where, b := range places {
			for what, secret := range secrets {
				if strings.Contains(string(b), secret) {
					t.Errorf("%s is in %s", what, where)
				}
			}
		}
		// The test would find them where they are.
		if b, _ := os.ReadFile(filepath.Join(dir, "client-token")); !strings.Contains(string(b), secrets["the client's token"]) {
			t.Error("the client's token is not even in its file: the test shows nothing")
		}
		if !strings.Contains(string(places["keyway.db"])+string(places["keyway.db-wal"]), key.HashToken(secrets["a new client's token"])) {
			t.Error("the hash of the new client's token is not in the database: it was read at the wrong moment")
		}
	})
}

func get(t testing.TB, url string) []byte {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s: %s %v", url, res.Status, err)
	}
	return b
}
