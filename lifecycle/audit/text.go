package audit

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is the longest text, in bytes.
const maxText = 256

// longRun is how many letters and digits may follow each other when a digit is among them: 96 bits in Base64, 64 in
// hexadecimal, and more than any word, date or version number needs.
const longRun = 16

// hexDigits is how many hexadecimal digits may follow each other, groups of them included: components are printed so.
const hexDigits = 24

// Text is what a person or an error said: the reason of an order. It is one line of printable characters, at most 256
// bytes, without anything that has the shape of a key or a component. A short PIN has no shape; whoever types one
// as the reason of an order has told it.
type Text string

// TextOf makes a text of s: line breaks become spaces, what has the shape of a key becomes "[removed]", the end is cut
// off.
func TextOf(s string) Text {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == utf8.RuneError }), " ")
	for {
		from, to := shapeOfKey(s)
		if to == 0 {
			break
		}
		s = s[:from] + "[removed]" + s[to:]
	}
	if len(s) > maxText {
		cut := maxText - len("…")
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = strings.TrimRight(s[:cut], " ") + "…"
	}
	return Text(s)
}

func (t *Text) check() error {
	s := string(*t)
	if len(s) > maxText {
		return fmt.Errorf("text of %d bytes: at most %d", len(s), maxText)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("text is not UTF-8")
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("text holds the unprintable character %U", r)
		}
	}
	if from, to := shapeOfKey(s); to != 0 {
		return fmt.Errorf("text holds %d characters that have the shape of a key at character %d: such a thing is never written to the log", to-from, from)
	}
	return nil
}

// shapeOfKey finds what looks like key material in s. to is 0 when there is nothing. Base64 without digits and capitals, and a
// key of a few digits, look like words; shapes are a net under the types, not a proof.
func shapeOfKey(s string) (from, to int) {
	if from, to = longRunOf(s, "+=", func(_, _, digit bool) bool { return digit }); to != 0 {
		return from, to
	}
	if from, to = longRunOf(s, "+=/_-", func(upper, lower, digit bool) bool { return upper && lower && digit }); to != 0 {
		return from, to
	}
	return hexGroups(s)
}

// longRunOf finds more than longRun letters, digits and characters of also in a row, with the kinds of characters that dense wants.
func longRunOf(s, also string, dense func(upper, lower, digit bool) bool) (from, to int) {
	var upper, lower, digit bool
	run := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && (alphanumeric(s[i]) || strings.IndexByte(also, s[i]) >= 0) {
			upper = upper || s[i] >= 'A' && s[i] <= 'Z'
			lower = lower || s[i] >= 'a' && s[i] <= 'z'
			digit = digit || s[i] >= '0' && s[i] <= '9'
			run++
			continue
		}
		if run > longRun && dense(upper, lower, digit) {
			return i - run, i
		}
		run, upper, lower, digit = 0, false, false, false
	}
	return 0, 0
}

// hexGroups finds more than hexDigits hexadecimal digits in groups, as components are printed.
func hexGroups(s string) (from, to int) {
	count, start, digit := 0, 0, false
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && alphanumeric(s[j]) {
			j++
		}
		switch group := s[i:j]; {
		case group == "":
		case strings.Trim(group, "0123456789abcdefABCDEF") == "":
			if count == 0 {
				start, digit = i, false
			}
			count += len(group)
			digit = digit || strings.ContainsAny(group, "0123456789")
			if count > hexDigits && digit {
				return start, j
			}
		default:
			count = 0
		}
		if j < len(s) && strings.IndexByte(" -:.,_/", s[j]) < 0 {
			count = 0
		}
		i = j + 1
	}
	return 0, 0
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
