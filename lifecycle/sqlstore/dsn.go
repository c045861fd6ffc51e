package sqlstore

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	errDSN = errors.New("it cannot be read: use postgres://user@host:port/database?sslmode=verify-full, or host=… user=… dbname=…")
	// errDSNPassword does not repeat what it speaks of, like every error here.
	errDSNPassword = errors.New("there is a password in it: put that into a file, name the file as password_file, and change the password")
	errDSNClear    = errors.New("the database is on another machine, and without sslmode the link may be in clear text: add sslmode=verify-full (with sslrootcert), or sslmode=disable where the network itself is protected")

	dsnPassword = regexp.MustCompile(`(?i)(^|\s)(ssl)?password\s*=`)
)

// CheckDSN returns an error that tells what is wrong with how a PostgreSQL database is named. It repeats nothing of it.
func CheckDSN(dsn string) error {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			return errDSN
		}
		_, has := u.User.Password()
		q := u.Query()
		if has || q.Has("password") || q.Has("sslpassword") {
			return errDSNPassword
		}
	} else if dsnPassword.MatchString(dsn) {
		return errDSNPassword
	}
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return unparsed(err)
	}
	if c.TLSConfig == nil && !strings.Contains(dsn, "sslmode=disable") && !local(c.Host) {
		return errDSNClear
	}
	for _, f := range c.Fallbacks { // of sslmode prefer and allow, and other hosts
		if f.TLSConfig == nil && !strings.Contains(dsn, "sslmode=disable") && !local(f.Host) {
			return errDSNClear
		}
	}
	return nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return strings.HasPrefix(host, "/") || host == "localhost" || ip != nil && ip.IsLoopback()
}

// unparsed tells why pgx cannot read a DSN, without the DSN: a certificate that cannot be read, or the form.
func unparsed(err error) error {
	var p *pgconn.ParseConfigError
	if errors.As(err, &p) && p.Unwrap() != nil && !strings.Contains(p.Error(), "failed to parse as") {
		return p.Unwrap()
	}
	return errDSN
}
