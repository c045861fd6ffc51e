package audit

import (
	"strings"
	"testing"
)

func TestALogKeyIsReadAgain(t *testing.T) {
	secret, err := NewLogKey("node/n1")
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseLogKey(secret + "\n")
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(k.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	var tree Tree
	msg, err := tree.Checkpoint("log").Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := OpenCheckpoint(msg, []Verifier{v}); err != nil || len(s.Good) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "PRIVATE+KEY", secret[:len(secret)-3], k.VerifierKey(), strings.Replace(secret, "n1", "n2", 1)} {
		if _, err := ParseLogKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%.12s…: %v", bad, err)
		}
	}
	if _, err := NewLogKey("a+b"); err == nil {
		t.Error("a name with a plus")
	}
}
