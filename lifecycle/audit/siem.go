package audit

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"keyway/lifecycle/key"
)

// How entries look to programs that collect events. These are copies for watching; the log is the record.

// CEF returns the entry in ArcSight's Common Event Format, version 0, on one line without its end. Version is that of
// the program. All details are in the extension, those without a key of their own in CEF under their own names.
func (e *Entry) CEF(version string) string {
	b := []byte("CEF:0|Keyway|keyway|")
	b = appendCEFHeader(b, version)
	b = append(b, '|')
	b = appendCEFHeader(b, string(e.Action))
	b = append(b, '|')
	b = appendCEFHeader(b, strings.ReplaceAll(string(e.Action), "-", " "))
	b = append(b, '|')
	b = strconv.AppendInt(b, int64(e.severity().cef), 10)
	b = append(b, '|')
	first := true
	e.pairs(func(name, val string) {
		if cef, ok := cefNames[name]; ok {
			name = cef
		} else {
			name = strings.ReplaceAll("keyway_"+name, "_", "") // a key of CEF has letters and digits only
		}
		if !first {
			b = append(b, ' ')
		}
		first = false
		b = append(append(b, name...), '=')
		b = appendCEFValue(b, val)
	})
	b = append(b, " msg="...)
	return string(appendCEFValue(b, e.Summary()))
}

// cefNames are the keys of CEF's dictionary for what it has one for.
var cefNames = map[string]string{"seq": "externalId", "time": "rt", "node": "dvchost", "actor": "suser", "outcome": "outcome", "reason": "reason"}

// Syslog says how syslog messages begin.
type Syslog struct {
	Hostname string // of the sender; "" for none
	AppName  string // "keyway" when empty
	// Enterprise is the private enterprise number that names of structured data end with. 0 is 32473, the one RFC 5612
	// reserves for examples: Keyway has none of its own.
	Enterprise int
	Version    string // of the program, for CEF
}

// Format returns the entry as a syslog message (RFC 5424): facility 13 (log audit), the fields as structured data, CEF as
// the message. It has no frame (RFC 5425 puts the length before it).
func (s Syslog) Format(e *Entry) string {
	const facility = 13
	enterprise, app := s.Enterprise, s.AppName
	if enterprise == 0 {
		enterprise = 32473
	}
	if app == "" {
		app = "keyway"
	}
	b := fmt.Appendf(nil, "<%d>1 %s ", facility*8+e.severity().syslog, e.Time.Time().Format("2006-01-02T15:04:05.000Z07:00"))
	b = append(appendSyslogName(b, s.Hostname, 255), ' ')
	b = append(appendSyslogName(b, app, 48), " - "...)
	b = appendSyslogName(b, string(e.Action), 32)
	b = fmt.Appendf(b, " [keyway@%d", enterprise)
	e.pairs(func(name, val string) {
		b = append(append(append(b, ' '), name...), '=', '"')
		b = append(appendSyslogValue(b, val), '"')
	})
	b = append(b, "] "...)
	msg := e.CEF(s.Version)
	for i := range len(msg) {
		if msg[i] >= utf8.RuneSelf {
			b = append(b, "\xef\xbb\xbf"...) // says that the message is UTF-8; without it, it is ASCII
			break
		}
	}
	return string(append(b, msg...))
}

// pairs calls f for each field, with names in lower case and underscores.
func (e *Entry) pairs(f func(name, val string)) {
	f("seq", strconv.FormatInt(int64(e.Seq), 10))
	f("time", strconv.FormatInt(int64(e.Time), 10))
	f("node", string(e.Node))
	f("actor", string(e.Actor.Name))
	f("auth", string(e.Actor.Auth))
	f("outcome", string(e.Outcome))
	f("kind", string(e.Object.Kind))
	if e.Object.Name != "" {
		f("name", string(e.Object.Name))
	}
	if e.Object.Number != 0 {
		f("number", strconv.FormatInt(int64(e.Object.Number), 10))
	}
	if e.Object.ID != (key.ID{}) {
		f("id", e.Object.ID.String())
	}
	if e.Plan != (key.ID{}) {
		f("plan", e.Plan.String())
	}
	of, err := setsOf(e.Action, e.Object.Kind)
	if err != nil {
		return // an entry that cannot be encoded
	}
	for s := e.Details.present() | of.must; s != 0; s &= s - 1 {
		fd := &fields[bits.TrailingZeros64(uint64(s))]
		f(fd.name, plain(fd.of(&e.Details)))
	}
}

// plain returns a value as text: without quotes, lists with commas.
func plain(v value) string {
	b := v.write(nil)
	sc := &scanner{b: b}
	if !sc.next('[') {
		if raw, err := sc.raw(); err == nil {
			return string(raw)
		}
		return string(b)
	}
	var items []string
	for !sc.next(']') {
		raw, err := sc.raw()
		if err != nil {
			return string(b)
		}
		items = append(items, string(raw))
		sc.next(',')
	}
	return strings.Join(items, ",")
}

// severity is how much attention an entry wants.
type severity struct{ syslog, cef int }

func (e *Entry) severity() severity {
	info, note, warning, alarm := severity{6, 2}, severity{5, 4}, severity{4, 7}, severity{3, 9}
	switch {
	case e.Action == MemberLatched, e.Action == BackupRestored, e.Action == StateChanged && e.Details.Event == key.Compromise:
		return alarm
	case e.Outcome != Done, e.Action == LoginRefused:
		return warning
	case e.Action == CheckpointSigned, e.Action == LogRead, e.Action == NodeStarted, e.Action == NodeStopped, e.Action == LeaseTaken, e.Action == BackupMade:
		return info
	}
	return note
}

// appendCEFHeader escapes a field of the header: the bar and the backslash. A line break has no form there.
func appendCEFHeader(dst []byte, s string) []byte {
	for i := range len(s) {
		switch s[i] {
		case '|', '\\':
			dst = append(dst, '\\', s[i])
		case '\n', '\r':
			dst = append(dst, ' ')
		default:
			dst = append(dst, s[i])
		}
	}
	return dst
}

// appendCEFValue escapes a value of the extension: the equals sign, the backslash and line breaks. The bar is itself there.
func appendCEFValue(dst []byte, s string) []byte {
	for i := range len(s) {
		switch s[i] {
		case '=', '\\':
			dst = append(dst, '\\', s[i])
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, s[i])
		}
	}
	return dst
}

// appendSyslogValue escapes a PARAM-VALUE: the quotation mark, the backslash and the closing bracket.
func appendSyslogValue(dst []byte, s string) []byte {
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' || s[i] == ']' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return dst
}

// appendSyslogName writes a field of the header: printable ASCII without spaces, "-" when there is nothing.
func appendSyslogName(dst []byte, s string, limit int) []byte {
	n := 0
	for i := 0; i < len(s) && n < limit; i++ {
		if s[i] > ' ' && s[i] < 0x7f {
			dst = append(dst, s[i])
			n++
		}
	}
	if n == 0 {
		dst = append(dst, '-')
	}
	return dst
}
