package hsm

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPINNeverPrints tries every way a value gets into text, alone and inside others.
func TestPINNeverPrints(t *testing.T) {
	const secret = "very-secret-1234"
	pin := NewPIN([]byte(secret))
	type outer struct {
		Name   string
		PIN    PIN
		hidden PIN
		ptr    *PIN
	}
	o := outer{"a", pin, pin, &pin}
	hex, dec := fmt.Sprintf("%x", secret), strings.Trim(fmt.Sprint([]byte(secret)), "[]")
	f := func(how, got string) {
		t.Helper()
		for _, s := range []string{secret, hex, strings.ToUpper(hex), dec} {
			if strings.Contains(got, s) {
				t.Errorf("%s prints the PIN: %s", how, got)
			}
		}
	}
	for verb := rune(0x21); verb < 0x7f; verb++ {
		for _, flags := range []string{"", "+", "#", "-20", " ", "0", "10.3"} {
			format := "%" + flags + string(verb)
			for _, v := range []any{pin, &pin, o, &o, []PIN{pin}, map[string]PIN{"a": pin}, [1]any{pin}, struct{ p any }{pin}} {
				f(format, fmt.Sprintf(format, v))
			}
		}
	}
	for _, v := range []any{pin, &pin} {
		if got := fmt.Sprintf("%v %s %d %x %q %+v %#v", v, v, v, v, v, v, v); got != strings.TrimSpace(strings.Repeat(redacted+" ", 7)) {
			t.Errorf("got %s", got)
		}
	}
	f("Errorf", fmt.Errorf("login with %v: %s", pin, pin).Error())
	f("String", pin.String()+pin.GoString())
	for _, v := range []any{pin, o, []PIN{pin}, map[string]PIN{"a": pin}} {
		b, err := json.Marshal(v)
		if err != nil || !bytes.Contains(b, []byte(redacted)) {
			t.Errorf("JSON: %s, %v", b, err)
		}
		f("JSON", string(b))
	}
	b, err := xml.Marshal(o)
	if err != nil || !bytes.Contains(b, []byte(redacted)) {
		t.Errorf("XML: %s, %v", b, err)
	}
	f("XML", string(b))
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("opening", "pin", pin, "ptr", &pin, "in", o, slog.Group("g", "pin", pin), "list", []PIN{pin})
	}
	if !strings.Contains(log.String(), redacted) {
		t.Errorf("the log does not show that there was one: %s", &log)
	}
	f("slog", log.String())
	if got := slog.AnyValue(pin).Resolve(); got.Kind() != slog.KindString || got.String() != redacted {
		t.Errorf("a handler gets %v", got)
	}
}

func TestPINIsACopyAndIsWiped(t *testing.T) {
	in := []byte("1234")
	p := NewPIN(in)
	clear(in)
	other := p
	if string(other.Reveal()) != "1234" {
		t.Errorf("the PIN is %q", other.Reveal())
	}
	inside := p.Reveal()
	p.Wipe()
	if len(other.Reveal()) != 0 || string(inside) != "\x00\x00\x00\x00" {
		t.Errorf("after Wipe a copy holds %q and the memory %q", other.Reveal(), inside)
	}
	p.Wipe()
	var none PIN
	none.Wipe()
	if none.Reveal() != nil {
		t.Error("the zero PIN is not empty")
	}
}

func TestReadPIN(t *testing.T) {
	dir := t.TempDir()
	write := func(content string, mode fs.FileMode) string {
		t.Helper()
		p := filepath.Join(dir, fmt.Sprintf("pin-%d", len(content)))
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := func(content, want string, mode fs.FileMode) {
		t.Helper()
		if p, err := ReadPIN(write(content, mode)); err != nil || string(p.Reveal()) != want {
			t.Errorf("%d bytes: %q, %v", len(content), p.Reveal(), err)
		}
	}
	longest := strings.Repeat("9", maxPIN)
	good("1234", "1234", 0o600)
	good("1234", "1234", 0o400)
	good("1234\n", "1234", 0o640)
	good("1234\r\n", "1234", 0o660)
	good("12 34 \n\n", "12 34 \n", 0o600)
	good(longest, longest, 0o600)
	good(longest+"\n", longest, 0o600)
	good(longest+"\r\n", longest, 0o600)
	bad := func(path string, words ...string) {
		t.Helper()
		p, err := ReadPIN(path)
		if err == nil || p.Reveal() != nil {
			t.Errorf("%s: %q", path, p.Reveal())
			return
		}
		for _, w := range append(words, path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
		if said := strings.ReplaceAll(err.Error(), path, ""); strings.Contains(said, "99") || strings.Contains(said, "1234") {
			t.Errorf("the PIN is in %q", err)
		}
	}
	for _, mode := range []fs.FileMode{0o604, 0o602, 0o601, 0o666, 0o777} {
		bad(write("1234", mode), "chmod 600", "change the PIN")
	}
	bad(write("", 0o600), "empty")
	bad(write("\r\n", 0o600), "empty")
	bad(write(longest+"9", 0o600), "longer")
	bad(write(longest+"\n9", 0o600), "longer")
	bad(write(longest+"\n"+longest, 0o600), "longer")
	bad(write(longest+"\r\n\n", 0o600), "longer")
	bad(filepath.Join(dir, "none"), "no such file")
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	bad(filepath.Join(dir, "d"), "directory")
}
