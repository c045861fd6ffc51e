package gateway

import (
	stdcrypto "crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// public returns a key's public halves, in the order of public.pem.
func (g *gate) public(name string) (out []any) {
	g.t.Helper()
	rest := []byte(g.send("GET", "/api/v1/keys/"+name+"/public.pem", "").raw)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			g.t.Fatal(err)
		}
		out = append(out, pub)
	}
}

func TestSignaturesVerifyElsewhere(t *testing.T) {
	g := newGate(t, nil)
	msg := []byte("a message")
	d256, d384, d512 := sha256.Sum256(msg), sha512.Sum384(msg), sha512.Sum512(msg)
	ec := func(name, extra string, digest []byte) {
		t.Helper()
		sig := unb64(t, g.ok(name, "sign", `{"message":%q%s}`, b64(string(msg)), extra)["signature"])
		if !ecdsa.VerifyASN1(g.public(name)[0].(*ecdsa.PublicKey), digest, sig) {
			t.Errorf("%s%s: not a signature", name, extra)
		}
	}
	ec("k-sign", "", d256[:])
	ec("k-sign", `,"hash":"sha2-256","encoding":"der","version":1`, d256[:])
	ec("k-sign", `,"hash":"sha2-512"`, d512[:])
	ec("k-p384", "", d384[:])
	ec("k-p384", `,"hash":"sha2-256"`, d256[:])
	ec("k-p521", "", d512[:])
	rs := unb64(t, g.ok("k-p384", "sign", `{"digest":%q,"hash":"sha2-384","encoding":"p1363"}`, b64(string(d384[:])))["signature"])
	if len(rs) != 96 || !ecdsa.Verify(g.public("k-p384")[0].(*ecdsa.PublicKey), d384[:], new(big.Int).SetBytes(rs[:48]), new(big.Int).SetBytes(rs[48:])) {
		t.Error("p1363: not a signature")
	}
	pub := g.public("k-rsa")[0].(*rsa.PublicKey)
	if err := rsa.VerifyPSS(pub, stdcrypto.SHA384, d384[:], unb64(t, g.ok("k-rsa", "sign", `{"message":%q,"hash":"sha2-384"}`, b64(string(msg)))["signature"]),
		&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
		t.Error(err)
	}
	if err := rsa.VerifyPKCS1v15(pub, stdcrypto.SHA256, d256[:], unb64(t, g.ok("k-rsa", "sign", `{"digest":%q,"hash":"sha2-256","padding":"pkcs1v15"}`, b64(string(d256[:])))["signature"])); err != nil {
		t.Error(err)
	}
	a := g.ok("k-ed", "sign", `{"message":%q}`, b64(string(msg)))
	if !ed25519.Verify(g.public("k-ed")[0].(ed25519.PublicKey), msg, unb64(t, a["signature"])) {
		t.Error("ed25519: not a signature")
	}
	if a["key"] != "k-ed" || a["version"] != 1.0 || a["algorithm"] != "ed25519" {
		t.Errorf("the answer says %v", a)
	}
}

func TestVerifyTellsGoodFromBad(t *testing.T) {
	g := newGate(t, nil)
	for _, c := range []struct{ name, extra string }{
		{"k-sign", ""}, {"k-sign", `,"encoding":"p1363"`}, {"k-p521", ""}, {"k-rsa", ""}, {"k-rsa", `,"padding":"pkcs1v15"`}, {"k-ed", ""},
	} {
		sig := unb64(t, g.ok(c.name, "sign", `{"message":"aGk="%s}`, c.extra)["signature"])
		for what, f := range map[string]func() (string, []byte){
			"own":             func() (string, []byte) { return "aGk=", sig },
			"another message": func() (string, []byte) { return "aGo=", sig },
			"a changed byte":  func() (string, []byte) { b := append([]byte(nil), sig...); b[len(b)/2] ^= 1; return "aGk=", b },
			"cut short":       func() (string, []byte) { return "aGk=", sig[:len(sig)-1] },
			"with more":       func() (string, []byte) { return "aGk=", append(append([]byte(nil), sig...), 0) },
			"nothing":         func() (string, []byte) { return "aGk=", nil },
		} {
			m, s := f()
			got := g.ok(c.name, "verify", `{"message":%q,"signature":%q%s}`, m, b64(string(s)), c.extra)
			if got["valid"] != (what == "own") || got["version"] != 1.0 {
				t.Errorf("%s%s, %s: %v", c.name, c.extra, what, got)
			}
		}
	}
	if g.crypto.ops.Load() != 6 {
		t.Errorf("%d operations on the token: verifying needs none", g.crypto.ops.Load()-6)
	}
}

func TestWhatIsWrappedComesBack(t *testing.T) {
	g := newGate(t, nil)
	for _, c := range []struct{ name, do, undo, in, out, extra, value string }{
		{"k-wrap", "wrap", "unwrap", "plaintext_key", "wrapped", `,"aad":"YWFk"`, "0123456789abcdef"},
		{"k-wrap", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"aes-gcm"`, "x"},
		{"k-aes128", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"aes-kw"`, "0123456789abcdef01234567"},
		{"k-wrap", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"aes-kwp"`, "odd length"},
		{"k-wrap", "encrypt", "decrypt", "plaintext", "ciphertext", `,"aad":"","version":1`, "any"},
		{"k-wrap", "encrypt", "decrypt", "plaintext", "ciphertext", ``, strings.Repeat("long ", 4000)},
		{"k-oaep", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"rsa-oaep","hash":"sha2-256"`, "0123456789abcdef"},
		{"k-oaep", "wrap", "unwrap", "plaintext_key", "wrapped", ``, "0123456789abcdef"},
		{"k-oaep", "encrypt", "decrypt", "plaintext", "ciphertext", ``, "any"},
	} {
		a := g.ok(c.name, c.do, `{%q:%q%s}`, c.in, b64(c.value), c.extra)
		b := g.ok(c.name, c.undo, `{%q:%q%s}`, c.out, a[c.out], c.extra)
		if string(unb64(t, b[c.in])) != c.value || a["version"] != 1.0 || b["version"] != 1.0 {
			t.Errorf("%s%s: %v came back as %v", c.do, c.extra, a, b)
		}
	}
	if e := g.ok("k-wrap", "encrypt", `{"plaintext":""}`); g.ok("k-wrap", "decrypt", `{"ciphertext":%q}`, e["ciphertext"])["plaintext"] != "" {
		t.Error("an empty plaintext does not come back")
	}
}

func TestRewrapGoesToThePrimaryVersionAndShowsNothing(t *testing.T) {
	g := newGate(t, nil)
	for _, name := range []string{"k-wrap", "k-oaep"} {
		w := g.ok(name, "wrap", `{"plaintext_key":%q}`, b64("a key of the client's"))["wrapped"]
		e := g.ok(name, "encrypt", `{"plaintext":%q}`, b64("some data"))["ciphertext"]
		g.rotate(name)
		rw := g.ok(name, "rewrap", `{"wrapped":%q}`, w)
		re := g.ok(name, "rewrap", `{"ciphertext":%q}`, e)
		if rw["version"] != 2.0 || re["version"] != 2.0 || rw["plaintext_key"] != nil || re["plaintext"] != nil {
			t.Errorf("%s: rewrapped as %v and %v", name, rw, re)
		}
		for _, blob := range []any{w, rw["wrapped"]} {
			if got := g.ok(name, "unwrap", `{"wrapped":%q}`, blob); string(unb64(t, got["plaintext_key"])) != "a key of the client's" {
				t.Errorf("%s: after rotation %v", name, got)
			}
		}
		g.refused(g.key(name, "rewrap", fmt.Sprintf(`{"wrapped":%q,"ciphertext":%q}`, w, e)), Malformed, "exactly one")
		g.refused(g.key(name, "rewrap", `{}`), Malformed, "exactly one")
	}
}

func TestMACsAndTheirVerification(t *testing.T) {
	g := newGate(t, nil)
	for name, size := range map[string]int{"k-mac": 32, "k-mac512": 64} {
		m := g.ok(name, "mac", `{"message":"aGk="}`)["mac"]
		if len(unb64(t, m)) != size {
			t.Errorf("%s: %v", name, m)
		}
		for _, c := range []struct {
			msg, mac string
			want     bool
		}{{"aGk=", m.(string), true}, {"aGo=", m.(string), false}, {"aGk=", b64("short"), false}, {"aGk=", "", false}} {
			if v := g.ok(name, "mac/verify", `{"message":%q,"mac":%q}`, c.msg, c.mac); v["valid"] != c.want {
				t.Errorf("%s %v: %v", name, c, v)
			}
		}
	}
}

func TestDataKeysAndRandomBytes(t *testing.T) {
	g := newGate(t, nil)
	for _, bits := range []int{128, 256, 512} {
		d := g.ok("k-wrap", "datakey", `{"bits":%d,"plaintext":true,"aad":"YQ=="}`, bits)
		u := g.ok("k-wrap", "unwrap", `{"wrapped":%q,"aad":"YQ=="}`, d["wrapped"])
		if u["plaintext_key"] != d["plaintext_key"] || len(unb64(t, d["plaintext_key"])) != bits/8 {
			t.Errorf("%v unwraps to %v", d, u)
		}
	}
	if d := g.ok("k-oaep", "datakey", `{}`); d["plaintext_key"] != nil || len(unb64(t, g.ok("k-oaep", "unwrap", `{"wrapped":%q}`, d["wrapped"])["plaintext_key"])) != 32 {
		t.Errorf("a datakey nobody asked to see: %v", d)
	}
	g.refused(g.key("k-wrap", "datakey", `{"bits":192}`), Malformed, "bits")
	g.refused(g.key("k-wrap", "datakey", `{"plaintext":"true"}`), Malformed, "plaintext: true or false")
	for _, n := range []int{1, 1024} {
		a := g.send("POST", "/api/v1/random", fmt.Sprintf(`{"bytes":%d}`, n))
		if a.status != 200 || len(unb64(t, a.body["random"])) != n || len(a.body) != 1 {
			t.Errorf("random: %d %s", a.status, a.raw)
		}
	}
	for _, body := range []string{`{}`, `{"bytes":0}`, `{"bytes":1025}`} {
		g.refused(g.send("POST", "/api/v1/random", body), Malformed, "bytes")
	}
}

// A rotated key's old versions go on verifying and opening what names no version; only the primary one protects.
func TestVersionsAreFoundOrTried(t *testing.T) {
	g := newGate(t, nil)
	sig := g.ok("k-sign", "sign", `{"message":"aGk="}`)["signature"]
	mac := g.ok("k-mac", "mac", `{"message":"aGk="}`)["mac"]
	kw := g.ok("k-wrap", "wrap", `{"plaintext_key":%q,"format":"aes-kw"}`, b64("0123456789abcdef"))["wrapped"]
	gcm := g.ok("k-wrap", "wrap", `{"plaintext_key":%q}`, b64("0123456789abcdef"))["wrapped"]
	for _, k := range []string{"k-sign", "k-mac", "k-wrap"} {
		g.rotate(k)
	}
	f := func(op, name, body string, want ...any) {
		t.Helper()
		a := g.key(name, op, body)
		for i := 0; i < len(want); i += 2 {
			if a.status != 200 || a.body[want[i].(string)] != want[i+1] {
				t.Errorf("%s %s: %d %s, want %v", op, body, a.status, a.raw, want)
			}
		}
	}
	f("sign", "k-sign", `{"message":"aGk="}`, "version", 2.0)
	f("verify", "k-sign", fmt.Sprintf(`{"message":"aGk=","signature":%q}`, sig), "valid", true, "version", 1.0)
	f("verify", "k-sign", fmt.Sprintf(`{"message":"aGk=","signature":%q,"version":0}`, sig), "valid", true, "version", 1.0)
	f("verify", "k-sign", fmt.Sprintf(`{"message":"aGk=","signature":%q,"version":1}`, sig), "valid", true)
	f("verify", "k-sign", fmt.Sprintf(`{"message":"aGk=","signature":%q,"version":2}`, sig), "valid", false, "version", 2.0)
	f("mac/verify", "k-mac", fmt.Sprintf(`{"message":"aGk=","mac":%q}`, mac), "valid", true, "version", 1.0)
	f("mac/verify", "k-mac", fmt.Sprintf(`{"message":"aGk=","mac":%q,"version":2}`, mac), "valid", false)
	f("unwrap", "k-wrap", fmt.Sprintf(`{"wrapped":%q,"format":"aes-kw"}`, kw), "version", 1.0)
	f("unwrap", "k-wrap", fmt.Sprintf(`{"wrapped":%q}`, gcm), "version", 1.0)
	f("unwrap", "k-wrap", fmt.Sprintf(`{"wrapped":%q,"version":1}`, gcm), "version", 1.0)
	g.refused(g.key("k-wrap", "unwrap", fmt.Sprintf(`{"wrapped":%q,"version":2}`, gcm)), Rejected, "")
	g.refused(g.key("k-sign", "sign", `{"message":"aGk=","version":1}`), KeyState, "deactivated")
	g.refused(g.key("k-sign", "sign", `{"message":"aGk=","version":9}`), NotFound, "")
	// Without a primary version nothing is protected, and what is protected still opens.
	g.shelf.state("k-wrap", 2, key.Deactivated)
	g.refused(g.key("k-wrap", "wrap", `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg=="}`), KeyState, "no active version")
	f("unwrap", "k-wrap", fmt.Sprintf(`{"wrapped":%q}`, gcm), "version", 1.0)
	g.shelf.state("k-wrap", 1, key.Destroyed)
	g.refused(g.key("k-wrap", "unwrap", fmt.Sprintf(`{"wrapped":%q}`, gcm)), Gone, "")
	g.refused(g.key("k-wrap", "unwrap", fmt.Sprintf(`{"wrapped":%q,"version":1,"format":"aes-kw"}`, kw)), Gone, "")
	g.shelf.state("k-sign", 1, key.Suspended)
	f("verify", "k-sign", fmt.Sprintf(`{"message":"aGk=","signature":%q}`, sig), "valid", false, "version", 2.0)
	g.refused(g.key("k-sign", "verify", fmt.Sprintf(`{"message":"aGk=","signature":%q,"version":1}`, sig)), KeyState, "suspended")
}

// A key whose primary version is its first one may have later ones, which must be tried all the same.
func TestALaterVersionIsTriedBesideAnOlderPrimary(t *testing.T) {
	g := newGate(t, nil)
	g.rotate("k-sign")
	sig := g.ok("k-sign", "sign", `{"message":"aGk="}`)["signature"]
	g.shelf.change("k-sign", func(k *key.Key) {
		k.Primary, k.Versions[0].State, k.Versions[1].State = 1, key.Active, key.Deactivated
	})
	if v := g.ok("k-sign", "verify", `{"message":"aGk=","signature":%q}`, sig); v["valid"] != true || v["version"] != 2.0 {
		t.Errorf("a signature of version 2 beside the primary version 1: %v", v)
	}
	if pubs := g.public("k-sign"); len(pubs) != 2 || !g.public("k-sign")[0].(*ecdsa.PublicKey).Equal(pubs[0]) {
		t.Errorf("%d public keys", len(pubs))
	}
	d := sha256.Sum256([]byte("hi"))
	now := unb64(t, g.ok("k-sign", "sign", `{"message":"aGk="}`)["signature"])
	if !ecdsa.VerifyASN1(g.public("k-sign")[0].(*ecdsa.PublicKey), d[:], now) {
		t.Error("the first public key is not the primary version's")
	}
}

// Everything about a blob that does not open is told in the same bytes, but for the request's id; so is a wrapping of any format.
func TestEveryFailureToOpenIsTheSame(t *testing.T) {
	g := newGate(t, nil)
	g.rotate("k-wrap")
	key16 := b64("0123456789abcdef")
	gcm := g.ok("k-wrap", "wrap", `{"plaintext_key":%q,"aad":"YWFk"}`, key16)["wrapped"].(string)
	enc := g.ok("k-wrap", "encrypt", `{"plaintext":%q}`, key16)["ciphertext"].(string)
	kw := unb64(t, g.ok("k-wrap", "wrap", `{"plaintext_key":%q,"format":"aes-kw"}`, key16)["wrapped"])
	kwp := unb64(t, g.ok("k-wrap", "wrap", `{"plaintext_key":%q,"format":"aes-kwp"}`, key16)["wrapped"])
	oaep := unb64(t, g.ok("k-oaep", "wrap", `{"plaintext_key":%q}`, key16)["wrapped"])
	want := ""
	check := func(what, name, op, format string, a ...any) {
		t.Helper()
		got := g.key(name, op, fmt.Sprintf(format, a...))
		g.refused(got, Rejected, "")
		raw := strings.Replace(got.raw, got.body["request_id"].(string), "", 1)
		if want == "" {
			want = raw
		}
		if raw != want {
			t.Errorf("%s: %s, unlike %s", what, raw, want)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(gcm[4:])
	if err != nil {
		t.Fatal(err)
	}
	changed := func(b []byte, i int) []byte { b = append([]byte(nil), b...); b[i] ^= 1; return b }
	url := base64.RawURLEncoding.EncodeToString
	for i := range raw {
		check(fmt.Sprintf("gcm byte %d", i), "k-wrap", "unwrap", `{"wrapped":"kw1.%s","aad":"YWFk"}`, url(changed(raw, i)))
	}
	for _, n := range []int{0, 1, 20, 21, 48, len(raw) - 1} {
		check(fmt.Sprintf("gcm of %d bytes", n), "k-wrap", "unwrap", `{"wrapped":"kw1.%s","aad":"YWFk"}`, url(raw[:n]))
	}
	check("another aad", "k-wrap", "unwrap", `{"wrapped":%q,"aad":"YWFl"}`, gcm)
	check("no aad", "k-wrap", "unwrap", `{"wrapped":%q}`, gcm)
	check("as ciphertext", "k-wrap", "decrypt", `{"ciphertext":%q,"aad":"YWFk"}`, gcm)
	check("ciphertext as wrapping", "k-wrap", "unwrap", `{"wrapped":%q}`, enc)
	check("under another key", "k-aes128", "unwrap", `{"wrapped":%q,"aad":"YWFk"}`, gcm)
	check("as another version", "k-wrap", "unwrap", `{"wrapped":%q,"aad":"YWFk","version":1}`, gcm)
	check("rewrap", "k-wrap", "rewrap", `{"wrapped":%q}`, gcm)
	for format, b := range map[string][]byte{"aes-kw": kw, "aes-kwp": kwp} {
		check(format, "k-wrap", "unwrap", `{"wrapped":%q,"format":%q}`, b64(string(changed(b, 3))), format)
		check(format+" short", "k-wrap", "unwrap", `{"wrapped":%q,"format":%q}`, b64(string(b[:16])), format)
		check(format+" odd", "k-wrap", "unwrap", `{"wrapped":%q,"format":%q}`, b64(string(b[:17])), format)
		check(format+" empty", "k-wrap", "unwrap", `{"wrapped":"","format":%q}`, format)
	}
	check("kw as kwp", "k-wrap", "unwrap", `{"wrapped":%q,"format":"aes-kwp"}`, b64(string(kw)))
	check("oaep", "k-oaep", "unwrap", `{"wrapped":%q}`, b64(string(changed(oaep, 77))))
	check("oaep, another hash", "k-oaep", "unwrap", `{"wrapped":%q,"hash":"sha2-256"}`, b64(string(oaep)))
	check("oaep short", "k-oaep", "unwrap", `{"wrapped":%q}`, b64(string(oaep[1:])))
	check("oaep empty", "k-oaep", "decrypt", `{"ciphertext":""}`)
	check("oaep decrypt", "k-oaep", "decrypt", `{"ciphertext":%q}`, b64(string(changed(oaep, 255))))
}

func TestFormatsAreNegotiatedWithTheTokens(t *testing.T) {
	g := newGate(t, nil)
	g.crypto.lacks = hsm.AESKeyWrapKWP
	body := fmt.Sprintf(`{"plaintext_key":%q,"format":"aes-kwp"}`, b64("0123456789abcdef"))
	g.refused(g.key("k-wrap", "wrap", body), WrongUsage, "aes-kwp")
	g.refused(g.key("k-wrap", "unwrap", `{"wrapped":"MDEyMzQ1Njc4OWFiY2RlZg==","format":"aes-kwp"}`), WrongUsage, "aes-kwp")
	g.crypto.hashes = []hsm.Hash{hsm.SHA1}
	w := g.ok("k-oaep", "wrap", `{"plaintext_key":%q}`, b64("0123456789abcdef"))["wrapped"]
	g.ok("k-oaep", "unwrap", `{"wrapped":%q,"hash":"sha1"}`, w)
	g.refused(g.key("k-oaep", "wrap", `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg==","hash":"sha2-256"}`), WrongUsage, "sha2-256")
	g.crypto.hashes = nil
	g.refused(g.key("k-oaep", "wrap", `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg=="}`), WrongUsage, "OAEP")
	if n := g.crypto.ops.Load(); n != 1 {
		t.Errorf("%d operations reached the token, want the one that opened", n)
	}
	// While no token serves, nobody knows what they can: that is no fault of the request.
	g.crypto.down.Store(true)
	g.refused(g.key("k-wrap", "wrap", body), Unavailable, "")
	g.refused(g.key("k-oaep", "wrap", `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg=="}`), Unavailable, "")
	g.refused(g.key("k-sign", "sign", `{"message":"aGk="}`), Unavailable, "")
}

func TestPublicKeysOfAKey(t *testing.T) {
	g := newGate(t, nil)
	for name, want := range map[string]jwk{
		"k-sign": {Kty: "EC", Use: "sig", Crv: "P-256"}, "k-p521": {Kty: "EC", Use: "sig", Crv: "P-521"},
		"k-rsa": {Kty: "RSA", Use: "sig"}, "k-oaep": {Kty: "RSA", Use: "enc"}, "k-ed": {Kty: "OKP", Use: "sig", Crv: "Ed25519"},
	} {
		a := g.send("GET", "/api/v1/keys/"+name+"/jwks.json", "")
		var set struct{ Keys []jwk }
		if err := json.Unmarshal([]byte(a.raw), &set); err != nil || a.status != 200 || len(set.Keys) != 1 {
			t.Fatalf("%s: %d %s %v", name, a.status, a.raw, err)
		}
		j := set.Keys[0]
		if j.Kty != want.Kty || j.Use != want.Use || j.Crv != want.Crv || !strings.HasPrefix(j.Kid, name+":1:") {
			t.Errorf("%s: %+v", name, j)
		}
		num := func(s string) *big.Int {
			b, err := base64.RawURLEncoding.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return new(big.Int).SetBytes(b)
		}
		switch pub := g.public(name)[0].(type) {
		case *rsa.PublicKey:
			if num(j.N).Cmp(pub.N) != 0 || num(j.E).Int64() != int64(pub.E) {
				t.Errorf("%s: another key in JWKS than in PEM", name)
			}
		case *ecdsa.PublicKey:
			raw, _ := pub.Bytes()
			n := (len(raw) - 1) / 2
			if j.X != base64.RawURLEncoding.EncodeToString(raw[1:1+n]) || j.Y != base64.RawURLEncoding.EncodeToString(raw[1+n:]) {
				t.Errorf("%s: another key in JWKS than in PEM", name)
			}
		case ed25519.PublicKey:
			if j.X != base64.RawURLEncoding.EncodeToString(pub) {
				t.Errorf("%s: another key in JWKS than in PEM", name)
			}
		}
	}
	for _, doc := range []string{"public.pem", "jwks.json"} {
		g.refused(g.send("GET", "/api/v1/keys/k-wrap/"+doc, ""), WrongUsage, "public half")
		g.refused(g.send("GET", "/api/v1/keys/other/"+doc, ""), NotFound, "")
	}
	g.shelf.state("k-ed", 1, key.Suspended)
	g.refused(g.send("GET", "/api/v1/keys/k-ed/public.pem", ""), KeyState, "")
}

func TestMetadataHoldsNothingSecret(t *testing.T) {
	g := newGate(t, nil)
	g.shelf.change("k-wrap", func(k *key.Key) { k.Versions[0].Blob = []byte("BLOBBLOBBLOB") })
	a := g.send("GET", "/api/v1/keys/k-wrap", "")
	if a.status != 200 || a.body["name"] != "k-wrap" || a.body["algorithm"] != "aes-256" || a.body["primary_version"] != 1.0 || len(a.body["versions"].([]any)) != 1 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if strings.Contains(a.raw, "BLOB") || strings.Contains(a.raw, base64.StdEncoding.EncodeToString([]byte("BLOBBLOBBLOB"))) {
		t.Errorf("the metadata holds the blob: %s", a.raw)
	}
	g.refused(g.send("GET", "/api/v1/keys/other", ""), NotFound, "")
	g.refused(g.send("GET", "/api/v1/keys/k-none", ""), NotFound, "")
}

func TestHealthAndReadiness(t *testing.T) {
	var ready error
	g := newGate(t, func(c *Config) { c.Ready = func() error { return ready } })
	g.token = ""
	for _, path := range []string{"/healthz", "/readyz", "/api/v1/openapi.json"} {
		for _, method := range []string{"GET", "HEAD"} {
			if a := g.send(method, path, ""); a.status != 200 || (method == "HEAD") != (a.raw == "") {
				t.Errorf("%s %s: %d %q", method, path, a.status, a.raw)
			}
		}
	}
	ready = fmt.Errorf("no member of pool default serves")
	g.refused(g.send("GET", "/readyz", ""), Unavailable, "pool default")
	if a := g.send("GET", "/healthz", ""); a.status != 200 {
		t.Errorf("healthz: %d", a.status)
	}
}
