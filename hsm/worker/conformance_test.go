//go:build linux

package worker

import (
	"context"
	"encoding/json"
	"testing"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/hsm/soft"
)

// softParams tells a worker where its embedded token is.
type softParams struct{ Dir string }

func init() { // the table of roles, completed
	roles["soft"] = func(_ context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
		var p softParams
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, err
		}
		t, err := soft.Open(p.Dir, "token", pin)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
}

// conforms runs the suite on the token of a worker, a new worker each time.
func conforms(t *testing.T, c Config) {
	t.Helper()
	hsmtest.TestToken(t, func(t testing.TB) hsm.Token {
		w, err := Spawn(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return w
	})
}

func TestConformanceSoft(t *testing.T) {
	dir := t.TempDir()
	if err := soft.Init(dir, "token", hsm.NewPIN([]byte("1234"))); err != nil {
		t.Fatal(err)
	}
	conforms(t, config(t, "soft", softParams{dir}))
}
