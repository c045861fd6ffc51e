package audit

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestCEFOfASample(t *testing.T) {
	e := sample()
	e.Details.Reason = `a=b|c\d`
	want := `CEF:0|Keyway|keyway|1\|0|state-changed|state changed|4|externalId=7 rt=1790000000123 dvchost=n1 suser=anna@example.com keywayauth=certificate outcome=done keywaykind=version keywayname=pay keywaynumber=2` +
		` keywayid=01020300000000000000000000000000 keywayevent=suspend keywayfrom=active reason=a\=b|c\\d keywayto=suspended` +
		` msg=anna@example.com moved key pay version 2 from active to suspended (suspend): a\=b|c\\d`
	if got := e.CEF("1|0"); got != want {
		t.Errorf("\n%s\nwant\n%s", got, want)
	}
}

func TestSyslogOfASample(t *testing.T) {
	e := sample()
	e.Details.Reason = `a"b]c\d`
	s := Syslog{Hostname: "gw 1.example.com", Version: "1.0"}
	want := `<109>1 2026-09-21T14:13:20.123Z gw1.example.com keyway - state-changed [keyway@32473 seq="7" time="1790000000123" node="n1" actor="anna@example.com" auth="certificate" outcome="done" kind="version" name="pay"` +
		` number="2" id="01020300000000000000000000000000" event="suspend" from="active" reason="a\"b\]c\\d" to="suspended"] ` + e.CEF("1.0")
	if got := s.Format(e); got != want {
		t.Errorf("\n%s\nwant\n%s", got, want)
	}
	e.Details.Reason = "größer"
	if got := s.Format(e); !strings.Contains(got, "] \xef\xbb\xbfCEF:0|") {
		t.Errorf("a message that is not ASCII does not say so: %s", got)
	}
	if got := (Syslog{}).Format(e); !strings.HasPrefix(got, "<109>1 2026-09-21T14:13:20.123Z - keyway - ") {
		t.Errorf("without a host: %s", got)
	}
}

func TestSeverities(t *testing.T) {
	f := func(change func(*Entry), pri string) {
		t.Helper()
		e := sample()
		change(e)
		if got := (Syslog{}).Format(e); !strings.HasPrefix(got, "<"+pri+">1 ") {
			t.Errorf("%s, want %s", got[:8], pri)
		}
	}
	f(func(*Entry) {}, "109")
	f(func(e *Entry) { e.Outcome = Failed }, "108")
	f(func(e *Entry) { e.Details.Event = 5 }, "107")
	f(func(e *Entry) { e.Action = LogRead }, "110")
}

var (
	cefKeyRE = regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`)
	syslogRE = regexp.MustCompile(`^<1[0-9]{2}>1 \S+ h keyway - [a-z-]{1,32} (\[keyway@32473(?: [a-z_]{1,32}="(?:[^"\\\]]|\\["\\\]])*")*\]) (?:\x{FEFF})?CEF:0\|`)
	reasonRE = regexp.MustCompile(` reason="((?:[^"\\\]]|\\.)*)"`)
)

// splitCEF reads CEF as collectors do: bars that are not escaped end fields of the header, a word before an equals sign
// that is not escaped is a key.
func splitCEF(t tb, s string) (header []string, ext map[string]string) {
	t.Helper()
	var b strings.Builder
	i := 0
	for ; i < len(s) && len(header) < 7; i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '|' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == '\\':
			t.Fatalf("a backslash that is not escaped in the header of %q", s)
		case s[i] == '|':
			header = append(header, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	ext = map[string]string{}
	rest := s[i:]
	at := cefKeyRE.FindAllStringSubmatchIndex(rest, -1)
	for n, m := range at {
		end := len(rest)
		if n+1 < len(at) {
			end = at[n+1][0]
		}
		raw := rest[m[1]:end]
		var v strings.Builder
		for j := 0; j < len(raw); j++ {
			switch {
			case raw[j] == '\\' && j+1 < len(raw):
				j++
				switch raw[j] {
				case 'n':
					v.WriteByte('\n')
				case 'r':
					v.WriteByte('\r')
				case '=', '\\':
					v.WriteByte(raw[j])
				default:
					t.Fatalf("the escape \\%c in %q", raw[j], raw)
				}
			case raw[j] == '=' || raw[j] == '\n' || raw[j] == '\r':
				t.Fatalf("%q is not escaped in %q", raw[j], raw)
			default:
				v.WriteByte(raw[j])
			}
		}
		ext[rest[m[2]:m[3]]] = v.String()
	}
	return header, ext
}

// Whatever is in the fields comes out of the formats as it went in.
func TestFormatsCarryEveryField(t *testing.T) {
	forEachAction(t, func(t *rapid.T, a Action) {
		e := drawEntry(t, a)
		version := rapid.StringMatching(`[ -~]{0,10}`).Draw(t, "version")
		header, ext := splitCEF(t, e.CEF(version))
		if len(header) != 7 || header[0] != "CEF:0" || header[3] != version || header[4] != string(a) {
			t.Fatalf("%q", header)
		}
		if ext["externalId"] != fmt.Sprint(int64(e.Seq)) || ext["suser"] != string(e.Actor.Name) || ext["reason"] != string(e.Details.Reason) || ext["msg"] != e.Summary() {
			t.Fatalf("%q from %+v", ext, e)
		}
		s := Syslog{Hostname: "h"}.Format(e)
		m := syslogRE.FindStringSubmatch(s)
		if m == nil || !utf8.ValidString(s) || strings.ContainsAny(s, "\n\r") {
			t.Fatalf("not a message of RFC 5424: %q", s)
		}
		unescape := strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\]`, `]`)
		if r := reasonRE.FindStringSubmatch(m[1]); r != nil && unescape.Replace(r[1]) != string(e.Details.Reason) || r == nil && e.Details.Reason != "" {
			t.Fatalf("%q: the reason %q did not come through", s, e.Details.Reason)
		}
	})
}

// FuzzEscapes: escaped values come back and do not end their field.
func FuzzEscapes(f *testing.F) {
	for _, s := range []string{"", `a|b`, `a\`, `\\n`, "a\nb\r", `x=y`, `"]`, `\"`, `\]`, "ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		header, ext := splitCEF(t, string(appendCEFHeader([]byte("CEF:0|"), s))+"|3|4|5|6|7|a="+string(appendCEFValue(nil, s)))
		if want := strings.NewReplacer("\n", " ", "\r", " ").Replace(s); len(header) != 7 || header[1] != want {
			t.Errorf("header %q of %q", header, s)
		}
		if !strings.Contains(s, " ") && ext["a"] != s { // a space and a word and an escaped sign is still the value
			t.Errorf("value %q of %q", ext["a"], s)
		}
		v := string(appendSyslogValue(nil, s))
		if !regexp.MustCompile(`^(?:[^"\\\]]|\\["\\\]])*$`).MatchString(v) || strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\]`, `]`).Replace(v) != s {
			t.Errorf("PARAM-VALUE %q of %q", v, s)
		}
		if n := string(appendSyslogName(nil, s, 10)); len(n) == 0 || len(n) > 10 || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("name %q of %q", n, s)
		}
	})
}
