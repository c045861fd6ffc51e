package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"keyway/gateway"
	"keyway/lifecycle/adminapi"
)

// bound are a node's listeners. They come first: what may be taken by somebody else, before any token is touched.
type bound struct{ gateway, admin net.Listener }

// bind opens the listeners of cfg.
func bind(cfg *config) (b bound, err error) {
	if b.gateway, err = listen("listen", cfg.Listen); err != nil {
		return b, err
	}
	if b.admin, err = listen("admin.listen", cfg.Admin.Listen); err != nil {
		b.close()
	}
	return b, err
}

// close closes the listeners. Closing those that a server had, which has closed them, does no harm.
func (b bound) close() {
	for _, l := range []net.Listener{b.gateway, b.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
}

func listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is taken by another program (another keyway?): end it, or choose another port", what, addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: this user may not listen on %s: choose a port above 1023", what, addr)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

func (n *node) openGateway() error {
	g := n.cfg.gateway()
	g.Log, g.Keys, g.Uses, g.Directory, g.Ready = n.log, n.catalogue, n.catalogue, n.catalogue.Directory, n.ready
	g.Pools = func(name string) (gateway.Crypto, bool) {
		p, ok := n.pools[name]
		return p, ok
	}
	s, err := gateway.New(g)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	n.gateway = s
	n.defers(s.Shutdown)
	return nil
}

// ready returns nil while some member of every pool serves.
func (n *node) ready() error {
	for _, c := range n.cfg.Pools {
		if !n.pools[c.Name].Ready() {
			return fmt.Errorf("no member of pool %s serves", c.Name)
		}
	}
	return nil
}

func (n *node) openAdmin() error {
	var admins []adminapi.Admin
	for _, a := range n.cfg.Admin.Admins {
		admins = append(admins, adminapi.Admin{Name: a.Name, TokenHash: string(a.TokenSHA256), CertHash: string(a.CertSHA256)})
	}
	host, _, _ := net.SplitHostPort(n.cfg.Admin.Listen)
	api := adminapi.New(adminapi.Config{
		Manager: n.manager, Pools: n.admins, DefaultPool: n.cfg.Default, Admins: admins, Audit: n.auditLog,
		Metrics: n.telemetry.metrics, OpenMetrics: loopback(host), Log: n.log,
		Changed: func(ctx context.Context) {
			if err := n.catalogue.Refresh(ctx); err != nil {
				n.log.WarnContext(ctx, "the gateway hears of the change a little later", "error", err)
			}
		},
	})
	n.admin = &http.Server{
		Handler: api, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	if t := n.cfg.Admin.TLS; t != nil {
		cfg, err := adminTLS(t)
		if err != nil {
			return fmt.Errorf("admin.tls: %w", err)
		}
		n.admin.TLSConfig = cfg
	}
	n.defers(func(ctx context.Context) error {
		if err := n.admin.Shutdown(ctx); err != nil {
			return errors.Join(fmt.Errorf("admin requests were cut off: %w", err), n.admin.Close())
		}
		return nil
	})
	return nil
}

// serve answers until ctx ends, and then closes the node. It returns nil after an orderly end.
func (n *node) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var servers sync.WaitGroup
	servers.Go(func() {
		if err := n.gateway.Serve(n.listener); err != nil {
			cancel(fmt.Errorf("gateway: %w", err))
		}
	})
	servers.Go(func() {
		l := n.adminL
		if n.admin.TLSConfig != nil {
			l = tlsListener(l, n.admin.TLSConfig)
		}
		if err := n.admin.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			cancel(fmt.Errorf("admin API: %w", err))
		}
	})
	n.log.Info("serving", "listen", n.listener.Addr().String(), "admin", n.adminL.Addr().String())
	<-ctx.Done()
	n.log.Info("shutting down", "cause", context.Cause(ctx))
	end, stop := context.WithTimeout(context.Background(), n.cfg.Limits.Shutdown)
	defer stop()
	err := n.Close(end)
	servers.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}
