package gateway

import (
	"bytes"
	"context"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"keyway/hsm"
)

// generic reads an object as encoding/json does, with its members in order and numbers as they were written.
func generic(body []byte) (names []string, values map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	t, err := d.Token()
	if err != nil {
		return nil, nil, err
	}
	if t != json.Delim('{') {
		return nil, nil, errors.New("not an object")
	}
	values = map[string]any{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, nil, err
		}
		names = append(names, k.(string))
		values[k.(string)] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, errors.New("it goes on")
	}
	return names, values, nil
}

// allowed says whether an object that encoding/json reads is one that the API takes, by the words of its description.
func allowed(names []string, values map[string]any, takes field) bool {
	for i, n := range names {
		f := fieldNames[n]
		if f == 0 || f&takes == 0 && !(f == fPlaintext && takes&fWantPlain != 0) || slices.Contains(names[:i], n) {
			return false
		}
		s, isText := values[n].(string)
		switch f {
		case fBits, fBytes, fVersion:
			num, ok := values[n].(json.Number)
			if !ok || !whole(string(num), map[field]int64{fBits: 1 << 16, fBytes: 1 << 30, fVersion: 1 << 31}[f]) {
				return false
			}
		case fPlaintext:
			if _, ok := values[n].(bool); ok != (takes&fPlaintext == 0) || !ok && !(isText && strictBase64(s)) {
				return false
			}
		case fHash, fPadding, fEncoding, fFormat, fCiphertext, fWrapped, fOp, fKey:
			if !isText {
				return false
			}
		case fID:
			if num, ok := values[n].(json.Number); !isText && !(ok && whole(string(num), 1<<53)) {
				return false
			}
		default:
			if !isText || !strictBase64(s) {
				return false
			}
		}
	}
	return true
}

func whole(s string, limit int64) bool {
	n, ok := new(big.Int).SetString(s, 10)
	return ok && n.String() == s && n.Sign() >= 0 && n.Cmp(big.NewInt(limit)) <= 0
}

func strictBase64(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && base64.StdEncoding.EncodeToString(b) == s
}

// FuzzDecode: bodies never make the decoder panic; what it takes encoding/json takes too, with the same values, and what encoding/json
// reads as an object of the API's fields and types it takes.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"message":"aGk=","hash":"sha2-256","version":1}`, `{"plaintext":true,"bits":128}`, ` { "aad" : "\u0061Gk=" , "key":"k" } `, `{"id":"\ud83d\ude00"}`, `{"id":7}`, `{"message":"aGk=\n"}`,
		`{"hash":"\ud800x"}`, `{"bits":1e2}`, `{"version":-0}`, `{"hash":null}`, `{}`, ``, `{"a":[{}]}`, "{\"hash\":\"\xff\"}", `{"wrapped":"\/"}`, `{"op":"x","op":"y"}`, `{"message":"aGl="}`, `{"id":01}`,
	} {
		for takes := range uint8(3) {
			f.Add([]byte(s), takes)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		takes := []field{anyField &^ fWantPlain, anyField &^ fPlaintext, signFields}[which%3]
		r := &request{}
		mine := bytes.Clone(body)
		e := r.parse(mine, takes)
		names, values, err := generic(body)
		if e == nil && err != nil {
			t.Fatalf("taken, and encoding/json says %v", err)
		}
		if err != nil {
			return
		}
		if want := allowed(names, values, takes) && utf8.Valid(body); (e == nil) != want && !(e == nil && utf8OnlyInBytes(values)) {
			t.Fatalf("taken: %v (%v), want %v", e == nil, e, want)
		}
		if e != nil {
			return
		}
		for n, v := range values {
			var got any
			switch f := fieldNames[n]; f {
			case fHash:
				got = r.Hash
			case fPadding:
				got = r.Padding
			case fEncoding:
				got = r.Encoding
			case fFormat:
				got = r.Format
			case fOp:
				got = r.Op
			case fKey:
				got = r.Key
			case fID:
				var id any
				d := json.NewDecoder(strings.NewReader(r.ID))
				d.UseNumber()
				if err := d.Decode(&id); err != nil {
					t.Fatalf("the id %s is not JSON: %v", r.ID, err)
				}
				got = id
			case fBits:
				got = json.Number(fmt.Sprint(r.Bits))
			case fBytes:
				got = json.Number(fmt.Sprint(r.Bytes))
			case fVersion:
				got = json.Number(fmt.Sprint(r.Version))
			case fCiphertext, fWrapped:
				got = strings.ToValidUTF8(string(r.bytesOf(n)), "\ufffd")
				v = strings.ToValidUTF8(v.(string), "\ufffd")
				if !utf8.Valid(r.bytesOf(n)) {
					continue
				}
			case fPlaintext:
				if got = base64.StdEncoding.EncodeToString(r.Plaintext); takes&fPlaintext == 0 {
					got = r.WantPlain
				}
			default:
				got = base64.StdEncoding.EncodeToString(r.bytesOf(n))
			}
			if got != v {
				t.Fatalf("%s is %v, and encoding/json reads %v", n, got, v)
			}
		}
		r.reset()
		if slices.ContainsFunc(r.scratch[:cap(r.scratch)], func(b byte) bool { return b != 0 }) {
			t.Fatal("the scratch is not wiped")
		}
	})
}

// utf8OnlyInBytes: what is no UTF-8 is taken where it is not looked at as text, in ciphertext and wrapped, which are refused later.
func utf8OnlyInBytes(values map[string]any) bool {
	for _, n := range []string{"ciphertext", "wrapped"} {
		if s, ok := values[n].(string); ok && strings.ContainsRune(s, utf8.RuneError) {
			return true
		}
	}
	return false
}

// FuzzBatch: whatever a batch holds, the answer is a problem, or one result for each element of the array, in order and with its id.
func FuzzBatch(f *testing.F) {
	for _, s := range []string{
		`{"operations":[{"id":"a","op":"mac","key":"k-mac","message":"aGk="},{"id":"b","op":"random","bytes":3}]}`, `{"operations":[{"id":"x","op":"nonsense"},7,null,"s",[1,2],{"a":{"b":"}"}}]}`,
		`{"operations":[{"op":"datakey","key":"k-wrap","plaintext":true},{"plaintext":"aGk=","op":"encrypt","key":"k-wrap"}]}`, `{"operations":[]}`, `{"operations":[{}`, `{"operations":[{"id":"\u0061"}]}`, `{}`,
		`{"operations":[{"id":"a","message":"aGk","op":"mac","key":"k-mac"},{"id":1,"id":2}]}`,
	} {
		f.Add([]byte(s))
	}
	cfg, _, _, _ := config()
	cfg.Log = nil
	s, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > cfg.MaxBody {
			return
		}
		a := s.direct("POST", "/api/v1/batch", body)
		var want struct{ Operations []json.RawMessage }
		var got struct{ Results []map[string]any }
		if a.status != 200 {
			if !json.Valid([]byte(a.raw)) || a.status != 400 && a.status != 413 {
				t.Fatalf("%d %s", a.status, a.raw)
			}
			return
		}
		if err := json.Unmarshal([]byte(a.raw), &got); err != nil {
			t.Fatalf("%v: %s", err, a.raw)
		}
		if err := json.Unmarshal(body, &want); err != nil {
			return // an element that is no JSON is its own failure
		}
		if len(got.Results) != len(want.Operations) {
			t.Fatalf("%d results of %d operations", len(got.Results), len(want.Operations))
		}
		for i, r := range got.Results {
			if r["status"] == nil || r["id"] == nil {
				t.Fatalf("result %d: %v", i, r)
			}
			names, values, err := generic(want.Operations[i])
			if r["status"] == 200.0 && (err != nil || !slices.Contains(names, "op")) {
				t.Fatalf("result %d: %v of %s", i, r, want.Operations[i])
			}
			if id, ok := values["id"].(string); ok && r["status"] == 200.0 && r["id"] != id {
				t.Fatalf("result %d has the id %v of %s", i, r["id"], want.Operations[i])
			}
		}
	})
}

// FuzzBlob: text that is not what was made does not open, whatever was changed, added or left out; and parsing is the inverse of making.
func FuzzBlob(f *testing.F) {
	c := &crypto{vault: theVault()}
	v := c.keys[0].Versions[0]
	header := appendHeader(nil, purposeWrap, v)
	pk, err := poolKey(v)
	if err != nil {
		f.Fatal(err)
	}
	op := hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: header}, In: []byte("0123456789abcdef")}
	sealed, err := c.Do(context.Background(), pk, op)
	if err != nil {
		f.Fatal(err)
	}
	text := appendBlob(nil, header, sealed)
	if want := "kw1." + base64.RawURLEncoding.EncodeToString(append(bytes.Clone(header), sealed...)); string(text) != want {
		f.Fatalf("made %s, want %s", text, want)
	}
	f.Add(uint16(0), byte(0), []byte{})
	f.Add(uint16(4), byte(1), []byte{})
	f.Add(uint16(20), byte(255), []byte("x"))
	f.Add(uint16(400), byte(1), []byte("\n"))
	f.Add(uint16(0), byte(0), []byte("kw1."))
	for flip := byte(1); flip < 16; flip++ { // bits of the last character that stand for none
		f.Add(uint16(len(text)-1), flip, []byte{})
	}
	f.Fuzz(func(t *testing.T, at uint16, flip byte, tail []byte) {
		bad := append(bytes.Clone(text), tail...)
		if int(at) < len(bad) {
			bad[at] ^= flip
		} else if len(tail) == 0 && at < 1000 {
			bad = bad[:int(at)%len(bad)]
		}
		opens := func(text []byte) bool {
			r := &request{scratch: make([]byte, 0, len(text))}
			b, e := r.parseBlob("wrapped", text)
			if e != nil {
				return false
			}
			if again := appendBlob(nil, b.header, b.sealed); !bytes.Equal(again, text) {
				t.Fatalf("%q parses, and is written %q", text, again)
			}
			if b.purpose != purposeWrap || b.keyID != v.KeyID || b.version != v.Number {
				return false
			}
			out, err := c.Do(context.Background(), pk, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: b.header}, In: b.sealed})
			return err == nil && string(out) == "0123456789abcdef"
		}
		if got, want := opens(bad), bytes.Equal(bad, text); got != want {
			t.Fatalf("%q opens: %v", bad, got)
		}
		opens(tail)
	})
}

// FuzzDER: r ‖ s becomes the DER that encoding/asn1 writes and comes back; other bytes come back only if they are that DER.
func FuzzDER(f *testing.F) {
	f.Add([]byte{1, 2}, []byte{0x30, 6, 2, 1, 1, 2, 1, 2})
	f.Add(bytes.Repeat([]byte{0xff}, 132), []byte{0x30, 7, 2, 2, 0, 1, 2, 1, 2})
	f.Add(append(make([]byte, 32), bytes.Repeat([]byte{0x80}, 32)...), []byte{0x30, 0x81, 6, 2, 1, 1, 2, 1, 2})
	f.Add(make([]byte, 64), []byte{0x30, 6, 2, 1, 0x81, 2, 1, 2, 0})
	f.Fuzz(func(t *testing.T, rs, der []byte) {
		if n := len(rs) / 2; n > 0 && n <= 66 {
			rs = rs[:2*n]
			r, s := new(big.Int).SetBytes(rs[:n]), new(big.Int).SetBytes(rs[n:])
			want, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
			if err != nil {
				t.Fatal(err)
			}
			got := toDER(rs)
			if !bytes.Equal(got, want) {
				t.Fatalf("%x becomes %x, want %x", rs, got, want)
			}
			back := fromDER(got, n)
			if r.Sign() == 0 || s.Sign() == 0 {
				if back != nil {
					t.Fatalf("a signature with a zero comes back: %x", back)
				}
			} else if !bytes.Equal(back, rs) {
				t.Fatalf("%x comes back as %x", rs, back)
			}
		}
		for _, size := range []int{1, 32, 48, 66} {
			rs := fromDER(der, size)
			if rs == nil {
				continue
			}
			var sig struct{ R, S *big.Int }
			rest, err := asn1.Unmarshal(der, &sig)
			if err != nil || len(rest) != 0 || len(rs) != 2*size || sig.R.Cmp(new(big.Int).SetBytes(rs[:size])) != 0 || sig.S.Cmp(new(big.Int).SetBytes(rs[size:])) != 0 || !bytes.Equal(toDER(rs), der) {
				t.Fatalf("%x is read as %x", der, rs)
			}
		}
	})
}

// direct runs a request through the handler, without a network.
func (s *Server) direct(method, path string, body []byte) answer {
	h := s.prepared(method, path, body)
	s.serve(h)
	a := answer{status: h.Response.StatusCode(), raw: string(h.Response.Body())}
	h.Conn().(*conn).finish()
	return a
}

// prepared is a request as fasthttp hands it over.
func (s *Server) prepared(method, path string, body []byte) *fasthttp.RequestCtx {
	h := &fasthttp.RequestCtx{}
	h.Init2(&conn{s: s}, nil, false)
	h.Request.Header.SetMethod(method)
	h.Request.SetRequestURI(path)
	h.Request.Header.Set("Authorization", "Bearer "+appToken)
	h.Request.SetBody(body)
	return h
}
