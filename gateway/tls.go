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

	mu      sync.Mutex
	looked  time.Time
	changed [3]time.Time
	config  *tls.Config
}

// build reads the files once and returns a configuration that looks at them again, at most once a second.
func (t *TLSConfig) build(log *slog.Logger) (*tls.Config, error) {
	c := &certificates{files: *t, log: log}
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current(), nil },
	}, nil
}

// current returns the configuration of the files as they are. Files that do not parse, perhaps because
// they are being written, leave it as it was.
func (c *certificates) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= time.Second {
		if c.times() != c.changed {
			if err := c.read(); err != nil {
				c.log.Error("the new certificate cannot be used; the old one stays", "error", err)
			} else {
				c.log.Info("certificate read again")
			}
		}
		c.looked = time.Now()
	}
	return c.config
}

func (c *certificates) times() (out [3]time.Time) {
	for i, f := range []string{c.files.CertFile, c.files.KeyFile, c.files.ClientCAFile} {
		if st, err := os.Stat(f); f != "" && err == nil {
			out[i] = st.ModTime()
		}
	}
	return out
}

func (c *certificates) read() error {
	times := c.times()
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
	c.config, c.changed = cfg, times
	return nil
}
