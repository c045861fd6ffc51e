package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyway/lifecycle/adminapi"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// adminFlags say which node's operators' API is meant, and who asks.
type adminFlags struct {
	out                       *output
	url, tokenFile, dir       string
	caFile, certFile, keyFile string
}

// add adds the flags to a group of commands.
func (f *adminFlags) add(c *cobra.Command) *cobra.Command {
	p := c.PersistentFlags()
	p.StringVar(&f.dir, "dir", "./.dev", "directory of the keyway dev to ask, where no URL is given")
	p.StringVar(&f.url, "admin-url", "", "URL of the operators' API (default: from dev.json)")
	p.StringVar(&f.tokenFile, "admin-token-file", "", "file with the operator's token (default: from dev.json)")
	p.StringVar(&f.caFile, "admin-ca-file", "", "PEM file of the CAs of the operators' API (default: the system's)")
	p.StringVar(&f.certFile, "admin-cert-file", "", "PEM file of the operator's certificate, instead of a token")
	p.StringVar(&f.keyFile, "admin-key-file", "", "PEM file of that certificate's key")
	return c
}

// adminClient calls the operators' API.
type adminClient struct {
	url   string
	token string
	http  *http.Client
}

// client returns a client after the flags. What they leave open comes from a running keyway dev's dev.json, and that is said.
func (f *adminFlags) client() (*adminClient, error) {
	c := &adminClient{url: f.url}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	c.http = &http.Client{Transport: transport, Timeout: 2 * time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if f.caFile != "" {
		cas, err := readCAs(f.caFile)
		if err != nil {
			return nil, usagef("--admin-ca-file: %w", err)
		}
		transport.TLSClientConfig.RootCAs = cas
	}
	if (f.certFile == "") != (f.keyFile == "") {
		return nil, usagef("--admin-cert-file and --admin-key-file go together")
	}
	if f.certFile != "" {
		cert, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
		if err != nil {
			return nil, usagef("--admin-cert-file: %w", err)
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{cert}
	}
	if f.tokenFile != "" {
		b, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, usagef("--admin-token-file: %w", err)
		}
		if c.token = strings.TrimSpace(string(b)); c.token == "" || strings.ContainsAny(c.token, " \n\r") {
			return nil, usagef("--admin-token-file: %s does not hold just a token", f.tokenFile)
		}
	}
	if err := f.fromDev(c); err != nil {
		return nil, err
	}
	u, err := url.Parse(c.url)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("--admin-url: %q is not an http or https URL", c.url)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, usagef("--admin-url: %s would send the operator's token in clear text: use https", c.url)
	}
	c.url = strings.TrimSuffix(c.url, "/")
	return c, nil
}

// fromDev fills in what the flags left open. A token of dev.json is sent to dev.json's URL only.
func (f *adminFlags) fromDev(c *adminClient) error {
	if c.url != "" && (c.token != "" || f.certFile != "") {
		return nil
	}
	file := filepath.Join(f.dir, "dev.json")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("say whom to ask with --admin-url and --admin-token-file, or with --dir; there is no %s of a running keyway dev either", file)
	}
	var dev devInfo
	if err == nil {
		err = json.Unmarshal(b, &dev)
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	if c.url != "" && c.url != dev.AdminURL {
		return usagef("--admin-token-file: name the file with the operator's token for %s", c.url)
	}
	c.url = dev.AdminURL
	if c.token == "" && f.certFile == "" {
		c.token = dev.AdminToken
	}
	f.out.note("(using %s: %s)", file, c.url)
	return nil
}

// do sends in, where there is something, and reads the answer into out, where something is wanted.
func (c *adminClient) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+"/admin/v1"+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := c.send(c.http, r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.url, err)
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the answer of %s is not what was expected: is it of the same version? %w", c.url, err)
	}
	return nil
}

// send sends a request and returns its answer, whose body the caller closes, unless it is a failure.
func (c *adminClient) send(h *http.Client, r *http.Request) (*http.Response, error) {
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := h.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w; is keyway running there?", c.url, errors.Unwrap(err))
	}
	if answer.StatusCode < 300 {
		return answer, nil
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", c.url, err)
	}
	var p adminapi.Problem
	if err := json.Unmarshal(b, &p); err != nil || p.Kind == "" {
		return nil, fmt.Errorf("%s answered %s: is that the operators' API?", c.url, answer.Status)
	}
	return nil, &problemError{p}
}

// problemError is a failure that the API told.
type problemError struct{ adminapi.Problem }

func (p *problemError) Error() string {
	return fmt.Sprintf("%s: %s (request %s)", printable(p.Kind), printable(p.Detail), printable(p.RequestID))
}

// order runs one command that asks the API. The parts of path are escaped already.
func (f *adminFlags) order(c *cobra.Command, method, path string, in, out any) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	defer f.out.waiting(func() string { return "waiting for " + client.url })()
	return client.do(c.Context(), method, path, in, out)
}

// at joins the parts of a path, each escaped.
func at(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}
