package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
)

// openAudit begins to sign the audit log.
func (n *node) openAudit(ctx context.Context) error {
	k, err := logKey(n.cfg.Audit.KeyFile)
	if err != nil {
		return fmt.Errorf("audit.key_file: %w", err)
	}
	if n.auditLog, err = lifecycle.OpenAuditLog(ctx, lifecycle.AuditLogConfig{Store: n.store, Key: k, Log: n.log}); err != nil {
		return err
	}
	n.defers(func(ctx context.Context) error {
		// The next start signs what is left without a checkpoint.
		if err := n.auditLog.Close(ctx); err != nil {
			n.log.Error("the end of the audit log has no checkpoint", "error", err)
		}
		return nil
	})
	return nil
}

// logKey reads this node's log key, making it where there is none, and writes its public half beside it.
func logKey(file string) (*audit.LogKey, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeLogKey(file); err == nil {
			b, err = os.ReadFile(file)
		}
	}
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so that others can read it: chmod 600 it, and if they may have read it remove it, so that a new one is made", file, st.Mode().Perm())
	}
	k, err := audit.ParseLogKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	public := []byte(k.VerifierKey() + "\n")
	if have, err := os.ReadFile(file + ".pub"); err == nil && string(have) == string(public) {
		return k, nil
	}
	return k, os.WriteFile(file+".pub", public, 0o644) //nolint:gosec // it is public
}

// makeLogKey makes the file whole or not at all; of two processes that make it at once, one does.
func makeLogKey(file string) error {
	secret, err := audit.NewLogKey(audit.PrincipalOf("node/" + string(lifecycle.HostNode())))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(file), "audit.key-") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(t.Name()) }()
	_, err = t.WriteString(secret + "\n")
	if err = errors.Join(err, t.Sync(), t.Close()); err != nil {
		return err
	}
	if err = os.Link(t.Name(), file); errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
