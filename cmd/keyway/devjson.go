package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// devInfo is dev.json, which scripts and tests read.
type devInfo struct {
	URL         string      `json:"url"`
	AdminURL    string      `json:"admin_url"`
	ClientToken string      `json:"client_token"`
	AdminToken  string      `json:"admin_token"`
	Pool        string      `json:"pool"`
	Members     []devMember `json:"members"`
	Keys        []string    `json:"keys"`
}

type devMember struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Token string `json:"token"`
}

// devReady is what dev answers with --output json: dev.json without the tokens, which belong into no build's log.
type devReady struct {
	URL      string      `json:"url"`
	AdminURL string      `json:"admin_url"`
	File     string      `json:"dev_json"` // where everything is
	Pool     string      `json:"pool"`
	Members  []devMember `json:"members"`
	Keys     []string    `json:"keys"`
	Try      []string    `json:"try"` // lines for a shell
}

// announce writes dev.json and tells what to try, once the gateway can answer; until ctx ends it keeps the members in
// dev.json as they are, since a worker that was replaced has another process id.
func (d *dev) announce(ctx context.Context, n *node, keys []string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n.ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	info := devInfo{
		URL: "http://" + reachable(n.listener), AdminURL: "http://" + reachable(n.adminL), ClientToken: d.clientToken, AdminToken: d.adminToken,
		Pool: devPool, Members: devMembers(n), Keys: keys,
	}
	if err := d.home.writeInfo(info); err != nil {
		return err
	}
	if err := d.tell(info); err != nil {
		return err
	}
	tick.Reset(200 * time.Millisecond)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if m := devMembers(n); !slices.Equal(m, info.Members) {
			info.Members = m
			if err := d.home.writeInfo(info); err != nil {
				return err
			}
		}
	}
}

func devMembers(n *node) []devMember {
	out := []devMember{}
	for _, m := range n.pools[devPool].Stat().Members {
		out = append(out, devMember{m.Name, m.PID, m.Token})
	}
	return out
}

func (h *devHome) writeInfo(info devInfo) error {
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	return h.write("dev.json", append(b, '\n'))
}

// tell says that everything is ready.
func (d *dev) tell(info devInfo) error {
	file := filepath.Join(d.home.dir, "dev.json")
	try := tryLines(file, info.URL)
	d.out.note("ready: gateway %s, operators' API %s; URLs and tokens are in %s\nInterrupt (Ctrl-C) ends it; the keys stay in %s. Try, in another terminal:\n", info.URL, info.AdminURL, file, d.home.dir)
	ready := devReady{info.URL, info.AdminURL, file, info.Pool, info.Members, info.Keys, try}
	return d.out.answer(ready, func(w io.Writer) { fmt.Fprintln(w, strings.Join(try, "\n")) })
}

// tryLines are three lines for a POSIX shell with curl. They read the token from dev.json, so that it is in no scrollback.
func tryLines(file, url string) []string {
	quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	curl := func(call, body string) string {
		return fmt.Sprintf("curl -sS -H \"Authorization: Bearer $(sed -n 's/.*\"client_token\": \"\\(.*\\)\".*/\\1/p' %s)\" %s/api/v1/keys/%s%s; echo", quoted, url, call, body)
	}
	return []string{
		curl("demo-sign/sign", ` -d '{"message":"aGVsbG8=","hash":"sha2-256"}'`),
		curl("demo-wrap/wrap", ` -d "{\"plaintext_key\":\"$(head -c 32 /dev/urandom | base64)\"}"`),
		curl("demo-rsa/public.pem", ""),
	}
}

// reachable is a listener's address as a client on this machine reaches it.
func reachable(l net.Listener) string {
	a := l.Addr().(*net.TCPAddr)
	if a.IP.IsUnspecified() {
		return fmt.Sprintf("127.0.0.1:%d", a.Port)
	}
	return a.String()
}
