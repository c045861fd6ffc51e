package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keyway/lifecycle/sqlstore"
)

// backupAnswer is what backup and restore tell.
type backupAnswer struct {
	File string `json:"file"`
	sqlstore.BackupSummary
}

func (a backupAnswer) human(w io.Writer) {
	row(w, "FILE", "KEYS", "VERSIONS", "CLIENTS", "SHA-256")
	row(w, a.File, a.Rows["keys"], a.Rows["versions"], a.Rows["clients"], a.SHA256)
}

func backupCommand(out *output) *cobra.Command {
	var config string
	c := &cobra.Command{
		Use: "backup FILE --config keyway.yaml", Short: "write the whole store to a file, while it is in use", Args: exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := storeOf(config)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c.Context())
			defer stop()
			a := backupAnswer{File: args[0]}
			if a.BackupSummary, err = backUp(ctx, cfg, args[0]); err != nil {
				return err
			}
			return out.answer(a, a.human)
		},
	}
	c.Flags().StringVar(&config, "config", "", "the node's configuration file, which names the store")
	return c
}

func restoreCommand(out *output) *cobra.Command {
	var config, digest string
	c := &cobra.Command{
		Use: "restore FILE --config keyway.yaml [--sha256 DIGEST]", Short: "put a backup into an empty store, of either database", Args: exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := storeOf(config)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c.Context())
			defer stop()
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			s, err := openStore(ctx, cfg, newLog(out.notes, telemetryConfig{LogFormat: "text", LogLevel: "warn"}))
			if err != nil {
				return err
			}
			a := backupAnswer{File: args[0]}
			a.BackupSummary, err = s.Restore(ctx, f, digest)
			if err = errors.Join(err, s.Close()); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return out.answer(a, a.human)
		},
	}
	c.Flags().StringVar(&config, "config", "", "the node's configuration file, which names the store")
	c.Flags().StringVar(&digest, "sha256", "", "the digest that backup told, where you kept it apart from the file")
	return c
}

// storeOf reads the part of a configuration that names the store.
func storeOf(config string) (storeConfig, error) {
	if config == "" {
		return storeConfig{}, usagef("--config: name the configuration file")
	}
	c, err := readConfig(config)
	if err != nil {
		return storeConfig{}, usageError{err}
	}
	return c.Store, nil
}

// backUp writes a file that was not there, which only its owner may read, whole or not at all.
func backUp(ctx context.Context, c storeConfig, file string) (sum sqlstore.BackupSummary, err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return sum, fmt.Errorf("%s is there already: name another file, or remove it", file)
	}
	var s *sqlstore.Store
	if p := c.Postgres; p != nil {
		s, err = sqlstore.OpenPostgres(ctx, sqlstore.Postgres{DSN: p.DSN, PasswordFile: p.PasswordFile, AsIs: true})
	} else {
		s, err = sqlstore.OpenAsIs(ctx, c.Path)
	}
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return sum, fmt.Errorf("%w: remove it where no other backup writes to it", err)
	}
	sum, err = s.Backup(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		return sum, errors.Join(err, os.Remove(part))
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return sum, err
	}
	return sum, errors.Join(dir.Sync(), dir.Close())
}
