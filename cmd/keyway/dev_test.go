package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
)

// A developer's day: everything comes up in an empty directory, and the next day goes on with the same keys.
func TestDevComesUpAndGoesOn(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		need(t, kind)
		dir := filepath.Join(t.TempDir(), "made", "by dev") // dev makes it; a space must do no harm
		r := startDev(t, kind, dir)
		info := r.info()
		if info.Pool != "default" || !slices.Equal(info.Keys, []string{"demo-wrap", "demo-sign", "demo-rsa", "demo-mac", "demo-ed25519"}) || len(info.Members) != 3 {
			t.Errorf("dev.json: %+v", info)
		}
		for i, m := range info.Members {
			if m.Name != fmt.Sprintf("m%d", i+1) || m.Token != "keyway-"+m.Name || !alive(m.PID) {
				t.Errorf("member %+v", m)
			}
		}
		onlyOwners(t, dir)
		blob := r.ok("demo-wrap/wrap", `{"plaintext_key":"`+b64([]byte("0123456789abcdef"))+`"}`)["wrapped"].(string)
		keys := ids(r)
		if len(keys) != 5 {
			t.Errorf("keys: %v", keys)
		}
		tryCurlLines(t, r)
		workers := children(r.cmd.Process.Pid)
		if len(workers) != 4 {
			t.Errorf("%d workers, want one for each member and custody", len(workers))
		}
		r.stop(syscall.SIGINT)
		if exists(filepath.Join(dir, "dev.json")) {
			t.Error("dev.json is still there")
		}
		for _, pid := range workers {
			if alive(pid) {
				t.Errorf("worker %d is still there", pid)
			}
		}

		again := startDev(t, kind, dir)
		if got := ids(again); !slices.Equal(got, keys) {
			t.Errorf("the keys were %v and are %v", keys, got)
		}
		if now := again.info(); now.ClientToken != info.ClientToken || now.AdminToken != info.AdminToken {
			t.Error("the tokens changed")
		}
		if got := unb64(t, again.ok("demo-wrap/unwrap", `{"wrapped":"`+blob+`"}`)["plaintext_key"]); string(got) != "0123456789abcdef" {
			t.Errorf("the blob opens to %q", got)
		}
		again.stop(syscall.SIGTERM)
	})
}

// ids returns every key version of the node.
func ids(r *running) (out []string) {
	r.t.Helper()
	for _, k := range r.ordered("key", "list")["keys"].([]any) {
		for _, v := range k.(map[string]any)["versions"].([]any) {
			out = append(out, fmt.Sprint(k.(map[string]any)["name"], v.(map[string]any)["id"]))
		}
	}
	return out
}

// onlyOwners fails for every file that others than its owner may read, and for a public key that others may write.
func onlyOwners(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		others := os.FileMode(0o077)
		if filepath.Ext(path) == ".pub" {
			others = 0o022
		}
		if err == nil && st.Mode().Perm()&others != 0 {
			t.Errorf("%s has mode %o", path, st.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tryCurlLines runs what dev prints, as a person would who copies it into another terminal.
func tryCurlLines(t *testing.T, r *running) {
	t.Helper()
	r.within(10*time.Second, "telling what to try", func() bool { return strings.Count(r.out.String(), "\n") >= 3 })
	lines := strings.Split(strings.TrimSpace(r.out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("dev printed %q", lines)
	}
	for i, want := range []string{"signature", "wrapped", "BEGIN PUBLIC KEY"} {
		if strings.Contains(lines[i], r.token) {
			t.Errorf("the token would be in the scrollback: %s", lines[i])
		}
		out, err := exec.Command("sh", "-c", lines[i]).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(want)) || bytes.Contains(out, []byte("problem")) {
			t.Errorf("%s\n%v: %s, want a %s", lines[i], err, out, want)
		}
	}
}

// The real openssl accepts every signature, with the key that public.pem shows.
func TestSignaturesVerifyWithOpenSSL(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		r := startDev(t, kind, newDevDir(t, kind))
		dir := t.TempDir()
		message := []byte("what is signed, and some more of it")
		digest := sha256.Sum256(message)
		file := func(name string, b []byte) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		in := file("message", message)
		for _, c := range []struct {
			name, key, fields string
			verify            []string // openssl's arguments, before those that name the files
		}{
			{"P-256", "demo-sign", `"hash":"sha2-256"`, []string{"dgst", "-sha256"}},
			{"RSA PKCS 1 v1.5", "demo-rsa", `"hash":"sha2-256","padding":"pkcs1v15"`, []string{"dgst", "-sha256"}},
			{"RSA PSS", "demo-rsa", `"hash":"sha2-256","padding":"pss"`, []string{"dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}},
			{"RSA PSS SHA-512", "demo-rsa", `"hash":"sha2-512","padding":"pss"`, []string{"dgst", "-sha512", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}},
			{"Ed25519", "demo-ed25519", ``, []string{"pkeyutl", "-rawin"}},
		} {
			res, pem, err := r.send(http.MethodGet, "/api/v1/keys/"+c.key+"/public.pem", "")
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("%s: %v %v", c.name, res, err)
			}
			pub := file("public.pem", pem)
			sign := func(body string) []byte {
				if c.fields != "" {
					body += "," + c.fields
				}
				return unb64(t, r.ok(c.key+"/sign", "{"+body+"}")["signature"])
			}
			sigs := [][]byte{sign(`"message":"` + b64(message) + `"`)}
			if strings.Contains(c.fields, "sha2-256") {
				sigs = append(sigs, sign(`"digest":"`+b64(digest[:])+`"`))
			}
			for _, sig := range sigs {
				if out, err := openssl(c.verify, pub, file("sig", sig), in); err != nil {
					t.Errorf("%s: %v: %s", c.name, err, out)
				}
				sig[len(sig)/2] ^= 1
				if out, err := openssl(c.verify, pub, file("sig", sig), in); err == nil {
					t.Errorf("%s: openssl accepts a changed signature: the test shows nothing: %s", c.name, out)
				}
			}
		}
	})
}

func openssl(how []string, pub, sig, in string) ([]byte, error) {
	args := slices.Clone(how)
	if how[0] == "pkeyutl" {
		args = append(args, "-verify", "-pubin", "-inkey", pub, "-sigfile", sig, "-in", in)
	} else {
		args = append(args, "-verify", pub, "-signature", sig, in)
	}
	return exec.Command("openssl", args...).CombinedOutput()
}

// Where no PKCS#11 library can be used dev takes embedded tokens, and says so.
func TestDevWithoutPKCS11(t *testing.T) {
	if pkcs11.Usable() == nil {
		t.Skip("this build can load PKCS#11 libraries; make test-pure runs it")
	}
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, nil, "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	r.within(time.Minute, "ready", func() bool { return exists(filepath.Join(dir, "dev.json")) })
	r.says("using the embedded software token in " + dir + ", not SoftHSM 2: ")
}

func TestASecondDevInADirectoryIsRefused(t *testing.T) {
	dir := newDevDir(t, onEmbedded)
	r := startDev(t, onEmbedded, dir)
	before := r.info()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, program, "dev", "--dir", dir, "--embedded", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), "another keyway dev is running in "+dir) {
		t.Errorf("%v: %s", err, out)
	}
	if after := r.info(); after.URL != before.URL {
		t.Errorf("dev.json was %+v and is %+v", before, after)
	}
	r.ok("demo-sign/sign", `{"message":"aGk="}`)
}

// A directory that was moved, and one that has fewer members than before.
func TestDevInAChangedDirectory(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		// Every test's directory is a copy at another place, so that it works has been shown when this is ready.
		r := startDev(t, kind, newDevDir(t, kind), "--members", "2")
		if m := r.info().Members; len(m) != 2 || m[1].Name != "m2" {
			t.Errorf("with --members 2: %+v", m)
		}
		r.ok("demo-sign/sign", `{"message":"aGk="}`)
		r.ordered("member", "drain", "m1")
		r.stop(syscall.SIGTERM)
		begun := time.Now()
		r = startDev(t, kind, r.dir, "--members", "4")
		t.Logf("with one drained and one new member it starts in %s", time.Since(begun).Round(time.Millisecond))
		states := map[string]string{}
		for _, p := range r.ordered("member", "list", "--pool", "default")["pools"].([]any) {
			for _, m := range p.(map[string]any)["members"].([]any) {
				states[m.(map[string]any)["name"].(string)] = m.(map[string]any)["state"].(string)
			}
		}
		if want := map[string]string{"m1": "drained", "m2": "active", "m3": "active", "m4": "active"}; fmt.Sprint(states) != fmt.Sprint(want) {
			t.Errorf("members are %v, want %v", states, want)
		}
		r.says("member m1 is drained")
	})
}

func TestDevJSONIsWholeAtAnyTime(t *testing.T) {
	t.Parallel() // it waits more than it works
	r := startDev(t, onEmbedded, newDevDir(t, onEmbedded))
	stop := make(chan struct{})
	read := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				read <- nil
				return
			default:
			}
			b, err := os.ReadFile(filepath.Join(r.dir, "dev.json"))
			var info devInfo
			if err == nil {
				err = json.Unmarshal(b, &info)
			}
			if err != nil || len(info.Members) != 3 {
				read <- fmt.Errorf("%q: %v", b, err)
				return
			}
		}
	}()
	for _, m := range []string{"m1", "m2"} { // each is written anew twice: without the worker, and with its successor
		old := r.pid(m)
		kill(t, old)
		r.within(30*time.Second, "telling of the new worker", func() bool { p := r.pid(m); return p != old && p != 0 })
	}
	close(stop)
	if err := <-read; err != nil {
		t.Error(err)
	}
}
