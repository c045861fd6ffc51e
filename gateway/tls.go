package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSConfig names the files of the server's certificate. They are read again when they change, without a restart.
type TLSConfig struct {
	CertFile, KeyFile string // PEM; the certificate with its chain
	// ClientCAFile holds the CAs whose client certificates are verified, PEM; "" asks for none.
	ClientCAFile string
}

// certificates is what the files held when they were last read.
type certificates struct {
	files TLSConfig
	log   *slog.Logger

	mu     sync.Mutex
	looked time.Time
	read   stamps // of what is in use
	failed stamps // of what could not be used and was told of
	config *tls.Config
}

// stamps tells versions of the files apart.
type stamps [3]struct {
	changed time.Time
	size    int64
}

// look is how often the files are looked at, at most.
const look = time.Second

// build reads the files once and returns a configuration that looks at them again when somebody connects.
func (t *TLSConfig) build(log *slog.Logger) (*tls.Config, error) {
	c := &certificates{files: *t, log: log}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current(), nil },
	}, nil
}

// current returns the configuration of the files as they are. Files that cannot be used, perhaps because
// they are being written, leave it as it was.
func (c *certificates) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < look {
		return c.config
	}
	c.looked = time.Now()
	now := c.stamps()
	if now == c.read {
		return c.config
	}
	if err := c.load(); err == nil {
		c.log.Info("certificate read again", "file", c.files.CertFile)
	} else if now != c.failed {
		c.failed = now
		c.log.Error("the new certificate cannot be used; the old one stays", "error", err)
	}
	return c.config
}

func (c *certificates) stamps() (out stamps) {
	for i, f := range []string{c.files.CertFile, c.files.KeyFile, c.files.ClientCAFile} {
		if st, err := os.Stat(f); f != "" && err == nil {
			out[i].changed, out[i].size = st.ModTime(), st.Size()
		}
	}
	return out
}

// load reads the files. The stamps are taken before, so that a change meanwhile is seen the next time.
func (c *certificates) load() error {
	now := c.stamps()
	cert, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err != nil {
		return err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if f := c.files.ClientCAFile; f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(b) {
			return errors.New(f + " holds no PEM certificate")
		}
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
	}
	c.config, c.read = cfg, now
	return nil
}
