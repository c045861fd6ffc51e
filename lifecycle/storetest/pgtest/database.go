package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sql runs a statement as the superuser, over the socket.
func (s *Server) sql(database, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(s.bin, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", s.dir, "-p", strconv.Itoa(s.Port), "-U", "postgres", "-d", database, "-c", statement)
	c.Env = []string{"LC_ALL=C", "HOME=" + s.dir}
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// SQL runs a statement as the superuser in one database.
func (s *Server) SQL(t testing.TB, database, statement string) {
	t.Helper()
	if err := s.sql(database, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Database makes an empty database, owned by User, and returns its name.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", s.n.Add(1))
	s.SQL(t, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", name, User))
	return name
}

// DSN names a database over the Unix socket, where no password is asked for.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s", s.dir, s.Port, User, database)
}

// TCP names a database over TCP without its password, and a file that holds that.
func (s *Server) TCP(t testing.TB, database string) (dsn, passwordFile string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", User, s.Port, database), file
}

// Log returns what the server has written.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return strings.TrimSpace(string(b))
}
