package gateway

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"keyway/lifecycle/key"
)

// parse reads a body of its own, since parsing may write to it.
func parse(body string, takes field) (*request, *Error) {
	r := &request{}
	e := r.parse([]byte(body), takes)
	return r, e
}

func TestEveryFieldIsDecoded(t *testing.T) {
	all := anyField &^ fWantPlain
	r, e := parse(`{"message":"bQ==","digest":"ZA==","hash":"h","padding":"p","encoding":"e","signature":"cw==","plaintext":"cA==","ciphertext":"c",
		"aad":"YQ==","plaintext_key":"aw==","wrapped":"w","format":"f","mac":"TQ==","bits":128,"bytes":7,"version":9,"id":"i\"d","op":"o","key":"k"}`, all)
	if e != nil {
		t.Fatal(e)
	}
	if r.has != all {
		t.Errorf("has %b, want %b", r.has, all)
	}
	got := fmt.Sprintf("%s %s %s %s %s %s %s %s %s %s %s %s %s %d %d %d %s %s %s", r.Message, r.Digest, r.Hash, r.Padding, r.Encoding, r.Signature, r.Plaintext,
		r.Ciphertext, r.AAD, r.PlaintextKey, r.Wrapped, r.Format, r.MAC, r.Bits, r.Bytes, r.Version, r.ID, r.Op, r.Key)
	if want := `m d h p e s p c a k w f M 128 7 9 "i\"d" o k`; got != want {
		t.Errorf("decoded as %s, want %s", got, want)
	}
	for _, v := range []string{"true", "false"} {
		if r, e := parse(`{"plaintext":`+v+`}`, fWantPlain|fBits); e != nil || r.WantPlain != (v == "true") || r.has != fWantPlain {
			t.Errorf("plaintext %s: %+v %v", v, r, e)
		}
	}
	if n := bits.OnesCount32(uint32(anyField)); n != len(fieldTable)+1 || len(fieldNames) != len(fieldTable) {
		t.Errorf("%d fields, %d in the table and %d by name", n, len(fieldTable), len(fieldNames))
	}
}

// Bytes fields take strict base64 and nothing else; the error names the field.
func TestBytesFieldsAreStrictBase64(t *testing.T) {
	for _, name := range []string{"message", "digest", "signature", "plaintext", "aad", "plaintext_key", "mac"} {
		for _, bad := range []string{`"aGk"`, `"aGk=="`, `"aG=k"`, `"aGl="`, `"aGk=\n"`, `"a\r\nGk="`, `"_-_-"`, `"aGk= "`, `"!"`, `"é"`, `1`, `null`, `true`, `{}`, `["aGk="]`} {
			if _, e := parse(`{"`+name+`":`+bad+`}`, anyField&^fWantPlain); e == nil || e.Kind != Malformed || !strings.HasPrefix(e.Detail, name+": ") {
				t.Errorf("%s %s: %v", name, bad, e)
			}
		}
		for good, want := range map[string]string{`""`: "", `"aGk="`: "hi", `"aGk\u003d"`: "hi", `"\u0061Gk="`: "hi", `"Pz8\/"`: "???"} {
			r, e := parse(`{"`+name+`":`+good+`}`, anyField&^fWantPlain)
			if e != nil || string(r.bytesOf(name)) != want {
				t.Errorf("%s %s: %v", name, good, e)
			}
		}
	}
}

func (r *request) bytesOf(name string) []byte {
	return map[string][]byte{"message": r.Message, "digest": r.Digest, "signature": r.Signature, "plaintext": r.Plaintext, "aad": r.AAD,
		"plaintext_key": r.PlaintextKey, "mac": r.MAC, "ciphertext": r.Ciphertext, "wrapped": r.Wrapped}[name]
}

func TestMalformedBodiesSayWhere(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		if _, e := parse(body, anyField&^fWantPlain); e == nil || e.Kind != Malformed || !strings.Contains(e.Detail, want) {
			t.Errorf("%q: %v, want something about %q", body, e, want)
		}
	}
	f(``, "object was expected at byte 0")
	f(`[]`, "object was expected")
	f(`null`, "object was expected")
	f("\xef\xbb\xbf{}", "object was expected")
	f(`{`, "string was expected")
	f(`{,}`, "string was expected")
	f(`{"hash"}`, "colon")
	f(`{"hash":}`, "hash: a string")
	f(`{"hash":"x",}`, "string was expected")
	f(`{"hash":"x" "op":"y"}`, "comma")
	f(`{"hash":"x"`, "comma or the end")
	f(`{"hash":"x"} x`, "goes on")
	f(`{"hash":"x"}{}`, "goes on")
	f(`{"hash":"x`, "does not end")
	f("{\"hash\":\"a\nb\"}", "control character")
	f("{\"hash\":\"a\\n\nb\"}", "control character")
	f(`{"hash":"\x"}`, "bad escape")
	f(`{"hash":"\u12"}`, "bad escape")
	f(`{"hash":"\u+123"}`, "bad escape")
	f(`{"hash":"\`, "escape")
	f("{\"hash\":\"\xff\"}", "hash: not UTF-8")
	f(`{"hash":1}`, "hash: a string")
	f(`{"hash":null}`, "hash: a string")
	f(`{'hash':"x"}`, "string was expected")
	f(`{"nonsense":"x"}`, `unknown field "nonsense"`)
	f(`{"Hash":"x"}`, `unknown field "Hash"`)
	f(`{"`+strings.Repeat("x", 100)+`":1}`, `unknown field "`+strings.Repeat("x", 40)+`"`)
	f("{\"\u202e\x7f\":1}", `unknown field "\u202e\x7f"`)
	f(`{"hash":"x","hash":"x"}`, "hash: the field stands twice")
	f(`{"aad":"","aad":""}`, "aad: the field stands twice")
	f(`{"version":0,"version":0}`, "version: the field stands twice")
	for _, n := range []string{"bits", "bytes", "version"} {
		for _, v := range []string{`-1`, `1.0`, `1e2`, `1E2`, `01`, `"1"`, `null`, `true`, `99999999999`, `99999999999999999999999`, `+1`, `{}`, ``} {
			f(`{"`+n+`":`+v+`}`, n)
		}
	}
	if _, e := parse(`{"plaintext":"aGk="}`, fWantPlain); e == nil || !strings.Contains(e.Detail, "plaintext: true or false") {
		t.Errorf("a string where datakey takes a boolean: %v", e)
	}
	if _, e := parse(`{"plaintext":true}`, fPlaintext); e == nil || !strings.Contains(e.Detail, "plaintext: a string") {
		t.Errorf("a boolean where encrypt takes bytes: %v", e)
	}
}

func TestWhiteSpaceAndEscapesAreJSON(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		r, e := parse(" \t\r\n{ \"hash\" : "+text+" } \n", fHash)
		if e != nil || r.Hash != want {
			t.Errorf("%s: %q %v, want %q", text, r.Hash, e, want)
		}
	}
	f(`"plain"`, "plain")
	f(`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t")
	f(`"\u00e9é\u20AC"`, "éé€")
	f(`"\ud83d\ude00!"`, "😀!")
	f(`"\ud83d!"`, "\ufffd!")
	f(`"\ud83d\u0041"`, "\ufffdA")
	f(`"\ude00\ud83d"`, "\ufffd\ufffd")
	f(`"\u0000"`, "\x00")
}

// What is wrong with a request is told by field, before any token is asked.
func TestWrongRequestsNameTheFieldBeforeAnythingCosts(t *testing.T) {
	g := newGate(t, nil)
	b16 := b64("0123456789abcdef")
	for _, c := range []struct{ name, op, body, names string }{
		{"k-sign", "sign", `{"message":"aGk=","bogus":1}`, "bogus"},
		{"k-sign", "sign", `{"message":"aGk=","signature":"aGk="}`, "signature"},
		{"k-sign", "sign", `{"message":"aGk"}`, "message"},
		{"k-sign", "sign", `{}`, "message"},
		{"k-sign", "sign", `{"message":"aGk=","digest":"aGk="}`, "digest"},
		{"k-sign", "sign", `{"digest":"aGk=","hash":"sha2-256"}`, "digest"},
		{"k-sign", "sign", `{"digest":"` + b64(strings.Repeat("x", 32)) + `","hash":"sha2-384"}`, "digest"},
		{"k-sign", "sign", `{"message":"aGk=","hash":"md5"}`, "hash"},
		{"k-sign", "sign", `{"message":"aGk=","hash":"sha1"}`, "hash"},
		{"k-sign", "sign", `{"message":"aGk=","hash":""}`, "hash"},
		{"k-sign", "sign", `{"message":"aGk=","encoding":"pem"}`, "encoding"},
		{"k-sign", "sign", `{"message":"aGk=","padding":"pss"}`, "padding"},
		{"k-rsa", "sign", `{"message":"aGk=","padding":"oaep"}`, "padding"},
		{"k-rsa", "sign", `{"message":"aGk=","encoding":"der"}`, "encoding"},
		{"k-rsa", "sign", `{"message":"aGk=","padding":""}`, "padding"},
		{"k-ed", "sign", `{"digest":"` + b64(strings.Repeat("x", 32)) + `"}`, "digest"},
		{"k-ed", "sign", `{"message":"aGk=","hash":"sha2-256"}`, "hash"},
		{"k-sign", "verify", `{"message":"aGk="}`, "signature"},
		{"k-sign", "verify", `{"message":"aGk=","signature":"aGk"}`, "signature"},
		{"k-wrap", "encrypt", `{"aad":"aGk="}`, "plaintext"},
		{"k-wrap", "encrypt", `{"plaintext":"aGk=","hash":"sha2-256"}`, "hash"},
		{"k-oaep", "encrypt", `{"plaintext":"aGk=","aad":"aGk="}`, "aad"},
		{"k-oaep", "encrypt", `{"plaintext":"aGk=","hash":"md5"}`, "hash"},
		{"k-oaep", "encrypt", `{"plaintext":"` + b64(strings.Repeat("x", 200)) + `"}`, "plaintext"},
		{"k-wrap", "decrypt", `{}`, "ciphertext"},
		{"k-wrap", "decrypt", `{"ciphertext":"aGk="}`, "ciphertext"},
		{"k-wrap", "decrypt", `{"ciphertext":"kw1.aGk="}`, "ciphertext"},
		{"k-wrap", "decrypt", `{"ciphertext":"kw2.aGk"}`, "ciphertext"},
		{"k-oaep", "decrypt", `{"ciphertext":"kw1.aGk"}`, "ciphertext"},
		{"k-wrap", "wrap", `{}`, "plaintext_key"},
		{"k-wrap", "wrap", `{"plaintext_key":""}`, "plaintext_key"},
		{"k-wrap", "wrap", `{"plaintext_key":"` + b16 + `","format":"tr31"}`, "format"},
		{"k-wrap", "wrap", `{"plaintext_key":"` + b16 + `","format":""}`, "format"},
		{"k-wrap", "wrap", `{"plaintext_key":"` + b64("short") + `","format":"aes-kw"}`, "plaintext_key"},
		{"k-wrap", "wrap", `{"plaintext_key":"` + b16 + `","format":"aes-kw","aad":"aGk="}`, "aad"},
		{"k-wrap", "wrap", `{"plaintext_key":"` + b16 + `","format":"aes-kw","hash":"sha2-256"}`, "hash"},
		{"k-wrap", "unwrap", `{}`, "wrapped"},
		{"k-wrap", "unwrap", `{"wrapped":"!","format":"aes-kw"}`, "wrapped"},
		{"k-wrap", "unwrap", `{"wrapped":"aGk=","format":"x"}`, "format"},
		{"k-mac", "mac", `{}`, "message"},
		{"k-mac", "mac/verify", `{"message":"aGk="}`, "mac"},
		{"k-mac", "mac/verify", `{"mac":"aGk="}`, "message"},
		{"k-wrap", "datakey", `{"bits":1}`, "bits"},
		{"k-wrap", "datakey", `{"plaintext":"aGk="}`, "plaintext"},
		{"k-wrap", "rewrap", `{}`, "wrapped"},
	} {
		g.refused(g.key(c.name, c.op, c.body), Malformed, c.names)
	}
	g.refused(g.key("k-sign", "sign", `{"message":"`+strings.Repeat("A", 64<<10)+`"}`), TooLarge, "body")
	if n := g.crypto.ops.Load(); n != 0 {
		t.Errorf("%d operations reached the token", n)
	}
}

func TestTheWrongKindOfKeyIsUsage(t *testing.T) {
	g := newGate(t, nil)
	for _, c := range []struct{ name, op, body string }{
		{"k-mac", "sign", `{"message":"aGk="}`}, {"k-wrap", "verify", `{"message":"aGk=","signature":""}`}, {"k-sign", "encrypt", `{"plaintext":"aGk="}`},
		{"k-sign", "decrypt", `{"ciphertext":"aGk="}`}, {"k-mac", "wrap", `{"plaintext_key":"aGk="}`}, {"k-mac", "unwrap", `{"wrapped":"kw1.aGk"}`}, {"k-oaep", "sign", `{"message":"aGk="}`},
		{"k-mac", "unwrap", `{"wrapped":"aGk=","format":"aes-kw"}`}, {"k-wrap", "mac", `{"message":"aGk="}`}, {"k-wrap", "mac/verify", `{"message":"aGk=","mac":""}`}, {"k-rsa", "datakey", `{}`},
		{"k-oaep", "wrap", `{"plaintext_key":"aGk=","format":"aes-gcm"}`}, {"k-oaep", "wrap", `{"plaintext_key":"aGk=","format":"aes-kw"}`}, {"k-wrap", "wrap", `{"plaintext_key":"aGk=","format":"rsa-oaep"}`},
	} {
		g.refused(g.key(c.name, c.op, c.body), WrongUsage, "")
	}
}

// keyName must agree with the names that operators can give.
func TestKeyNamesAreThoseThatOperatorsCanGive(t *testing.T) {
	for _, n := range []string{"", "a", "a-b", "a.b_c", "-a", "a-", ".a", "A", "a b", "a/b", "a:1", "a@1", "a%20", "a\x00", "é", "0", "a..b", strings.Repeat("a", 128), strings.Repeat("a", 129)} {
		if got, want := keyName([]byte(n)) == n && n != "", key.CheckName(n) == nil; got != want {
			t.Errorf("%q: %v, and key.CheckName says %v", n, got, want)
		}
	}
}

func TestAppendStringIsJSON(t *testing.T) {
	for _, s := range []string{"", "plain", `"quoted"`, `back\slash`, "control\x01", "<&>", "é€😀", "\u2028", "bad\xffutf8"} {
		var got string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil || got != strings.ToValidUTF8(s, "\ufffd") {
			t.Errorf("%q: %s %v", s, appendString(nil, s), err)
		}
	}
}
